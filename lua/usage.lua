-- usage: what a client has used, by the quarter of an hour. The common part of the scripts that count it: it is put
-- after limits.lua and before each of them, calls no command but HINCRBY, HSET and EXPIRE, and returns nothing.
--
-- State    q1:{<client id>}:used:<days since the epoch>, a hash: quarter of an hour of that day -> units
--          Days are those of UTC, and days of every time zone begin on a quarter. A quarter is 0 to 95; one before or after
--          belongs to the day next to it: a worker whose clock is up to SKEW quarters away from the server's names
--          its own day's hash, and the quarter is the server's all the same. So nobody has to ask twice at midnight.
--          A quarter below 0 units has had refunds of what other quarters have used: their sum is exact.
--          The hash lives keep_s from its first quarter on.
--
-- History  string: <day_us f64> <keep_s f64>, the instant at which the day of the hash begins, and how long it is kept

local QUARTER_US, DAY_QUARTERS, SKEW = 900000000, 96, 4

-- The quarter of an instant in the hash that a history is about, and how long it is kept; nil when it is another day's.
local function quarter_at(history, at_us)
  local day_us, keep_s = unpack('<dd', history)
  local quarter = floor((at_us - day_us) / QUARTER_US)
  if quarter < -SKEW or quarter >= DAY_QUARTERS + SKEW then
    return nil
  end
  return quarter, keep_s
end

-- Adds units to a quarter; as in a quota in overage, what is past the largest exact number is not counted.
local function count(key, quarter, units, keep_s)
  local total = redis.call('HINCRBY', key, quarter, units)
  if total == units then
    redis.call('EXPIRE', key, keep_s, 'NX')
  elseif total > 9007199254740991 then
    redis.call('HSET', key, quarter, '9007199254740991')
  end
end
