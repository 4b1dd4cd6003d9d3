-- refund: give units back to every limit that applies, once per receipt.
--
-- KEYS[1]  state    what the client's limits have given, q1:{<client id>}:state; of its test plan, q1:{<client id>}:test
-- KEYS[2]  record   the client's registry record, a hash with the field `generation`, q1:{<client id>}:client
-- KEYS[3]  receipt  remembers that this refund was made, q1:{<client id>}:refund:<digest of the idempotency key>
-- KEYS[4]  state    optional: the same as KEYS[1] for the limits that count per key
-- last KEYS used    with a history, three: the units of the day, q1:{<client id>}:used:<days since the epoch>, of the day
--                   before it and of the day after it
-- ARGV[1]  units       integer, 1 or more: what a check took and is to be given back
-- ARGV[2]  now_us      integer, microseconds: 0 asks the server's own clock; tests and replay carry a time, 00 is the epoch
-- ARGV[3]  taken_us    integer, microseconds: when the units were taken; 0 is not known, and counts as now
-- ARGV[4]  keep_ms     integer, milliseconds: how long the receipt is kept
-- ARGV[5]  history     string, see usage.lua: which day `used` is of, that of taken_us or, if it is later or 0, of now;
--                      empty takes out of none
-- ARGV[6]  layout      string, see limits.lua: the limits that count per client
-- ARGV[7]  rules       string, see limits.lua: which of them apply
-- ARGV[8], ARGV[9]     layout and rules of the limits of KEYS[4]
--
-- Returns  {GIVEN or REPEATED, now_us, then for each limit that applies: its name, whole units given back}
--            a repeated refund returns what the first one gave, under the plan of then, and gives nothing
--          {GONE}             there is no such client
--          {WINDOWS, now_us}  the boundaries or the day given do not hold now_us: compute them around it, then ask again
--
-- State    see limits.lua and usage.lua. The receipt is the names and units of the reply, a line each, PX keep_ms.
--
-- Invariants
--   No bucket rises above its burst and no quota falls below nothing used.
--   Units taken before a quota's window began are not given to the window of now.
--   A refund writes the state only where it gave something, and never makes one: absent is full already.
--   The history loses what that quota got whose window began first, and so stays the sum of what it has counted: of the
--   client's quotas, else of the key's, but none in shadow mode. Without one it loses the units, as far as the day has any.
--   Units taken longer ago than the history is kept are in none.
--
-- Worked call: 5/second, burst 10, level 1,900,000 of 2,000,000 grains, 3 units: level 2,000,000, {1, now, 'per-second', 0}:
-- half a token was missing, which is no whole unit.

local GIVEN, REPEATED, GONE, WINDOWS = 1, 0, -1, -2

assert(#ARGV == 7 or #ARGV == 9, 'refund: wrong number of arguments')
local states, history = (#ARGV - 5) / 2, ARGV[5]
local counted = history ~= ''
assert(#KEYS == 2 + states + (counted and 3 or 0), 'refund: wrong number of keys')
assert(not counted or #history == 16, 'refund: history is two numbers')
local units = tonumber(ARGV[1])
local taken_us = tonumber(ARGV[3])
assert(units and taken_us and units >= 1 and units % 1 == 0, 'refund: units and taken_us are integers')
assert(set_clock(ARGV[2]), 'refund: now_us is an integer')

local SHADOW = 1
local first_us, back -- When the window of the quota began that the history follows, and what it got; nil without one.

-- Gives the units back to the limits of one scope and adds what each got to the reply and the receipt.
-- Returns whether anything changed, and for how long there is something to remember.
local function give(scope, layout, reply, lines)
  local rules, values = scope.rules, scope.values
  local changed, live_us, decides = scope.moved, 0, not first_us
  local r, v, at = 1, 1, 1
  while r <= scope.count do
    local applies, bucket = rules[r + 1] == 1, rules[r] == 0
    at = at + (bucket and 25 or 1)
    local length = string.byte(layout, at)
    local name, given = sub(layout, at + 1, at + length), 0
    at = at + 1 + length
    if bucket then
      local grains, burst, level = rules[r + 3], rules[r + 5], values[v]
      if applies then
        -- A refund of more than the burst fills the bucket; the product must stay below 2^53.
        values[v] = min(burst * grains, level + min(units, burst) * grains)
        given = floor(values[v] / grains) - floor(level / grains)
        changed = changed or values[v] ~= level
      end
      live_us = max(live_us, bucket_us(values[v], rules[r + 4], burst * grains))
      r, v = r + BUCKET_RULE, v + 1
    else
      local end_us, used = values[v], values[v + 1]
      local _, _, begin_us = window(end_us, used, rules[r + 4], rules[r + 5], rules[r + 6], rules[r + 7])
      if applies and (taken_us == 0 or taken_us >= begin_us) then
        given = min(units, used)
        values[v + 1] = used - given
        changed = changed or given > 0
      end
      if applies and decides and rules[r + 2] ~= SHADOW then
        if not first_us or begin_us < first_us or begin_us == first_us and given > back then
          first_us, back = begin_us, given
        end
      end
      live_us = max(live_us, quota_us(end_us, values[v + 1]))
      r, v = r + QUOTA_RULE, v + 2
    end
    if applies then
      reply[#reply + 1], reply[#reply + 2] = name, given
      lines[#lines + 1] = name .. '\n' .. string.format('%.0f', given)
    end
  end
  return changed, live_us
end

-- The units of the quarters of a day: in its own hash, in those of the days next to it, and of the open quarter.
local function day_units(day, before, after, scope, first)
  local sum = 0
  for offset, key in pairs({[0] = day, [-DAY_QUARTERS] = before, [DAY_QUARTERS] = after}) do
    local pairs_of = redis.call('HGETALL', key)
    for at = 1, #pairs_of, 2 do
      local quarter = tonumber(pairs_of[at]) + offset
      if quarter >= 0 and quarter < DAY_QUARTERS then
        sum = sum + tonumber(pairs_of[at + 1])
      end
    end
  end
  local open = scope.units and scope.quarter - first
  if open and open >= 0 and open < DAY_QUARTERS then
    sum = sum + scope.units
  end
  return sum
end

local generation = tonumber(redis.call('HGET', KEYS[2], 'generation') or '')
if not generation then
  return {GONE}
end
local receipt = redis.call('GET', KEYS[3])
if receipt then
  local reply = {REPEATED, now}
  for name, number in string.gmatch(receipt, '([^\n]+)\n(%d+)') do
    reply[#reply + 1], reply[#reply + 2] = name, tonumber(number)
  end
  return reply
end

local at_us = taken_us == 0 and now or min(taken_us, now)
local quarter, keep_s, first
if counted then
  quarter, keep_s, first = quarter_at(history, at_us)
  if not quarter then
    return {WINDOWS, now}
  end
end

local reply, lines, scopes = {GIVEN, now}, {}, {}
for index = 1, states do
  local key = KEYS[index == 1 and 1 or 4]
  scopes[index] = weigh(key, redis.call('GET', key), ARGV[2 * index + 4], ARGV[2 * index + 5], 0)
  if not scopes[index] then
    return {WINDOWS, now}
  end
end
for index, scope in ipairs(scopes) do
  local changed, live_us = give(scope, ARGV[2 * index + 4], reply, lines)
  if changed then
    write(scope, generation, live_us)
  end
end
if counted and now - at_us < keep_s * 1000000 then
  local key = KEYS[#KEYS - 2]
  if not back then
    local day = day_units(key, KEYS[#KEYS - 1], KEYS[#KEYS], scopes[1], first)
    back = min(units, max(0, day))
  end
  if back > 0 then
    count(key, quarter, -back, keep_s)
  end
end
redis.call('SET', KEYS[3], table.concat(lines, '\n'), 'PX', ARGV[4])
return reply
