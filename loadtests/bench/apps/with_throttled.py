"""A second yardstick: the same route with the package `throttled-py`. The variables are those of `with_limits`."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from throttled.asyncio import RateLimiterType, RedisStore, Throttled, per_hour

LIMITER = Throttled(
    using=RateLimiterType.FIXED_WINDOW.value,
    quota=per_hour(int(os.environ["BENCH_PER_HOUR"])),
    store=RedisStore(
        server=f"unix://{os.environ['BENCH_REDIS']}", options={"CONNECTION_POOL_KWARGS": {"max_connections": 1024}}
    ),
)


async def check(request: Request) -> Response:
    """Take one of the caller's requests."""
    taken = await LIMITER.limit(request.headers["x-api-key"])
    return Response(status_code=429 if taken.limited else 200)


app = Starlette(routes=[Route("/check", check)])
