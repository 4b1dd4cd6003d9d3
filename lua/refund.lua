-- refund: give units back to every limit that applies, once per receipt.
--
-- KEYS[1]  state    what the client's limits have given, q1:{<client id>}:state; of its test plan, q1:{<client id>}:test
-- KEYS[2]  record   the client's registry record, a hash with the field `generation`, q1:{<client id>}:client
-- KEYS[3]  receipt  remembers that this refund was made, q1:{<client id>}:refund:<digest of the idempotency key>
-- KEYS[4]  state    optional: the same as KEYS[1] for the limits that count per key
-- ARGV[1]  units       integer, 1 or more: what a check took and is to be given back
-- ARGV[2]  now_us      integer, microseconds: 0 asks the server's own clock; tests and replay carry a time, 00 is the epoch
-- ARGV[3]  taken_us    integer, microseconds: when the units were taken; 0 is not known, and counts as now
-- ARGV[4]  keep_ms     integer, milliseconds: how long the receipt is kept
-- ARGV[5]  layout      string, see limits.lua: the limits that count per client
-- ARGV[6]  rules       string, see limits.lua: which of them apply
-- ARGV[7], ARGV[8]     layout and rules of the limits of KEYS[4]
--
-- Returns  {GIVEN or REPEATED, now_us, then for each limit that applies: its name, whole units given back}
--            a repeated refund returns what the first one gave, under the plan of then, and gives nothing
--          {GONE}             there is no such client
--          {WINDOWS, now_us}  the boundaries given do not hold now_us: compute them around it, then ask again
--
-- State    see limits.lua. The receipt is the names and units of the reply, a line each, PX keep_ms.
--
-- Invariants
--   No bucket rises above its burst and no quota falls below nothing used.
--   Units taken before a quota's window began are not given to the window of now.
--   A refund writes the state only where it gave something, and never makes one: absent is full already.
--
-- Worked call: 5/second, burst 10, level 1,900,000 of 2,000,000 grains, 3 units: level 2,000,000, {1, now, 'per-second', 0}:
-- half a token was missing, which is no whole unit.

local GIVEN, REPEATED, GONE, WINDOWS = 1, 0, -1, -2

assert(#KEYS == 3 and #ARGV == 6 or #KEYS == 4 and #ARGV == 8, 'refund: wrong number of keys or arguments')
local units = tonumber(ARGV[1])
local taken_us = tonumber(ARGV[3])
assert(units and taken_us and units >= 1 and units % 1 == 0, 'refund: units and taken_us are integers')
assert(set_clock(ARGV[2]), 'refund: now_us is an integer')

-- Gives the units back to the limits of one scope and adds what each got to the reply and the receipt.
-- Returns whether anything changed, and for how long there is something to remember.
local function give(scope, layout, reply, lines)
  local rules, values = scope.rules, scope.values
  local changed, live_us = scope.moved, 0
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

local reply, lines, scopes = {GIVEN, now}, {}, {}
for index = 1, #KEYS == 4 and 2 or 1 do
  local key = KEYS[index == 1 and 1 or 4]
  scopes[index] = weigh(key, redis.call('GET', key), ARGV[2 * index + 3], ARGV[2 * index + 4], 0)
  if not scopes[index] then
    return {WINDOWS, now}
  end
end
for index, scope in ipairs(scopes) do
  local changed, live_us = give(scope, ARGV[2 * index + 3], reply, lines)
  if changed then
    write(scope, generation, live_us)
  end
end
redis.call('SET', KEYS[3], table.concat(lines, '\n'), 'PX', ARGV[4])
return reply
