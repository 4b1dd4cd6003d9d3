"""`POST /v1/refund`: once, never above full, never into a later window, and only for whom it is meant."""

import asyncio
from typing import Any

import httpx
import pytest

from quotas.keys import new_id

from .conftest import Server
from .monitor import holdings
from .serving import service
from .timed import Clock, Timed, left, noon, timed, us

PLANS = """
plans:
  plan:
    limits:
      burst: {rate: 1 per 10 seconds, burst: 10}
      monthly: {quota: 100/month}
  matched:
    limits:
      all: {rate: 0/second, burst: 100}
      batch: {rate: 0/second, burst: 50, match: {methods: [POST], path: /v1/batch}}
      search: {rate: 0/second, burst: 50, match: {path: /search/*}}
  keyed:
    limits:
      all: {rate: 0/second, burst: 100}
      each: {rate: 0/second, burst: 50, per: key}
  modes:
    limits:
      felt: {quota: 100/month}
      tried: {quota: 5/month, mode: shadow}
      billed: {quota: 5/month, mode: overage}
"""


def body(**changes: object) -> dict[str, object]:
    """A refund of 3 units; None leaves a field out."""
    fields = {"client": "acme", "units": 3, "idempotency_key": "job-1", **changes}
    return {name: value for name, value in fields.items() if value is not None}


async def give(worker: Timed, **changes: object) -> httpx.Response:
    return await worker.http.post("/v1/refund", json=body(**changes))


def given(response: httpx.Response, *, repeated: bool = False) -> dict[str, int]:
    """The whole units that each limit got back."""
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = response.json()
    assert set(answer) == {"client", "refunded", "repeated"}
    assert answer["repeated"] is repeated
    refunded: dict[str, int] = answer["refunded"]
    return refunded


def detail(response: httpx.Response, status: int) -> str:
    """What a problem says, once it is seen to be one."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    problem = response.json()
    assert problem["status"] == status
    text: str = problem["detail"]
    return text


class TestGiving:
    def test_units_come_back_to_every_limit(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key()
                await worker.spend(secret, 8)
                assert given(await give(worker)) == {"burst": 3, "monthly": 3}
                assert left(await worker.check(secret, cost=0)) == {"burst": 5, "monthly": 95}

        asyncio.run(work())

    def test_once_for_each_idempotency_key(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key()
                await worker.spend(secret, 9)
                first = given(await give(worker))
                assert given(await give(worker), repeated=True) == first
                assert given(await give(worker, units=5, path="/x"), repeated=True) == first
                assert left(await worker.check(secret, cost=0)) == {"burst": 4, "monthly": 94}
                assert given(await give(worker, idempotency_key="job-2")) == first
                assert left(await worker.check(secret, cost=0)) == {"burst": 7, "monthly": 97}

        asyncio.run(work())

    def test_once_however_many_ask_at_once(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as one, timed(redis_url, PLANS, noon()) as other:
                secret = await one.key()
                await one.spend(secret, 9)
                answers = await asyncio.gather(*(give((one, other)[n % 2]) for n in range(50)))
                assert sorted(each.json()["repeated"] for each in answers) == [False] + [True] * 49
                assert all(each.json()["refunded"] == {"burst": 3, "monthly": 3} for each in answers)
                assert left(await one.check(secret, cost=0)) == {"burst": 4, "monthly": 94}

        asyncio.run(work())

    def test_the_keys_of_two_clients_are_apart(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                for name in ("acme", "other"):
                    await worker.spend(await worker.key(name), 9)
                    assert given(await give(worker, client=name)) == {"burst": 3, "monthly": 3}

        asyncio.run(work())

    @pytest.mark.parametrize("units", [2, 3, 1_000, 9_007_199_254_740_991])
    def test_never_above_full(self, redis_url: str, units: int) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key()
                await worker.spend(secret, 2)
                assert given(await give(worker, units=units)) == {"burst": 2, "monthly": 2}
                assert left(await worker.check(secret, cost=0)) == {"burst": 10, "monthly": 100}

        asyncio.run(work())

    def test_what_came_back_by_itself_is_not_given_again(self, redis_url: str) -> None:
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key()
                await worker.spend(secret, 5)
                clock.go_on(25)
                assert left(await worker.check(secret, cost=0)) == {"burst": 7, "monthly": 95}
                # Two and a half tokens are missing: three are what the whole ones become.
                assert given(await give(worker, units=5)) == {"burst": 3, "monthly": 5}
                assert left(await worker.check(secret, cost=0)) == {"burst": 10, "monthly": 100}

        asyncio.run(work())

    def test_nothing_to_give_makes_no_state(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.key(plan="keyed")
                before = await holdings(worker.store)
                (key,) = await worker.clients.keys_of("acme")
                assert given(await give(worker, key_id=key.id)) == {"all": 0, "each": 0}
                after = await holdings(worker.store)
                assert {name: value for name, value in after.items() if b":refund:" not in name} == before
                assert not [name for name in after if name.endswith(b":state")]

        asyncio.run(work())

    def test_a_key_lives_a_day(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.key()
                await give(worker)
                (receipt,) = [name for name in await holdings(worker.store) if b":refund:" in name]
                assert 86_390_000 < await worker.store.call("PTTL", receipt) <= 86_400_000
                assert b"job-1" not in receipt

        asyncio.run(work())

    def test_limits_that_refuse_nothing_get_theirs_too(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key(plan="modes")
                await worker.spend(secret, 4)
                await worker.spend(secret, 4)  # The shadow has no room for these and took none; overage goes on.
                assert given(await give(worker, units=8)) == {"felt": 8, "tried": 4, "billed": 8}
                assert left(await worker.check(secret, cost=0)) == {"felt": 100, "billed": 5}

        asyncio.run(work())


class TestWindows:
    @pytest.mark.parametrize(
        ("taken_at", "monthly"),
        [
            (None, 3),
            ("2026-07-02T12:00:00Z", 3),
            ("2026-07-01T00:00:00Z", 3),
            ("2026-07-01T02:00:00+02:00", 3),
            ("2026-07-01T01:59:59.999999+02:00", 0),
            ("2026-06-30T23:59:59.999999Z", 0),
            ("2026-06-01T00:00:00Z", 0),
            ("1970-01-01T00:00:01Z", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", 0),
            ("0001-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59Z", 3),
        ],
    )
    def test_nothing_goes_into_a_window_that_began_later(
        self, redis_url: str, taken_at: str | None, monthly: int
    ) -> None:
        """A bucket has no windows: what is missing there now is given."""
        clock = Clock(us("2026-07-02T12:00:00Z"))

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key()
                await worker.spend(secret, 5)
                assert given(await give(worker, taken_at=taken_at)) == {"burst": 3, "monthly": monthly}
                assert left(await worker.check(secret, cost=0)) == {"burst": 8, "monthly": 95 + monthly}

        asyncio.run(work())

    def test_units_of_last_month_stay_in_last_month(self, redis_url: str) -> None:
        clock = Clock(us("2026-06-30T23:59:59Z"))

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key()
                await worker.spend(secret, 5)
                clock.set("2026-07-01T00:00:10Z")
                await worker.spend(secret, 4)
                assert given(await give(worker, taken_at="2026-06-30T23:59:59Z"))["monthly"] == 0
                assert left(await worker.check(secret, cost=0))["monthly"] == 96
                assert given(await give(worker, taken_at="2026-07-01T00:00:10Z", idempotency_key="b"))["monthly"] == 3

        asyncio.run(work())

    def test_a_refund_after_the_window_gives_nothing_even_if_nobody_says_when(self, redis_url: str) -> None:
        clock = Clock(us("2026-06-30T23:59:59Z"))

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key()
                await worker.spend(secret, 5)
                clock.set("2026-07-01T00:00:00Z")
                assert given(await give(worker))["monthly"] == 0
                assert left(await worker.check(secret, cost=0))["monthly"] == 100

        asyncio.run(work())


class TestWhichLimits:
    @pytest.mark.parametrize(
        ("request_of", "refunded"),
        [
            ({}, {"all": 3}),
            ({"method": "POST", "path": "/v1/batch"}, {"all": 3, "batch": 3}),
            ({"method": "post", "path": "/v1/x/../batch?q=1"}, {"all": 3, "batch": 3}),
            ({"method": "GET", "path": "/v1/batch"}, {"all": 3}),
            ({"method": "POST"}, {"all": 3}),
            ({"path": "/search/é/\u0000"}, {"all": 3, "search": 3}),
            ({"path": ""}, {"all": 3}),
        ],
    )
    def test_those_that_the_request_took_from(
        self, redis_url: str, request_of: dict[str, str], refunded: dict[str, int]
    ) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key(plan="matched")
                for carried in (("POST", "/v1/batch"), ("GET", "/search/x")):
                    assert (await worker.check(secret, *carried, cost=10)).status_code == 200
                assert given(await give(worker, **request_of)) == refunded
                before = {"all": 80, "batch": 40}
                after = left(await worker.check(secret, "POST", "/v1/batch", cost=0))
                assert after == {name: units + refunded.get(name, 0) for name, units in before.items()}

        asyncio.run(work())

    def test_the_key_that_took_gets_its_own_back(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                one = await worker.key(plan="keyed")
                issued = await worker.clients.issue_key("acme")
                for secret in (one, issued.secret):
                    await worker.spend(secret, 10)
                assert given(await give(worker)) == {"all": 3}
                assert given(await give(worker, key_id=issued.key.id, idempotency_key="b")) == {"all": 3, "each": 3}
                assert left(await worker.check(one, cost=0)) == {"all": 86, "each": 40}
                assert left(await worker.check(issued.secret, cost=0)) == {"all": 86, "each": 43}

        asyncio.run(work())

    def test_a_key_that_is_not_the_client_s_has_nothing_to_get(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(plan="keyed"), 10)
                await worker.spend(await worker.key("other", "keyed"), 10)
                (foreign,) = await worker.clients.keys_of("other")
                for number, key_id in enumerate((foreign.id, new_id("key"), "}{\n", "x" * 64)):
                    answer = await give(worker, units=1, key_id=key_id, idempotency_key=f"{number}")
                    assert given(answer)["each"] == 0

        asyncio.run(work())

    def test_the_plan_in_force_and_the_client_s_own_limits(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key(plan="plan")
                await worker.spend(secret, 8)
                await worker.clients.set_plan("acme", "modes")
                assert given(await give(worker)) == {"felt": 0, "tried": 0, "billed": 0}
                await worker.clients.set_plan("acme", "plan")
                assert given(await give(worker, idempotency_key="b")) == {"burst": 3, "monthly": 3}

        asyncio.run(work())


class TestWho:
    def test_a_stranger_is_refused(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(), 5)
                before = await holdings(worker.store)
                detail(await worker.stranger.post("/v1/refund", json=body()), 403)
                detail(await worker.stranger.post("/v1/refund", content=b"x" * 100_000), 403)
                assert await holdings(worker.store) == before

        asyncio.run(work())

    @pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "x-forwarded-for"])
    @pytest.mark.parametrize("value", ["203.0.113.9", "127.0.0.1", ""])
    def test_what_came_through_a_gateway_is_refused(self, redis_url: str, name: str, value: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(), 5)
                before = await holdings(worker.store)
                detail(await worker.http.post("/v1/refund", json=body(), headers={name: value}), 403)
                assert await holdings(worker.store) == before

        asyncio.run(work())

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_other_methods_are_told_which_is_right(self, redis_url: str, method: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                response = await worker.http.request(method, "/v1/refund")
                detail(response, 405)
                assert response.headers["allow"] == "POST"

        asyncio.run(work())

    @pytest.mark.parametrize("name", ["nobody", "", "ACME", "x" * 1_000, "a\nb", "é"])
    def test_an_unknown_client_is_404(self, redis_url: str, name: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.key()
                before = await holdings(worker.store)
                detail(await give(worker, client=name), 404)
                assert await holdings(worker.store) == before

        asyncio.run(work())

    def test_a_client_without_a_plan_is_409(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.key()
                worker.use("plans: {other: {limits: {all: {quota: 1/day}}}}")
                assert "'plan'" in detail(await give(worker), 409)

        asyncio.run(work())


class TestBodies:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"client": None}, "client"),
            ({"client": 5}, "client"),
            ({"units": None}, "units"),
            ({"units": 0}, "units"),
            ({"units": -1}, "units"),
            ({"units": 1.0}, "units"),
            ({"units": "1"}, "units"),
            ({"units": True}, "units"),
            ({"units": 9_007_199_254_740_992}, "units"),
            ({"units": 10**400}, "units"),
            ({"idempotency_key": None}, "idempotency_key"),
            ({"idempotency_key": ""}, "idempotency_key"),
            ({"idempotency_key": "x" * 257}, "idempotency_key"),
            ({"idempotency_key": 1}, "idempotency_key"),
            ({"key_id": "x" * 65}, "key_id"),
            ({"method": ""}, "method"),
            ({"method": "G T"}, "method"),
            ({"method": "GET\n"}, "method"),
            ({"path": "x" * 8_193}, "path"),
            ({"path": ["/"]}, "path"),
            ({"taken_at": "yesterday"}, "taken_at"),
            ({"taken_at": "2026-06-10T12:00:00"}, "taken_at"),
            ({"taken_at": "2026-06-10"}, "taken_at"),
            ({"taken_at": "2026-13-10T12:00:00Z"}, "taken_at"),
            ({"taken_at": 1_781_092_800}, "taken_at"),
            ({"taken_at": "1781092800"}, "taken_at"),
            ({"unit": 1}, "unit"),
        ],
    )
    def test_what_cannot_be_read_is_named_and_nothing_is_given(
        self, redis_url: str, changes: dict[str, object], field: str
    ) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(), 5)
                before = await holdings(worker.store)
                said = detail(await give(worker, **changes), 400)
                assert said.startswith(f"{field}: ")
                assert await holdings(worker.store) == before

        asyncio.run(work())

    def test_every_fault_is_named(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                said = detail(await worker.http.post("/v1/refund", json={"units": 0, "unit": 1}), 400)
                assert {part.partition(":")[0] for part in said.split("; ")} == {
                    "client",
                    "units",
                    "idempotency_key",
                    "unit",
                }

        asyncio.run(work())

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"null",
            b"[]",
            b'"text"',
            b"{",
            b"\xff",
            b'{"client":"\\ud800","units":1,"idempotency_key":"a"}',
            b'{"client":"acme","units":1,"idempotency_key":"\\udc00"}',
            b'{"client":"acme","units":NaN,"idempotency_key":"a"}',
            b"[" * 10_000,
        ],
    )
    def test_what_is_no_such_document_is_400(self, redis_url: str, content: bytes) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.key()
                before = await holdings(worker.store)
                assert detail(await worker.http.post("/v1/refund", content=content), 400)
                assert await holdings(worker.store) == before

        asyncio.run(work())

    @pytest.mark.parametrize("size", [16_385, 1_000_000])
    def test_too_large_is_413(self, redis_url: str, size: int) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                detail(await worker.http.post("/v1/refund", content=b" " * size), 413)

        asyncio.run(work())

    def test_as_large_as_may_be_is_read(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(), 5)
                content = b'{"client":"acme","units":1,"idempotency_key":"a"}'
                response = await worker.http.post("/v1/refund", content=content.ljust(16_384))
                assert given(response) == {"burst": 1, "monthly": 1}

        asyncio.run(work())

    def test_a_body_in_pieces_is_one(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(), 5)

                async def pieces() -> Any:
                    for byte in b'{"client":"acme","units":1,"idempotency_key":"a"}':
                        yield bytes([byte])

                assert given(await worker.http.post("/v1/refund", content=pieces())) == {"burst": 1, "monthly": 1}

        asyncio.run(work())


class TestStoreTrouble:
    def test_a_store_that_is_away_is_503_and_says_that_asking_again_is_safe(self, server: Server) -> None:
        async def work() -> None:
            async with service(server.url) as worker:
                await worker.check(await worker.key())
                server.kill()
                response = await worker.http.post("/v1/refund", json=body())
                said = detail(response, 503)
                assert "again" in said
                assert response.headers["retry-after"] == "1"
                server.restart()

        asyncio.run(work())

    def test_a_store_that_stands_still_is_503(self, server: Server) -> None:
        async def work() -> None:
            async with service(server.url) as worker:
                await worker.check(await worker.key())
                server.stall()
                detail(await worker.http.post("/v1/refund", json=body()), 503)
                server.go_on()

        asyncio.run(work())
