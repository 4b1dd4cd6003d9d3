"""The usage history over HTTP: what is counted for whom, what holders and operators are told, and what is forgotten."""

import asyncio

from quotas.keys import Environment
from quotas.scripts import DAY_US
from quotas.store import Store

from .serving import service
from .timed import Clock, Timed, noon, timed, us

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


async def counted(store: Store) -> dict[str, dict[str, int]]:
    """What the histories of all clients hold together, by kind and day."""
    found: dict[str, dict[str, int]] = {}
    for key in sorted(await store.call("KEYS", "q1:*:used:*") + await store.call("KEYS", "q1:*:refused:*")):
        words = [word.decode() for word in await store.call("HGETALL", key)]
        together = found.setdefault(key.decode().partition("}:")[2], {})
        for field, number in zip(words[::2], map(int, words[1::2]), strict=True):
            together[field] = together.get(field, 0) + number
    return found


class TestCounting:
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


class TestDeletion:
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
