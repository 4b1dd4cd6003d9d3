"""The operator's commands, as people and as programs use them: what they print, and how they end."""

import getpass
import re
from unittest.mock import patch

import jwt
import pytest

from quotas import assembly

from .terminal import Done, Terminal, snapshot, spend

NOW_US = 1_773_144_000_000_000  # 2026-03-10T12:00:00Z
NOON = "2026-03-10T12:00:00Z"
ODD_NAMES = ["[red]x[/red]", "[/]", ":smile:", "日本語", "👍", "e\u0301", "a  b", "-", "%s{0}\\n", "語" * 128]

PLANS = """
plans:
  free:
    limits:
      burst:  {rate: 1/day, burst: 10}
      yearly: {quota: 100/year}
      each:   {rate: 1/day, burst: 10, per: key}
      search: {rate: 1/day, burst: 10, match: {path: /search/*}}
  pro:
    limits:
      burst:  {rate: 1/day, burst: 1000}
clients:
  listed: {plan: pro}
"""
BAD = """
plans:
  free:
    limits:
      burst: {rate: 5/fortnight, burst: 10}
      hourly: {rate: 1/hour, burts: 3}
  ":smile: [red]x[/red]":
    on_store_error: perhaps
    limits:
      daily: {quota: many/day}
unknown: 1
"""
BAD_PATHS = [
    "plans.:smile: [red]x[/red].limits.daily.quota",
    "plans.:smile: [red]x[/red].on_store_error",
    "plans.free.limits.burst.rate",
    "plans.free.limits.hourly.burts",
    "unknown",
]


@pytest.fixture(autouse=True)
def plan_file(terminal: Terminal) -> None:
    terminal.file("quotas.yaml", PLANS)


def created(terminal: Terminal, name: str = "acme", plan: str = "free") -> None:
    terminal.good("clients", "create", name, "--plan", plan)


def key_of(terminal: Terminal, name: str = "acme", *words: str) -> tuple[str, str]:
    """Id and secret of a new key."""
    found = terminal.good("keys", "create", "--client", name, "--json", *words).json
    return found["id"], found["key"]


def is_no(done: Done, *said: str) -> None:
    """The answer is no, and it says why."""
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("no: ")
    assert all(each in done.err for each in said), done.err


def is_wrong_use(done: Done, *said: str) -> None:
    """Wrong use, and it says what is wrong; the frame around it may have wrapped the words."""
    assert (done.code, done.out) == (2, "")
    told = " ".join(done.err.replace("│", " ").split())
    assert all(each in told for each in said), told


class TestClients:
    def test_create_list_and_show_say_the_same(self, terminal: Terminal) -> None:
        with patch.object(assembly, "clock", lambda: NOW_US):
            first = terminal.good("clients", "create", "acme", "--plan", "free", "--json").json
            second = terminal.good("clients", "create", "Acme", "--plan", "pro", "--json").json
        assert re.fullmatch(r"cl_[0-9A-Za-z]{14}", first.pop("id"))
        assert first == {"name": "acme", "plan": "free", "status": "active", "created_at": NOON, "limits": {}}
        assert terminal.good("clients", "show", "Acme", "--json").json == second
        listed = terminal.good("clients", "list", "--json").json
        assert listed[0] == second
        assert [each["name"] for each in listed] == ["Acme", "acme"]
        assert listed[1].items() >= first.items()

    def test_for_people(self, terminal: Terminal) -> None:
        with patch.object(assembly, "clock", lambda: NOW_US):
            titles, row = terminal.good("clients", "create", "acme", "--plan", "free").rows
        assert titles == "name plan status id created"
        assert re.fullmatch(rf"acme free active cl_[0-9A-Za-z]{{14}} {NOON}", row)
        assert terminal.good("clients", "list").rows == [titles, row]
        assert terminal.good("clients", "show", "acme").rows == [titles, row]

    def test_none_is_an_empty_list(self, terminal: Terminal) -> None:
        assert terminal.good("clients", "list", "--json").json == []
        assert terminal.good("clients", "list").rows == ["name plan status id created"]

    def test_names_are_compared_and_shown_exactly(self, terminal: Terminal) -> None:
        for name in ODD_NAMES:
            assert terminal.good("clients", "create", "--plan", "free", "--json", "--", name).json["name"] == name
        assert [each["name"] for each in terminal.good("clients", "list", "--json").json] == sorted(ODD_NAMES)
        shown = terminal.good("clients", "list").out.splitlines()[1:]
        assert [row.partition("  ")[0] for row in shown if "a  b" not in row] == sorted(set(ODD_NAMES) - {"a  b"})
        assert any(row.startswith("a  b ") for row in shown)
        for name in ODD_NAMES:
            assert terminal.good("clients", "show", "--", name).out.splitlines()[1].startswith(name + " ")

    @pytest.mark.parametrize("name", ODD_NAMES[:4])
    def test_names_are_shown_exactly_in_messages(self, terminal: Terminal, name: str) -> None:
        is_no(terminal("clients", "show", name), f"there is no client {name!r}")
        created(terminal, name)
        is_no(terminal("clients", "create", name, "--plan", "free"), f"the client {name!r} exists already")
        is_no(terminal("clients", "unset-limit", name, "burst"), f"the client {name!r} has no limit")
        asked = terminal("clients", "delete", name, stdin="n\n")
        assert (asked.code, f"{name!r}" in asked.out) == (1, True)
        made = terminal("keys", "create", "--client", name)
        assert (made.code, f" of {name!r}. " in made.err) == (0, True)

    @pytest.mark.parametrize("name", ["", "a\nb", "\u202ea", "x" * 129, "\udcff"])
    def test_a_name_that_cannot_be_is_a_no(self, terminal: Terminal, name: str) -> None:
        is_no(terminal("clients", "create", name, "--plan", "free"), "1 to 128 printable characters")

    def test_what_is_no_text_names_no_client(self, terminal: Terminal) -> None:
        for command, *words in (("show",), ("suspend",), ("delete", "--yes"), ("set-plan", "free")):
            is_no(terminal("clients", command, "\udcff", *words))
        is_no(terminal("keys", "list", "--client", "\udcff"))
        is_no(terminal("keys", "revoke", "\udcff", "--yes"))

    def test_an_unknown_plan_is_a_no_that_says_which_there_are(self, terminal: Terminal) -> None:
        is_no(terminal("clients", "create", "acme", "--plan", "[b]"), "'[b]'", "free, pro")
        assert terminal.good("clients", "list", "--json").json == []
        created(terminal)
        is_no(terminal("clients", "set-plan", "acme", "gold"), "'gold'", "free, pro")
        assert terminal.good("clients", "show", "acme", "--json").json["plan"] == "free"

    def test_set_plan(self, terminal: Terminal) -> None:
        created(terminal)
        assert terminal.good("clients", "set-plan", "acme", "pro", "--json").json["plan"] == "pro"
        assert terminal.good("clients", "set-plan", "acme", "free").rows[1].startswith("acme free active ")
        is_no(terminal("clients", "set-plan", "nobody", "pro"), "'nobody'")

    def test_suspend_and_resume(self, terminal: Terminal) -> None:
        created(terminal)
        for _ in range(2):
            assert terminal.good("clients", "suspend", "acme", "--json").json["status"] == "suspended"
        assert terminal.good("clients", "list").rows[1].startswith("acme free suspended ")
        assert terminal.good("clients", "resume", "acme", "--json").json["status"] == "active"
        for command in ("suspend", "resume"):
            is_no(terminal("clients", command, "nobody"), "'nobody'")

    def test_delete_asks_first(self, terminal: Terminal, redis_url: str) -> None:
        created(terminal)
        key_of(terminal)
        before = snapshot(redis_url)
        for answer in ("n\n", "\n", ""):
            asked = terminal("clients", "delete", "acme", stdin=answer)
            assert asked.code == 1
            assert "'acme'" in asked.out
            assert "[y/N]" in asked.out
        assert snapshot(redis_url) == before
        assert terminal("clients", "delete", "acme", stdin="y\n").code == 0
        assert set(snapshot(redis_url)) == {b"q1:audit"}

    def test_delete_with_yes(self, terminal: Terminal, redis_url: str) -> None:
        created(terminal)
        assert terminal.good("clients", "delete", "acme", "--yes").out == ""
        assert set(snapshot(redis_url)) == {b"q1:audit"}
        is_no(terminal("clients", "delete", "acme", "--yes"), "'acme'")


class TestLimitsOfTheirOwn:
    def rule(self, terminal: Terminal, secret: str, limit: str) -> str:
        return str(terminal("explain", secret, "GET", "/", "--json").json["limits"][limit]["rule"])

    def test_set_change_and_unset(self, terminal: Terminal) -> None:
        created(terminal)
        _, secret = key_of(terminal)
        words = ("clients", "set-limit", "acme")
        assert terminal.good(*words, "burst", "--rate", "50/second", "--burst", "80", "--json").json["name"] == "acme"
        assert self.rule(terminal, secret, "burst") == "50 per second, burst 80"
        terminal.good(*words, "yearly", "--quota", "7/month", "--timezone", "Asia/Tokyo", "--anchor-day", "31")
        assert self.rule(terminal, secret, "yearly") == "7 per month in Asia/Tokyo from day 31"
        terminal.good(*words, "burst", "--rate", "3/hour")
        assert self.rule(terminal, secret, "burst") == "3 per hour, burst 3"
        assert terminal.good("clients", "unset-limit", "acme", "burst", "--json").json["name"] == "acme"
        assert self.rule(terminal, secret, "burst") == "1 per day, burst 10"
        assert self.rule(terminal, secret, "yearly") == "7 per month in Asia/Tokyo from day 31"
        is_no(terminal("clients", "unset-limit", "acme", "burst"), "'burst'")

    @pytest.mark.parametrize(
        "until", ["2999-12-31", "9999-12-31", "2999-12-31T23:59:59Z", "2999-12-31T23:59:59.5+02:00"]
    )
    def test_until_a_day_or_an_instant(self, terminal: Terminal, until: str) -> None:
        created(terminal)
        _, secret = key_of(terminal)
        terminal.good("clients", "set-limit", "acme", "burst", "--burst", "80", "--until", until)
        assert self.rule(terminal, secret, "burst") == "1 per day, burst 80"

    @pytest.mark.parametrize("until", ["2026-03-09", "2026-03-10T12:00:00Z", "1960-01-01T00:00:00Z"])
    def test_what_would_be_over_already_is_a_no(self, terminal: Terminal, until: str, redis_url: str) -> None:
        created(terminal)
        before = snapshot(redis_url)
        with patch.object(assembly, "clock", lambda: NOW_US):
            is_no(terminal("clients", "set-limit", "acme", "burst", "--burst", "80", "--until", until), "future")
            assert snapshot(redis_url) == before
            terminal.good("clients", "set-limit", "acme", "burst", "--burst", "80", "--until", "2026-03-10")

    @pytest.mark.parametrize("until", ["tomorrow", "2026-02-30", "2026-12-31T23:59:59", ""])
    def test_an_until_that_is_no_time_is_wrong_use(self, terminal: Terminal, until: str) -> None:
        created(terminal)
        is_wrong_use(terminal("clients", "set-limit", "acme", "burst", "--burst", "80", "--until", until), "RFC 3339")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--rate", "nonsense"), "rate"),
            (("--rate", "5/fortnight"), "rate"),
            (("--rate", "-1/second"), "rate"),
            (("--rate", "5/month"), "rate"),
            (("--burst", "0"), "burst"),
            (("--burst", "many"), "burst"),
            (("--quota", "5/second"), "quota"),
            (("--timezone", "Mars/Olympus"), "timezone"),
            (("--anchor-day", "32"), "anchor"),
        ],
    )
    def test_what_no_limit_can_be_is_wrong_use(
        self, terminal: Terminal, words: tuple[str, ...], said: str, redis_url: str
    ) -> None:
        created(terminal)
        before = snapshot(redis_url)
        is_wrong_use(terminal("clients", "set-limit", "acme", "burst", *words), said)
        assert snapshot(redis_url) == before

    def test_nothing_different_is_wrong_use(self, terminal: Terminal) -> None:
        created(terminal)
        for words in ((), ("--until", "2999-12-31")):
            is_wrong_use(terminal("clients", "set-limit", "acme", "burst", *words), "say what is different", "--rate")

    def test_what_does_not_go_with_the_plan_is_a_no(self, terminal: Terminal, redis_url: str) -> None:
        created(terminal)
        before = snapshot(redis_url)
        words = ("clients", "set-limit", "acme")
        is_no(terminal(*words, "none", "--burst", "5"), "'none'", "burst, yearly")
        is_no(terminal(*words, "burst", "--quota", "5/month"), "'burst'", "bucket")
        is_no(terminal(*words, "yearly", "--rate", "5/second"), "'yearly'", "quota")
        is_no(terminal(*words, "yearly", "--anchor-day", "5"), "month")
        is_no(terminal(*words, "burst", "--burst", "9007199254740992"), "2^53")
        is_no(terminal("clients", "set-limit", "nobody", "burst", "--burst", "5"), "'nobody'")
        assert snapshot(redis_url) == before


class TestKeys:
    def test_created_once_shown_and_listed_without_its_secret(self, terminal: Terminal) -> None:
        created(terminal)
        with patch.object(assembly, "clock", lambda: NOW_US):
            words = ("--name", "build [b]server[/b]", "--environment", "test", "--expires-in-days", "30")
            scopes = ("--scope", "write", "--scope", "a:b")
            made = terminal.good("keys", "create", "--client", "acme", "--json", *words, *scopes).json
        secret = made.pop("key")
        assert re.fullmatch(r"quotas_test_[0-9A-Za-z]{36}", secret)
        assert re.fullmatch(r"key_[0-9A-Za-z]{14}", made["id"])
        assert made == {
            "id": made["id"],
            "client": "acme",
            "name": "build [b]server[/b]",
            "shown": secret[:16],
            "environment": "test",
            "scopes": ["a:b", "write"],
            "imported": False,
            "created_at": NOON,
            "expires_at": "2026-04-09T12:00:00Z",
            "last_used_at": None,
        }
        listed = terminal.good("keys", "list", "--client", "acme", "--json")
        assert listed.json == [made]
        shown = terminal.good("keys", "list", "--client", "acme")
        assert shown.rows == [
            "id key name environment scopes created expires last used",
            f"{made['id']} {secret[:16]}… build [b]server[/b] test a:b write {NOON} 2026-04-09T12:00:00Z never",
        ]
        assert secret[16:] not in listed.out + shown.out

    def test_for_people_the_key_is_alone_on_standard_output(self, terminal: Terminal) -> None:
        created(terminal)
        made = terminal("keys", "create", "--client", "acme")
        assert made.code == 0
        assert re.fullmatch(r"quotas_live_[0-9A-Za-z]{36}\n", made.out)
        key_id = terminal.good("keys", "list", "--client", "acme", "--json").json[0]["id"]
        assert made.err == f"This is {key_id} of 'acme'. Keep it: it is not shown again.\n"
        assert terminal.good("keys", "list", "--client", "acme").rows[1].endswith(" never")

    def test_oldest_first_and_only_the_clients(self, terminal: Terminal) -> None:
        for name in ("acme", "other", "none"):
            created(terminal, name)
        made = []
        for number in range(3):
            with patch.object(assembly, "clock", lambda number=number: NOW_US + number):
                made.append(key_of(terminal)[0])
        key_of(terminal, "other")
        assert [each["id"] for each in terminal.good("keys", "list", "--client", "acme", "--json").json] == made
        assert terminal.good("keys", "list", "--client", "none", "--json").json == []

    def test_revoke_asks_first(self, terminal: Terminal, redis_url: str) -> None:
        created(terminal)
        empty = snapshot(redis_url)
        key_id, secret = key_of(terminal)
        before = snapshot(redis_url)
        for answer in ("n\n", ""):
            assert terminal("keys", "revoke", key_id, stdin=answer).code == 1
        assert snapshot(redis_url) == before
        assert terminal("keys", "revoke", key_id, stdin="y\n").code == 0
        assert terminal("explain", secret, "GET", "/", "--json").json["reason"] == "invalid_credential"
        assert snapshot(redis_url).keys() == empty.keys()
        is_no(terminal("keys", "revoke", key_id, "--yes"), key_id)

    def test_what_cannot_be_is_a_no_or_wrong_use(self, terminal: Terminal) -> None:
        created(terminal)
        is_no(terminal("keys", "create", "--client", "nobody"), "'nobody'")
        is_no(terminal("keys", "list", "--client", "nobody"), "'nobody'")
        is_no(terminal("keys", "create", "--client", "acme", "--name", "x" * 129), "128")
        is_no(terminal("keys", "create", "--client", "acme", "--name", "a\nb"), "printable")
        is_no(terminal("keys", "create", "--client", "acme", "--scope", "read write"), "no scope")
        for words in (("--expires-in-days", "0"), ("--expires-in-days", "36501"), ("--environment", "prod")):
            is_wrong_use(terminal("keys", "create", "--client", "acme", *words), words[0])
        assert terminal.good("keys", "list", "--client", "acme", "--json").json == []


class TestRefund:
    WORDS = ("refund", "acme", "--units", "3", "--idempotency-key", "job 1")
    count = 0

    def given(self, terminal: Terminal, units: int, *words: str) -> dict[str, int]:
        """What a refund under a key of its own gives back."""
        self.count += 1
        name = ("--idempotency-key", f"count {self.count}")
        found: dict[str, int] = terminal.good("refund", "acme", "--units", str(units), *name, *words, "--json").json[
            "refunded"
        ]
        return found

    def test_what_was_taken_comes_back_and_never_more(self, terminal: Terminal, redis_url: str) -> None:
        created(terminal)
        key_id, secret = key_of(terminal)
        spend(redis_url, PLANS, "acme", 8, key_id=key_id)
        assert self.given(terminal, 3) == {"burst": 3, "yearly": 3}
        left = terminal.good("explain", secret, "GET", "/", "--json").json["limits"]
        assert {name: limit["remaining"] for name, limit in left.items()} == {
            "burst": 5,
            "yearly": 95,
            "each": 2,
            "search": None,
        }
        assert self.given(terminal, 1, "--key-id", key_id, "--path", "/search/a") == {
            "burst": 1,
            "yearly": 1,
            "each": 1,
            "search": 1,
        }
        assert self.given(terminal, 10**30) == {"burst": 4, "yearly": 4}
        assert self.given(terminal, 1) == {"burst": 0, "yearly": 0}

    def test_what_a_past_window_was_charged_does_not_come_back_in_this_one(
        self, terminal: Terminal, redis_url: str
    ) -> None:
        created(terminal)
        spend(redis_url, PLANS, "acme", 8)
        assert self.given(terminal, 3, "--taken-at", "2020-12-31T23:59:59Z") == {"burst": 3, "yearly": 0}

    def test_the_repeated_one_gives_nothing_and_says_what_the_first_gave(
        self, terminal: Terminal, redis_url: str
    ) -> None:
        created(terminal)
        _, secret = key_of(terminal)
        spend(redis_url, PLANS, "acme", 8)
        first = terminal.good(*self.WORDS, "--json").json
        assert first == {"client": "acme", "refunded": {"burst": 3, "yearly": 3}, "repeated": False}
        before = snapshot(redis_url)
        assert terminal.good(*self.WORDS, "--json").json == {**first, "repeated": True}
        assert snapshot(redis_url) == before
        assert terminal.good("explain", secret, "GET", "/", "--json").json["limits"]["burst"]["remaining"] == 5

    def test_nothing_was_taken_and_nothing_comes_back(self, terminal: Terminal) -> None:
        created(terminal)
        found = terminal.good(*self.WORDS, "--json").json
        assert found == {"client": "acme", "refunded": {"burst": 0, "yearly": 0}, "repeated": False}

    def test_once_per_idempotency_key(self, terminal: Terminal) -> None:
        created(terminal)
        assert terminal.good(*self.WORDS).rows == ["burst: 0 back", "yearly: 0 back"]
        again = terminal.good(*self.WORDS)
        assert again.rows[-1] == "This refund had been made before; nothing was given now."
        assert terminal.good(*self.WORDS, "--json").json["repeated"]
        assert not terminal.good(*self.WORDS[:-1], "job 2", "--json").json["repeated"]
        created(terminal, "other")
        assert not terminal.good("refund", "other", *self.WORDS[2:], "--json").json["repeated"]

    def test_method_path_and_key_say_which_limits(self, terminal: Terminal) -> None:
        created(terminal)
        key_id, _ = key_of(terminal)
        words = (*self.WORDS[:-1], "job 2", "--path", "/search/x", "--key-id", key_id, "--json")
        assert terminal.good(*words).json["refunded"] == {"burst": 0, "yearly": 0, "search": 0, "each": 0}

    def test_what_cannot_be_is_a_no_or_wrong_use(self, terminal: Terminal) -> None:
        is_no(terminal(*self.WORDS), "'acme'")
        created(terminal)
        for units in ("0", "-1", "1.5"):
            is_wrong_use(terminal("refund", "acme", "--units", units, "--idempotency-key", "x"), "--units")
        is_wrong_use(terminal("refund", "acme", "--units", "1"), "--idempotency-key")
        is_wrong_use(terminal(*self.WORDS, "--taken-at", "yesterday"), "RFC 3339")
        terminal.file("quotas.yaml", "plans: {new: {limits: {b: {rate: 1/day}}}}")
        is_no(terminal(*self.WORDS), "'free'")

    @pytest.mark.parametrize("option", ["--path", "--idempotency-key", "--key-id", "--method"])
    def test_what_is_no_text_ends_without_a_traceback(self, terminal: Terminal, option: str) -> None:
        created(terminal)
        assert terminal(*self.WORDS, option, "\udcff").code in {0, 1, 2}


class TestCheckConfig:
    def test_good(self, terminal: Terminal) -> None:
        path = str(terminal.folder / "quotas.yaml")
        assert terminal.good("check-config", path).out == f"{path}: good; plans: free, pro\n"
        found = terminal.good("check-config", path, "--json").json
        assert found == {"valid": True, "source": path, "plans": ["free", "pro"]}

    def test_every_fault_with_its_path(self, terminal: Terminal) -> None:
        terminal.file("bad.yaml", BAD)
        done = terminal("check-config", "bad.yaml")
        assert (done.code, done.out) == (2, "")
        first, *faults = done.err.splitlines()
        assert first == f"bad.yaml cannot be used: {len(BAD_PATHS)} faults"
        assert sorted(fault.partition(": ")[0].strip() for fault in faults if "smile" not in fault) == BAD_PATHS[2:]
        assert all(any(fault.startswith(f"  {path}: ") for fault in faults) for path in BAD_PATHS)

    def test_every_fault_for_machines(self, terminal: Terminal) -> None:
        terminal.file("bad.yaml", BAD)
        done = terminal("check-config", "bad.yaml", "--json")
        assert (done.code, done.err) == (2, "")
        assert (done.json["valid"], done.json["source"]) == (False, "bad.yaml")
        assert sorted(fault["path"] for fault in done.json["faults"]) == BAD_PATHS
        assert all(fault["message"] for fault in done.json["faults"])

    @pytest.mark.parametrize("text", ["", "- a list", "plans: {", "plans: {}", "plans: [free]"])
    def test_what_is_no_plan_file(self, terminal: Terminal, text: str) -> None:
        terminal.file("bad.yaml", text)
        assert terminal("check-config", "bad.yaml").code == 2
        done = terminal("check-config", "bad.yaml", "--json")
        assert (done.code, done.json["valid"]) == (2, False)
        assert len(done.json["faults"]) == 1

    def test_a_missing_file(self, terminal: Terminal) -> None:
        done = terminal("check-config", "none.yaml")
        assert (done.code, done.out) == (2, "")
        assert "none.yaml" in done.err
        done = terminal("check-config", "none.yaml", "--json")
        assert (done.code, done.json["valid"]) == (2, False)

    def test_a_file_named_like_markup(self, terminal: Terminal) -> None:
        name = terminal.file(":smile: [red]x.yaml", BAD)
        assert terminal("check-config", name).err.startswith(f"{name} cannot be used")
        terminal.file(name, PLANS)
        assert terminal.good("check-config", name).out.startswith(f"{name}: good")

    def test_a_bad_file_stops_the_other_commands_before_they_do_anything(
        self, terminal: Terminal, redis_url: str
    ) -> None:
        terminal.file("bad.yaml", BAD)
        done = terminal("clients", "create", "acme", "--plan", "free", "--config", "bad.yaml")
        assert (done.code, done.out) == (2, "")
        assert "plans.free.limits.hourly.burts" in done.err
        assert snapshot(redis_url) == {}


class TestEnds:
    @pytest.mark.parametrize(
        "words",
        [
            ("--nonsense",),
            ("nonsense",),
            ("clients", "nonsense"),
            ("clients", "create", "acme"),
            ("clients", "create", "--plan", "free"),
            ("clients", "show"),
            ("clients", "list", "extra"),
            ("clients", "delete", "acme", "--sure"),
            ("keys", "create"),
            ("keys", "revoke"),
            ("explain", "key", "GET"),
            ("replay",),
            ("check-config",),
            ("serve", "--port", "65536"),
            ("serve", "--workers", "0"),
        ],
    )
    def test_wrong_use(self, terminal: Terminal, words: tuple[str, ...]) -> None:
        done = terminal(*words)
        assert (done.code, done.out) == (2, "")
        assert done.err

    @pytest.mark.parametrize(
        "words", [(), ("clients",), ("keys",), ("replay",), ("explain",), ("clients", "set-limit")]
    )
    def test_help(self, terminal: Terminal, words: tuple[str, ...]) -> None:
        assert "Usage: " in terminal.good(*words, "--help").out

    @pytest.mark.parametrize(
        "words",
        [("clients", "list"), ("clients", "create", "acme", "--plan", "free"), ("keys", "list", "--client", "acme")],
    )
    def test_a_store_that_does_not_answer(self, terminal: Terminal, words: tuple[str, ...]) -> None:
        terminal.environment["QUOTAS_REDIS_URL"] = f"unix://{terminal.folder}/none.sock"
        done = terminal(*words, "--json")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("store: ")

    def test_a_bad_setting(self, terminal: Terminal) -> None:
        terminal.environment["QUOTAS_STORE_TIMEOUT_MS"] = "soon"
        done = terminal("clients", "list")
        assert (done.code, done.out) == (2, "")
        assert "QUOTAS_STORE_TIMEOUT_MS" in done.err

    @pytest.mark.parametrize("words", [("clients", "delete", "acme"), ("keys", "revoke")])
    def test_json_for_machines_everywhere(self, terminal: Terminal, words: tuple[str, ...]) -> None:
        """Also of the commands that have nothing to show (design section 7)."""
        created(terminal)
        key_id, _ = key_of(terminal)
        rest = (key_id,) if words[0] == "keys" else ()
        done = terminal.good(*words, *rest, "--yes", "--json")
        assert isinstance(done.json, dict)


class TestTables:
    def test_nothing_is_cut_where_there_is_no_terminal(self, terminal: Terminal) -> None:
        """Whatever width the environment claims."""
        terminal.environment["COLUMNS"] = "40"
        name, key_name = "語" * 128, "x" * 128
        created(terminal, name)
        key_id, secret = key_of(terminal, name, "--name", key_name)
        (_, row) = terminal.good("clients", "list").out.splitlines()
        assert row.startswith(name)
        assert row.rstrip().endswith("Z")
        (_, row) = terminal.good("keys", "list", "--client", name).out.splitlines()
        assert row.split() == [key_id, secret[:16] + "…", key_name, "live", row.split()[4], "never", "never"]

    def test_columns_stand_under_each_other_with_wide_names(self, terminal: Terminal) -> None:
        """A wide character takes two columns of a terminal."""
        for name in ("日本", "acme", "👍"):
            created(terminal, name)
        titles, *rows = terminal.good("clients", "list").out.splitlines()
        assert titles.index("plan") == 6
        widths = {"日本": 2, "acme": 0, "👍": 1}
        assert {row.index("free") + widths[row.split()[0]] for row in rows} == {6}

    def test_no_colour_and_no_control_characters(self, terminal: Terminal) -> None:
        created(terminal)
        assert "\x1b" not in terminal.good("clients", "list").out


class TestRotation:
    def test_a_new_key_is_printed_once_and_the_old_one_has_an_end(self, terminal: Terminal) -> None:
        terminal.good("clients", "create", "acme", "--plan", "free")
        made = terminal.good("keys", "create", "--client", "acme", "--json").json
        rotated = terminal.good("keys", "rotate", made["id"], "--grace", "60", "--json").json
        assert (rotated["client"], rotated["replaces"]) == ("acme", made["id"])
        assert rotated["key"] != made["key"]
        listed = {
            key["id"]: key["expires_at"] for key in terminal.good("keys", "list", "--client", "acme", "--json").json
        }
        assert listed[rotated["id"]] is None
        assert listed[made["id"]] is not None

    def test_the_pattern_of_keys(self, terminal: Terminal) -> None:
        pattern = terminal.good("keys", "pattern", "--json").json["pattern"]
        assert re.search(pattern, "key: quotas_live_" + "x" * 36)


def test_what_commands_change_is_audited(terminal: Terminal) -> None:
    created(terminal)
    key_id, secret = key_of(terminal)
    terminal("keys", "rotate", key_id, "--grace", "0")
    terminal("clients", "set-plan", "acme", "pro")
    terminal("clients", "suspend", "acme")
    terminal("clients", "delete", "acme", "--yes")
    terminal("clients", "show", "acme")
    entries = terminal("audit", "--json").json
    assert {entry["actor"] for entry in entries} == {f"cli:{getpass.getuser()}"}
    assert [(entry["action"], entry["target"]) for entry in reversed(entries)] == [
        ("client.create", "acme"),
        ("key.create", key_id),
        ("key.rotate", key_id),
        ("client.set_plan", "acme"),
        ("client.suspend", "acme"),
        ("client.delete", "acme"),
    ]
    assert secret not in terminal("audit", "--json").out


ISSUER = "https://id.example.com"
ISSUERS = (
    PLANS
    + f"""
issuers:
  - {{issuer: {ISSUER}, audience: [api], algorithms: [RS256], jwks_file: keys.json, default_plan: free}}
"""
)


class TestTokens:
    def test_revoke_list_and_restore(self, terminal: Terminal) -> None:
        terminal.file("quotas.yaml", ISSUERS)
        done = terminal("tokens", "revoke", "--issuer", ISSUER, "--jti", "8f3c", "--expires-at", "2100-01-01T00:00:00Z")
        assert done.code == 0
        assert done.out == ""
        (listed,) = terminal("tokens", "list", "--json").json
        assert listed == {"id": listed["id"], "issuer": ISSUER, "jti": "8f3c", "expires_at": "2100-01-01T00:00:00Z"}
        assert listed["id"] in done.err
        subject = terminal("tokens", "revoke", "--issuer", ISSUER, "--subject", "ada", "--json").json
        assert subject["subject"] == "ada"
        rows = terminal("tokens", "list").rows
        assert {row.split()[0] for row in rows[1:]} == {listed["id"], subject["id"]}
        assert terminal("tokens", "restore", listed["id"]).code == 0
        again = terminal("tokens", "restore", listed["id"])
        assert again.code == 1
        assert listed["id"] in again.err
        assert [each["id"] for each in terminal("tokens", "list", "--json").json] == [subject["id"]]
        actions = [entry["action"] for entry in terminal("audit", "--json").json]
        assert actions == ["token.restore", "token.revoke", "token.revoke"]

    def test_a_whole_issuer_is_asked_about_first(self, terminal: Terminal, redis_url: str) -> None:
        terminal.file("quotas.yaml", ISSUERS)
        words = ("tokens", "revoke", "--issuer", ISSUER, "--issued-before", NOON)
        asked = terminal(*words, stdin="n\n")
        assert asked.code == 1
        assert ISSUER in asked.out
        assert snapshot(redis_url) == {}
        assert terminal(*words, "--yes").code == 0
        assert terminal("tokens", "revoke", "--issued-before", NOON, stdin="y\n").code == 0
        assert [each.get("issuer") for each in terminal("tokens", "list", "--json").json] == [None, ISSUER]

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((), "say what is revoked"),
            (("--issuer", ISSUER), "say what is revoked"),
            (("--jti", "1"), "issuer"),
            (("--issuer", ISSUER, "--jti", "1", "--subject", "ada"), "goes alone"),
            (("--issuer", ISSUER, "--jti", ""), "jti"),
            (("--issued-before", "yesterday"), "RFC 3339"),
            (("--token", "--issuer", ISSUER), "--token"),
        ],
    )
    def test_what_makes_no_sense_is_wrong_use(
        self, terminal: Terminal, redis_url: str, words: tuple[str, ...], told: str
    ) -> None:
        done = terminal("tokens", "revoke", *words)
        assert done.code == 2
        assert told in " ".join(done.err.split())
        assert snapshot(redis_url) == {}

    def test_an_issuer_that_is_not_configured_is_no(self, terminal: Terminal, redis_url: str) -> None:
        terminal.file("quotas.yaml", ISSUERS)
        done = terminal("tokens", "revoke", "--issuer", ISSUER + "/", "--jti", "1")
        assert done.code == 1
        assert ISSUER + "/" in done.err
        assert snapshot(redis_url) == {}

    def test_a_broken_file_keeps_nobody_from_revoking(self, terminal: Terminal) -> None:
        terminal.file("quotas.yaml", "plans: {")
        done = terminal("tokens", "revoke", "--issuer", ISSUER, "--jti", "1")
        assert done.code == 0
        assert "cannot be used" in done.err
        assert len(terminal("tokens", "list", "--json").json) == 1

    def test_a_token_from_standard_input(self, terminal: Terminal) -> None:
        terminal.file("quotas.yaml", ISSUERS)
        claims = {"iss": ISSUER, "jti": "8f3c", "exp": 4_102_444_800, "sub": "ada"}
        text = jwt.encode(claims, "x" * 32, "HS256")
        done = terminal("tokens", "revoke", "--token", stdin=text + "\n")
        assert done.code == 0
        assert text not in done.out + done.err
        (listed,) = terminal("tokens", "list", "--json").json
        assert (listed["jti"], listed["expires_at"]) == ("8f3c", "2100-01-01T00:00:00Z")
        for bad in ("", "a.b.c", jwt.encode({"iss": ISSUER}, "x" * 32, "HS256"), text[:-80].replace(".", "")):
            refused = terminal("tokens", "revoke", "--token", stdin=bad + "\n")
            assert refused.code == 2
            assert not bad or bad not in refused.err


def test_aliases(terminal: Terminal) -> None:
    created(terminal)
    whose = ("--issuer", ISSUER, "--subject", "ada")
    assert terminal("clients", "alias", "acme", *whose).code == 0
    (alias,) = terminal("clients", "aliases", "acme", "--json").json
    assert (alias["issuer"], alias["subject"]) == (ISSUER, "ada")
    assert "ada" in terminal("clients", "aliases", "acme").out
    assert terminal("clients", "alias", "nobody", *whose).code == 1
    assert terminal("clients", "alias", "acme", "--issuer", ISSUER, "--subject", "").code == 1
    assert terminal("clients", "unalias", "acme", *whose, "--json").json == {"removed": alias["id"]}
    assert terminal("clients", "unalias", "acme", *whose).code == 1
    assert terminal("clients", "aliases", "acme", "--json").json == []
