-- short: the short road of a take. It is put before take.lua and what that shares with other scripts, answers the
-- common case and falls through to them, before it has written anything, for every other.
--
-- KEYS, ARGV, returns, state and invariants are take.lua's, and so is every rule: both roads give the same reply and
-- leave the same bytes. This one has no functions, and its few tables are made in the size that they need: to make the
-- functions of the long road anew for each call, and to let tables grow, costs the server more than all that is computed.
--
-- Common is: one state, under the layout of the plan or absent; no check that may be a repetition; a clock that has not
-- stepped back; quotas whose second window given is the one of now and of the state.

repeat
  if #ARGV ~= 6 then
    break
  end
  local call, unpack, find, sub = redis.call, struct.unpack, string.find, string.sub
  local floor, ceil = math.floor, math.ceil
  local FORMAT = '<dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd'
  local HEAD, BUCKET_RULE, QUOTA_RULE, ENFORCE, OVERAGE = 26, 6, 8, 0, 2
  local MARGIN_US, FOREVER_US, MOST = 3600000000, 3155760000000000, 9007199254740991
  local QUARTER_US, DAY_QUARTERS, SKEW, OPEN_BYTES = 900000000, 96, 4, 16

  local generation, cost, now, history, layout = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
  if not (generation and cost and now and cost >= 0 and cost % 1 == 0) then
    break
  end
  local count = #ARGV[6] / 8
  if count > 128 or #KEYS ~= (history == '' and 2 or 3) or history ~= '' and #history ~= 16 then
    break
  end
  local own_clock = ARGV[3] == '0'
  if own_clock then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
  end

  -- What is known: nothing of a state that is absent, or that counts as absent.
  local data = call('GET', KEYS[1])
  local known, at, until_us, length, elapsed = false, now, now, nil, 0
  if data then
    local written
    written, at, until_us, length = unpack('<dddH', data)
    if now < at or length ~= #layout or find(data, layout, HEAD + 1, true) ~= HEAD + 1 then
      break
    end
    if generation ~= 0 and written ~= generation then
      break
    end
    known = until_us > now
    if known then
      elapsed = now - at
    else
      until_us = now
    end
  elseif generation ~= 0 and tonumber(call('HGET', KEYS[2], 'generation') or '') ~= generation then
    return {-1}
  end

  local quarter, keep_s, first
  if history ~= '' then
    first, keep_s = unpack('<dd', history)
    first = first / QUARTER_US
    quarter = floor(now / QUARTER_US) - first
    if quarter < -SKEW or quarter >= DAY_QUARTERS + SKEW then
      break
    end
  end

  -- Weigh: `values` are the state's as of now, `waits` one for each limit.
  local rules = {unpack(sub(FORMAT, 1, count + 1), ARGV[6])}
  local values, waits, room, common = {0, 0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0, 0, 0}, true, true
  local r, v, limits, position = 1, 1, 0, HEAD + #layout + 1
  while r <= count do
    local applies, mode, wait = rules[r + 1], rules[r + 2], 0
    if rules[r] == 0 then
      local grains, refill, burst = rules[r + 3], rules[r + 4], rules[r + 5]
      local capacity = burst * grains
      local level = capacity
      if known then
        level = unpack('<d', data, position)
        position = position + 8
        if level >= capacity or elapsed >= (capacity - level) / refill then
          level = capacity
        else
          level = level + elapsed * refill
        end
      end
      local missing = cost * grains - level
      if missing > 0 then
        wait = (cost > burst or refill == 0) and -1 or ceil(missing / refill)
      end
      values[v] = level
      r, v = r + BUCKET_RULE, v + 1
    else
      local units, end_us, used = rules[r + 3], rules[r + 6], 0
      if now < rules[r + 5] or now >= end_us then
        common = false
        break
      end
      if known then
        local ends, counted = unpack('<dd', data, position)
        position = position + 16
        if ends == end_us then
          used = counted
        elseif ends > now then
          common = false
          break
        end
      end
      if cost > units then
        wait = -1
      elseif cost > 0 and used + cost > units then
        wait = end_us - now
      end
      values[v], values[v + 1] = end_us, used
      r, v = r + QUOTA_RULE, v + 2
    end
    limits = limits + 1
    waits[limits] = wait
    room = room and (wait == 0 or applies == 0 or mode ~= ENFORCE)
  end
  if not common then
    break
  end

  -- The open quarter: what the state counts of usage is all that it has behind the values.
  local open, units, body_end = nil, 0, HEAD + #layout + 8 * (v - 1)
  if data and #data > body_end then
    open, units = unpack('<dd', data, body_end + 1)
    if not quarter or open - first < -DAY_QUARTERS or open - first >= 2 * DAY_QUARTERS then
      break
    end
  end

  -- Settle: take from every limit, or from none, and report.
  local reply, size, charged, live_us = {room and 1 or 0, now, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 2, false, until_us - now
  local taken = room and cost or 0
  r, v = 1, 1
  for limit = 1, limits do
    local applies, mode, wait, left, reset, lives = rules[r + 1] == 1, rules[r + 2], waits[limit], nil, nil, 0
    local charge = applies and taken > 0 and (wait == 0 or mode == OVERAGE)
    charged = charged or charge
    if rules[r] == 0 then
      local grains, refill, level = rules[r + 3], rules[r + 4], values[v]
      local capacity = rules[r + 5] * grains
      if charge then
        level = level - taken * grains
        values[v] = level
      end
      left, reset = floor(level / grains), 0
      if level < capacity then
        lives = ceil((capacity - level) / refill)
        if lives > FOREVER_US then
          lives = FOREVER_US
        end
        reset = refill == 0 and -1 or lives
      end
      r, v = r + BUCKET_RULE, v + 1
    else
      local end_us, used = values[v], values[v + 1]
      if charge then
        used = used + taken
        if used > MOST then
          used = MOST
        end
        values[v + 1] = used
      end
      left, reset = rules[r + 3] - used, end_us - now
      if left < 0 and mode ~= OVERAGE then
        left = 0
      end
      if used > 0 then
        lives = reset + MARGIN_US
      end
      r, v = r + QUOTA_RULE, v + 2
    end
    if lives > live_us then
      live_us = lives
    end
    if applies then
      reply[size + 1], reply[size + 2], reply[size + 3] = left, reset, wait
      size = size + 3
    end
  end
  for last = size + 1, 11 do
    reply[last] = nil
  end
  if quarter and taken > 0 then
    -- With the state, where that is written; what it counts of another quarter goes to the hash.
    local field, moved = quarter, taken
    if charged then
      local now_open = first + quarter
      if open == now_open then
        moved, units = 0, units + taken
        if units > MOST then
          units = MOST
        end
      else
        field, moved, units = (open or 0) - first, units, taken
      end
      values[v], values[v + 1] = now_open, units
      v = v + 2
    end
    if moved > 0 then
      local total = call('HINCRBY', KEYS[3], field, moved)
      if total == moved then
        call('EXPIRE', KEYS[3], keep_s, 'NX')
      elseif total > MOST then
        call('HSET', KEYS[3], field, '9007199254740991')
      end
    end
  end
  if charged then
    -- It lives for more than nothing: something has just been taken. At a carried time it lives longer, see limits.lua.
    local pack, live_ms = struct.pack, ceil((live_us + (own_clock and 0 or MARGIN_US)) / 1000)
    if quarter and live_ms < keep_s * 1000 then
      live_ms = keep_s * 1000
    end
    local head = pack('<dddH', generation, now, now + live_us, #layout)
    local body = pack(sub(FORMAT, 1, v), _G.unpack(values, 1, v - 1))
    call('SET', KEYS[1], head .. layout .. body, 'PX', live_ms)
  end
  return reply
until true
