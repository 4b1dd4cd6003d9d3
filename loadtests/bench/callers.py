"""A load from many callers, each of which pauses before it asks: by wrk, at nearly a constant rate.

`paced.py` has requests come whatever was answered, but takes up to half a core where nginx, the service and Redis need
more than one, and the waits that it counts are its own as well. wrk takes half of that. Its connections wait for their
answers, and a client that does so leaves out requests while the server is slow. What that hides is bounded:

- 256 callers pause for times that are exponential, so requests come at random, and a late answer holds back one of
  256. While a pause is much longer than an answer takes, the rate is the one that is wanted; a rehearsal says how long
  answers take, and pauses are shorter by that.
- A standstill keeps back only what its callers would have asked in it again. One that is short against a turn (256
  over the rate: 40 ms at 6,000 a second) shows as at a constant rate. In one that is long, no more than 256 requests
  wait, and each counts with its whole wait: the 99th percentile is of them while the round has less than a hundred
  times 256 requests. How much was kept back shows in the rate that was reached, which is told beside the figures.
  For an answer later than two turns wrk adds such requests to its account (`stats_correct` in its source), by a turn
  that it takes from the whole round and that a standstill lengthens: it errs to the late side, and nothing rests on it.

wrk's clock for pauses goes in milliseconds, and a thread sends together what is due in one. Four threads, which wake
at times of their own, spread that. A request that is sent late for it counts from when it was sent: a caller on another
machine would have its own processor.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.generators import wrk
from loadtests.bench.walks import Walk
from loadtests.processes import LoadTestError

CALLERS = 256
_THREADS = 4
_REHEARSAL_S = 1
_TICK_S = 0.0005
"""How much longer wrk pauses than it was told, in the mean: it ends pauses at its next millisecond."""

_LEAST = 0.5
"""What is left of a pause, at least, when answers are slow: the report says how far the rate is off."""

_SCRIPT = Path(__file__).with_name("callers.lua")


@dataclass(frozen=True, slots=True)
class Called:
    """Within how many microseconds 50 and 99 of 100 requests were answered, and requests answered a second."""

    p50_us: float
    p99_us: float
    rate: float


def ask(port: int, walk: Walk, start: int, *, rate: float, seconds: int) -> Called:
    """Ask at about this rate for so many seconds, after a rehearsal, from the line `start` of the walk on.

    Raises LoadTestError when anything but 200 is answered, or nothing. Whether the rate was reached is in the answer.
    """
    turn_s = CALLERS / rate
    rehearsed = _run(port, walk, start, turn_s, _REHEARSAL_S)
    pause_s = max(_LEAST * turn_s, turn_s - rehearsed.p50_us / 1e6 - _TICK_S)
    asked = math.ceil(rehearsed.rate * _REHEARSAL_S / _THREADS)
    return _run(port, walk, start + asked, pause_s, seconds)


def _run(port: int, walk: Walk, start: int, pause_s: float, seconds: int) -> Called:
    options = [f"-t{_THREADS}", f"-c{CALLERS}", "-s", str(_SCRIPT)]
    found = wrk(options, port, walk, seconds, start, str(pause_s * 1000), str(walk.length // _THREADS))
    if found["failed"] or not found["requests"]:
        raise LoadTestError(f"of {found['requests']} requests, {found['failed']} were not answered with 200, or late")
    return Called(found["p50_us"], found["p99_us"], found["requests"] / found["duration_us"] * 1e6)
