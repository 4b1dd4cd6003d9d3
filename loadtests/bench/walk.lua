-- walk: have wrk ask with the credential lines of a file, one after the other, round and round.
--
-- Arguments  1 path   the file; see walks.py
--            2 width  bytes of a line
--            3 start  the line to begin with
--
-- Prints     at the end, a line `walked {"requests": n, "duration_us": n, "failed": n, "p50_us": n, "p99_us": n}`, where
--            every status above 399 and every request without an answer has failed

local lines, width, at

function init(args)
  local file = assert(io.open(args[1], 'rb'))
  lines = assert(file:read('*a'))
  file:close()
  width = tonumber(args[2])
  at = tonumber(args[3]) * width % #lines
end

function request()
  local line = string.sub(lines, at + 1, at + width)
  at = at + width
  if at >= #lines then
    at = 0
  end
  return 'GET /check HTTP/1.1\r\nHost: bench\r\n' .. line .. '\r\n\r\n'
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  local counts = string.format('"requests": %d, "duration_us": %d, "failed": %d', summary.requests, summary.duration, failed)
  io.write(string.format('walked {%s, "p50_us": %d, "p99_us": %d}\n', counts, latency:percentile(50), latency:percentile(99)))
end
