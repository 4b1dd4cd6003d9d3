-- amend: change a client's record and raise its generation, so that no worker decides on what it knew before.
--
-- KEYS[1]  record  the client's registry record, a hash, q1:{<client id>}:client
-- KEYS[2…] states  each state of the client that take.lua finds a generation in: q1:{<client id>}:state and :test
-- ARGV     any number of pairs: field, value (strings) to set in the record
--
-- Returns  the new generation, an integer; 0 when there is no such client, and then nothing is written
--
-- State    the record has no TTL; a state keeps its own. Of a state, only its first eight bytes change:
--          the copy of the generation that take.lua compares. One that is not there is not made.
--
-- Invariant: when this returns, every take that was asked with an older generation is answered STALE.
--
-- Worked call: a client of generation 4 is put on another plan: {'plan', 'pro'} -> 5.

assert(#KEYS >= 2 and #ARGV % 2 == 0, 'amend: a record, its states, and pairs of field and value')

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if #ARGV > 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV))
end
local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
for index = 2, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 1 then
    redis.call('SETRANGE', KEYS[index], 0, struct.pack('<d', generation))
  end
end
return generation
