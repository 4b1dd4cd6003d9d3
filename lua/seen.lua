-- seen: note in a key's record the hour in which it was last seen.
--
-- KEYS[1]  record  the key's record, a hash, q1:key:<digest>
-- ARGV[1]  id      string: the key's id
-- ARGV[2]  hour    integer: whole hours since the epoch
--
-- Returns  1 when the hour was noted; 0 when a later one or the same is there, or no such key, and then nothing is written
--
-- State    the field `used_hour` of the record, which has no TTL
--
-- Invariant: a key that was removed is not made again, and an hour is never replaced by an earlier one.
--
-- Worked call: {'key_3kTMd9xQz0aB1c', '490000'} -> 1, and 0 the next time.

assert(#KEYS == 1 and #ARGV == 2, 'seen: one key, its id and an hour')
local hour = tonumber(ARGV[2])
assert(hour and hour % 1 == 0, 'seen: the hour is an integer')

local known = redis.call('HMGET', KEYS[1], 'id', 'used_hour')
if known[1] ~= ARGV[1] or (tonumber(known[2] or '') or -1) >= hour then
  return 0
end
redis.call('HSET', KEYS[1], 'used_hour', ARGV[2])
return 1
