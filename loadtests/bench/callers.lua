-- callers: have many connections of wrk ask, each after a pause of its own; see callers.py
--
-- Arguments  1 path   the file of credential lines; see walks.py
--            2 width  bytes of a line
--            3 start  the line to begin with
--            4 pause  milliseconds that a connection pauses before each request, in the mean, of any fraction
--            5 threads  of wrk: each has a part of the file to begin with, and pauses of its own
--
-- Prints     at the end, a line `called {"requests": n, "duration_us": n, "failed": n, "p50_us": n, "p99_us": n}`, where
--            every status above 399 and every request without an answer has failed

local threads = 0

-- A global of the thread, each of which has a Lua of its own, in which `threads` stays 0.
function setup(thread)
  thread:set('number', threads)
  threads = threads + 1
end

local lines, width, at, pause

function init(args)
  local file = assert(io.open(args[1], 'rb'))
  lines = assert(file:read('*a'))
  file:close()
  width = tonumber(args[2])
  pause = tonumber(args[4])
  local all = #lines / width
  local start = tonumber(args[3]) + math.floor(all * number / tonumber(args[5]))
  at = start % all * width
  math.randomseed(start)
end

-- wrk asks before a connection's first request, too. It wants whole milliseconds: the next higher one as often as keeps
-- the mean.
function delay()
  return math.floor(-pause * math.log(1 - math.random()) + math.random())
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
  io.write(string.format('called {%s, "p50_us": %d, "p99_us": %d}\n', counts, latency:percentile(50), latency:percentile(99)))
end
