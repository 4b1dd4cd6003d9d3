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
--          Of one quarter the units can be in the client's state, at its end: <quarter since the epoch f64> <units f64>,
--          the open quarter. A take writes the state anyway, so it adds to them for nothing; with the first take of
--          another quarter they go to the hash that is at hand, which may be that of a day next to theirs. What was used
--          is what the hashes and the open quarter have. A state lives keep_s from the end of its open quarter on, so that
--          within one it need not be told anew.
--
-- History  string: <day_us f64> <keep_s f64>, the instant at which the day of the hash begins, and how long it is kept

local QUARTER_US, DAY_QUARTERS, SKEW = 900000000, 96, 4

-- The quarter of an instant in the hash that a history is about, how long it is kept, and which quarter since the epoch
-- its day begins with; nil when it is another day's.
local function quarter_at(history, at_us)
  local day_us, keep_s = unpack('<dd', history)
  local quarter = floor((at_us - day_us) / QUARTER_US)
  if quarter < -SKEW or quarter >= DAY_QUARTERS + SKEW then
    return nil
  end
  return quarter, keep_s, day_us / QUARTER_US
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

-- Adds units to the open quarter of a scope, which must then be written; those of another quarter go to the hash.
-- Returns whether it could: not when those are of a day that is not next to that of the hash.
local function count_open(scope, key, quarter, first, units, keep_s)
  local before = 0
  if scope.units and scope.quarter == first + quarter then
    before = scope.units
  elseif scope.units then
    local field = scope.quarter - first
    if field < -DAY_QUARTERS or field >= 2 * DAY_QUARTERS then
      return false
    end
    count(key, field, scope.units, keep_s)
  end
  scope.quarter, scope.units = first + quarter, min(before + units, 9007199254740991)
  scope.keep_ms = ceil(((scope.quarter + 1) * QUARTER_US - now) / 1000) + keep_s * 1000
  return true
end
