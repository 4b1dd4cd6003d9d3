"""The yardstick of a Python team: a Starlette route that asks the package `limits` about one fixed window.

`BENCH_REDIS` is the path of the socket, `BENCH_PER_HOUR` how many requests a caller has. It answers 200 or 429; `app`
says no more than that, `telling` also what is left and until when, as callers need it and a check of ours says it.
"""

import os
import time

from limits import RateLimitItemPerHour
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

# redis-py, as in every other of these apps; its clients for asyncio come second in the package's own choice.
STORAGE = RedisStorage(
    f"async+redis+unix://{os.environ['BENCH_REDIS']}", implementation="redispy", max_connections=1024
)
LIMITER = FixedWindowRateLimiter(STORAGE)
PER_HOUR = RateLimitItemPerHour(int(os.environ["BENCH_PER_HOUR"]))


async def check(request: Request) -> Response:
    """Take one of the caller's requests."""
    taken = await LIMITER.hit(PER_HOUR, request.headers["x-api-key"])
    return Response(status_code=200 if taken else 429)


async def check_and_tell(request: Request) -> Response:
    """The same, with the package's own account of the window in the fields `RateLimit` and `Retry-After`."""
    key = request.headers["x-api-key"]
    taken = await LIMITER.hit(PER_HOUR, key)
    window = await LIMITER.get_window_stats(PER_HOUR, key)
    left_s = max(0, round(window.reset_time - time.time()))
    headers = {
        "RateLimit-Policy": f'"hourly";q={PER_HOUR.amount};w={PER_HOUR.get_expiry()}',
        "RateLimit": f'"hourly";r={window.remaining};t={left_s}',
    }
    if not taken:
        headers["Retry-After"] = str(left_s)
    return Response(status_code=200 if taken else 429, headers=headers)


app = Starlette(routes=[Route("/check", check)])
telling = Starlette(routes=[Route("/check", check_and_tell)])
