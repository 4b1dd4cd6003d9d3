-- close: move the units of a state's open quarter to the history.
--
-- KEYS[1]  state    what the client's limits have given, q1:{<client id>}:state
-- KEYS[2]  used     the units of the day that the quarter is of, q1:{<client id>}:used:<days since the epoch>
-- ARGV[1]  history  string, see usage.lua: which day `used` is of
-- ARGV[2]  now_us   integer, microseconds: 0 asks the server's own clock; tests carry a time, 00 is the epoch
--
-- Returns  1 when they were moved; 0 when the state has no open quarter, or one of another day, and then nothing is written
--
-- State    see limits.lua and usage.lua. The state keeps its TTL.
--
-- Invariant: what was used is the same before and after, and is kept no longer for having been in the state: a quarter may
-- be closed long after it was over, so of a hash that it begins its age is taken off. One that is too old goes.
--
-- Worked call: a state that counts 5 units of the quarter 1970160, the first of the day 20522 -> 1, and used has 0 -> 5.

assert(#KEYS == 2 and #ARGV == 2 and #ARGV[1] == 16, 'close: a state, its history, two numbers and a time')
assert(set_clock(ARGV[2]), 'close: now_us is an integer')

local data = redis.call('GET', KEYS[1])
if not data then
  return 0
end
local quarter, units = open_quarter(data)
if not units then
  return 0
end
local day_us, keep_s = unpack('<dd', ARGV[1])
local field = quarter - day_us / QUARTER_US
if field < 0 or field >= DAY_QUARTERS then
  return 0
end
local left_s = keep_s - max(0, floor((now - quarter * QUARTER_US) / 1000000))
if left_s > 0 then
  count(KEYS[2], field, units, left_s)
end
redis.call('SET', KEYS[1], sub(data, 1, #data - OPEN_BYTES), 'KEEPTTL')
return 1
