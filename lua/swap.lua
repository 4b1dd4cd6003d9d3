-- swap: change a field of a hash, or take it away, unless somebody else has changed it since the caller looked.
--
-- KEYS[1]  index  any hash
-- ARGV[1]  field  string
-- ARGV[2]  seen   string: what the field held when the caller looked; not empty
-- ARGV[3]  value  string: what it is to hold; empty takes it away
--
-- Returns  1 when it was changed, 0 when it holds something else or nothing, and then nothing is written
--
-- State    the hash keeps its TTL, if it has one
--
-- Invariant: of two who finish the same removal, the slower one takes nothing along that was put there in between.
--
-- Worked call: {'acme', '-cl_1', ''} where acme holds -cl_1 -> 1, and 0 the next time.

assert(#KEYS == 1 and #ARGV == 3, 'swap: one key, a field, what it held and what it is to hold')

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
