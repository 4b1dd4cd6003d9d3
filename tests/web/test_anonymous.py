"""Callers without a credential, counted by their address where the configuration has a plan for them."""

import asyncio
from hashlib import sha256

import httpx
import pytest

from quotas import plan_files
from quotas.errors import ConfigError

from .monitor import holdings, watched
from .serving import samples, service
from .timed import STRANGER, Timed, left, noon, timed, verdict

PLANS = """
plans:
  plan: {limits: {units: {rate: 0/second, burst: 100}}}
  free:
    limits:
      slow: {rate: 1/second, burst: 3}
      search: {rate: 0/second, burst: 2, match: {path: /search/*}}
    costs:
      - {path: /batch, methods: [POST], cost: 2}
  each:
    limits:
      all: {rate: 0/second, burst: 9}
      key: {rate: 0/second, burst: 1, per: key}
  metered:
    limits:
      monthly: {quota: 2/month}
      tried: {rate: 0/second, burst: 1, mode: shadow}
"""
ON = PLANS + "anonymous: {plan: free}\n"


async def ask(worker: Timed, forwarded: str | None = None, *more: tuple[str, str], path: str = "/") -> httpx.Response:
    """A check without a credential through a trusted gateway; `forwarded` None: the gateway says nothing of whose."""
    fields = [("x-forwarded-uri", path), *more]
    fields += [] if forwarded is None else [("x-forwarded-for", forwarded)]
    return await worker.http.get("/check", headers=fields)


def test_an_address_is_on_the_plan_and_is_no_client(redis_url: str) -> None:
    async def work() -> None:
        clock = noon()
        async with timed(redis_url, ON, clock) as worker:
            answer = await ask(worker, "198.51.100.7")
            assert answer.status_code == 200
            assert answer.content == b""
            names = ("x-quotas-client", "x-quotas-subject", "x-quotas-plan", "cache-control")
            assert [answer.headers[name] for name in names] == ["", "", "free", "no-store"]
            assert left(answer) == {"slow": 2}
            assert left(await ask(worker, "198.51.100.7")) == {"slow": 1}
            assert left(await ask(worker, "198.51.100.7")) == {"slow": 0}
            refused = await ask(worker, "198.51.100.7")
            assert verdict(refused) == (429, 1)
            assert refused.headers["x-quotas-plan"] == "free"
            assert refused.json()["violated-policies"] == ["slow"]
            clock.go_on(1)
            assert (await ask(worker, "198.51.100.7")).status_code == 200
            assert await worker.counted("quotas_checks_total") == {
                '{client="unknown",outcome="allowed",plan="free"}': 4,
                '{client="unknown",outcome="rate_limited",plan="free"}': 1,
            }
            assert await worker.counted("quotas_units_total") == {'{client="unknown",plan="free"}': 4}

    asyncio.run(work())


def test_c14_each_address_counts_by_itself(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, ON, noon()) as worker:
            for address in ("198.51.100.7", "198.51.100.8", "2001:db8:0:1::1", "2001:db8:0:2::1", None):
                assert left(await ask(worker, address)) == {"slow": 2}
            for same in ("198.51.100.7:999", "::ffff:198.51.100.7", "203.0.113.1, 198.51.100.7, 127.0.0.1"):
                assert (await ask(worker, same)).headers["x-quotas-plan"] == "free"
            assert (await ask(worker, "198.51.100.7")).status_code == 429
            assert left(await ask(worker, "[2001:db8:0:1:ffff::2]:443")) == {"slow": 1}
            # Several lines are one list.
            assert left(await ask(worker, "198.51.100.8", ("x-forwarded-for", "198.51.100.99"))) == {"slow": 1}
            assert left(await ask(worker, "127.0.0.1", ("x-forwarded-for", "198.51.100.99"))) == {"slow": 2}

    asyncio.run(work())


def test_nobody_gets_another_address_by_saying_so(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, ON, noon()) as worker:
            for number in range(3):
                forged = {"x-forwarded-for": f"198.51.100.{number}"}
                assert left(await worker.stranger.get("/check", headers=forged)) == {"slow": 2 - number}
            assert (await worker.stranger.get("/check")).status_code == 429
            assert (await ask(worker, f"198.51.100.9, {STRANGER}")).status_code == 429
            assert (await ask(worker, f"198.51.100.9, junk, {STRANGER}")).status_code == 429
            # What stands right of it is the proxy's own word.
            assert left(await ask(worker, f"{STRANGER}, junk")) == {"slow": 2}

    asyncio.run(work())


def test_only_who_presents_nothing_is_anonymous(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, ON + "credentials: {cookie: session}\n", noon()) as worker:
            secret = await worker.key()
            for fields, reason in (
                ([("x-api-key", "bad")], "invalid_credential"),
                ([("x-api-key", secret[:-1] + "!")], "invalid_credential"),
                ([("authorization", "Bearer a b")], "invalid_credential"),
                ([("x-api-key", secret), ("authorization", "Bearer other")], "ambiguous_credentials"),
                ([("x-api-key", ""), ("authorization", f"Bearer {secret}")], "ambiguous_credentials"),
                ([("x-api-key", ""), ("x-api-key", "")], "ambiguous_credentials"),
                ([("cookie", "session=bad")], "invalid_credential"),
            ):
                answer = await ask(worker, "198.51.100.7", *fields)
                assert (answer.status_code, answer.headers["x-quotas-reason"]) == (401, reason)
                assert answer.headers["x-quotas-plan"] == ""
            known = await ask(worker, "198.51.100.7", ("x-api-key", secret))
            assert (known.headers["x-quotas-client"], left(known)) == ("acme", {"units": 99})
            for number, field in enumerate(
                [("x-api-key", " "), ("authorization", "Basic dTpw"), ("cookie", "session=")]
            ):
                assert left(await ask(worker, "198.51.100.7", field)) == {"slow": 2 - number}

    asyncio.run(work())


def test_costs_matches_and_limits_per_key_count_by_the_address(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, ON, noon()) as worker:
            assert left(await ask(worker, "198.51.100.7", path="/search/a")) == {"slow": 2, "search": 1}
            assert left(await ask(worker, "198.51.100.7", ("x-forwarded-method", "POST"), path="/batch")) == {"slow": 0}
            assert left(await ask(worker, "198.51.100.8", ("x-quotas-cost", "3"))) == {"slow": 0}
            looked = await ask(worker, "198.51.100.8", ("x-quotas-cost", "0"))
            assert (looked.status_code, left(looked)) == (200, {"slow": 0})
            assert (await ask(worker, "198.51.100.9", ("x-quotas-cost", "4"))).headers["x-quotas-reason"] == (
                "cost_exceeds_limit"
            )
            assert (await ask(worker, "198.51.100.9", ("x-quotas-cost", "x"))).status_code == 400
            worker.use(PLANS + "anonymous: {plan: each}\n")
            assert left(await ask(worker, "198.51.100.7")) == {"all": 8, "key": 0}
            assert (await ask(worker, "198.51.100.7")).headers["x-quotas-limit"] == "key"
            assert left(await ask(worker, "198.51.100.8")) == {"all": 8, "key": 0}
            worker.use(PLANS + "anonymous: {plan: metered}\n")
            assert [(await ask(worker, "198.51.100.7")).status_code for _ in range(3)] == [200, 200, 429]
            shadow = await worker.counted("quotas_shadow_refused_total")
            assert shadow == {'{limit="tried",plan="metered"}': 2}

    asyncio.run(work())


def test_it_is_off_unless_a_plan_is_named_and_a_reload_decides(redis_url: str) -> None:
    async def work() -> None:
        async with timed(redis_url, PLANS, noon()) as worker:
            for off in ("", "anonymous: {}", "anonymous: {plan: null}"):
                worker.use(PLANS + off)
                answer = await ask(worker, "198.51.100.7")
                assert (answer.status_code, answer.headers["x-quotas-reason"]) == (401, "missing_credential")
                worker.use(ON)
                assert (await ask(worker, "198.51.100.7")).status_code == 200
            # What was spent stays.
            assert (await ask(worker, "198.51.100.7")).status_code == 429
            worker.use(f"{ON}trusted_proxies: []\n")
            assert [left(await ask(worker, f"198.51.100.{each}")) for each in (7, 8)] == [{"slow": 2}, {"slow": 1}]
            worker.use(f"{ON}trusted_proxies: [127.0.0.1/32, 198.51.0.0/16]\n")
            assert left(await ask(worker, f"{STRANGER}, 198.51.100.7")) == {"slow": 2}

    asyncio.run(work())


@pytest.mark.parametrize("pepper", [None, b"a pepper of many bytes"])
def test_one_command_a_check_and_no_address_in_the_store(redis_url: str, pepper: bytes | None) -> None:
    async def work() -> None:
        async with service(redis_url, ON, pepper=pepper) as worker:
            async with watched(redis_url) as commands:
                for _ in range(3):
                    answer = await worker.http.get("/check", headers={"x-forwarded-for": "198.51.100.7"})
                    assert answer.status_code == 200
            sent = [command for command in commands if '"HELLO"' not in command and '"ECHO"' not in command]
            assert len(sent) == 3
            assert all('"EVALSHA"' in command and "198.51.100.7" not in command for command in sent)
            held = await holdings(worker.store)
            (key,) = held
            assert key.startswith(b"q1:{ip_")
            assert len(key) == len("q1:{ip_}:state") + 32
            assert b"198.51" not in key + held[key]
            plain = sha256(b"address 198.51.100.7").hexdigest()[:32]
            assert (plain.encode() in key) == (pepper is None)
            assert await worker.store.call("PTTL", key) > 0

    asyncio.run(work())


def test_the_pepper_is_in_the_digest(redis_url: str) -> None:
    async def work() -> list[bytes]:
        keys: list[bytes] = []
        for pepper in (None, b"a pepper of many bytes", b"another one of them."):
            async with service(redis_url, ON, pepper=pepper) as worker:
                await worker.http.get("/check", headers={"x-forwarded-for": "198.51.100.7"})
                keys = list(await holdings(worker.store))
        return keys

    assert len(asyncio.run(work())) == 3


@pytest.mark.parametrize(("policy", "status"), [("allow", 200), ("deny", 503)])
def test_the_plan_decides_when_the_store_is_away(
    tmp_path_factory: pytest.TempPathFactory, policy: str, status: int
) -> None:
    nowhere = f"unix://{tmp_path_factory.mktemp('none')}/valkey.sock"
    text = (
        f"plans: {{free: {{limits: {{a: {{rate: 1/second}}}}, on_store_error: {policy}}}}}\nanonymous: {{plan: free}}"
    )

    async def work() -> None:
        async with service(nowhere, text) as worker:
            answer = await worker.http.get("/check")
            assert answer.status_code == status
            assert answer.headers.get("x-quotas-degraded") == ("1" if status == 200 else None)
            assert answer.headers["x-quotas-plan"] == "free"
            assert samples((await worker.http.get("/metrics")).text, "quotas_degraded_total") == {
                f'{{mode="{policy}"}}': 1
            }

    asyncio.run(work())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("anonymous: {plan: gold}", "anonymous.plan"),
        ("anonymous: {plan: 5}", "anonymous.plan"),
        ("anonymous: {plan: free, burst: 5}", "anonymous.burst"),
        ("anonymous: free", "anonymous"),
        (
            "  scoped: {limits: {a: {rate: 1/second}}, required_scopes: [read]}\nanonymous: {plan: scoped}",
            "anonymous.plan",
        ),
    ],
)
def test_what_is_wrong_with_it_is_told_with_its_place(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_files.parse(PLANS + text, "test plans")
    assert [fault.path for fault in caught.value.faults] == [path]
