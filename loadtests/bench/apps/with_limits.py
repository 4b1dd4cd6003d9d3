"""The yardstick of a Python team: a Starlette route that asks the package `limits` about one fixed window.

`BENCH_REDIS` is the path of the socket, `BENCH_PER_HOUR` how many requests a caller has. It answers 200 or 429.
"""

import os

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


app = Starlette(routes=[Route("/check", check)])
