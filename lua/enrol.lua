-- enrol: write a client's record, unless there is one.
--
-- KEYS[1]  record  the client's registry record, a hash, q1:{<client id>}:client
-- ARGV     pairs: field, value (strings); `generation` is among them
--
-- Returns  1 when the record was written, 0 when there was one, and then nothing is written
--
-- State    the record has no TTL
--
-- Invariant: of two who make a client of one name at once, one wins and the other is told.
--
-- Worked call: {'name', 'acme', 'plan', 'free', 'generation', '1'} -> 1, and 0 the next time.

assert(#KEYS == 1 and #ARGV > 0 and #ARGV % 2 == 0, 'enrol: one key, and pairs of field and value')

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
