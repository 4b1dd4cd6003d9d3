-- take: take a cost from every limit that a check must pass, or from none of them.
--
-- KEYS[1]  state   what the client's limits have given, q1:{<client id>}:state; of its test plan, q1:{<client id>}:test
-- KEYS[2]  record  the client's registry record, a hash with the field `generation`, q1:{<client id>}:client
-- KEYS[3]  state   optional: the same for the limits that count per key, q1:{<client id>}:key:<key id>
-- then KEY used     with a history: the units of the day, q1:{<client id>}:used:<days since the epoch>
-- last KEY once    optional: what this very check was answered before, q1:{<client id>}:once:<digest of what it asks>
-- ARGV[1]  generation  integer: the client's generation that the caller's knowledge is of; 0 is nobody's, for a state
--                      without a record, and is compared with none: the generations of records begin with 1
-- ARGV[2]  cost        integer, units: 0 looks without taking
-- ARGV[3]  now_us      integer, microseconds: 0 asks the server's own clock; tests and replay carry a time, 00 is the epoch
-- ARGV[4]  history     string, see usage.lua: which day `used` is of; empty counts in none
-- ARGV[5]  layout      string, see limits.lua: the limits that count per client
-- ARGV[6]  rules       string, see limits.lua: which of them apply, and how
-- ARGV[7], ARGV[8]     layout and rules of the limits of KEYS[3]
-- last ARGV within_us   integer, microseconds, whole milliseconds: how long the last KEY is remembered; there with it only
--
-- Returns  a string of i64 (little-endian), because a list costs the server a reply for each number; one of
--          TAKEN, REFUSED or REPEATED, now_us, then for each limit that applies: remaining, reset_after_us, retry_after_us
--            remaining       whole units left, rounded down; below 0 by what a quota in overage is past its units
--            reset_after_us  until full or until the window ends, rounded up; -1 never
--            retry_after_us  0 when the cost had room, else until it has, rounded up; -1 never
--            REPEATED is what was TAKEN by the same check less than within_us ago, now_us included; nothing is taken
--          STALE              the caller's generation is not the client's: load the client anew, then ask again
--          WINDOWS, now_us    the boundaries or the day given do not hold now_us: compute them around it, then ask again
--          OPEN, quarter      the state's open quarter, since the epoch, is of a day too far from that of `used`: close it
--                             (close.lua), then ask again
--
-- State    see limits.lua and usage.lua. What a check was answered is the numbers of its reply behind the first, f64 each, PX within_us.
--
-- Invariants
--   A refusal and a look write nothing, with two exceptions that take nothing either. When the clock has stepped back,
--   at_us moves back with it, or the client would be locked out until the old time has come again. And the first check
--   after a change of plan carries the state over, so that the new rates count from then on.
--   The generation in the state is a copy (0 in a state without a record); wherever it is missing or differs, the record decides.
--   Only an allowed cost is repeated, and only to the newest generation: a refusal is asked again, a revoked key is STALE.
--   The history counts the cost of each allowed check once, whatever limits it met.
--
-- Worked call: one bucket of 5/second, burst 10 (grains 200000, refill 1), fresh, cost 3, at 1,000,000 us:
--   1, 1000000, 7, 600000, 0; the state holds level 1400000 and lives 600 ms.

local TAKEN, REFUSED, REPEATED, STALE, WINDOWS, OPEN = 1, 0, 2, -1, -2, -3

local states = math.floor((#ARGV - 4) / 2)
local once = #ARGV % 2 == 1
assert(states == 1 or states == 2, 'take: wrong number of arguments')
local history = ARGV[4]
local counted = history ~= ''
assert(#KEYS == 1 + states + (counted and 1 or 0) + (once and 1 or 0), 'take: wrong number of keys')
assert(not counted or #history == 16, 'take: history is two numbers')
local generation = tonumber(ARGV[1])
local cost = tonumber(ARGV[2])
assert(generation and cost and cost >= 0 and cost % 1 == 0, 'take: generation and cost are integers')
assert(set_clock(ARGV[3]), 'take: now_us is an integer')
local once_key, within_us = once and KEYS[#KEYS], once and tonumber(ARGV[#ARGV])
assert(not once or within_us and within_us >= 1000 and within_us % 1000 == 0, 'take: within_us is whole milliseconds')

-- The reply of these numbers.
local function packed(numbers)
  return pack('<' .. rep('i8', #numbers), _G.unpack(numbers))
end

-- Takes the cost where there is room (`cost` 0 takes nothing), and reports every limit that applies.
-- Returns whether anything was taken, and for how long there is something to remember.
local function settle(scope, cost, reply)
  local rules, values, waits = scope.rules, scope.values, scope.waits
  local charged, live_us, size = false, 0, #reply
  local r, v, index = 1, 1, 1
  while r <= scope.count do
    local applies, mode, wait = rules[r + 1] == 1, rules[r + 2], waits[index]
    local charge = applies and cost > 0 and (wait == 0 or mode == OVERAGE)
    charged = charged or charge
    local left, reset
    if rules[r] == 0 then
      local grains, refill = rules[r + 3], rules[r + 4]
      local capacity, level = rules[r + 5] * grains, values[v]
      if charge then
        level = level - cost * grains
        values[v] = level
      end
      left = floor(level / grains)
      reset = bucket_us(level, refill, capacity)
      live_us = max(live_us, reset)
      if level < capacity and refill == 0 then
        reset = -1
      end
      r, v = r + BUCKET_RULE, v + 1
    else
      local end_us, used = values[v], values[v + 1]
      if charge then
        used = min(used + cost, 9007199254740991)
        values[v + 1] = used
      end
      left = rules[r + 3] - used
      if left < 0 and mode ~= OVERAGE then
        left = 0
      end
      reset = end_us - now
      live_us = max(live_us, quota_us(end_us, used))
      r, v = r + QUOTA_RULE, v + 2
    end
    if applies then
      reply[size + 1], reply[size + 2], reply[size + 3] = left, reset, wait
      size = size + 3
    end
    index = index + 1
  end
  return charged, live_us
end

local data = redis.call('GET', KEYS[1])
if generation ~= 0 and (not data or unpack('<d', data) ~= generation) then
  if tonumber(redis.call('HGET', KEYS[2], 'generation') or '') ~= generation then
    return packed({STALE})
  end
end

if once then
  local answered = redis.call('GET', once_key)
  -- The clock that counts says whether it still holds: at a carried time the key lives longer than that.
  if answered and now - unpack('<d', answered) < within_us then
    local reply = {REPEATED, unpack('<' .. rep('d', #answered / 8), answered)}
    reply[#reply] = nil -- unpack ends with where it stopped.
    return packed(reply)
  end
end

local quarter, keep_s, first
if counted then
  quarter, keep_s, first = quarter_at(history, now)
  if not quarter then
    return packed({WINDOWS, now})
  end
end

local scopes, room = {}, true
for index = 1, states do
  local key = KEYS[index == 1 and 1 or 3]
  if index == 2 then
    data = redis.call('GET', key)
  end
  local scope, has_room = weigh(key, data, ARGV[2 * index + 3], ARGV[2 * index + 4], cost)
  if not scope then
    return packed({WINDOWS, now})
  end
  scopes[index] = scope
  room = room and has_room
end

local reply = {room and TAKEN or REFUSED, now}
for index = 1, #scopes do
  local scope = scopes[index]
  local charged, live_us = settle(scope, room and cost or 0, reply)
  if charged and counted and index == 1 then
    if not count_open(scope, KEYS[states + 2], quarter, first, cost, keep_s) then
      return packed({OPEN, scope.quarter})
    end
    counted = false
  end
  if charged or scope.moved then
    write(scope, generation, live_us)
  end
end
if not room or cost == 0 then
  return packed(reply)
end
if counted then
  count(KEYS[states + 2], quarter, cost, keep_s)
end
if once then
  local numbers = pack('<' .. rep('d', #reply - 1), _G.unpack(reply, 2))
  redis.call('SET', once_key, numbers, 'PX', string.format('%.0f', lifetime_ms(within_us)))
end
return packed(reply)
