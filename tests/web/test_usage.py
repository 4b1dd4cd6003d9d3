"""The usage history over HTTP: what is counted for whom, what holders and operators are told, and what is forgotten."""

import asyncio
from typing import Any

import httpx
import pytest

from quotas.errors import StoreUnavailableError
from quotas.keys import Environment
from quotas.scripts import decode_state
from quotas.store import Store
from quotas.tallies import DAY_US

from .administered import Office, office
from .conftest import Server
from .serving import service
from .timed import Clock, Timed, noon, timed, us

PATIENCE_S = 30
PLANS = """
plans:
  plan:
    limits:
      burst: {rate: 10/hour, burst: 10}
      monthly: {quota: 100/month}
    test_plan: trial
  shared:
    limits:
      monthly: {quota: 100/month}
  trial:
    limits:
      few: {rate: 1/hour, burst: 50}
anonymous: {plan: trial}
"""
CSV = (200, "text/csv; charset=utf-8; header=present")
HEAD = "client,timezone,start,units,rate_limited,quota_exceeded,never\r\n"


async def counted(store: Store) -> dict[str, dict[str, int]]:
    """What the histories of all clients hold together, by kind and day."""
    found: dict[str, dict[str, int]] = {}

    def add(kind: str, quarter: int, outcome: str, number: int) -> None:
        day, field = divmod(quarter, 96)
        together = found.setdefault(f"{kind}:{day}", {})
        together[f"{field}{outcome}"] = together.get(f"{field}{outcome}", 0) + number

    for key in sorted(await store.call("KEYS", "q1:*:used:*") + await store.call("KEYS", "q1:*:refused:*")):
        kind, _, day = key.decode().partition("}:")[2].partition(":")
        words = [word.decode() for word in await store.call("HGETALL", key)]
        for field, number in zip(words[::2], map(int, words[1::2]), strict=True):
            quarter, colon, outcome = field.partition(":")
            add(kind, 96 * int(day) + int(quarter), colon + outcome, number)
    for key in await store.call("KEYS", "q1:*:state"):
        open_quarter = decode_state(await store.call("GET", key)).open_quarter
        if open_quarter is not None:
            add("used", open_quarter.quarter, "", open_quarter.units)
    return found


class TestCounting:
    @pytest.mark.one_server
    def test_live_keys_count_and_test_keys_on_a_plan_of_their_own_do_not(self, redis_url: str) -> None:
        clock = Clock(us("2026-06-10T12:20:00Z"))

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key()
                test = (await worker.clients.issue_key("acme", environment=Environment.TEST)).secret
                await worker.spend(secret, 4)
                await worker.spend(test, 5)
                assert (await worker.http.get("/check")).status_code == 200
                assert (await worker.check(secret, cost=0)).status_code == 200
                assert (await worker.check(secret, cost=9)).status_code == 429
                assert await counted(worker.store) == {f"used:{clock.now_us // DAY_US}": {"49": 4}}
                await worker.clients.create("shared", "shared")
                test = (await worker.clients.issue_key("shared", environment=Environment.TEST)).secret
                clock.go_on(86_400)
                await worker.spend(test, 6)
                assert await counted(worker.store) == {
                    f"used:{clock.now_us // DAY_US - 1}": {"49": 4},
                    f"used:{clock.now_us // DAY_US}": {"49": 6},
                }

        asyncio.run(work())

    @pytest.mark.one_server
    def test_who_comes_back_after_days_is_answered_and_counted_for_each(self, redis_url: str) -> None:
        """The units of days ago stand in the state, and the take cannot reach the hash of then by itself."""
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key(plan="shared")
                began = clock.now_us // DAY_US
                for days in (1, 2, 30, 0):
                    await worker.spend(secret, 2)
                    clock.go_on(86_400 * days)
                assert await counted(worker.store) == {f"used:{began + days}": {"48": 2} for days in (0, 1, 3, 33)}

        asyncio.run(work())

    @pytest.mark.one_server
    def test_refusals_are_there_when_the_worker_has_ended(self, redis_url: str) -> None:
        """Or within a second; here nobody but the end of the worker writes them. A repetition is a refusal anew."""
        clock = Clock(us("2026-06-10T23:59:59Z"))

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key()
                test = (await worker.clients.issue_key("acme", environment=Environment.TEST)).secret
                await worker.spend(secret, 8)
                for cost in (3, 9, 11, 101):
                    assert (await worker.check(secret, cost=cost)).status_code in {403, 429}
                clock.go_on(1)
                assert (await worker.check(secret, cost=10)).status_code == 429
                assert (await worker.check(test, cost=51)).status_code == 403
                await worker.clients.create("shared", "shared")
                shared = (await worker.clients.issue_key("shared")).secret
                await worker.spend(shared, 99)
                assert (await worker.check(shared, cost=2)).status_code == 429
                assert await worker.store.call("KEYS", "*:refused:*") == []
            day = clock.now_us // DAY_US
            async with service(redis_url, PLANS) as other:
                assert await counted(other.store) == {
                    f"refused:{day - 1}": {"95:rate_limited": 2, "95:never": 2},
                    f"refused:{day}": {"0:rate_limited": 1, "0:quota_exceeded": 1},
                    f"used:{day - 1}": {"95": 8},
                    f"used:{day}": {"0": 99},
                }

        asyncio.run(work())

    @pytest.mark.one_server
    def test_nothing_is_kept_for_0_months(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS + "usage: {keep_months: 0}\n", noon()) as worker:
                secret = await worker.key()
                await worker.spend(secret, 4)
                assert (await worker.check(secret, cost=9)).status_code == 429
                assert await counted(worker.store) == {}
                worker.use(PLANS)
                await worker.spend(secret, 1)
                assert list((await counted(worker.store)).values()) == [{"48": 1}]

        asyncio.run(work())

    @pytest.mark.one_server
    def test_a_refund_takes_it_back(self, redis_url: str) -> None:
        clock = noon()

        async def refund(worker: Timed, **asked: object) -> None:
            response = await worker.http.post("/v1/refund", json={"client": "acme", **asked})
            assert response.status_code == 200, response.text

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key(plan="shared")
                test = (await worker.clients.issue_key("acme", environment=Environment.TEST)).key.id
                await worker.spend(secret, 8)
                clock.go_on(900)
                await refund(worker, units=3, idempotency_key="a", taken_at="2026-06-10T12:00:00Z", key_id=test)
                await refund(worker, units=3, idempotency_key="a", taken_at="2026-06-10T12:00:00Z", key_id=test)
                assert list((await counted(worker.store)).values()) == [{"48": 5}]
                await refund(worker, units=2, idempotency_key="b")
                assert list((await counted(worker.store)).values()) == [{"48": 5, "49": -2}]

        asyncio.run(work())

    @pytest.mark.one_server
    def test_a_refund_for_a_test_key_on_a_plan_of_its_own_does_not(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(), 4)
                key = await worker.clients.issue_key("acme", environment=Environment.TEST)
                await worker.spend(key.secret, 5)
                asked = {"client": "acme", "units": 5, "idempotency_key": "a", "key_id": key.key.id}
                assert (await worker.http.post("/v1/refund", json=asked)).json()["refunded"] == {"few": 5}
                assert list((await counted(worker.store)).values()) == [{"48": 4}]

        asyncio.run(work())


class TestOutage:
    def test_refusals_that_were_counted_before_it_are_there_after_it(self, server: Server) -> None:
        """Each once: the store is killed while they are written, again and again, and comes back with what it had."""

        async def work() -> None:
            async with service(server.url, PLANS, upkeep_s=0.005, timeout_ms=500) as worker:
                secret, refused = await worker.key("acme", "shared"), 0

                async def until_refused() -> None:
                    nonlocal refused
                    async with asyncio.timeout(PATIENCE_S):
                        while (await worker.http.get("/check", headers=too_much)).status_code != 403:
                            await asyncio.sleep(0.01)
                    refused += 1

                too_much = {"x-api-key": secret, "x-quotas-cost": "101"}
                for _ in range(3):
                    for _ in range(40):
                        await until_refused()
                    server.kill()
                    assert (await worker.http.get("/check", headers=too_much)).status_code == 503
                    server.restart()
                await until_refused()
                async with asyncio.timeout(PATIENCE_S):
                    while await never(worker.store) < refused:
                        await asyncio.sleep(0.01)
            async with service(server.url, PLANS) as after:
                assert await never(after.store) == refused

        async def never(store: Store) -> int:
            try:
                found = await counted(store)
            except StoreUnavailableError:  # Its connection has ended with the server before.
                return 0
            return sum(number for each in found.values() for field, number in each.items() if field.endswith("never"))

        asyncio.run(work())


class TestDeletion:
    @pytest.mark.one_server
    def test_a_deleted_client_s_history_goes_and_its_successor_starts_fresh(self, redis_url: str) -> None:
        """Case C16: by the store's clock, because deletion goes by that."""

        async def work() -> None:
            async with service(redis_url, PLANS) as worker:
                secret = await worker.key("acme", "shared")
                for _ in range(3):
                    assert (await worker.check(secret)).status_code == 200
                assert sum(sum(each.values()) for each in (await counted(worker.store)).values()) == 3
                old = await worker.clients.get("acme")
                today = int((await worker.store.call("TIME"))[0]) // 86_400
                for day in (today - 1117, today - 400, today + 1):
                    for kind in ("used", "refused"):
                        await worker.store.call("HSET", f"q1:{{{old.id}}}:{kind}:{day}", "1", 1)
                await worker.clients.delete("acme")
                assert await counted(worker.store) == {}
                secret = await worker.key("acme", "shared")
                assert (await worker.check(secret)).status_code == 200
                assert [sum(each.values()) for each in (await counted(worker.store)).values()] == [1]

        asyncio.run(work())


async def own(worker: Timed, secret: str, query: str = "") -> httpx.Response:
    return await worker.http.get("/v1/usage" + query, headers={"x-api-key": secret})


class TestOwn:
    def test_without_a_query_it_is_what_it_was(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                told = (await own(worker, await worker.key())).json()
                assert set(told) == {"client", "plan", "subject", "at", "limits"}

        asyncio.run(work())

    def test_the_history_is_what_the_quota_counts_and_is_charged(self, redis_url: str) -> None:
        clock = Clock(us("2026-06-09T23:59:59Z"))

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                secret = await worker.key(plan="shared")
                await worker.spend(secret, 4)
                clock.go_on(1)
                await worker.spend(secret, 6)
                told = (await own(worker, secret, "?by=day&month=2026-06")).json()
                (limit,) = told["limits"]
                history = told["history"]
                assert (limit["remaining"], history["units"]) == (100 - 11, 10 + 1)
                assert [row["units"] for row in history.pop("rows")] == [0] * 8 + [4, 7]
                assert history == {
                    "client": "acme",
                    "timezone": "UTC",
                    "by": "day",
                    "start": "2026-06-01T00:00:00+00:00",
                    "end": "2026-07-01T00:00:00+00:00",
                    "units": 11,
                    "refused": {"rate_limited": 0, "quota_exceeded": 0, "never": 0},
                }
                for query, rows in (("?by=month", 13), ("?by=hour", 9 * 24 + 1), ("?by=month&month=2026-06", 1)):
                    assert len((await own(worker, secret, query)).json()["history"]["rows"]) == rows
                east = (await own(worker, secret, "?timezone=Asia/Tokyo&anchor_day=10")).json()["history"]
                assert [row["start"] for row in east["rows"]] == ["2026-06-10T00:00:00+09:00"]
                assert east["units"] == 10 + 5

        asyncio.run(work())

    def test_it_is_csv_for_who_asks_for_that(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key(plan="shared")
                await worker.spend(secret, 4)
                headers = {"x-api-key": secret, "accept": "text/csv"}
                told = await worker.http.get("/v1/usage?by=month&month=2026-06", headers=headers)
                assert (told.status_code, told.headers["content-type"], told.headers["vary"]) == (*CSV, "Accept")
                assert told.text == HEAD + "acme,UTC,2026-06-01T00:00:00+00:00,5,0,0,0\r\n"
                assert told.headers["ratelimit"].startswith('"monthly";r=95')
                test = (await worker.clients.issue_key("acme", environment=Environment.TEST)).secret
                worker.use(PLANS + "usage: {keep_months: 0}\n")
                none = await worker.http.get("/v1/usage?by=day", headers={**headers, "x-api-key": test})
                assert (none.status_code, none.headers["content-type"], none.text) == (*CSV, HEAD)
                left = await worker.http.get("/v1/usage", headers=headers)
                assert (left.headers["content-type"], left.json()["client"]) == ("application/json", "acme")
                wrong = await worker.http.get("/v1/usage?by=week", headers=headers)
                assert (wrong.status_code, wrong.headers["content-type"]) == (400, "application/problem+json")
                plain = await worker.http.get("/v1/usage?by=day", headers={**headers, "accept": "image/png"})
                assert (plain.status_code, plain.headers["content-type"]) == (200, "application/json")
                assert plain.headers["vary"] == "Accept"

        asyncio.run(work())

    def test_a_history_that_cannot_be_paid_is_refused_and_a_price_of_nothing_is_possible(self, redis_url: str) -> None:
        free = PLANS.replace("  trial:", "    costs: [{path: /v1/usage, cost: 0}]\n  trial:")

        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key(plan="shared")
                await worker.spend(secret, 100)
                assert (await own(worker, secret)).status_code == 200
                refused = await own(worker, secret, "?by=day")
                assert (refused.status_code, refused.headers["x-quotas-reason"]) == (429, "quota_exceeded")
                worker.use(free)
                told = await own(worker, secret, "?by=day")
                assert (told.status_code, told.json()["history"]["units"]) == (200, 100)

        asyncio.run(work())

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ("?by=week", "by"),
            ("?month=2026-13", "month"),
            ("?month=June", "month"),
            ("?timezone=Mars/Base", "timezone"),
            ("?anchor_day=0", "anchor_day"),
            ("?client=bolt", "client"),
            ("?by=day&by=day", None),
            ("?by=%ff", None),
        ],
    )
    def test_a_query_that_cannot_be_read_costs_nothing(self, redis_url: str, query: str, path: str | None) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key(plan="shared")
                refused = await own(worker, secret, query)
                assert refused.status_code == 400
                if path is not None:
                    assert [fault["path"] for fault in refused.json()["faults"]] == [path]
                assert (await own(worker, secret)).json()["limits"][0]["remaining"] == 100
                assert (await worker.http.get("/v1/usage" + query)).status_code == 401

        asyncio.run(work())

    def test_a_test_key_on_a_plan_of_its_own_has_none_and_sees_no_other(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                await worker.spend(await worker.key(), 4)
                test = (await worker.clients.issue_key("acme", environment=Environment.TEST)).secret
                told = (await own(worker, test, "?by=day")).json()
                assert told["history"] is None
                worker.use(PLANS + "usage: {keep_months: 0}\n")
                live = (await worker.clients.issue_key("acme")).secret
                assert (await own(worker, live, "?by=day")).json()["history"] is None

        asyncio.run(work())

    def test_a_client_s_own_quota_says_its_time_zone(self, redis_url: str) -> None:
        zoned = PLANS.replace("monthly: {quota: 100/month}", "monthly: {quota: 100/month, timezone: Asia/Kathmandu}")

        async def work() -> None:
            async with timed(redis_url, zoned, noon()) as worker:
                told = (await own(worker, await worker.key(plan="shared"), "?by=hour")).json()["history"]
                assert (told["timezone"], told["rows"][-1]["start"]) == ("Asia/Kathmandu", "2026-06-10T17:00:00+05:45")
                assert told["rows"][-1]["units"] == 1

        asyncio.run(work())


class TestAdmin:
    def test_one_client_or_a_page_of_all(self, redis_url: str) -> None:
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker, office(redis_url, clock=clock) as desk:
                for number, name in enumerate(("acme", "bolt", "cog")):
                    await worker.spend(await worker.key(name, "shared"), 10 + number)
                one = await desk.done("GET", "/usage?client=bolt&month=2026-06")
                assert one["next"] is None
                (bolt,) = one["usage"]
                assert (bolt["client"], bolt["by"], bolt["units"], len(bolt["rows"])) == ("bolt", "day", 11, 10)
                page = await desk.done("GET", "/usage?limit=2")
                assert [(each["client"], each["by"], each["units"]) for each in page["usage"]] == [
                    ("acme", "month", 10),
                    ("bolt", "month", 11),
                ]
                assert [len(each["rows"]) for each in page["usage"]] == [1, 1]
                rest = await desk.done("GET", f"/usage?limit=2&cursor={page['next']}&month=2026-06")
                assert [(each["client"], each["units"]) for each in rest["usage"]] == [("cog", 12)]
                assert rest["next"] is None
                assert (await desk.done("GET", "/usage?month=2026-05"))["usage"][0]["units"] == 0

        asyncio.run(work())

    def test_csv_has_the_same_pages_and_a_link_to_the_next(self, redis_url: str) -> None:
        clock, names = noon(), ["acme", "a&b=c", "cog"]

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker, office(redis_url, clock=clock) as desk:
                for name in names:
                    await worker.spend(await worker.key(name, "shared"), 3)
                path, rows = "/usage?limit=1&month=2026-06", []
                for _ in names:
                    told = await desk.ask("GET", path, accept="text/csv")
                    assert (told.status_code, told.headers["content-type"], told.headers["vary"]) == (*CSV, "Accept")
                    rows.append(told.text.removeprefix(HEAD))
                    path = "/usage" + told.links.get("next", {}).get("url", "")
                assert path == "/usage"
                assert rows == [f"{name},UTC,2026-06-01T00:00:00+00:00,3,0,0,0\r\n" for name in sorted(names)]
                missing = await desk.ask("GET", "/usage?client=nobody", accept="text/csv")
                assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")

        asyncio.run(work())

    @pytest.mark.parametrize(
        ("query", "status", "told"),
        [
            ("?client=nobody", 404, "There is no such client"),
            ("?by=day", 400, "goes with `client`"),
            ("?client=acme&limit=3", 400, "without `client`"),
            ("?client=acme&month=2026", 400, "such as 2026-11"),
            ("?limit=501", 400, "limit"),
            ("?timezone=Mars/Base", 400, "is unknown"),
            ("?plan=free", 400, "plan"),
        ],
    )
    def test_what_makes_no_sense_is_said(self, redis_url: str, query: str, status: int, told: str) -> None:
        async def ask(desk: Office) -> Any:
            await desk.done("POST", "/clients", {"name": "acme", "plan": "free"})
            return await desk.ask("GET", "/usage" + query)

        async def work() -> None:
            async with office(redis_url) as desk:
                refused = await ask(desk)
                assert refused.status_code == status
                assert told in refused.text

        asyncio.run(work())
