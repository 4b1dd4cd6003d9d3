-- take: take a cost from every limit that a check must pass, or from none of them.
--
-- KEYS[1]  state   what the client's limits have given, q1:{<client id>}:state
-- KEYS[2]  record  the client's registry record, a hash with the field `generation`, q1:{<client id>}:client
-- KEYS[3]  state   optional: the same for the limits that count per key, q1:{<client id>}:key:<key id>
-- ARGV[1]  generation  integer: the client's generation that the caller's knowledge is of
-- ARGV[2]  cost        integer, units: 0 looks without taking
-- ARGV[3]  now_us      integer, microseconds: 0 asks the server's own clock; tests and replay carry a time
-- ARGV[4]  layout      string: the limits by name, in order
--                        bucket: <0 u8> <grains f64> <refill f64> <burst f64> <length u8> <name>
--                        quota:  <1 u8> <length u8> <name>
--                        one token is `grains` grains, a microsecond brings `refill` of them
-- ARGV[5]  rules       string: per limit of the layout <applies u8> <mode u8>, and for a quota
--                        <units f64> <instant f64> x 4: window boundaries around now, microseconds
-- ARGV[6], ARGV[7]     layout and rules of the limits of KEYS[3]
--
-- Returns  {TAKEN or REFUSED, now_us, then for each limit that applies: remaining, reset_after_us, retry_after_us}
--            remaining       whole units left, rounded down; below 0 by what a quota in overage is past its units
--            reset_after_us  until full or until the window ends, rounded up; -1 never
--            retry_after_us  0 when the cost had room, else until it has, rounded up; -1 never
--          {STALE}            the caller's generation is not the client's: load the client anew, then ask again
--          {WINDOWS, now_us}  the boundaries given do not hold now_us: compute them around it, then ask again
--
-- State    <generation f64> <at_us f64> <until_us f64> <length u16> <layout> then per limit of the layout
--            bucket: <level f64>            grains it held at at_us
--            quota:  <end_us f64> <used f64>  units used in the window that ends at end_us
--          The layout may go on with limits that the plan had before (the attic); they go on refilling and
--          ending, and are dropped when there is nothing left to remember of them.
--          until_us is when the last bucket is full and the last window in use has ended (plus MARGIN_US), under
--          every plan that wrote the state; from then on it counts as absent, and absent is fresh. PX is the same
--          in milliseconds, MARGIN_US more at a carried now_us: the server's clock is not the one that counts.
--          The layout may go on with limits that the plan had before (the attic); they go on refilling and
--          ending, and are dropped when there is nothing left to remember of them.
--          PX: until every bucket is full and every window in use has ended (plus MARGIN_US). Absent is fresh.
--          At a carried now_us, MARGIN_US more: the server's clock is not the one that counts.
--
-- Invariants
--   Every number is an integer below 2^53, so double arithmetic, floor and ceil are exact; f64 keeps it.
--   Waits round up and what is left rounds down: every rounding errs against over-granting.
--   A refusal and a look write nothing. The one exception is a clock that stepped back: at_us then moves
--   back with it, or the client would be locked out until the old time has come again.
--   The generation in the state is a copy; wherever it is missing or differs, the record decides.
--
-- Worked call: one bucket of 5/second, burst 10 (grains 200000, refill 1), fresh, cost 3, at 1,000,000 us:
--   {1, 1000000, 7, 600000, 0}; the state holds level 1400000 and lives 600 ms.

local TAKEN, REFUSED, STALE, WINDOWS = 1, 0, -1, -2
local BUCKET = 0
local ENFORCE, OVERAGE = 0, 2
local MARGIN_US = 3600000000
local ATTIC = 16
local HEAD = 26
local FOREVER_US = 3155760000000000 -- 100 years; with the epoch still below 2^53

assert(#KEYS == 2 and #ARGV == 5 or #KEYS == 3 and #ARGV == 7, 'take: wrong number of keys or arguments')
local generation = tonumber(ARGV[1])
local cost = tonumber(ARGV[2])
local now = tonumber(ARGV[3])
assert(generation and cost and now and cost >= 0, 'take: generation, cost and now_us are integers')

-- A state written at a time that was carried here must outlive the server's own clock for a while.
local extra_us = now == 0 and 0 or MARGIN_US
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min
local pack, unpack = struct.pack, struct.unpack
local concat, sub = table.concat, string.sub

-- floor(value * to / from) without a product past 2^53: long division, six bits of `to` at a time.
-- `value` < `from` < 2^46.
local function scaled(value, to, from)
  local digits, quotient, rest = {}, 0, 0
  while to > 0 do
    digits[#digits + 1] = to % 64
    to = floor(to / 64)
  end
  for i = #digits, 1, -1 do
    rest = rest * 64 + value * digits[i]
    quotient = quotient * 64 + floor(rest / from)
    rest = rest % from
  end
  return quotient
end

-- A layout as a list of limits: {kind, grains, refill, burst, name, entry}; `entry` is the limit's own layout.
local function parsed(layout)
  local limits, at = {}, 1
  while at <= #layout do
    local limit, length, from = {}, nil, at
    limit.kind, at = unpack('<B', layout, at)
    if limit.kind == BUCKET then
      limit.grains, limit.refill, limit.burst, at = unpack('<ddd', layout, at)
    end
    length, at = unpack('<B', layout, at)
    limit.name = sub(layout, at, at + length - 1)
    at = at + length
    limit.entry = sub(layout, from, at - 1)
    limits[#limits + 1] = limit
  end
  return limits
end

-- Gives each limit the numbers that the state keeps of it, in the order of its layout.
local function fill(limits, data, position)
  for _, limit in ipairs(limits) do
    if limit.kind == BUCKET then
      limit.level, position = unpack('<d', data, position)
    else
      limit.end_us, limit.used, position = unpack('<dd', data, position)
    end
  end
end

-- The plan has changed since the state was written: carry what is known over, by kind and name. What the new
-- plan has no limit for goes to the attic, or a plan changed to and fro would hand out everything twice.
local function carry(limits, data, position, old_layout)
  local known, old = {}, parsed(old_layout)
  fill(old, data, position)
  for _, limit in ipairs(old) do
    known[limit.kind .. limit.name] = limit
  end
  for _, limit in ipairs(limits) do
    local kept = known[limit.kind .. limit.name]
    if kept then
      kept.carried = true
      limit.end_us, limit.used = kept.end_us, kept.used
      if kept.level then
        -- No burst is larger than 2^53 grains, and what is above the burst is cut in weigh().
        local whole = min(floor(kept.level / kept.grains), floor(9007199254740992 / limit.grains))
        limit.level = whole * limit.grains + scaled(kept.level % kept.grains, limit.grains, kept.grains)
      end
    end
  end
  local attic = {}
  for _, limit in ipairs(old) do
    if not limit.carried and #attic < ATTIC then
      attic[#attic + 1] = limit
    end
  end
  return attic
end

-- The limits of the layout with what the state keeps of them, the attic, and from when until when it is of.
local function recall(data, layout)
  local limits = parsed(layout)
  if not data then
    return limits, {}, now, now
  end
  local _, at, until_us, length = unpack('<dddH', data)
  if until_us <= now then
    return limits, {}, now, now
  end
  local old_layout = sub(data, HEAD + 1, HEAD + length)
  if old_layout == layout then
    fill(limits, data, HEAD + length + 1)
    return limits, {}, at, until_us
  end
  return limits, carry(limits, data, HEAD + length + 1, old_layout), at, until_us
end

-- Brings a bucket from its last level to now; fresh is full, and a level above the burst is cut.
local function refill(limit, elapsed)
  limit.capacity = limit.burst * limit.grains
  local level = min(limit.level or limit.capacity, limit.capacity)
  -- The elapsed time is held against the time to full before anything is multiplied.
  if elapsed >= (limit.capacity - level) / limit.refill then
    limit.level = limit.capacity
  else
    limit.level = level + elapsed * limit.refill
  end
end

-- Which window counts now, and what has been used in it: end_us, used; nil when the boundaries do not hold now.
local function window(end_us, used, b0, b1, b2, b3)
  if now < b0 or now >= b3 then
    return nil
  end
  local last, after = b1, b2
  if now >= b2 then
    last, after = b3, nil
  elseif now >= b1 then
    last, after = b2, b3
  end
  if not end_us or end_us <= now then
    return last, 0
  end
  -- A clock that has just stepped back over a boundary goes on counting in the later window.
  if end_us == after and used > 0 and last - now <= MARGIN_US then
    return end_us, used
  end
  return last, used
end

-- Brings every limit up to now and weighs the cost. Returns the scope and whether every enforced limit has room;
-- nil when the boundaries do not hold now.
local function weigh(key, data, layout, rules)
  local limits, attic, at, until_us = recall(data, layout)
  local elapsed = max(0, now - at)
  local room, position = true, 1
  for _, limit in ipairs(limits) do
    local applies
    applies, limit.mode, position = unpack('<BB', rules, position)
    limit.applies, limit.retry = applies == 1, 0
    if limit.kind == BUCKET then
      refill(limit, elapsed)
      local missing = cost * limit.grains - limit.level
      if cost > limit.burst or missing > 0 and limit.refill == 0 then
        limit.retry = -1
      elseif missing > 0 then
        limit.retry = ceil(missing / limit.refill)
      end
    else
      local b0, b1, b2, b3
      limit.units, b0, b1, b2, b3, position = unpack('<ddddd', rules, position)
      limit.end_us, limit.used = window(limit.end_us, limit.used, b0, b1, b2, b3)
      if not limit.end_us then
        return nil
      end
      if cost > limit.units then
        limit.retry = -1
      elseif cost > 0 and limit.used + cost > limit.units then
        limit.retry = limit.end_us - now
      end
    end
    room = room and (not limit.applies or limit.retry == 0 or limit.mode ~= ENFORCE)
  end
  for _, limit in ipairs(attic) do
    if limit.kind == BUCKET then
      refill(limit, elapsed)
    end
  end
  local scope = {key = key, layout = layout, limits = limits, attic = attic, until_us = until_us}
  scope.stepped_back = now < at
  return scope, room
end

local function charge(scope)
  for _, limit in ipairs(scope.limits) do
    if limit.applies and (limit.retry == 0 or limit.mode == OVERAGE) then
      scope.charged = true
      if limit.kind == BUCKET then
        limit.level = limit.level - cost * limit.grains
      else
        limit.used = limit.used + cost
      end
    end
  end
end

-- How long there is something to remember of a limit, in microseconds; 0 when it is as if fresh.
local function remembered_us(limit)
  if limit.kind == BUCKET then
    local missing = limit.capacity - limit.level
    return missing == 0 and 0 or min(FOREVER_US, ceil(missing / limit.refill))
  end
  return limit.used == 0 and 0 or max(0, limit.end_us + MARGIN_US - now)
end

local function kept(limit)
  return limit.kind == BUCKET and pack('<d', limit.level) or pack('<dd', limit.end_us, limit.used)
end

-- Writes the state for as long as there is something to remember; a state without anything to remember goes.
local function write(scope)
  local layout, parts, live_us = scope.layout, {}, scope.until_us - now
  for index, limit in ipairs(scope.limits) do
    parts[index] = kept(limit)
    live_us = max(live_us, remembered_us(limit))
  end
  for _, limit in ipairs(scope.attic) do
    local for_us = remembered_us(limit)
    if for_us > 0 then
      layout = layout .. limit.entry
      parts[#parts + 1] = kept(limit)
      live_us = max(live_us, for_us)
    end
  end
  if live_us > 0 then
    local state = pack('<dddH', generation, now, now + live_us, #layout) .. layout .. concat(parts)
    redis.call('SET', scope.key, state, 'PX', string.format('%.0f', ceil((live_us + extra_us) / 1000)))
  else
    redis.call('DEL', scope.key)
  end
end

local function report(scope, reply)
  for _, limit in ipairs(scope.limits) do
    if limit.applies then
      local left, reset
      if limit.kind == BUCKET then
        left = floor(limit.level / limit.grains)
        local missing = limit.capacity - limit.level
        reset = missing == 0 and 0 or limit.refill == 0 and -1 or ceil(missing / limit.refill)
      else
        left = limit.units - limit.used
        if limit.mode ~= OVERAGE then
          left = max(0, left)
        end
        reset = limit.end_us - now
      end
      local size = #reply
      reply[size + 1], reply[size + 2], reply[size + 3] = left, reset, limit.retry
    end
  end
end

local data = redis.call('GET', KEYS[1])
if not data or unpack('<d', data) ~= generation then
  if tonumber(redis.call('HGET', KEYS[2], 'generation') or '') ~= generation then
    return {STALE}
  end
end

local scopes, room = {}, true
for index = 1, #KEYS == 3 and 2 or 1 do
  local key = KEYS[index == 1 and 1 or 3]
  if index == 2 then
    data = redis.call('GET', key)
  end
  local scope, has_room = weigh(key, data, ARGV[2 * index + 2], ARGV[2 * index + 3])
  if not scope then
    return {WINDOWS, now}
  end
  scopes[index] = scope
  room = room and has_room
end

local reply = {room and TAKEN or REFUSED, now}
for _, scope in ipairs(scopes) do
  if room and cost > 0 then
    charge(scope)
  end
  if scope.charged or scope.stepped_back then
    write(scope)
  end
  report(scope, reply)
end
return reply
