-- limits: what a client's limits remember, and how they move. The common part of the scripts that touch it: it is
-- put before each of them, calls no command but TIME, and SET, DEL and PTTL of a state, and returns nothing.
--
-- State    <generation f64> <at_us f64> <until_us f64> <length u16> <layout> then per limit of the layout
--            bucket: <level f64>            grains it held at at_us
--            quota:  <end_us f64> <used f64>  units used in the window that ends at end_us
--          and at its end, where it counts usage too (see usage.lua): <quarter f64> <units f64>
--          until_us is when the last bucket is full and the last window in use has ended (plus MARGIN_US), under
--          every plan that wrote the state; from then on it counts as absent, and absent is fresh. PX is the same
--          in whole milliseconds, MARGIN_US more at a carried time: the server's clock is not the one that counts.
--          With units at its end it lives longer than that, as long as a history does.
--          The layout may go on with limits that the plan had before (the attic); they go on refilling and
--          ending, and are dropped when there is nothing left to remember of them.
--
-- Layout   string: the limits by name, in order
--            bucket: <0 u8> <grains f64> <refill f64> <burst f64> <length u8> <name>
--            quota:  <1 u8> <length u8> <name>
--          one token is `grains` grains, a microsecond brings `refill` of them
-- Rules    string of f64: per limit of the layout
--            bucket: 0, applies, mode, grains, refill, burst
--            quota:  1, applies, mode, units, four instants: window boundaries around now, microseconds
--          applies is 1 for a limit that is asked and charged; mode is 0 enforce, 1 shadow, 2 overage
--
-- In a scope (one state and its limits) the numbers of all limits lie flat, because a table for each limit would
-- cost more than everything else: `rules` as above, `values` as in the state, and `waits`, one for each limit. A
-- loop over the limits goes BUCKET_RULE or QUOTA_RULE steps in the rules and one or two in the values.
--
-- Invariants
--   Every number is an integer below 2^53, so double arithmetic, floor and ceil are exact; f64 keeps it.
--   Waits round up and what is left rounds down: every rounding errs against over-granting.

local BUCKET_RULE, QUOTA_RULE = 6, 8
local ENFORCE, OVERAGE = 0, 2
local HEAD, OPEN_BYTES = 26, 16
local MARGIN_US = 3600000000
local FOREVER_US = 3155760000000000 -- 100 years; with the epoch still below 2^53

local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min
local pack, unpack = struct.pack, struct.unpack
local byte, rep, sub = string.byte, string.rep, string.sub

local now, extra_us

-- Sets the instant that everything below is about: the server's own for '0', else the one that was carried here
-- (the epoch itself is '00'). Returns whether it is a number.
local function set_clock(carried)
  now, extra_us = tonumber(carried), MARGIN_US
  if carried == '0' then
    local time = redis.call('TIME')
    now, extra_us = time[1] * 1000000 + time[2], 0
  end
  return now ~= nil
end

-- A bucket's level after `elapsed` microseconds; unknown is full, and a level above the capacity is cut to it.
local function refilled(level, elapsed, refill, capacity)
  if not level or level >= capacity then
    return capacity
  end
  -- The elapsed time is held against the time to full before anything is multiplied.
  if elapsed >= (capacity - level) / refill then
    return capacity
  end
  return level + elapsed * refill
end

-- The plan has changed since the state was written: what is known goes over by kind and name. What the new plan
-- has no limit for goes to the attic, or a plan changed to and fro would hand out everything twice. Until now the old
-- rules held: `elapsed` microseconds are refilled under them.
-- Returns the values of now in the order of the new layout (false where nothing is known), and the attic.
local function carry(data, old_layout, new_layout, elapsed)
  local ATTIC = 64

  -- A layout as a list of {bucket, key, entry, grains, refill, burst}; `entry` is the limit's own part of it.
  local function parsed(layout)
    local list, at = {}, 1
    while at <= #layout do
      local from, kind, length = at, nil, nil
      local limit = {}
      kind, at = unpack('<B', layout, at)
      limit.bucket = kind == 0
      if limit.bucket then
        limit.grains, limit.refill, limit.burst, at = unpack('<ddd', layout, at)
      end
      length, at = unpack('<B', layout, at)
      limit.key = kind .. sub(layout, at, at + length - 1)
      at = at + length
      limit.entry = sub(layout, from, at - 1)
      list[#list + 1] = limit
    end
    return list
  end

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

  local known, old, position = {}, parsed(old_layout), HEAD + #old_layout + 1
  for _, limit in ipairs(old) do
    if limit.bucket then
      limit.level, position = unpack('<d', data, position)
      limit.level = refilled(limit.level, elapsed, limit.refill, limit.burst * limit.grains)
    else
      limit.end_us, limit.used, position = unpack('<dd', data, position)
    end
    known[limit.key] = limit
  end

  local values = {}
  for _, limit in ipairs(parsed(new_layout)) do
    local kept = known[limit.key]
    if kept then
      kept.carried = true
    end
    if not limit.bucket then
      values[#values + 1] = kept and kept.end_us or false
      values[#values + 1] = kept and kept.used or false
    elseif kept then
      -- No burst is larger than 2^53 grains, and what is above the burst is cut in weigh().
      local whole = min(floor(kept.level / kept.grains), floor(9007199254740992 / limit.grains))
      values[#values + 1] = whole * limit.grains + scaled(kept.level % kept.grains, limit.grains, kept.grains)
    else
      values[#values + 1] = false
    end
  end

  local attic = {}
  for _, limit in ipairs(old) do
    if not limit.carried and #attic < ATTIC then
      attic[#attic + 1] = limit
    end
  end
  return values, attic
end

-- Which window counts now, and what has been used in it: end_us, used, begin_us; nil when the boundaries do not
-- hold now.
local function window(end_us, used, b0, b1, b2, b3)
  if now < b0 or now >= b3 then
    return nil
  end
  local begin, last, after = b0, b1, b2
  if now >= b2 then
    begin, last, after = b2, b3, nil
  elseif now >= b1 then
    begin, last, after = b1, b2, b3
  end
  if not end_us or end_us <= now then
    return last, 0, begin
  end
  -- A clock that has just stepped back over a boundary goes on counting in the later window.
  if end_us == after and used > 0 and last - now <= MARGIN_US then
    return end_us, used, last
  end
  return last, used, begin
end

-- What a state counts of usage at its end, see usage.lua: a quarter of an hour and its units; nil when it counts none.
local function open_quarter(data)
  local layout_end = HEAD + unpack('<H', data, HEAD - 1)
  local at, size = HEAD + 1, layout_end
  while at <= layout_end do
    local bucket = byte(data, at) == 0
    at = at + (bucket and 25 or 1)
    at, size = at + 1 + byte(data, at), size + (bucket and 8 or 16)
  end
  if #data - size == OPEN_BYTES then
    return unpack('<dd', data, size + 1)
  end
end

-- Brings every limit of a state up to now and weighs a cost. `moved` in the scope says that the state must be written
-- even if nothing is taken: the clock has stepped back, or these are the first rules after others. Returns the scope, and whether every enforced limit has
-- room; nil when the boundaries do not hold now.
local function weigh(key, data, layout, packed_rules, cost)
  local count = #packed_rules / 8
  local rules = {unpack('<' .. rep('d', count), packed_rules)}
  local at, until_us, elapsed, values, attic, changed = now, now, 0, {}, nil, false
  if data then
    local _, written_us, kept_us, length = unpack('<dddH', data)
    if kept_us > now then
      at, until_us, elapsed = written_us, kept_us, max(0, now - written_us)
      local old_layout = sub(data, HEAD + 1, HEAD + length)
      if old_layout == layout then
        values = {unpack('<' .. rep('d', (#data - HEAD - length) / 8), data, HEAD + length + 1)}
      else
        values, attic = carry(data, old_layout, layout, elapsed)
        elapsed, changed = 0, sub(old_layout, 1, #layout) ~= layout
      end
    end
  end

  local room, waits = true, {}
  local r, v = 1, 1
  while r <= count do
    local applies, mode, wait = rules[r + 1], rules[r + 2], 0
    if rules[r] == 0 then
      local grains, refill, burst = rules[r + 3], rules[r + 4], rules[r + 5]
      local level = refilled(values[v], elapsed, refill, burst * grains)
      local missing = cost * grains - level
      if missing > 0 or cost > burst then
        wait = (cost > burst or refill == 0) and -1 or ceil(missing / refill)
      end
      values[v] = level
      r, v = r + BUCKET_RULE, v + 1
    else
      local units = rules[r + 3]
      local end_us, used = window(values[v], values[v + 1], rules[r + 4], rules[r + 5], rules[r + 6], rules[r + 7])
      if not end_us then
        return nil
      end
      if cost > units then
        wait = -1
      elseif cost > 0 and used + cost > units then
        wait = end_us - now
      end
      values[v], values[v + 1] = end_us, used
      r, v = r + QUOTA_RULE, v + 2
    end
    waits[#waits + 1] = wait
    room = room and (wait == 0 or applies == 0 or mode ~= ENFORCE)
  end

  local scope = {key = key, layout = layout, rules = rules, count = count, values = values, size = v - 1, waits = waits}
  scope.attic, scope.until_us, scope.moved = attic, until_us, changed or now < at
  if data then
    scope.quarter, scope.units = open_quarter(data)
  end
  return scope, room
end

-- How long there is something to remember, in microseconds: of a bucket until it is full, of a quota in use until its
-- window has ended, with a margin for clocks.
local function bucket_us(level, refill, capacity)
  return level == capacity and 0 or min(FOREVER_US, ceil((capacity - level) / refill))
end

local function quota_us(end_us, used)
  return used == 0 and 0 or max(0, end_us + MARGIN_US - now)
end

-- PX for what must not go before so many microseconds are over. The server counts it from the millisecond that has begun.
local function lifetime_ms(live_us)
  return ceil((now % 1000 + live_us + extra_us) / 1000)
end

-- Writes a scope's state for as long as there is something to remember, at least `live_us`; without, it goes. Units
-- at its end are kept for the scope's `keep_ms`, or without that for as long as they were kept anyway.
local function write(scope, generation, live_us)
  local layout, values, size, open = scope.layout, scope.values, scope.size, ''
  live_us = max(live_us, scope.until_us - now)
  for _, limit in ipairs(scope.attic or {}) do
    if limit.bucket then
      local capacity = limit.burst * limit.grains
      if limit.level < capacity then
        layout, size = layout .. limit.entry, size + 1
        values[size] = limit.level
        live_us = max(live_us, bucket_us(limit.level, limit.refill, capacity))
      end
    elseif quota_us(limit.end_us, limit.used) > 0 then
      layout, size = layout .. limit.entry, size + 2
      values[size - 1], values[size] = limit.end_us, limit.used
      live_us = max(live_us, quota_us(limit.end_us, limit.used))
    end
  end
  local live_ms = live_us > 0 and lifetime_ms(live_us) or 0
  if scope.units then
    open = pack('<dd', scope.quarter, scope.units)
    live_ms = max(live_ms, scope.keep_ms or redis.call('PTTL', scope.key))
  end
  if live_ms > 0 then
    local head = pack('<dddH', generation, now, now + live_us, #layout)
    local body = pack('<' .. rep('d', size), _G.unpack(values, 1, size))
    redis.call('SET', scope.key, head .. layout .. body .. open, 'PX', string.format('%.0f', live_ms))
  else
    redis.call('DEL', scope.key)
  end
end
