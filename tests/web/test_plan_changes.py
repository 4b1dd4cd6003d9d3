"""Plans and overrides that change under a client (cases C06 and C16): at once, everywhere, and nothing is minted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import httpx
import pytest

from quotas import decisions, plan_files
from quotas.errors import ConflictError, NotFoundError
from quotas.overrides import Override

from .timed import SECOND_US, Clock, Timed, items, left, noon, timed, us, verdict

PLANS = """
plans:
  huge: {limits: {monthly: {quota: 5000000/month}}}
  tiny: {limits: {monthly: {quota: 10/month}}}
  some: {limits: {monthly: {quota: 100/month}}}
  deep: {limits: {burst: {rate: 1/second, burst: 100}}}
  flat: {limits: {burst: {rate: 2/second, burst: 10}}}
  both: {limits: {burst: {rate: 1/second, burst: 100}, monthly: {quota: 100/month}}}
  kind: {limits: {burst: {quota: 50/day}, monthly: {rate: 1/second, burst: 20}}}
"""

Change = Callable[[str], Awaitable[None]]
Workers = tuple[Timed, Timed]


@asynccontextmanager
async def two(redis_url: str, clock: Clock) -> AsyncIterator[Workers]:
    """Two warm workers on one store."""
    async with timed(redis_url, PLANS, clock) as one, timed(redis_url, PLANS, clock) as other:
        yield one, other


def changes(workers: Workers, way: str) -> Change:
    """Put the client `acme` on another plan: by the registry, or by giving its own plan that one's limits."""
    config = plan_files.parse(PLANS, "test plans")

    async def by_registry(plan: str) -> None:
        await workers[0].clients.set_plan("acme", plan)

    async def by_file(plan: str) -> None:
        line = next(line for line in PLANS.splitlines() if line.strip().startswith(f"{plan}:"))
        name = (await workers[0].clients.get("acme")).plan
        for worker in workers:
            worker.use("plans:\n" + line.replace(f"{plan}:", f"{name}:", 1))

    assert set(config.plans) >= {"huge", "tiny"}
    return by_registry if way == "set_plan" else by_file


async def looks(workers: Workers, secret: str) -> list[dict[str, int]]:
    """What each worker says there is, without taking."""
    return [left(await worker.check(secret, cost=0)) for worker in workers]


@pytest.mark.parametrize("way", ["set_plan", "file"])
class TestC06:
    def test_a_quota_that_is_lowered_and_raised(self, redis_url: str, way: str) -> None:
        clock = Clock(us("2026-06-10T08:00:00Z"))

        async def work() -> None:
            async with two(redis_url, clock) as workers:
                change = changes(workers, way)
                secret = await workers[0].key(plan="huge")
                await workers[0].spend(secret, 20)
                await workers[1].spend(secret, 15)
                clock.set("2026-06-22T00:00:00Z")
                await change("tiny")
                for worker in workers:
                    refused = await worker.check(secret)
                    assert verdict(refused) == (429, 777_600)
                    assert refused.headers["x-quotas-reason"] == "quota_exceeded"
                    assert items(refused, "ratelimit") == {"monthly": {"r": 0, "t": 777_600}}
                    assert items(refused, "ratelimit-policy") == {"monthly": {"q": 10, "w": 2_592_000}}
                await change("some")
                allowed = await workers[1].check(secret)
                assert (allowed.status_code, left(allowed)) == (200, {"monthly": 64})
                assert items(allowed, "ratelimit-policy")["monthly"]["q"] == 100
                assert left(await workers[0].check(secret)) == {"monthly": 63}

        asyncio.run(work())

    def test_exactly_what_was_spent_is_the_edge(self, redis_url: str, way: str) -> None:
        """One below the limit made a division by zero for somebody."""

        async def work() -> None:
            async with two(redis_url, noon()) as workers:
                change = changes(workers, way)
                secret = await workers[0].key(plan="huge")
                await workers[0].spend(secret, 9)
                await change("tiny")
                assert await looks(workers, secret) == [{"monthly": 1}] * 2
                assert left(await workers[1].check(secret)) == {"monthly": 0}
                assert (await workers[0].check(secret)).status_code == 429

        asyncio.run(work())

    def test_a_lowered_burst_cuts_what_is_held(self, redis_url: str, way: str) -> None:
        clock = noon()

        async def work() -> None:
            async with two(redis_url, clock) as workers:
                change = changes(workers, way)
                secret = await workers[0].key(plan="deep")
                await workers[0].spend(secret, 40)
                assert await looks(workers, secret) == [{"burst": 60}] * 2
                await change("flat")
                assert await looks(workers, secret) == [{"burst": 10}] * 2
                policy = items(await workers[1].check(secret, cost=0), "ratelimit-policy")
                assert policy == {"burst": {"q": 10, "w": 5}}
                answers = [await workers[n % 2].check(secret) for n in range(11)]
                assert [one.status_code for one in answers] == [200] * 10 + [429]

        asyncio.run(work())

    def test_a_raised_burst_gives_headroom_and_no_tokens(self, redis_url: str, way: str) -> None:
        clock = noon()

        async def work() -> None:
            async with two(redis_url, clock) as workers:
                change = changes(workers, way)
                secret = await workers[0].key(plan="flat")
                await workers[0].spend(secret, 6)
                await change("deep")
                assert await looks(workers, secret) == [{"burst": 4}] * 2
                assert left(await workers[1].check(secret)) == {"burst": 3}
                clock.go_on(30)
                assert await looks(workers, secret) == [{"burst": 33}] * 2

        asyncio.run(work())

    @pytest.mark.parametrize(
        ("before", "spent", "idle_s", "after", "held"),
        [
            ("{rate: 0/second, burst: 10}", 6, 3_600, "{rate: 2/second, burst: 100}", 4),
            ("{rate: 1/second, burst: 10}", 10, 4, "{rate: 100/second, burst: 100}", 4),
            ("{rate: 1/second, burst: 100}", 100, 60, "{rate: 1/hour, burst: 10}", 10),
        ],
    )
    def test_what_is_held_at_the_change_is_held_after_it(  # noqa: PLR0913, PLR0917 # A table's columns.
        self, redis_url: str, way: str, before: str, spent: int, idle_s: int, after: str, held: int
    ) -> None:
        """The time before a change is not paid for at the rate that came after it."""
        texts = {name: f"{{limits: {{burst: {rule}}}}}" for name, rule in (("before", before), ("after", after))}
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, f"plans: {{a: {texts['before']}, b: {texts['after']}}}", clock) as worker:
                secret = await worker.key(plan="a")
                await worker.spend(secret, spent)
                clock.go_on(idle_s)
                if way == "set_plan":
                    await worker.clients.set_plan("acme", "b")
                else:
                    worker.use(f"plans: {{a: {texts['after']}}}")
                assert left(await worker.check(secret, cost=0)) == {"burst": held}

        asyncio.run(work())

    def test_the_next_check_of_each_worker_is_on_the_new_plan(self, redis_url: str, way: str) -> None:
        async def work() -> None:
            async with two(redis_url, noon()) as workers:
                change = changes(workers, way)
                secret = await workers[0].key(plan="some")
                for plan, units in (("huge", 5_000_000), ("tiny", 10), ("some", 100)) * 5:
                    await change(plan)
                    answers = await asyncio.gather(*(worker.check(secret, cost=0) for worker in workers))
                    assert [left(one) for one in answers] == [{"monthly": units}] * 2

        asyncio.run(work())

    def test_limits_that_a_plan_lacks_or_has_of_another_kind_are_remembered(self, redis_url: str, way: str) -> None:
        async def work() -> None:
            async with two(redis_url, noon()) as workers:
                change = changes(workers, way)
                secret = await workers[0].key(plan="both")
                await workers[0].spend(secret, 30)
                for plan, expected in (
                    ("kind", {"burst": 50, "monthly": 20}),
                    ("tiny", {"monthly": 0}),
                    ("flat", {"burst": 10}),
                ):
                    await change(plan)
                    assert await looks(workers, secret) == [expected] * 2
                    await workers[1].check(secret)
                await change("both")
                # The burst was cut to 10, and the check on `flat` took one of them.
                assert await looks(workers, secret) == [{"burst": 9, "monthly": 70}] * 2

        asyncio.run(work())


class TestMinting:
    """Lowering and raising, in any order, gives nothing that the most generous plan would not have given."""

    @pytest.mark.parametrize("seed", range(6))
    def test_a_random_sequence_is_the_model_and_mints_nothing(self, redis_url: str, seed: int) -> None:
        random = Random(seed)
        names = ["huge", "tiny", "some", "deep", "flat", "both", "kind"]
        config = plan_files.parse(PLANS, "test plans")
        clock = noon()

        async def work() -> None:
            memory: decisions.Memory | None = None
            given: dict[str, list[tuple[int, int]]] = {"burst": [], "monthly": []}
            async with two(redis_url, clock) as workers:
                plan = "deep"
                secret = await workers[0].key(plan=plan)
                for _ in range(120):
                    clock.go_on(random.choice([0, 0, 0.000_001, 0.3, 1, 7]))
                    if random.random() < 0.3:
                        plan = random.choice(names)
                        await workers[0].clients.set_plan("acme", plan)
                    cost = random.choice([0, 1, 1, 2, 9, 30])
                    response = await random.choice(workers).check(secret, cost=cost)
                    limits = config.plans[plan].limits
                    memory, expected = decisions.take(limits, memory, now_us=clock.now_us, cost=cost)
                    assert (response.status_code == 200) == expected.allowed
                    assert left(response) == {each.limit.name: each.remaining for each in expected.standings}
                    if response.status_code == 200:
                        for limit in limits:
                            given[limit.name].append((clock.now_us, cost))
            for begin in range(len(given["burst"])):
                taken = 0
                for at_us, cost in given["burst"][begin:]:
                    taken += cost
                    # A bucket of at most 100 that brings at most 2/second, and a quota of 50 of the same name.
                    assert taken <= 150 + 2 * (at_us - given["burst"][begin][0]) / SECOND_US

        asyncio.run(work())

    def test_a_quota_lowered_and_raised_gives_its_units_once(self, redis_url: str) -> None:
        random = Random(4)

        async def work() -> None:
            async with two(redis_url, noon()) as workers:
                secret = await workers[0].key(plan="some")
                passed = 0
                for _ in range(300):
                    await workers[0].clients.set_plan("acme", random.choice(["tiny", "some", "flat", "both"]))
                    response = await random.choice(workers).check(secret)
                    passed += response.status_code == 200 and "monthly" in response.headers["ratelimit"]
                await workers[0].clients.set_plan("acme", "some")
                rest = left(await workers[1].check(secret, cost=0))["monthly"]
                assert passed + rest == 100

        asyncio.run(work())

    def test_plans_of_many_limits_changed_to_and_fro(self, redis_url: str) -> None:
        """More limits than one plan can have are remembered, while there is something to remember of them."""

        def many(letter: str) -> str:
            limits = ", ".join(f"{letter}{number}: {{quota: 10/month}}" for number in range(9))
            return f"plans: {{plan: {{limits: {{{limits}}}}}}}"

        async def work() -> None:
            async with timed(redis_url, many("a"), noon()) as worker:
                secret = await worker.key()
                await worker.spend(secret, 10)
                for letter in "bc":
                    worker.use(many(letter))
                    await worker.spend(secret, 10)
                worker.use(many("a"))
                assert set(left(await worker.check(secret, cost=0)).values()) == {0}

        asyncio.run(work())


class TestOverrides:
    def test_they_hold_for_the_next_check_of_every_worker(self, redis_url: str) -> None:
        async def work() -> None:
            async with two(redis_url, noon()) as workers:
                secret, other = await workers[0].key(plan="both"), await workers[0].key("other", "both")
                await workers[1].spend(secret, 30)
                for worker in workers:
                    await worker.check(other, cost=0)
                await workers[0].clients.set_limit("acme", "burst", Override(rate="50/second", burst=80))
                answers = [await worker.check(secret, cost=0) for worker in workers]
                assert [left(one) for one in answers] == [{"burst": 70, "monthly": 70}] * 2
                assert {one.headers["ratelimit-policy"] for one in answers} == {
                    '"burst";q=80;w=2, "monthly";q=100;w=2592000'
                }
                assert await looks(workers, other) == [{"burst": 100, "monthly": 100}] * 2
                await workers[0].clients.set_limit("acme", "monthly", Override(quota="1000/month"))
                assert await looks(workers, secret) == [{"burst": 70, "monthly": 970}] * 2
                await workers[0].clients.unset_limit("acme", "burst")
                assert await looks(workers, secret) == [{"burst": 70, "monthly": 970}] * 2
                await workers[0].clients.unset_limit("acme", "monthly")
                assert await looks(workers, secret) == [{"burst": 70, "monthly": 70}] * 2

        asyncio.run(work())

    def test_until_an_instant_and_not_longer(self, redis_url: str) -> None:
        clock = noon()
        until_us = clock.now_us + 60 * SECOND_US

        async def work() -> None:
            async with two(redis_url, clock) as workers:
                secret = await workers[0].key(plan="both")
                await workers[0].spend(secret, 50)
                clients = workers[0].clients
                await clients.set_limit("acme", "monthly", Override(quota="40/month", until_us=until_us))
                later_us = until_us + 60 * SECOND_US
                await clients.set_limit("acme", "burst", Override(burst=1000, until_us=later_us))
                for now_us, monthly, burst in (
                    (clock.now_us, 0, 1000),
                    (until_us - 1, 0, 1000),
                    (until_us, 50, 1000),
                    (later_us - 1, 50, 1000),
                    (later_us, 50, 100),
                ):
                    clock.now_us = now_us
                    for worker in workers:
                        answer = await worker.check(secret, cost=0)
                        assert left(answer)["monthly"] == monthly
                        assert items(answer, "ratelimit-policy")["burst"]["q"] == burst

        asyncio.run(work())

    def test_what_would_be_over_already_is_refused(self, redis_url: str) -> None:
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, PLANS, clock) as worker:
                await worker.key(plan="both")
                for until_us in (clock.now_us, clock.now_us - 1, 0):
                    with pytest.raises(ConflictError):
                        await worker.clients.set_limit("acme", "burst", Override(burst=5, until_us=until_us))

        asyncio.run(work())

    def test_it_waits_while_the_plan_lacks_its_limit_or_has_another_kind(self, redis_url: str) -> None:
        async def work() -> None:
            async with two(redis_url, noon()) as workers:
                clients = workers[0].clients
                secret = await workers[0].key(plan="both")
                await clients.set_limit("acme", "burst", Override(rate="50/second", burst=80))
                await workers[0].spend(secret, 5)
                for plan, expected in (
                    ("some", {"monthly": 95}),
                    ("kind", {"burst": 50, "monthly": 20}),
                    ("both", {"burst": 75, "monthly": 95}),
                    ("flat", {"burst": 75}),
                ):
                    await clients.set_plan("acme", plan)
                    assert await looks(workers, secret) == [expected] * 2
                with pytest.raises(ConflictError):
                    await clients.set_limit("acme", "monthly", Override(quota="1/month"))
                with pytest.raises(ConflictError):
                    await clients.set_limit("acme", "burst", Override(quota="1/month"))
                with pytest.raises(NotFoundError):
                    await clients.unset_limit("acme", "monthly")

        asyncio.run(work())

    def test_the_rest_of_the_limit_follows_the_plan_file(self, redis_url: str) -> None:
        before = "plans: {plan: {limits: {burst: {rate: 1/second, burst: 10}, search: {quota: 5/day}}}}"
        after = (
            "plans: {plan: {limits: {burst: {rate: 4/second, burst: 20, match: {path: /a}}, search: {quota: 7/day}}}}"
        )

        async def work() -> None:
            async with timed(redis_url, before, noon()) as worker:
                secret = await worker.key()
                await worker.clients.set_limit("acme", "burst", Override(burst=80))
                assert items(await worker.check(secret, cost=0), "ratelimit-policy")["burst"] == {"q": 80, "w": 80}
                worker.use(after)
                assert set(left(await worker.check(secret, cost=0))) == {"search"}
                answer = await worker.check(secret, uri="/a", cost=0)
                assert items(answer, "ratelimit-policy") == {
                    "burst": {"q": 80, "w": 20},
                    "search": {"q": 7, "w": 86_400},
                }

        asyncio.run(work())

    def test_two_commands_at_once_lose_nothing(self, redis_url: str) -> None:
        async def work() -> None:
            async with two(redis_url, noon()) as workers:
                secret = await workers[0].key(plan="both")
                await asyncio.gather(
                    workers[0].clients.set_limit("acme", "burst", Override(burst=80)),
                    workers[1].clients.set_limit("acme", "monthly", Override(quota="1000/month")),
                )
                policy = items(await workers[0].check(secret, cost=0), "ratelimit-policy")
                assert {name: numbers["q"] for name, numbers in policy.items()} == {"burst": 80, "monthly": 1000}

        asyncio.run(work())

    def test_one_that_this_version_cannot_read_leaves_the_plan_in_force(self, redis_url: str) -> None:
        """A zone that the machine's time zone data lost, a field of a later version."""

        async def work() -> None:
            async with timed(redis_url, PLANS, noon()) as worker:
                secret = await worker.key(plan="both")
                client = await worker.clients.get("acme")
                fields = ("limit:monthly", '{"timezone":"Mars/Olympus"}', "limit:burst", '{"burst":80}')
                await worker.store.call("HSET", f"q1:{{{client.id}}}:client", *fields)
                response = await worker.check(secret, cost=0)
                assert response.status_code == 200
                assert left(response)["monthly"] == 100

        asyncio.run(work())


class TestC16:
    """The budget hangs on the client: month quota 10, used 7."""

    PLAN = "plans: {plan: {limits: {month: {quota: 10/month}}}}"

    async def used(self, worker: Timed) -> str:
        secret = await worker.key()
        await worker.spend(secret, 7, at_once=1)
        return secret

    async def rotated(self, worker: Timed, secret: str) -> httpx.Response:
        (old,) = await worker.clients.keys_of("acme")
        new = await worker.clients.issue_key("acme")
        await worker.clients.revoke_key(old.id)
        assert (await worker.check(secret)).status_code == 401
        return await worker.check(new.secret)

    async def edited(self, worker: Timed, secret: str) -> httpx.Response:
        worker.use(
            "plans: {plan: {limits: {month: {quota: 10/month}}, on_store_error: allow, "
            "costs: [{path: /x, cost: 3}]}, other: {limits: {month: {quota: 1/month}}}}"
        )
        return await worker.check(secret)

    async def second_key(self, worker: Timed, _: str) -> httpx.Response:
        return await worker.check((await worker.clients.issue_key("acme")).secret)

    async def other_header(self, worker: Timed, secret: str) -> httpx.Response:
        return await worker.http.get("/check", headers={"authorization": f"Bearer {secret}"})

    async def suspended_and_resumed(self, worker: Timed, secret: str) -> httpx.Response:
        await worker.clients.suspend("acme")
        await worker.clients.resume("acme")
        return await worker.check(secret)

    @pytest.mark.parametrize("way", ["rotated", "edited", "second_key", "other_header", "suspended_and_resumed"])
    def test_it_goes_on_with_what_is_left(self, redis_url: str, way: str) -> None:
        async def work() -> None:
            async with timed(redis_url, self.PLAN, noon()) as worker:
                response: httpx.Response = await getattr(self, way)(worker, await self.used(worker))
                assert (response.status_code, left(response)) == (200, {"month": 2})

        asyncio.run(work())

    def test_a_new_client_of_the_same_name_is_another_one(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, self.PLAN, noon()) as worker:
                await self.used(worker)
                await worker.clients.delete("acme")
                assert left(await worker.check(await worker.key())) == {"month": 9}

        asyncio.run(work())
