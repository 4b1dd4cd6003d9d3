-- callers: have many connections of wrk ask, each after a pause of its own; see callers.py. Who asks, and what is printed
-- at the end, is as walk.lua has it.
--
-- Arguments  1 path   the file of credential lines; see walks.py
--            2 width  bytes of a line
--            3 start  the line to begin with
--            4 pause  milliseconds that a connection pauses before each request, in the mean, of any fraction
--            5 shift  lines by which each thread of wrk begins after the one before; each has pauses of its own, too

dofile((string.gsub(debug.getinfo(1, 'S').source, '^@(.*)callers.lua$', '%1walk.lua')))

local threads = 0

-- A global of the thread, each of which has a Lua of its own, in which `threads` stays 0.
function setup(thread)
  thread:set('number', threads)
  threads = threads + 1
end

local walk, pause = init, nil

function init(args)
  pause = tonumber(args[4])
  local start = tonumber(args[3]) + number * tonumber(args[5])
  math.randomseed(start)
  walk({args[1], args[2], start})
end

-- wrk asks before a connection's first request, too. It wants whole milliseconds: the next higher one as often as keeps
-- the mean.
function delay()
  return math.floor(-pause * math.log(1 - math.random()) + math.random())
end
