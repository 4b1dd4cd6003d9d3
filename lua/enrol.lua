-- enrol: write a record, unless there is one.
--
-- KEYS[1]  record  a hash: a client's, q1:{<client id>}:client, or a foreign key's, q1:key:<digest>
-- ARGV     pairs: field, value (strings); `generation` is among those of a client
--
-- Returns  1 when the record was written, 0 when there was one, and then nothing is written
--
-- State    the record has no TTL
--
-- Invariant: of two who make a client of one name or bring in one key at once, one wins and the other is told.
--
-- Worked call: {'name', 'acme', 'plan', 'free', 'generation', '1'} -> 1, and 0 the next time.

assert(#KEYS == 1 and #ARGV > 0 and #ARGV % 2 == 0, 'enrol: one key, and pairs of field and value')

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
