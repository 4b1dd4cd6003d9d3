"""Whoever is packed is answered as who is at hand, and as by the long road, whatever is done to a client."""

import asyncio
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quotas import assembly, caches
from quotas.holders import HOUR_US
from quotas.hot_road import HotRoad
from quotas.keys import Environment
from quotas.overrides import Override

from .test_roads import application, connection, no_app
from .timed import Clock, noon, timed

NAME = "Ä %b %% 100%"
PLANS = """
plans:
  "a%b": {limits: {first: {rate: 50/day, burst: 50}, "b%d": {quota: 99/month}}}
  other: {limits: {first: {rate: 50/day, burst: 60}}}
  tested: {test_plan: other, limits: {first: {rate: 50/day, burst: 40}}}
"""
IN_FILE = (
    PLANS
    + f"""
clients: {{"{NAME}": {{plan: tested}}}}
"""
)


async def answers(redis_url: str, protocol_class: Any, *, test_key: bool, clock_decides: bool) -> list[bytes]:
    """The bytes of three answers after each thing that an operator, the file or the clock does."""
    told: list[bytes] = []
    # The store's clock brings another token after half an hour, and goes on during the test: a countdown is no part.
    clock = noon() if clock_decides else Clock(assembly.clock() // HOUR_US * HOUR_US)
    async with timed(redis_url, PLANS, clock, clock_decides=clock_decides) as worker, AsyncExitStack() as stack:
        await worker.store.call("FLUSHALL")
        clients = worker.clients
        await clients.create(NAME, "a%b")
        environment = Environment.TEST if test_key else Environment.LIVE
        issued = await clients.issue_key(
            NAME, environment=environment, scopes=["a:b"], expires_at_us=clock.now_us + 5 * HOUR_US
        )
        answering = no_app if protocol_class is HotRoad else application(worker)
        asked = await stack.enter_async_context(connection(worker, protocol_class, answering))

        async def ask() -> None:
            for _ in range(3):
                asked.send(f"X-API-Key: {issued.secret}")
                answer = (await asked.answer()).replace(issued.key.id.encode(), b"KEY")
                told.append(answer if clock_decides else re.sub(rb";t=[0-9]+", b";t=", answer))

        for seconds in (0, 3_599, 1):
            clock.go_on(seconds)
            await ask()
        await clients.set_plan(NAME, "tested")
        await ask()
        await clients.set_plan(NAME, "a%b")
        await clients.set_limit(NAME, "first", Override(rate="7/day", burst=70))
        await ask()
        await clients.unset_limit(NAME, "first")
        await ask()
        await clients.suspend(NAME)
        await ask()
        await clients.resume(NAME)
        await ask()
        for plans in (IN_FILE, PLANS.replace('"a%b"', "gone"), PLANS.replace("burst: 50", "burst: 55")):
            worker.use(plans)
            await ask()
        for seconds in (4 * 3_600 - 1, -7_200, 7_200, 1, -1):
            clock.go_on(seconds)
            await ask()
        await clients.revoke_key(issued.key.id)
        await ask()
    return told


@pytest.mark.parametrize("clock_decides", [True, False], ids=["its clock", "the store's"])
@pytest.mark.parametrize("test_key", [False, True], ids=["live", "test"])
def test_all_roads_tell_the_same(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    test_key: bool,  # noqa: FBT001 # A case.
    clock_decides: bool,  # noqa: FBT001 # A case.
) -> None:
    async def work() -> None:
        case = {"test_key": test_key, "clock_decides": clock_decides}
        long = await answers(redis_url, HttpToolsProtocol, **case)
        assert long == await answers(redis_url, HotRoad, **case), "at hand"
        monkeypatch.setattr(caches, "MAX_AT_HAND", 0)
        assert long == await answers(redis_url, HotRoad, **case), "packed"
        statuses = [answer.split(b" ")[1] for answer in long]
        assert statuses[::3] == statuses[1::3] == statuses[2::3]
        assert b" ".join(statuses[::3]) == b"200 200 200 200 200 200 403 200 200 403 200 200 200 200 401 200 401"

    asyncio.run(work())
