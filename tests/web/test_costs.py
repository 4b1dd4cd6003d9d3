"""What a check costs and which limits it meets: carried method and path, cost rules, X-Quotas-Cost, modes."""

import asyncio
from collections.abc import Sequence

import pytest

from .monitor import holdings, watched
from .timed import STRANGER, Clock, Field, Timed, left, noon, timed, us, verdict

COSTS = """
plans:
  plan:
    limits:
      units: {rate: 0/second, burst: 1000}
    costs:
      - {path: /v1/batch, methods: [POST], cost: 10}
      - {path: /v1/batch, cost: 3}
      - {path: /free/*, cost: 0}
      - {path: "/v1/{any}/items", cost: 7}
      - {path: /v1/*, methods: [POST], cost: 4}
      - {methods: [DELETE], cost: 5}
"""
MATCHES = """
plans:
  plan:
    limits:
      all: {rate: 0/second, burst: 100}
      search: {rate: 0/second, burst: 2, match: {methods: [GET], path: /search/*}}
      batch: {rate: 0/second, burst: 2, match: {path: /v1/batch}}
      writes: {rate: 0/second, burst: 2, match: {methods: [POST, PUT]}}
"""
ONE = "plans: {plan: {limits: {units: {rate: 0/second, burst: 1000}}}}"
DOUBTFUL = [
    "/v1//batch",
    "//v1/batch",
    "/v1/%62atch",
    "/v1/%62%61%74%63%68",
    "/v1/x/../batch",
    "/v1/./batch",
    "/v1/x/%2e%2E/batch",
    "/v1/batch/",
    "/v1/batch//",
    "/v1%2Fbatch",
    "/v1%2fbatch",
    "/v1/%2562atch",
    "/v1/batch;a=1",
    "/v1/batch?cheap=/free/x",
    "/v1/batch#/free/x",
    "/v1\\batch",
    "/v1%5Cbatch",
    "/free/..%2Fv1/batch",
    "/free/%2e%2e/v1/batch",
    "http://api.example.com/v1/batch",
    "//api.example.com/v1/batch",
    "v1/batch",
    "/v1/batch%00",
    "/v1/batch\t",
]


async def cost_of(worker: Timed, secret: str, method: str | None, uri: str | None) -> int:
    """Units that one check took, by what is left before and after."""
    before = left(await worker.check(secret, cost=0))["units"]
    response = await worker.check(secret, method, uri)
    assert response.status_code == 200
    return before - left(response)["units"]


class TestCostRules:
    @pytest.mark.parametrize(
        ("method", "uri", "cost"),
        [
            ("POST", "/v1/batch", 10),
            ("post", "/v1/batch", 10),
            ("PUT", "/v1/batch", 3),
            ("GET", "/v1/batch", 3),
            ("POST", "/v1/other", 4),
            ("GET", "/v1/other", 1),
            ("GET", "/v1/a/items", 7),
            ("POST", "/v1/a/items", 7),
            ("GET", "/v1/a/b/items", 1),
            ("GET", "/v1/items", 1),
            ("GET", "/v1/batches", 1),
            ("GET", "/V1/BATCH", 1),
            ("DELETE", "/", 5),
            ("DELETE", "/free/x", 0),
            ("GET", "/free", 0),
            ("GET", "/free/a/b?c", 0),
            ("GET", "/freedom", 1),
            (None, "/v1/batch", 3),
            ("POST", None, 1),
            ("DELETE", None, 5),
            (None, None, 1),
            ("GET", "", 1),
        ],
    )
    def test_the_first_that_matches_counts(
        self, redis_url: str, method: str | None, uri: str | None, cost: int
    ) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                assert await cost_of(worker, await worker.key(), method, uri) == cost

        asyncio.run(work())

    @pytest.mark.parametrize("uri", DOUBTFUL)
    @pytest.mark.parametrize(("method", "cost"), [("POST", 10), ("GET", 3)])
    def test_no_spelling_makes_it_cheaper(self, redis_url: str, method: str, cost: int, uri: str) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                assert await cost_of(worker, await worker.key(), method, uri) >= cost

        asyncio.run(work())

    def test_the_check_request_s_own_method_stands_in(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                secret = await worker.key()
                deleted = await worker.http.delete("/check", headers={"x-api-key": secret})
                assert left(deleted) == {"units": 995}
                carried = await worker.http.delete(
                    "/check/v1/batch", headers={"x-api-key": secret, "x-forwarded-method": "GET"}
                )
                assert left(carried) == {"units": 994}

        asyncio.run(work())

    def test_a_free_request_takes_nothing_and_passes_an_empty_limit(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                secret = await worker.key()
                await worker.spend(secret, 1000)
                before = await holdings(worker.store)
                free = await worker.check(secret, "GET", "/free/x")
                assert (free.status_code, left(free)) == (200, {"units": 0})
                assert (await worker.check(secret, "GET", "/")).status_code == 403
                assert await holdings(worker.store) == before

        asyncio.run(work())


class TestMatching:
    @pytest.mark.parametrize(
        ("method", "uri", "asked"),
        [
            ("GET", "/", {"all"}),
            ("GET", "/search", {"all", "search"}),
            ("GET", "/search/a/b?q=1", {"all", "search"}),
            ("get", "/search/a", {"all", "search"}),
            ("GET", "/searching", {"all"}),
            ("POST", "/search/a", {"all", "writes"}),
            ("PUT", "/v1/batch", {"all", "writes", "batch"}),
            ("GET", "/v1/batch/x", {"all"}),
            (None, "/search", {"all", "search"}),
            ("POST", None, {"all", "writes"}),
            (None, None, {"all"}),
        ],
    )
    def test_only_limits_about_the_request_are_asked(
        self, redis_url: str, method: str | None, uri: str | None, asked: set[str]
    ) -> None:
        async def work() -> None:
            async with timed(redis_url, MATCHES, noon()) as worker:
                secret = await worker.key()
                response = await worker.check(secret, method, uri)
                assert set(left(response)) == asked
                everything = {name: left(await worker.check(secret, *of, cost=0)) for name, of in EACH.items()}
                spent = {name for name, standing in everything.items() if standing[name] < FULL[name]}
                assert spent == asked

        asyncio.run(work())

    @pytest.mark.parametrize("uri", DOUBTFUL)
    def test_no_spelling_dodges_a_limit(self, redis_url: str, uri: str) -> None:
        async def work() -> None:
            async with timed(redis_url, MATCHES, noon()) as worker:
                secret = await worker.key()
                answers = [await worker.check(secret, "GET", each) for each in ("/v1/batch", uri, uri)]
                assert [one.status_code for one in answers] == [200, 200, 403]
                assert answers[-1].headers["x-quotas-limit"] == "batch"

        asyncio.run(work())

    @pytest.mark.parametrize("name", ["x-forwarded-uri", "x-forwarded-method"])
    @pytest.mark.parametrize("trusted", [True, False])
    def test_what_is_carried_twice_is_refused_and_charged_nowhere(
        self, redis_url: str, name: str, *, trusted: bool
    ) -> None:
        async def work() -> None:
            async with timed(redis_url, MATCHES, noon()) as worker:
                secret = await worker.key()
                before = await holdings(worker.store)
                twice: list[Field] = [(name, "GET"), (name, "GET")]
                response = await worker.check(secret, extra=twice, trusted=trusted)
                assert (response.status_code, response.headers["x-quotas-reason"]) == (400, "invalid_request")
                assert await holdings(worker.store) == before

        asyncio.run(work())

    @pytest.mark.parametrize("method", ["", "G T", "GET ", "GET\n", "1GET", "x" * 33, "GÉT"])
    def test_a_method_that_is_none_is_refused(self, redis_url: str, method: str) -> None:
        async def work() -> None:
            async with timed(redis_url, ONE, noon()) as worker:
                response = await worker.check(await worker.key(), method)
                assert (response.status_code, response.headers["x-quotas-reason"]) == (400, "invalid_request")

        asyncio.run(work())


EACH: dict[str, tuple[str, str]] = {
    "all": ("GET", "/"),
    "search": ("GET", "/search"),
    "batch": ("GET", "/v1/batch"),
    "writes": ("POST", "/"),
}
"""A request that each limit of MATCHES is about."""

FULL = {"all": 100, "search": 2, "batch": 2, "writes": 2}


class TestCarriedCost:
    @pytest.mark.parametrize("trusted", [True, False])
    def test_it_is_believed_from_trusted_peers_only(self, redis_url: str, *, trusted: bool) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                secret = await worker.key()
                response = await worker.check(secret, "POST", "/v1/batch", cost=50, trusted=trusted)
                assert left(response) == {"units": 950 if trusted else 990}
                free = await worker.check(secret, "POST", "/v1/batch", cost=0, trusted=trusted)
                assert left(free) == {"units": 950 if trusted else 980}

        asyncio.run(work())

    @pytest.mark.parametrize(
        "value",
        [
            "1 ",
            " 1",
            "+1",
            "-1",
            "-0",
            "1.0",
            "1e3",
            "0x1",
            "1_0",
            "1,1",
            "1;a",
            "\t",
            "",
            "\u0661",
            "\uff11",
            "²",
            "1\n",
            "nan",
            "9007199254740992",
            "18446744073709551617",
            "0" * 17,
            "1" * 5000,
            b"\xff",
            b"1\0",
        ],
    )
    def test_what_is_no_whole_number_is_refused_and_charged_nowhere(self, redis_url: str, value: bytes | str) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                secret = await worker.key()
                before = await holdings(worker.store)
                response = await worker.check(secret, extra=[("x-quotas-cost", value)])
                assert (response.status_code, response.headers["x-quotas-reason"]) == (400, "invalid_request")
                assert "ratelimit" not in response.headers
                assert await holdings(worker.store) == before
                unheard = await worker.check(secret, extra=[("x-quotas-cost", value)], trusted=False)
                assert (unheard.status_code, left(unheard)) == (200, {"units": 999})

        asyncio.run(work())

    @pytest.mark.parametrize("values", [("1", "1"), ("0", "5"), ("", "")])
    def test_two_of_them_are_refused(self, redis_url: str, values: Sequence[str]) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                secret = await worker.key()
                extra: list[Field] = [("x-quotas-cost", value) for value in values]
                assert (await worker.check(secret, extra=extra)).status_code == 400
                assert left(await worker.check(secret, extra=extra, trusted=False)) == {"units": 999}

        asyncio.run(work())

    @pytest.mark.parametrize(("value", "units"), [("7", 7), ("0007", 7), ("1000", 1000), ("0", 0)])
    def test_a_whole_number_is_what_it_costs(self, redis_url: str, value: str, units: int) -> None:
        async def work() -> None:
            async with timed(redis_url, COSTS, noon()) as worker:
                secret = await worker.key()
                response = await worker.check(secret, extra=[("x-quotas-cost", value)])
                assert (response.status_code, left(response)) == (200, {"units": 1000 - units})
                name = '{client="acme",plan="plan"}'
                assert await worker.counted("quotas_units_total") == ({name: units} if units else {})

        asyncio.run(work())

    @pytest.mark.parametrize("cost", [1001, 9_007_199_254_740_991])
    def test_more_than_there_can_be_never_passes_and_takes_nothing(self, redis_url: str, cost: int) -> None:
        plans = "plans: {plan: {limits: {units: {rate: 1/second, burst: 1000}, all: {quota: 1000/year}}}}"

        async def work() -> None:
            async with timed(redis_url, plans, noon()) as worker:
                secret = await worker.key()
                before = await holdings(worker.store)
                response = await worker.check(secret, cost=cost)
                assert verdict(response) == (403, None)
                assert response.headers["x-quotas-reason"] == "cost_exceeds_limit"
                assert left(response) == {"units": 1000, "all": 1000}
                assert await holdings(worker.store) == before

        asyncio.run(work())

    def test_the_largest_number_can_be_taken(self, redis_url: str) -> None:
        plans = "plans: {plan: {limits: {units: {quota: 9007199254740991/year}}}}"

        async def work() -> None:
            async with timed(redis_url, plans, noon()) as worker:
                secret = await worker.key()
                assert left(await worker.check(secret, cost=9_007_199_254_740_991)) == {"units": 0}
                assert (await worker.check(secret)).status_code == 429
                assert (await worker.check(secret, cost=9_007_199_254_740_991)).status_code == 429

        asyncio.run(work())

    def test_0_looks(self, redis_url: str) -> None:
        """No byte and no expiry of the state changes."""
        plans = "plans: {plan: {limits: {fast: {rate: 5/second, burst: 10}, day: {quota: 5/day}}}}"
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, plans, clock) as worker:
                secret = await worker.key()
                assert left(await worker.check(secret, cost=0)) == {"fast": 10, "day": 5}
                await worker.spend(secret, 5)
                (name,) = [key for key in await holdings(worker.store) if key.endswith(b":state")]
                before = [await worker.store.call(verb, name) for verb in ("GET", "PEXPIRETIME")]
                clock.go_on(0.3)
                look = await worker.check(secret, cost=0)
                assert (look.status_code, left(look)) == (200, {"fast": 6, "day": 0})
                assert (await worker.check(secret)).status_code == 429
                assert [await worker.store.call(verb, name) for verb in ("GET", "PEXPIRETIME")] == before

        asyncio.run(work())

    def test_who_is_trusted_follows_the_configuration(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, ONE, noon()) as worker:
                secret = await worker.key()
                worker.use(f"{ONE}\ntrusted_proxies: [{STRANGER}/32]")
                assert left(await worker.check(secret, cost=10)) == {"units": 999}
                assert left(await worker.check(secret, cost=10, trusted=False)) == {"units": 989}
                worker.use(f"{ONE}\ntrusted_proxies: []")
                assert left(await worker.check(secret, cost=10)) == {"units": 988}
                assert left(await worker.check(secret, cost=10, trusted=False)) == {"units": 987}

        asyncio.run(work())


class TestModes:
    PLANS = """
plans:
  shadow:
    limits:
      felt: {rate: 0/second, burst: 10}
      tried: {rate: 0/second, burst: 3, mode: shadow}
  unseen:
    limits:
      tried: {rate: 0/second, burst: 1, mode: shadow}
  overage:
    limits:
      felt: {rate: 0/second, burst: 100}
      billed: {quota: 5/month, mode: overage}
"""

    def test_a_shadow_limit_refuses_nothing_is_told_to_nobody_and_counts(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, self.PLANS, noon()) as worker:
                secret = await worker.key(plan="shadow")
                answers = [await worker.check(secret) for _ in range(5)]
                assert [left(one) for one in answers] == [{"felt": 10 - n} for n in range(1, 6)]
                assert all("tried" not in str(one.headers) for one in answers)
                name = '{limit="tried",plan="shadow"}'
                assert await worker.counted("quotas_shadow_refused_total") == {name: 2}
                # Cost 5 has room in the one that is felt, and the refusal of 6 is not the shadow's.
                assert (await worker.check(secret, cost=5)).status_code == 200
                refused = await worker.check(secret, cost=6)
                assert (refused.status_code, refused.headers["x-quotas-limit"]) == (403, "felt")

        asyncio.run(work())

    def test_a_plan_of_shadows_has_no_rate_limit_to_tell(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, self.PLANS, noon()) as worker:
                secret = await worker.key(plan="unseen")
                for _ in range(3):
                    response = await worker.check(secret)
                    assert (response.status_code, response.content) == (200, b"")
                    assert not {"ratelimit", "ratelimit-policy", "x-quotas-limit"} & set(response.headers)
                name = '{limit="tried",plan="unseen"}'
                assert await worker.counted("quotas_shadow_refused_total") == {name: 2}

        asyncio.run(work())

    def test_overage_passes_shows_nothing_left_and_counts_units(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, self.PLANS, noon()) as worker:
                secret = await worker.key(plan="overage")
                answers = [await worker.check(secret, cost=cost) for cost in (3, 3, 4, 7, 0)]
                assert [one.status_code for one in answers] == [200] * 5
                assert [left(one)["billed"] for one in answers] == [2, 0, 0, 0, 0]
                name = '{limit="billed",plan="overage"}'
                assert await worker.counted("quotas_overage_units_total") == {name: 1 + 4 + 7}
                refused = await worker.check(secret, cost=84)
                assert (refused.status_code, refused.headers["x-quotas-limit"]) == (403, "felt")
                assert await worker.counted("quotas_overage_units_total") == {name: 12}

        asyncio.run(work())

    def test_limits_per_key_count_for_each_key(self, redis_url: str) -> None:
        plans = """
plans:
  plan:
    limits:
      each: {rate: 0/second, burst: 5, per: key}
      search: {rate: 0/second, burst: 2, per: key, match: {path: /search}}
      all: {rate: 0/second, burst: 8}
"""

        async def work() -> None:
            async with timed(redis_url, plans, noon()) as worker:
                one = await worker.key()
                other = (await worker.clients.issue_key("acme")).secret
                assert left(await worker.check(one, cost=4)) == {"all": 4, "each": 1}
                assert left(await worker.check(other, cost=2, uri="/search")) == {"all": 2, "each": 3, "search": 0}
                assert left(await worker.check(one, cost=0, uri="/search")) == {"all": 2, "each": 1, "search": 2}
                refused = await worker.check(one, cost=2)
                assert refused.headers["x-quotas-limit"] == "each"
                assert left(refused) == {"all": 2, "each": 1}
                assert left(await worker.check(other, cost=2)) == {"all": 0, "each": 1}

        asyncio.run(work())


class TestSixteenLimits:
    PLANS = (
        "plans: {plan: {limits: {"
        + ", ".join(
            [
                *(f"bucket-{n}: {{rate: 0/second, burst: {100 + n}}}" for n in range(4)),
                *(
                    f"quota-{n}: {{quota: {200 + n}/{window}}}"
                    for n, window in enumerate(["hour", "day", "week", "year"])
                ),
                *(f"key-{n}: {{rate: 1/hour, burst: {300 + n}, per: key}}" for n in range(4)),
                *(f"post-{n}: {{quota: {400 + n}/month, match: {{methods: [POST]}}}}" for n in range(2)),
                *(f"key-quota-{n}: {{quota: {500 + n}/day, per: key}}" for n in range(2)),
            ]
        )
        + "}, costs: [{path: /batch, cost: 3}]}}"
    )

    def test_all_of_them_are_asked_and_charged_by_one_command(self, redis_url: str) -> None:
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, self.PLANS, clock) as worker:
                secret = await worker.key()
                full = left(await worker.check(secret, "POST", cost=0))
                assert len(full) == 16
                async with watched(redis_url) as commands:
                    answers = [await worker.check(secret, "POST", "/batch") for _ in range(5)]
                assert [command.partition('"EVALSHA"')[1] for command in commands] == ['"EVALSHA"'] * 5
                assert left(answers[-1]) == {name: units - 15 for name, units in full.items()}
                refused = await worker.check(secret, "POST", cost=101)
                assert refused.headers["x-quotas-limit"] == "bucket-0"
                assert left(refused) == left(answers[-1])

        asyncio.run(work())


class TestRefusals:
    """Case C02: a refusal charges nowhere."""

    def test_a_cost_that_does_not_fit_leaves_what_there_is(self, redis_url: str) -> None:
        plans = "plans: {plan: {limits: {slow: {rate: 1 per 10 seconds, burst: 10}}}}"

        async def work() -> None:
            async with timed(redis_url, plans, noon()) as worker:
                secret = await worker.key()
                await worker.spend(secret, 8)
                refused = await worker.check(secret, cost=5)
                assert (verdict(refused), left(refused)) == ((429, 30), {"slow": 2})
                allowed = await worker.check(secret, cost=2)
                assert (allowed.status_code, left(allowed)) == (200, {"slow": 0})

        asyncio.run(work())

    def test_a_bucket_and_a_quota_together(self, redis_url: str) -> None:
        plans = "plans: {plan: {limits: {bucket: {rate: 1/second}, quota: {quota: 2/day}}}}"
        clock = noon()

        async def work() -> None:
            async with timed(redis_url, plans, clock) as worker:
                secret = await worker.key()
                answers = []
                for seconds in (0, 0, 1, 1):
                    clock.go_on(seconds)
                    answers.append(await worker.check(secret))
                assert [one.status_code for one in answers] == [200, 429, 200, 429]
                assert [one.headers.get("x-quotas-limit") for one in answers] == [None, "bucket", None, "quota"]
                assert left(answers[-1]) == {"bucket": 1, "quota": 0}

        asyncio.run(work())

    def test_refused_calls_do_not_use_up_what_a_raise_gives(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, "plans: {plan: {limits: {month: {quota: 10/month}}}}", noon()) as worker:
                secret = await worker.key()
                assert [(await worker.check(secret)).status_code for _ in range(20)] == [200] * 10 + [429] * 10
                worker.use("plans: {plan: {limits: {month: {quota: 20/month}}}}")
                assert [(await worker.check(secret)).status_code for _ in range(20)] == [200] * 10 + [429] * 10

        asyncio.run(work())

    def test_what_binds_is_the_longest_wait_and_retrying_then_passes(self, redis_url: str) -> None:
        plans = "plans: {plan: {limits: {a: {rate: 1/second, burst: 3}, b: {rate: 1/minute, burst: 3}}}}"
        clock = Clock(us("2026-06-10T12:00:00.25Z"))

        async def work() -> None:
            async with timed(redis_url, plans, clock) as worker:
                secret = await worker.key()
                await worker.spend(secret, 3)
                clock.go_on(0.5)
                refused = await worker.check(secret, cost=2)
                assert (verdict(refused), refused.headers["x-quotas-limit"]) == ((429, 120), "b")
                clock.go_on(119.5 - 0.000_001)
                assert verdict(await worker.check(secret, cost=2)) == (429, 1)
                clock.now_us += 1
                assert (await worker.check(secret, cost=2)).status_code == 200

        asyncio.run(work())


class TestProbes:
    """Case C32: what must never be charged."""

    @pytest.mark.parametrize("path", ["/healthz", "/metrics", "/readyz"])
    def test_probes_take_nothing(self, redis_url: str, path: str) -> None:
        async def work() -> None:
            async with timed(redis_url, ONE, noon()) as worker:
                secret = await worker.key()
                before = await holdings(worker.store)
                fields = {"x-api-key": secret, "x-quotas-cost": "1"}
                answers = await asyncio.gather(*(worker.http.get(path, headers=fields) for _ in range(100)))
                assert {one.status_code for one in answers} == {200}
                assert await holdings(worker.store) == before
                assert await worker.counted("quotas_checks_total") == {}

        asyncio.run(work())

    def test_a_plain_options_request_is_charged_like_any_other(self, redis_url: str) -> None:
        async def work() -> None:
            async with timed(redis_url, ONE, noon()) as worker:
                secret = await worker.key()
                assert left(await worker.check(secret, "OPTIONS", "*")) == {"units": 999}
                assert left(await worker.check(secret, "OPTIONS", "/v1/x")) == {"units": 998}

        asyncio.run(work())
