-- short: the short road of a take. It is put before take.lua and what that shares with other scripts, answers the
-- common case and falls through to them, before it has written anything, for every other.
--
-- KEYS, ARGV, returns, state and invariants are take.lua's, and so is every rule: both roads give the same reply and
-- leave the same bytes. This one has no functions, and its few tables are made in the size that they need: to make the
-- functions of the long road anew for each call, and to let tables grow, costs the server more than all that is computed.
--
-- Common is: one state, under the layout of the plan or absent; no check that may be a repetition; a clock that has not
-- stepped back; quotas whose second window given is the one of now and of the state; and no refusal while a quota in
-- overage is past its units.

repeat
  if #ARGV ~= 6 then
    break
  end
  local call, pack, unpack, find, sub = redis.call, struct.pack, struct.unpack, string.find, string.sub
  local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
  local FORMAT = '<dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd'
  local NUMBERS = '<i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8'
  local HEAD, BUCKET_RULE, QUOTA_RULE, ENFORCE, OVERAGE = 26, 6, 8, 0, 2
  local MARGIN_US, FOREVER_US, MOST = 3600000000, 3155760000000000, 9007199254740991
  local QUARTER_US, DAY_QUARTERS, SKEW = 900000000, 96, 4

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
    return pack('<i8', -1)
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

  -- Take from every limit as if there were room, and report; `values` are the state's then.
  local rules = {unpack(sub(FORMAT, 1, count + 1), ARGV[6])}
  local kept, values = 0, nil
  if data then
    local body = HEAD + #layout
    kept = (#data - body) / 8
    values = {unpack(sub(FORMAT, 1, kept + 1), data, body + 1)}
  else
    values = {0, 0, 0, 0, 0, 0, 0, 0}
  end
  local reply, size, charged, live_us = {1, now, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 2, false, until_us - now
  local r, v, room, common, over = 1, 1, true, true, false
  while r <= count do
    local applies, mode, left, reset, wait, lives = rules[r + 1] == 1, rules[r + 2], nil, nil, 0, 0
    local taken = applies and cost or 0
    if rules[r] == 0 then
      local grains, refill, burst = rules[r + 3], rules[r + 4], rules[r + 5]
      local capacity = burst * grains
      local level = capacity
      if known then
        level = values[v]
        if level >= capacity or elapsed >= (capacity - level) / refill then
          level = capacity
        else
          level = level + elapsed * refill
        end
      end
      local missing = taken * grains - level
      if missing > 0 then
        wait, taken = (cost > burst or refill == 0) and -1 or ceil(missing / refill), 0
        room = room and mode ~= ENFORCE
      else
        level = level - taken * grains -- Not the negative of what is missing: that may be -0.
      end
      values[v] = level
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
      local units, end_us, used = rules[r + 3], rules[r + 6], 0
      if now < rules[r + 5] or now >= end_us then
        common = false
        break
      end
      if known then
        local ends = values[v]
        if ends == end_us then
          used = values[v + 1]
        elseif ends > now then
          common = false
          break
        end
      end
      if taken > 0 and used + taken > units then
        wait = cost > units and -1 or end_us - now
        if mode == OVERAGE then
          used, over = min(used + taken, MOST), true
        else
          taken = 0
          room = room and mode ~= ENFORCE
        end
      else
        used = used + taken
      end
      values[v], values[v + 1] = end_us, used
      left, reset = units - used, end_us - now
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
      charged = charged or taken > 0
      reply[size + 1], reply[size + 2], reply[size + 3] = left, reset, wait
      size = size + 3
    end
  end
  if not common or (over and not room) then
    break
  end

  -- The open quarter: what the state counts of usage is all that it has behind the values.
  local open, units = nil, 0
  if kept >= v then
    open, units = values[v], values[v + 1]
    if quarter and (open - first < -DAY_QUARTERS or open - first >= 2 * DAY_QUARTERS) then
      break
    end
  end
  for last = size + 1, 11 do
    reply[last] = nil
  end

  -- Without room in one of them nothing is taken: the others have it back, whose wait is 0.
  if not room then
    reply[1], size = 0, 2
    r, v = 1, 1
    while r <= count do
      local applies, left, reset = rules[r + 1] == 1, nil, nil
      local given = applies and reply[size + 3] == 0 and cost or 0
      if rules[r] == 0 then
        local grains, refill = rules[r + 3], rules[r + 4]
        local level, capacity = values[v] + given * grains, rules[r + 5] * grains
        left, reset = floor(level / grains), 0
        if level < capacity then
          reset = refill == 0 and -1 or min(FOREVER_US, ceil((capacity - level) / refill))
        end
        r, v = r + BUCKET_RULE, v + 1
      else
        left, reset = rules[r + 3] - values[v + 1] + given, values[v] - now
        if left < 0 and rules[r + 2] ~= OVERAGE then
          left = 0
        end
        r, v = r + QUOTA_RULE, v + 2
      end
      if applies then
        reply[size + 1], reply[size + 2] = left, reset
        size = size + 3
      end
    end
    return pack(sub(NUMBERS, 1, 1 + 2 * #reply), _G.unpack(reply))
  end

  if quarter and cost > 0 then
    -- With the state, where that is written; what it counts of another quarter goes to the hash.
    local field, moved = quarter, cost
    if charged then
      local now_open = first + quarter
      if open == now_open then
        moved, units = 0, min(units + cost, MOST)
      elseif open then
        field, moved, units = open - first, units, cost
      else
        moved, units = 0, cost
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
  if open and not quarter then
    v = v + 2 -- It stays as it is.
  end
  if charged then
    local head = pack('<dddH', generation, now, now + live_us, #layout)
    local body = pack(sub(FORMAT, 1, v), _G.unpack(values, 1, v - 1))
    if quarter and open == first + quarter and live_us == until_us - now and kept == v - 1 then
      -- It lives as long as it did: in the quarter that it has open, and with nothing to remember for longer. To write
      -- over it takes a third less than to set it anew.
      call('SETRANGE', KEYS[1], 0, head .. layout .. body)
    else
      -- It lives for more than nothing: something has just been taken. At a carried time it lives longer, see limits.lua.
      local live_ms = ceil((now % 1000 + live_us + (own_clock and 0 or MARGIN_US)) / 1000)
      if quarter then
        live_ms = max(live_ms, ceil(((first + quarter + 1) * QUARTER_US - now) / 1000) + keep_s * 1000)
      elseif open then
        live_ms = max(live_ms, call('PTTL', KEYS[1]))
      end
      call('SET', KEYS[1], head .. layout .. body, 'PX', live_ms)
    end
  end
  return pack(sub(NUMBERS, 1, 1 + 2 * size), _G.unpack(reply, 1, size))
until true
