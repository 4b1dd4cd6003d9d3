"""`quotas explain`: what a request would be answered, from what, and nothing taken (issue B)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from quotas import app, assembly, plan_files
from quotas.configuration import ConfigFile
from quotas.settings import Settings

from .terminal import Done, Terminal, snapshot, spend

DAY_US = 86_400_000_000
NOW_US = 1_773_144_000_000_000  # 2026-03-10T12:00:00Z, by the clock that judges expiry.

PLANS = """
plans:
  free:
    limits:
      slow:    {rate: 1/day, burst: 3}
      yearly:  {quota: 5/year, timezone: America/New_York}
  once:
    limits:
      search:  {rate: 0/second, burst: 5, match: {methods: [GET], path: /search/*}}
      all:     {rate: 0/second, burst: 40}
      each:    {rate: 0/second, burst: 2, per: key}
      trial:   {rate: 0/second, burst: 1, mode: shadow}
      metered: {quota: 1/year, mode: overage}
    costs:
      - {path: /v1/batch, methods: [POST], cost: 10}
      - {path: /free, cost: 0}
    test_plan: free
  gated:
    required_scopes: [read]
    limits:
      all:     {rate: 0/second, burst: 9}
      staff:   {rate: 0/second, burst: 3, match: {path: /staff, required_scopes: [staff]}}
"""


@pytest.fixture
def shop(terminal: Terminal) -> "Shop":
    return Shop(terminal)


class Shop:
    """A terminal with these plans, whose clients have keys and spend."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.url = terminal.environment["QUOTAS_REDIS_URL"]
        terminal.file("quotas.yaml", PLANS)

    def key(self, plan: str, name: str = "acme") -> str:
        """The secret of the first key of a new client."""
        self.terminal.good("clients", "create", name, "--plan", plan)
        return self.another_key(name)

    def another_key(self, name: str = "acme", *words: str) -> str:
        return str(self.terminal.good("keys", "create", "--client", name, "--json", *words).json["key"])

    def spend(self, cost: int, *skipped: str) -> None:
        """Take units of the client `acme` with its first key."""
        file = self.terminal.folder / "quotas.yaml"
        key, *_ = self.terminal.good("keys", "list", "--client", "acme", "--json").json
        spend(self.url, file.read_text("utf-8"), "acme", cost, *skipped, key_id=key["id"])

    def explain(self, *words: str, stdin: str = "") -> Done:
        """Explain, which leaves every byte and every expiry as they were, and does not say the credential."""
        before = snapshot(self.url)
        done = self.terminal("explain", *words, stdin=stdin)
        assert done.err == ""
        assert snapshot(self.url) == before
        for secret in (words[0], stdin.strip()):
            assert len(secret) < 2 or (secret not in done.out and secret[-30:] not in done.out)
        return done

    def fields(self, *words: str) -> dict[str, Any]:
        """What it says to machines; the exit code says the same."""
        done = self.explain(*words, "--json")
        found: dict[str, Any] = done.json
        assert done.code == (0 if found["allowed"] else 1)
        assert found["allowed"] == (found["reason"] is None)
        return found


@contextmanager
def clock_at(now_us: int) -> Iterator[None]:
    """The clock that judges expiry; limits are judged by the store's."""
    with patch.object(assembly, "clock", lambda: now_us):
        yield


class TestAllowed:
    def test_all_fields_of_a_fresh_client(self, shop: Shop) -> None:
        secret = shop.key("once")
        (key,) = shop.terminal.good("keys", "list", "--client", "acme", "--json").json
        found = shop.fields(secret, "GET", "/search/books?q=1")
        rest = found["limits"].pop("metered")
        assert 0 < rest.pop("reset_after_us") <= 366 * DAY_US
        assert rest == {
            "rule": "1 per year in UTC (overage)",
            "overridden": False,
            "matches": True,
            "remaining": 1,
            "retry_after_us": 0,
        }
        full = {"overridden": False, "matches": True, "reset_after_us": 0, "retry_after_us": 0}
        assert found == {
            "allowed": True,
            "reason": None,
            "client": "acme",
            "subject": key["id"],
            "key": key["id"],
            "plan": "once",
            "test_plan_of": None,
            "scopes": [],
            "required_scopes": [],
            "cost": 1,
            "readings": ["/search/books"],
            "limit": None,
            "retry_after_us": None,
            "limits": {
                "search": {"rule": "0 per second, burst 5", "remaining": 5, **full},
                "all": {"rule": "0 per second, burst 40", "remaining": 40, **full},
                "each": {"rule": "0 per second, burst 2, each key", "remaining": 2, **full},
                "trial": {"rule": "0 per second, burst 1 (shadow)", "remaining": 1, **full},
            },
        }

    def test_for_people(self, shop: Shop) -> None:
        done = shop.explain(shop.key("free"), "GET", "/")
        assert done.code == 0
        client, key, plan, cost, path, titles, slow, yearly, verdict = done.rows
        assert client.startswith("client acme (cl_")
        assert client.endswith("), active")
        assert key.startswith("key key_")
        assert (plan, cost, path) == ("plan free", "cost 1", "path /")
        assert titles == "limit rule left next reset this request"
        assert slow == "slow 1 per day, burst 3 3 0 ms has room"
        assert yearly.startswith("yearly 5 per year in America/New_York 5 ")
        assert yearly.endswith(" has room")
        assert verdict == "allowed"

    def test_it_takes_nothing_however_often(self, shop: Shop) -> None:
        secret = shop.key("once")
        shop.spend(1)
        first = shop.fields(secret, "GET", "/search/a", "--cost", "4")
        for _ in range(3):
            again = shop.fields(secret, "GET", "/search/a", "--cost", "4")
            for found in (first, again):
                found["limits"]["metered"].pop("reset_after_us", None)
            assert again == first
        assert first["limits"]["search"]["remaining"] == 4

    def test_what_a_check_took_is_seen(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.spend(2)
        limits = shop.fields(secret, "GET", "/")["limits"]
        assert {name: one["remaining"] for name, one in limits.items()} == {"slow": 1, "yearly": 3}
        assert DAY_US < limits["slow"]["reset_after_us"] <= 2 * DAY_US


class TestRefused:
    def test_by_a_bucket(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.spend(3)
        found = shop.fields(secret, "GET", "/")
        assert (found["reason"], found["limit"]) == ("rate_limited", "slow")
        assert 0 < found["retry_after_us"] <= DAY_US
        assert found["limits"]["slow"]["retry_after_us"] == found["retry_after_us"]
        assert found["limits"]["yearly"]["retry_after_us"] == 0
        told = shop.explain(secret, "GET", "/").rows
        assert "refuses, for " in told[-3]
        assert told[-2].endswith("has room")
        assert told[-1].startswith("refused: rate_limited by slow; retry after: ")

    def test_by_a_quota(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.spend(3)
        shop.spend(2, "slow")
        found = shop.fields(secret, "GET", "/")
        assert {name: one["remaining"] for name, one in found["limits"].items()} == {"slow": 0, "yearly": 0}
        waits = {name: one["retry_after_us"] for name, one in found["limits"].items()}
        longest = max(waits, key=lambda name: waits[name])  # The end of the year, but on its last day.
        assert (found["limit"], found["retry_after_us"]) == (longest, waits[longest])
        found = shop.fields(shop.key("free", "other"), "GET", "/", "--cost", "3")
        assert found["allowed"]

    def test_by_a_quota_alone(self, shop: Shop) -> None:
        shop.terminal.file("quotas.yaml", "plans: {tight: {limits: {yearly: {quota: 5/year}}}}")
        secret = shop.key("tight")
        shop.spend(4)
        assert shop.fields(secret, "GET", "/")["allowed"]
        found = shop.fields(secret, "GET", "/", "--cost", "2")
        assert (found["reason"], found["limit"]) == ("quota_exceeded", "yearly")
        assert found["limits"]["yearly"]["remaining"] == 1
        assert found["retry_after_us"] == found["limits"]["yearly"]["retry_after_us"] > 0
        assert found["limits"]["yearly"]["reset_after_us"] == found["retry_after_us"]

    def test_never(self, shop: Shop) -> None:
        secret = shop.key("free")
        found = shop.fields(secret, "GET", "/", "--cost", "4")
        assert (found["reason"], found["limit"], found["retry_after_us"]) == ("cost_exceeds_limit", "slow", None)
        assert found["limits"]["slow"]["remaining"] == 3
        told = shop.explain(secret, "GET", "/", "--cost", "4").rows
        assert told[-3].endswith("refuses, for ever")
        assert told[-1] == "refused: cost_exceeds_limit by slow; retry after: never"

    def test_a_suspended_client(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.terminal.good("clients", "suspend", "acme")
        found = shop.fields(secret, "GET", "/")
        assert (found["reason"], found["client"], found["limits"]) == ("suspended_client", "acme", {})
        told = shop.explain(secret, "GET", "/")
        assert told.rows[0].endswith(", suspended")
        assert told.rows[-1] == "refused: suspended_client"
        shop.terminal.good("clients", "resume", "acme")
        assert shop.fields(secret, "GET", "/")["allowed"]

    def test_a_test_key_on_a_plan_of_its_own(self, shop: Shop) -> None:
        shop.key("once")
        shop.spend(2)
        secret = shop.another_key("acme", "--environment", "test")
        found = shop.fields(secret, "GET", "/")
        assert (found["client"], found["plan"], found["test_plan_of"]) == ("acme", "free", "once")
        assert {name: limit["remaining"] for name, limit in found["limits"].items()} == {"slow": 3, "yearly": 5}
        assert "plan free, for test keys of clients on once" in shop.explain(secret, "GET", "/").rows

    def test_a_scope_that_is_missing(self, shop: Shop) -> None:
        shop.key("gated")
        secret = shop.another_key("acme", "--scope", "read", "--scope", "b")
        found = shop.fields(secret, "GET", "/")
        assert (found["allowed"], found["scopes"], found["required_scopes"]) == (True, ["b", "read"], ["read"])
        found = shop.fields(secret, "GET", "/staff")
        assert (found["reason"], found["limit"]) == ("insufficient_scope", None)
        assert found["required_scopes"] == ["read", "staff"]
        assert found["limits"]["staff"]["remaining"] == 3
        told = shop.explain(secret, "GET", "/staff").rows
        assert told[-1] == "refused: insufficient_scope; missing: staff"
        assert "scopes b read" in told
        assert "needs read staff" in told

    def test_a_client_whose_plan_is_gone(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.terminal.file("quotas.yaml", "plans: {new: {limits: {b: {rate: 1/day}}}}")
        found = shop.fields(secret, "GET", "/")
        assert (found["reason"], found["plan"], found["limits"]) == ("no_plan", "free", {})
        assert shop.explain(secret, "GET", "/").rows[-1] == "refused: no_plan"

    def test_unknown_malformed_revoked_and_empty_keys_are_told_alike(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.another_key()
        (key_id, _) = (key["id"] for key in shop.terminal.good("keys", "list", "--client", "acme", "--json").json)
        shop.terminal.good("keys", "revoke", key_id, "--yes")
        for credential in (secret, secret[:-1] + "!", "nonsense", ""):
            found = shop.fields(credential, "GET", "/")
            assert (found["reason"], found["client"], found["key"]) == ("invalid_credential", None, None)
            done = shop.explain(credential, "GET", "/")
            assert (done.code, done.rows) == (1, ["refused: invalid_credential"])

    def test_an_expired_key(self, shop: Shop) -> None:
        shop.key("free")
        with clock_at(NOW_US):
            secret = shop.another_key("acme", "--expires-in-days", "1")
        with clock_at(NOW_US + DAY_US - 1):
            assert shop.fields(secret, "GET", "/")["allowed"]
        with clock_at(NOW_US + DAY_US):
            assert shop.fields(secret, "GET", "/")["reason"] == "expired_credential"
            assert shop.explain(secret, "GET", "/").rows[-1] == "refused: expired_credential"

    def test_a_store_that_does_not_answer(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.terminal.environment["QUOTAS_REDIS_URL"] = f"unix://{shop.terminal.folder}/none.sock"
        done = shop.terminal("explain", secret, "GET", "/")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("store: ")
        assert secret not in done.err


class TestLimits:
    def test_what_a_limit_is_not_about(self, shop: Shop) -> None:
        secret = shop.key("once")
        shop.spend(5, "each")
        assert shop.fields(secret, "GET", "/search/a")["limit"] == "search"
        for method, path in (("POST", "/search/a"), ("GET", "/other")):
            found = shop.fields(secret, method, path)
            assert found["allowed"]
            assert found["limits"]["search"] == {
                "rule": "0 per second, burst 5",
                "overridden": False,
                "matches": False,
                "remaining": None,
                "reset_after_us": None,
                "retry_after_us": None,
            }
        told = shop.explain(secret, "GET", "/other").rows
        assert "search 0 per second, burst 5 is not about it" in told

    def test_methods_are_known_in_any_case(self, shop: Shop) -> None:
        secret = shop.key("once")
        assert shop.fields(secret, "get", "/search/a")["limits"]["search"]["matches"]

    def test_each_key_has_its_own(self, shop: Shop) -> None:
        first = shop.key("once")
        shop.spend(2)
        second = shop.another_key()
        found = shop.fields(first, "GET", "/other")
        assert (found["reason"], found["limit"], found["retry_after_us"]) == ("cost_exceeds_limit", "each", None)
        assert found["limits"]["each"]["remaining"] == 0
        found = shop.fields(second, "GET", "/other")
        assert found["allowed"]
        assert found["limits"]["each"]["remaining"] == 2
        assert found["limits"]["all"]["remaining"] == 38

    def test_shadow_and_overage_have_no_room_and_do_not_refuse(self, shop: Shop) -> None:
        secret = shop.key("once")
        shop.spend(1, "each")
        shop.spend(2, "each")
        found = shop.fields(secret, "GET", "/other")
        assert found["allowed"]
        assert found["limit"] is None
        assert found["limits"]["trial"]["remaining"] == 0
        assert found["limits"]["trial"]["retry_after_us"] is None
        assert found["limits"]["metered"]["remaining"] == 0
        assert found["limits"]["metered"]["retry_after_us"] > 0
        told = shop.explain(secret, "GET", "/other")
        assert told.code == 0
        rows = {row.split()[0]: row for row in told.rows}
        assert rows["trial"].endswith("has no room, and does not refuse (shadow)")
        assert rows["metered"].endswith("has no room, and does not refuse (overage)")

    def test_a_limit_of_the_clients_own(self, shop: Shop) -> None:
        secret = shop.key("free")
        shop.spend(3)
        shop.terminal.good("clients", "set-limit", "acme", "slow", "--rate", "2/day", "--burst", "8")
        found = shop.fields(secret, "GET", "/")
        assert found["limits"]["slow"]["overridden"]
        assert not found["limits"]["yearly"]["overridden"]
        assert found["limits"]["slow"]["rule"] == "2 per day, burst 8"
        assert found["limits"]["slow"]["remaining"] == 0
        assert 0 < found["retry_after_us"] <= DAY_US // 2
        assert "slow 2 per day, burst 8, the client's own " in "\n".join(shop.explain(secret, "GET", "/").rows)

    def test_one_of_another_kind_than_the_plans_is_none(self, shop: Shop) -> None:
        """An override waits until the plan has a limit that it fits."""
        secret = shop.key("free")
        shop.terminal.good("clients", "set-limit", "acme", "slow", "--burst", "8")
        shop.terminal.file("quotas.yaml", PLANS.replace("slow:    {rate: 1/day, burst: 3}", "slow: {quota: 7/year}"))
        slow = shop.fields(secret, "GET", "/")["limits"]["slow"]
        assert (slow["rule"], slow["overridden"]) == ("7 per year in UTC", False)

    @pytest.mark.parametrize(
        ("until", "over_us"),
        [
            ("2026-03-10", 1_773_187_200_000_000),  # The first instant of the next day.
            ("2026-03-10T20:00:00Z", NOW_US + DAY_US // 3),
            ("2026-03-10T21:00:00.5+01:00", NOW_US + DAY_US // 3 + 500_000),
        ],
    )
    def test_it_holds_until(self, shop: Shop, until: str, over_us: int) -> None:
        secret = shop.key("free")
        with clock_at(NOW_US):
            shop.terminal.good("clients", "set-limit", "acme", "slow", "--burst", "8", "--until", until)
        with clock_at(over_us - 1):
            slow = shop.fields(secret, "GET", "/")["limits"]["slow"]
            assert (slow["rule"], slow["remaining"], slow["overridden"]) == ("1 per day, burst 8", 8, True)
        with clock_at(over_us):
            slow = shop.fields(secret, "GET", "/")["limits"]["slow"]
            assert (slow["rule"], slow["remaining"], slow["overridden"]) == ("1 per day, burst 3", 3, False)


class TestPathsAndCosts:
    def test_a_doubtful_path_is_told_in_all_its_readings(self, shop: Shop) -> None:
        secret = shop.key("once")
        found = shop.fields(secret, "POST", "/v1/x/..%2Fbatch")
        assert {"/v1/x/..%2Fbatch", "/v1/batch"} <= set(found["readings"])
        assert found["cost"] == 10
        told = shop.explain(secret, "POST", "/v1/x/..%2Fbatch").rows
        assert told[3] == "cost 10"
        assert told[4] == "path " + " or ".join(found["readings"])

    @pytest.mark.parametrize(
        ("method", "path", "cost"), [("POST", "/v1/batch", 10), ("GET", "/v1/batch", 1), ("GET", "/free", 0)]
    )
    def test_the_plans_costs(self, shop: Shop, method: str, path: str, cost: int) -> None:
        found = shop.fields(shop.key("once"), method, path)
        assert found["cost"] == cost
        assert found["allowed"] == (cost < 10)  # `each` holds 2.

    def test_the_cost_that_is_asked_about_wins(self, shop: Shop) -> None:
        secret = shop.key("once")
        assert shop.fields(secret, "POST", "/v1/batch", "--cost", "2")["allowed"]
        found = shop.fields(secret, "GET", "/free", "--cost", "3")
        assert (found["cost"], found["limit"]) == (3, "each")

    def test_wrong_costs_are_wrong_use(self, shop: Shop) -> None:
        secret = shop.key("once")
        for cost in ("-1", "1.5", "many"):
            done = shop.terminal("explain", secret, "GET", "/", "--cost", cost)
            assert (done.code, done.out) == (2, "")
            assert secret not in done.err


class TestCredential:
    def test_from_standard_input(self, shop: Shop) -> None:
        secret = shop.key("free")
        for end in ("", "\n", "\r\n"):
            done = shop.explain("-", "GET", "/", "--json", stdin=secret + end)
            assert (done.code, done.json["client"]) == (0, "acme")

    def test_nothing_on_standard_input_is_no_credential(self, shop: Shop) -> None:
        assert shop.explain("-", "GET", "/").code == 1

    def test_what_is_no_text_is_a_no(self, shop: Shop) -> None:
        """Bytes of an argument that are not UTF-8."""
        secret = shop.key("free")
        done = shop.terminal("explain", secret + "\udcff", "GET", "/")
        assert (done.code, done.out) == (1, "refused: invalid_credential\n")

    def test_a_path_that_is_no_text_is_read_as_its_bytes(self, shop: Shop) -> None:
        found = shop.fields(shop.key("free"), "GET", "/a\udcff")
        assert "/a%FF" in found["readings"]

    def test_names_are_shown_as_they_are(self, shop: Shop) -> None:
        name = "[red]x[/red] :smile: 日本語"
        done = shop.explain(shop.key("free", name), "GET", "/:smile:")
        assert done.rows[0].startswith(f"client {name} (cl_")
        assert done.rows[4] == "path /:smile:"


class TestAddress:
    """A caller without a credential, where `anonymous` has a plan."""

    def test_it_is_the_one_that_a_check_from_there_counts_by(self, shop: Shop) -> None:
        shop.terminal.file("quotas.yaml", PLANS + "anonymous: {plan: free}\n")

        async def check() -> None:
            config = plan_files.parse((shop.terminal.folder / "quotas.yaml").read_text("utf-8"), "test plans")
            worker = app.Worker(Settings(redis_url=shop.url), ConfigFile(None), None, config, None, None)()
            async with worker.router.lifespan_context(worker) as state:
                assert state is not None
                answer = await state["services"].checks.check([], method="GET", peer="2001:db8::1")
                assert answer.reason is None

        asyncio.run(check())
        found = shop.fields("--address", "2001:db8::2", "GET", "/")
        names = ("allowed", "client", "subject", "key", "plan")
        assert [found[name] for name in names] == [True, None, None, None, "free"]
        assert {name: limit["remaining"] for name, limit in found["limits"].items()} == {"slow": 2, "yearly": 4}
        done = shop.explain("2001:db8:0:1::1", "GET", "/", "--address")
        client, plan, _, _, _, slow, *_, verdict = done.rows
        assert (client, plan, verdict) == ("client none, counted by address", "plan free", "allowed")
        assert slow.startswith("slow 1 per day, burst 3 3 ")

    def test_without_such_a_plan_it_is_refused(self, shop: Shop) -> None:
        found = shop.fields("--address", "203.0.113.9", "GET", "/")
        assert (found["reason"], found["plan"], found["limits"]) == ("missing_credential", None, {})

    def test_what_is_no_address_is_a_wrong_use(self, shop: Shop) -> None:
        done = shop.terminal("explain", "--address", "quotas_live_x", "GET", "/")
        assert done.code == 2
        assert "an IP address" in done.err
        assert "quotas_live_x" not in done.err


class TestState:
    def test_it_is_shown_decoded_and_raw(self, shop: Shop) -> None:
        shop.key("once")
        assert shop.terminal("explain", "--state", "acme").err.startswith("The store remembers nothing")
        assert shop.terminal("explain", "--state", "acme", "--json").json == []
        shop.spend(1)
        states = {
            each["key"].rpartition("}:")[2]: each for each in shop.terminal("explain", "acme", "--state", "--json").json
        }
        key = shop.terminal.good("keys", "list", "--client", "acme", "--json").json[0]["id"]
        assert set(states) == {"state", f"key:{key}"}
        state = states["state"]
        assert state["limits"]["all"] == {"level_grains": 39, "grains": 1, "refill": 0, "burst": 40}
        assert state["limits"]["metered"]["used"] == 1
        assert len(bytes.fromhex(state["bytes"])) > 26
        assert state["lives_ms"] > 0
        told = shop.terminal("explain", "--state", "acme").out
        assert state["bytes"] in told
        assert "holds 39 of 40 grains" in told
        assert "1 used in the window" in told
        assert state["open_quarter"]["units"] == 1
        assert state["open_quarter"]["begin_us"] <= state["at_us"] < state["open_quarter"]["begin_us"] + 900_000_000
        assert " on: 1\n" in told
        assert states[f"key:{key}"]["open_quarter"] is None

    @pytest.mark.parametrize("words", [("GET", "/"), ("--cost", "1"), ("--address",)])
    def test_it_goes_with_a_name_alone(self, shop: Shop, words: tuple[str, ...]) -> None:
        shop.key("once")
        assert shop.terminal("explain", "--state", "acme", *words).code == 2

    def test_a_client_that_is_not_there_is_no_and_a_request_needs_both(self, shop: Shop) -> None:
        assert shop.terminal("explain", "--state", "nobody").code == 1
        assert shop.terminal("explain", "some-key").code == 2
        assert shop.terminal("explain", "some-key", "GET").code == 2
