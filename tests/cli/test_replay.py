"""`quotas replay` as a whole: a log in, the right numbers out, and nothing else touched (issue B, design section 7)."""

import gc
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from cases import Case, answer, load_cases
from takes import with_store

from quotas import embedded, paths, plan_files
from quotas.decisions import Memory, take
from quotas.limits import Bucket, Limit
from quotas.logged_requests import LoggedRequest
from quotas.logs import parser
from quotas.rates import UNIT_US
from quotas.replay import BATCH, Replay
from quotas.replay_command import LogFile
from quotas.store import Store

from .terminal import Done, Terminal, snapshot

CASES = load_cases()
NOON_US = 1_773_144_000_000_000  # 2026-03-10T12:00:00Z
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
SECRET = "SECRET123"

TWO_PLANS = """
plans:
  free:
    limits:
      burst: {rate: 0/second, burst: 2}
  pro:
    limits:
      burst: {rate: 0/second, burst: 5}
clients:
  listed: {plan: pro}
"""
ONE_PLAN = """
plans:
  only:
    limits:
      burst: {rate: 1/second, burst: 2}
"""


def us(text: str) -> int:
    """An instant in microseconds, reckoned apart from the code under test."""
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def line(at_us: int, client: str = "acme", **fields: object) -> dict[str, Any]:
    return {"at_us": at_us, "client": client, **fields}


def jsonl(lines: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(each) + "\n" for each in lines)


@pytest.fixture
def offline(tmp_path: Path) -> Terminal:
    """A terminal without a store: a replay brings its own."""
    return Terminal(tmp_path)


def run(terminal: Terminal, config: str, lines: Sequence[dict[str, Any]], *options: str) -> Done:
    """A replay of these lines; whatever it says."""
    terminal.file("plans.yaml", config)
    terminal.file("log.jsonl", jsonl(lines))
    return terminal("replay", "--config", "plans.yaml", "log.jsonl", *options)


def replayed(terminal: Terminal, config: str, lines: Sequence[dict[str, Any]], *options: str) -> list[Any]:
    """The decisions of a replay, which succeeds without a word and answers line by line."""
    done = run(terminal, config, lines, *options)
    assert (done.code, done.err) == (0, "")
    assert [(each["at_us"], each["client"]) for each in done.lines] == [
        (each["at_us"], each["client"]) for each in lines
    ]
    return done.lines


def limits(**rules: dict[str, Any]) -> str:
    """A configuration of one plan."""
    return str(yaml.safe_dump({"plans": {"only": {"limits": rules}}}))


def rule_of(limit: Limit) -> dict[str, Any]:
    """A limit as it stands in a file."""
    rule = limit.rule
    if isinstance(rule, Bucket):
        units = {length: unit for unit, length in UNIT_US.items()}
        per = units.get(rule.period_us, f"{rule.period_us} microseconds")
        return {"rate": f"{rule.count} per {per}", "burst": rule.burst}
    return {
        "quota": f"{rule.units}/{rule.window.value}",
        "timezone": rule.timezone,
        **({} if rule.anchor_day == 1 else {"anchor_day": rule.anchor_day}),
    }


def config_of(cases: Sequence[Case]) -> str:
    """The limits of each case as a plan of its name."""
    every = {case.name[:64]: {"limits": {limit.name: rule_of(limit) for limit in case.limits}} for case in cases}
    return str(yaml.safe_dump({"plans": every}))


def expected(client: str, step: dict[str, Any]) -> dict[str, Any]:
    """What a replay prints for one step of a case."""
    return {
        "at_us": step["at_us"],
        "client": client,
        "allowed": step["allowed"],
        "outcome": step["outcome"],
        "limit": step["binding"],
        "retry_after_us": step["retry_after_us"],
        "limits": step["limits"],
    }


class TestVectors:
    def test_there_are_cases(self) -> None:
        assert len({case.name[:64] for case in CASES}) == 28

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_a_case_alone(self, offline: Terminal, case: Case) -> None:
        lines = [line(step["at_us"], cost=step["cost"]) for step in case.steps]
        assert replayed(offline, config_of([case]), lines) == [expected("acme", step) for step in case.steps]

    def test_all_cases_as_clients_of_one_log_each_on_its_plan(self, offline: Terminal) -> None:
        rounds = zip_longest(*([(case.name[:64], step) for step in case.steps] for case in CASES))
        steps = [each for one in rounds for each in one if each is not None]
        lines = [line(step["at_us"], name, plan=name, cost=step["cost"]) for name, step in steps]
        assert replayed(offline, config_of(CASES), lines) == [expected(name, step) for name, step in steps]

    def test_as_a_process(self, offline: Terminal) -> None:
        """The command as people start it; a time as text is the same instant as its number."""
        case = next(case for case in CASES if "Lord_Howe" in case.name)
        texts = [datetime.fromtimestamp(step["at_us"] // SECOND_US, UTC) for step in case.steps]
        assert [us(text.isoformat()) for text in texts] == [step["at_us"] for step in case.steps]
        offline.file("plans.yaml", config_of([case]))
        log = jsonl(
            [
                {"at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "client": "acme", "cost": step["cost"]}
                for at, step in zip(texts, case.steps, strict=True)
            ]
        )
        done = subprocess.run(
            [sys.executable, "-m", "quotas", "replay", "--config", "plans.yaml", "-"],
            cwd=offline.folder,
            env=offline.environment,
            input=log,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert [json.loads(each) for each in done.stdout.splitlines()] == [
            expected("acme", step) for step in case.steps
        ]


class TestLines:
    @pytest.mark.parametrize(
        ("at", "at_us"),
        [
            ("2026-03-10T12:00:00Z", NOON_US),
            ("2026-03-10T12:00:00.5Z", NOON_US + 500_000),
            ("2026-03-10T12:00:00.000001Z", NOON_US + 1),
            ("2026-03-10T13:00:00+01:00", NOON_US),
            ("1970-01-01T00:00:00Z", 0),
        ],
    )
    def test_a_time_as_text(self, offline: Terminal, at: str, at_us: int) -> None:
        offline.file("plans.yaml", ONE_PLAN)
        done = offline.good(
            "replay", "--config", "plans.yaml", "-", stdin=json.dumps({"at": at, "client": "acme"}) + "\n"
        )
        assert [each["at_us"] for each in done.lines] == [at_us]

    def test_the_last_line_may_lack_its_end(self, offline: Terminal) -> None:
        offline.file("plans.yaml", ONE_PLAN)
        text = jsonl([line(NOON_US), line(NOON_US)]).removesuffix("\n")
        assert len(offline.good("replay", "--config", "plans.yaml", "-", stdin=text).lines) == 2

    def test_order_is_the_logs_and_clients_do_not_share(self, offline: Terminal) -> None:
        names = ["b", "a", "c", "a", "b", "a", "ü [red]", "b", "ü [red]"]
        found = replayed(offline, ONE_PLAN, [line(NOON_US, name) for name in names])
        assert [each["limits"]["burst"]["remaining"] for each in found] == [1, 1, 1, 0, 0, 0, 1, 0, 0]
        assert [each["allowed"] for each in found] == [True] * 5 + [False, True, False, True]

    def test_an_empty_log_is_no_requests(self, offline: Terminal) -> None:
        assert replayed(offline, ONE_PLAN, []) == []
        assert run(offline, ONE_PLAN, [], "--summary", "--json").json == []
        assert run(offline, ONE_PLAN, [], "--summary").code == 0

    def test_blank_lines_are_no_requests_and_not_worth_a_word(self, offline: Terminal) -> None:
        offline.file("plans.yaml", ONE_PLAN)
        text = "\n".join(["", json.dumps(line(NOON_US)), "  ", ""])
        assert len(offline.good("replay", "--config", "plans.yaml", "-", stdin=text).lines) == 1

    def test_cost_0_looks(self, offline: Terminal) -> None:
        found = replayed(offline, ONE_PLAN, [line(NOON_US, cost=0), line(NOON_US, cost=2), line(NOON_US, cost=0)])
        assert [(each["allowed"], each["limits"]["burst"]["remaining"]) for each in found] == [
            (True, 2),
            (True, 0),
            (True, 0),
        ]

    def test_a_log_may_begin_with_the_epoch(self, offline: Terminal) -> None:
        """0 is an instant like any other: what is due a second later passes then, not a microsecond late."""
        config = limits(b={"rate": "1/second", "burst": 1}, d={"quota": "5/day"})
        found = replayed(offline, config, [line(0), line(999_999), line(SECOND_US)])
        assert [each["allowed"] for each in found] == [True, False, True]
        assert found[0]["limits"] == {
            "b": {"remaining": 0, "reset_after_us": SECOND_US},
            "d": {"remaining": 4, "reset_after_us": DAY_US},
        }

    def test_a_log_may_end_where_numbers_are_exact(self, offline: Terminal) -> None:
        last_us = 2**53 - 1
        config = limits(
            b={"rate": "1/second", "burst": 1}, y={"quota": "5/year"}, once={"rate": "0/second", "burst": 2}
        )
        found = replayed(offline, config, [line(last_us - SECOND_US), line(last_us - 1), line(last_us), line(last_us)])
        assert [(each["allowed"], each["limit"]) for each in found] == [
            (True, None),
            (False, "b"),
            (True, None),
            (False, "once"),
        ]


class TestPlanOfALine:
    def plans_of(self, terminal: Terminal, lines: Sequence[dict[str, Any]], *options: str) -> list[str]:
        """The plan of each line, told from what its bucket has left of the first look."""
        found = replayed(terminal, TWO_PLANS, [{**each, "cost": 0} for each in lines], *options)
        return [{2: "free", 5: "pro"}[each["limits"]["burst"]["remaining"]] for each in found]

    def test_the_line_first_then_the_file_then_the_option(self, offline: Terminal) -> None:
        lines = [
            line(NOON_US, "listed"),
            line(NOON_US, "listed", plan=None),
            line(NOON_US, "listed", plan="free"),
            line(NOON_US, "other"),
            line(NOON_US, "other", plan="pro"),
        ]
        assert self.plans_of(offline, lines, "--plan", "free") == ["pro", "pro", "free", "free", "pro"]

    def test_the_only_plan_needs_no_word(self, offline: Terminal) -> None:
        assert replayed(offline, ONE_PLAN, [line(NOON_US)])[0]["allowed"]

    def test_no_plan_known_says_what_to_do_and_nothing_of_the_line(self, offline: Terminal) -> None:
        done = run(offline, TWO_PLANS, [line(NOON_US, "listed"), line(NOON_US, SECRET)])
        assert done.code == 2
        assert "--plan" in done.err
        assert SECRET not in done.out + done.err

    def test_an_unknown_plan_says_which_there_are_and_nothing_of_the_line(self, offline: Terminal) -> None:
        done = run(offline, TWO_PLANS, [line(NOON_US, "listed"), line(NOON_US, "other", plan=SECRET)])
        assert done.code == 2
        assert "free, pro" in done.err
        assert SECRET not in done.out + done.err

    def test_an_unknown_plan_of_the_option_is_found_before_the_log_is_read(self, offline: Terminal) -> None:
        done = run(offline, TWO_PLANS, [line(NOON_US, "listed")], "--plan", "gold")
        assert (done.code, done.out) == (2, "")
        assert "--plan" in done.err
        assert "free, pro" in done.err


class TestCostsAndMatches:
    CONFIG = """
plans:
  only:
    limits:
      all:    {rate: 0/second, burst: 100}
      search: {rate: 0/second, burst: 20, match: {methods: [GET], path: /search/*}}
    costs:
      - {path: /v1/batch, methods: [POST], cost: 10}
      - {path: /search/*, cost: 3}
      - {path: /free, cost: 0}
"""

    def left(self, terminal: Terminal, *lines: dict[str, Any]) -> list[dict[str, int]]:
        found = replayed(terminal, self.CONFIG, lines)
        return [{name: each["remaining"] for name, each in one["limits"].items()} for one in found]

    def test_costs_and_matches_are_the_plans(self, offline: Terminal) -> None:
        assert self.left(
            offline,
            line(NOON_US),
            line(NOON_US, path="/v1/batch"),
            line(NOON_US, method="POST", path="/v1/batch"),
            line(NOON_US, path="/search/books?q=1"),
            line(NOON_US, method="POST", path="/search/books"),
            line(NOON_US, path="/free"),
        ) == [{"all": 99}, {"all": 98}, {"all": 88}, {"all": 85, "search": 17}, {"all": 82}, {"all": 82}]

    def test_the_cost_of_the_line_wins(self, offline: Terminal) -> None:
        assert self.left(
            offline,
            line(NOON_US, method="POST", path="/v1/batch", cost=1),
            line(NOON_US, path="/search/x", cost=20),
            line(NOON_US, path="/free", cost=5),
            line(NOON_US, path="/search/x", cost=0),
        ) == [{"all": 99}, {"all": 79, "search": 0}, {"all": 74}, {"all": 74, "search": 0}]

    def test_a_doubtful_path_falls_to_the_stricter_rule(self, offline: Terminal) -> None:
        assert self.left(
            offline,
            line(NOON_US, method="POST", path="/v1/x/..%2Fbatch"),
            line(NOON_US, path="//search/a"),
            line(NOON_US, path="/x/../search/%61"),
        ) == [{"all": 90}, {"all": 87, "search": 17}, {"all": 84, "search": 14}]

    def test_a_limit_that_is_not_about_the_line_does_not_refuse_it(self, offline: Terminal) -> None:
        lines = [line(NOON_US, path="/search/x", cost=20), line(NOON_US, path="/search/x"), line(NOON_US)]
        found = replayed(offline, self.CONFIG, lines)
        assert [(each["allowed"], each["limit"]) for each in found] == [(True, None), (False, "search"), (True, None)]


class TestModes:
    CONFIG = """
plans:
  only:
    limits:
      trial:   {rate: 0/second, burst: 1, mode: shadow}
      metered: {quota: 2/day, mode: overage}
"""
    LINES = tuple(line(NOON_US + second * SECOND_US) for second in range(4))

    def test_neither_refuses_a_line(self, offline: Terminal) -> None:
        found = replayed(offline, self.CONFIG, self.LINES)
        assert {(each["allowed"], each["outcome"], each["limit"], each["retry_after_us"]) for each in found} == {
            (True, "taken", None, None)
        }
        assert [{name: one["remaining"] for name, one in each["limits"].items()} for each in found] == [
            {"trial": 0, "metered": 1},
            {"trial": 0, "metered": 0},
            {"trial": 0, "metered": 0},
            {"trial": 0, "metered": 0},
        ]
        assert found[0]["limits"]["trial"]["reset_after_us"] is None

    def test_the_summary_says_what_they_would_have_refused(self, offline: Terminal) -> None:
        (client,) = run(offline, self.CONFIG, self.LINES, "--summary", "--json").json
        assert (client["requests"], client["allowed"], client["refused"]) == (4, 4, 0)
        assert client["limits"] == {
            "trial": {"refused": 3, "first_at_us": NOON_US + 1 * SECOND_US},
            "metered": {"refused": 2, "first_at_us": NOON_US + 2 * SECOND_US},
        }


class TestFaultyLines:
    GOOD = json.dumps(line(NOON_US))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (f"{SECRET}", "JSON"),
            (f'{{"at_us": 1, "client": "{SECRET}"', "JSON"),
            (f'{{"at_us": 1, "client": "a", "path": "{SECRET}"}}', "path"),
            (f'{{"at": "{SECRET}", "client": "a"}}', "at"),
            (f'{{"at_us": 1, "at": "1970-01-01T00:00:00Z", "client": "{SECRET}"}}', "at_us"),
            (f'{{"at_us": 1, "client": "a", "cost": "{SECRET}"}}', "cost"),
            (f'{{"at_us": 1, "client": "{SECRET}", "cost": 9007199254740992}}', "cost"),
            (f'{{"at_us": 9007199254740992, "client": "{SECRET}"}}', "at_us"),
            ('{"at_us": 1, "clinet": "a"}', "client"),
            (f'{{"at_us": 1, "client": "a", "method": "{SECRET} x"}}', "method"),
        ],
    )
    def test_the_number_and_the_field_and_nothing_of_the_line(self, offline: Terminal, text: str, said: str) -> None:
        offline.file("plans.yaml", ONE_PLAN)
        done = offline("replay", "--config", "plans.yaml", "-", stdin=f"{self.GOOD}\n\n{text}\n{self.GOOD}\n")
        assert done.code == 2
        assert "line 3: " in done.err
        assert said in done.err
        assert SECRET not in done.out + done.err

    @pytest.mark.parametrize("before", [BATCH + 49, 4 * BATCH])
    def test_deep_in_a_log_the_message_is_all_that_is_said(
        self, offline: Terminal, caplog: pytest.LogCaptureFixture, before: int
    ) -> None:
        """No traceback of the batch that was under way; what was printed before stands, in whole lines."""
        offline.file("plans.yaml", ONE_PLAN)
        done = offline("replay", "--config", "plans.yaml", "-", stdin=f"{self.GOOD}\n" * before + "nonsense\n")
        gc.collect()  # Now a task whose end nobody looked at would be told of.
        assert done.code == 2
        assert done.err.startswith(f"error: line {before + 1}: ")
        assert caplog.text == ""
        assert len(done.lines) <= before

    def test_a_missing_log(self, offline: Terminal) -> None:
        offline.file("plans.yaml", ONE_PLAN)
        done = offline("replay", "--config", "plans.yaml", "none.jsonl")
        assert (done.code, done.out) == (2, "")
        assert "none.jsonl" in done.err

    def test_a_bad_plan_file(self, offline: Terminal) -> None:
        done = run(offline, limits(b={"rate": "5/fortnight"}), [line(NOON_US)])
        assert (done.code, done.out) == (2, "")
        assert "plans.only.limits.b" in done.err

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--log-format", "combnied"), "combined"),
            (("--log-format", "json"), "--client-from"),
            (("--client-from", "remote_user"), "--client-from"),
            (("--log-format", "combined", "--time-from", "x"), "--time-from"),
            (("--log-format", "combined", "--client-from", "user"), "remote_user"),
            (("--nonsense",), "--nonsense"),
        ],
    )
    def test_wrong_options(self, offline: Terminal, options: tuple[str, ...], said: str) -> None:
        done = run(offline, ONE_PLAN, [line(NOON_US)], *options)
        assert (done.code, done.out) == (2, "")
        assert said in done.err


def steps(found: Sequence[Any], limit: str) -> list[tuple[bool, int, float | None]]:
    """Of each decision: allowed, what the limit has left, and the wait in seconds."""
    return [
        (
            each["allowed"],
            each["limits"][limit]["remaining"],
            None if each["retry_after_us"] is None else each["retry_after_us"] / SECOND_US,
        )
        for each in found
    ]


class TestCases:
    """The cases of public reports that a log can tell, in the numbers that were reckoned for them."""

    def at(self, *seconds: float, plan: str | None = None) -> list[dict[str, Any]]:
        return [line(NOON_US + round(second * SECOND_US), plan=plan) for second in seconds]

    def test_c02_a_refused_cost_is_not_kept_as_a_debt(self, offline: Terminal) -> None:
        lines = [line(NOON_US, cost=cost) for cost in (8, 5, 2)]
        found = replayed(offline, limits(b={"rate": "1 per 10 seconds", "burst": 10}), lines)
        assert steps(found, "b") == [(True, 2, None), (False, 2, 30), (True, 0, None)]

    def test_c02_what_one_refuses_the_other_is_not_charged_for(self, offline: Terminal) -> None:
        config = limits(second={"rate": "1/second", "burst": 1}, day={"quota": "2/day"})
        found = replayed(offline, config, self.at(0, 0, 1, 2))
        assert [each["limit"] for each in found] == [None, "second", None, "day"]
        assert [each["limits"]["day"]["remaining"] for each in found] == [1, 1, 0, 0]

    def test_c02_the_bucket_is_not_drained_by_what_the_quota_refuses(self, offline: Terminal) -> None:
        config = limits(once={"rate": "0/second", "burst": 5}, day={"quota": "1/day"})
        found = replayed(offline, config, self.at(*[0] * 10))
        assert [each["allowed"] for each in found] == [True] + [False] * 9
        assert {each["limits"]["once"]["remaining"] for each in found} == {4}

    def test_c02_refused_calls_do_not_eat_a_later_raise(self, offline: Terminal) -> None:
        config = "plans: {ten: {limits: {month: {quota: 10/month}}}, twenty: {limits: {month: {quota: 20/month}}}}"
        lines = self.at(*[0] * 20, plan="ten") + self.at(*[1] * 20, plan="twenty")
        found = replayed(offline, config, lines)
        assert [each["allowed"] for each in found] == ([True] * 10 + [False] * 10) * 2

    def test_c05_polling_does_not_lose_the_refill(self, offline: Terminal) -> None:
        found = replayed(offline, limits(b={"rate": "1 per 10 seconds", "burst": 1}), self.at(*range(11)))
        assert [each["allowed"] for each in found] == [True] + [False] * 9 + [True]

    def test_c05_half_tokens_add_up(self, offline: Terminal) -> None:
        found = replayed(offline, limits(b={"rate": "1/second", "burst": 4}), self.at(*(half / 2 for half in range(8))))
        assert [each["allowed"] for each in found] == [True] * 7 + [False]
        assert found[-1]["retry_after_us"] == 500_000  # Retry-After 1, in whole seconds.

    def test_c05_no_float_in_between(self, offline: Terminal) -> None:
        start_us = 1_767_225_600_000_000
        found = replayed(
            offline, limits(b={"rate": "10/second", "burst": 1}), [line(start_us), line(start_us + 100_000)]
        )
        assert [each["allowed"] for each in found] == [True, True]

    def test_c06_a_quota_changed_in_its_month(self, offline: Terminal) -> None:
        config = """
plans:
  large:  {limits: {month: {quota: 5000000/month}}}
  ten:    {limits: {month: {quota: 10/month}}}
  eleven: {limits: {month: {quota: 35/month}}}
  raised: {limits: {month: {quota: 100/month}}}
"""
        at_us = us("2026-06-22T00:00:00+00:00")
        lines = [
            line(us("2026-06-10T00:00:00+00:00"), plan="large", cost=35),
            line(at_us, plan="ten"),
            line(at_us, plan="eleven"),
            line(at_us, plan="raised"),
        ]
        found = replayed(offline, config, lines)
        assert steps(found, "month") == [
            (True, 4_999_965, None),
            (False, 0, 777_600),
            (False, 0, 777_600),
            (True, 64, None),
        ]
        assert {each["outcome"] for each in found} == {"taken", "wait"}

    def test_c06_a_bucket_changed_while_it_refills(self, offline: Terminal) -> None:
        config = """
plans:
  large: {limits: {b: {rate: 1/day, burst: 100}}}
  small: {limits: {b: {rate: 1/day, burst: 10}}}
  quick: {limits: {b: {rate: 10/second, burst: 100}}}
"""
        lines = [
            line(NOON_US, "lowered", plan="large", cost=40),
            line(NOON_US, "lowered", plan="small", cost=0),
            line(NOON_US, "raised", plan="small", cost=6),
            line(NOON_US, "raised", plan="quick", cost=0),
            line(NOON_US + SECOND_US, "raised", plan="quick", cost=0),
        ]
        assert steps(replayed(offline, config, lines), "b") == [
            (True, 60, None),
            (True, 10, None),
            (True, 4, None),
            (True, 4, None),
            (True, 14, None),
        ]

    def test_c06_to_and_fro_mints_nothing(self, offline: Terminal) -> None:
        config = """
plans:
  day:   {limits: {day: {quota: 5/day}, b: {rate: 1/day, burst: 8}}}
  other: {limits: {b: {rate: 1/day, burst: 3}}}
"""
        lines = [line(NOON_US, plan=plan) for plan in ("day", "other") * 5]
        found = replayed(offline, config, lines)
        assert [each["allowed"] for each in found] == [True] * 4 + [False] * 6

    def test_c15_a_slow_bucket_is_not_forgotten_while_it_is_empty(self, offline: Terminal) -> None:
        found = replayed(offline, limits(b={"rate": "1 per 15 seconds", "burst": 3}), self.at(0, 0, 0, 7, 15))
        assert steps(found, "b") == [(True, 2, None), (True, 1, None), (True, 0, None), (False, 0, 8), (True, 0, None)]

    def test_c15_a_fast_bucket_is_not_switched_off(self, offline: Terminal) -> None:
        found = replayed(offline, limits(b={"rate": "3/second", "burst": 1}), self.at(*[0] * 5))
        assert [each["allowed"] for each in found] == [True] + [False] * 4

    @pytest.mark.parametrize("rate", ["1000/second", "1 per 1 microsecond", "1000000/second"])
    def test_c15_nor_one_that_is_full_before_the_next_line_is_read(self, offline: Terminal, rate: str) -> None:
        """The clock of the log decides when it is full, and not the one that the replay takes its time by."""
        found = replayed(offline, limits(b={"rate": rate, "burst": 1}), self.at(*[0] * 3 * BATCH))
        assert sum(each["allowed"] for each in found) == 1

    def test_c15_what_never_refills_is_never_full_again(self, offline: Terminal) -> None:
        found = replayed(offline, limits(b={"rate": "0/second", "burst": 5}), self.at(*[0] * 6, 86_400 * 3_650))
        assert [each["outcome"] for each in found] == ["taken"] * 5 + ["never"] * 2
        assert [each["retry_after_us"] for each in found] == [None] * 7

    def test_c15_a_burst_of_0_is_no_configuration(self, offline: Terminal) -> None:
        done = run(offline, limits(b={"rate": "1/second", "burst": 0}), self.at(0))
        assert (done.code, done.out) == (2, "")
        assert "plans.only.limits.b.burst" in done.err

    @pytest.mark.parametrize(
        ("timezone", "at", "wait_s"),
        [
            ("America/New_York", "2026-03-08T05:00:00+00:00", 82_800),
            ("America/New_York", "2026-11-01T04:00:00+00:00", 90_000),
            ("America/Santiago", "2026-09-06T03:59:59+00:00", 1),
            ("Asia/Shanghai", "2026-09-08T23:47:00+00:00", 16 * 3_600 + 13 * 60),
        ],
    )
    def test_c19_the_day_is_the_local_one(self, offline: Terminal, timezone: str, at: str, wait_s: int) -> None:
        at_us = us(at)
        due_us = at_us + wait_s * SECOND_US
        lines = [line(at_us), line(at_us), line(due_us - 1), line(due_us)]
        found = replayed(offline, limits(d={"quota": "1/day", "timezone": timezone}), lines)
        assert steps(found, "d") == [(True, 0, None), (False, 0, wait_s), (False, 0, 1e-6), (True, 0, None)]

    @pytest.mark.parametrize(
        ("exhausted", "checks"),
        [
            (
                "2026-01-01T00:00:00+00:00",
                [
                    ("2026-01-31T00:00:00+00:00", (False, 0, 86_400)),
                    ("2026-01-31T23:59:59+00:00", (False, 0, 1)),
                    ("2026-02-01T00:00:00+00:00", (True, 9, None)),
                ],
            ),
            ("2028-02-29T00:00:00+00:00", [("2028-02-29T00:00:00+00:00", (False, 0, 86_400))]),
            ("2026-12-31T23:59:59+00:00", [("2026-12-31T23:59:59+00:00", (False, 0, 1))]),
            ("2026-02-01T00:00:00+00:00", [("2026-02-01T00:00:00+00:00", (False, 0, 2_419_200))]),
            ("2028-02-01T00:00:00+00:00", [("2028-02-01T00:00:00+00:00", (False, 0, 2_505_600))]),
        ],
    )
    def test_c29_a_month_is_not_30_days(
        self, offline: Terminal, exhausted: str, checks: list[tuple[str, tuple[bool, int, float | None]]]
    ) -> None:
        lines = [line(us(exhausted), cost=10), *(line(us(at)) for at, _ in checks)]
        found = replayed(offline, limits(m={"quota": "10/month"}), lines)
        assert steps(found, "m") == [(True, 0, None), *(right for _, right in checks)]


class TestClockThatStepsBack:
    def test_it_earns_nothing_and_locks_nobody_out(self, offline: Terminal) -> None:
        seconds = (100, 100, 100, 0, 1, 1, 50)
        lines = [line(NOON_US + second * SECOND_US) for second in seconds]
        assert steps(replayed(offline, ONE_PLAN, lines), "burst") == [
            (True, 1, None),
            (True, 0, None),
            (False, 0, 1),
            (False, 0, 1),
            (True, 0, None),
            (False, 0, 1),
            (True, 1, None),
        ]

    def test_over_the_start_of_a_month_nothing_used_is_forgotten(self, offline: Terminal) -> None:
        start_us = us("2026-02-01T00:00:00+00:00")
        lines = [line(start_us + 5 * SECOND_US), line(start_us - 5 * SECOND_US), line(start_us + 6 * SECOND_US)]
        found = replayed(offline, limits(m={"quota": "2/month"}), lines)
        assert [each["allowed"] for each in found] == [True, True, False]

    def test_by_far_more_than_a_window_what_was_used_goes_along(self, offline: Terminal) -> None:
        """Neither forgotten nor kept for longer than one window."""
        config = limits(h={"quota": "1/hour"}, d={"quota": "9/day", "timezone": "Asia/Kolkata"})
        hours = (0, -960, -959, -959, 9_600, 9_600, -24, -23)
        found = replayed(offline, config, [line(NOON_US + hour * 3_600 * SECOND_US) for hour in hours])
        assert [each["allowed"] for each in found] == [True, False, True, False, True, False, False, True]


class TestAgainstTheModel:
    CONFIG = """
plans:
  only:
    limits:
      second: {rate: 7 per 3 seconds, burst: 5}
      search: {rate: 90/minute, burst: 4, match: {methods: [GET], path: /search/*}}
      day:    {quota: 12/day, timezone: America/New_York}
      trial:  {rate: 1/second, burst: 1, mode: shadow}
    costs:
      - {path: /v1/batch, methods: [POST], cost: 4}
"""

    def test_5000_lines_of_500_clients_to_the_integer(self, offline: Terminal) -> None:
        source = random.Random(20_261_125)
        plan = plan_files.parse(self.CONFIG, "test").plans["only"]
        memories: dict[str, Memory | None] = {}
        now_us, lines, right = us("2026-03-08T04:00:00+00:00"), [], []
        for _ in range(5_000):
            now_us += source.choice([0, 1, 999, 20_000, 40_000, 40_000, 5_000_000, -3_000_000])
            client = f"client {source.randrange(500)}"
            method, path = source.choice(["GET", "POST"]), source.choice(["/", "/search/a", "/v1/batch", "/v1/%2Fa"])
            cost = source.choice([None, None, None, 0, 2, 6])
            lines.append(line(now_us, client, method=method, path=path, **({} if cost is None else {"cost": cost})))
            readings = paths.readings(path.encode())
            memories[client], decision = take(
                plan.limits,
                memories.get(client),
                now_us=now_us,
                cost=plan.cost(method, readings) if cost is None else cost,
                skipped=plan.skipped(method, readings),
            )
            right.append(expected(client, {"at_us": now_us, **answer(decision)}))
        found = replayed(offline, self.CONFIG, lines)
        assert len({each["client"] for each in found}) == 500
        assert 1_000 < sum(each["allowed"] for each in found) < 4_900
        assert found == right


class TestSummary:
    LINES = (
        *(line(NOON_US + 10 * SECOND_US + tenth * 100_000, "busy") for tenth in range(5)),
        line(NOON_US + 12 * SECOND_US, "calm"),
        *(line(NOON_US + 20 * SECOND_US, "busy") for _ in range(3)),
        line(NOON_US + 20 * SECOND_US, "big", cost=3),
        line(NOON_US + 20 * SECOND_US, "large", cost=3),
    )
    CONFIG = limits(b={"rate": "1/second", "burst": 2}, d={"quota": "3/day"})
    COUNTS = (
        {
            "client": "busy",
            "requests": 8,
            "allowed": 3,
            "refused": 5,
            "busiest_second": {"at_us": NOON_US + 10 * SECOND_US, "requests": 5},
            "limits": {
                "b": {"refused": 3, "first_at_us": NOON_US + 10 * SECOND_US + 200_000},
                "d": {"refused": 2, "first_at_us": NOON_US + 20 * SECOND_US},
            },
        },
        *(
            {
                "client": name,
                "requests": 1,
                "allowed": 0,
                "refused": 1,
                "busiest_second": {"at_us": NOON_US + 20 * SECOND_US, "requests": 1},
                "limits": {"b": {"refused": 1, "first_at_us": NOON_US + 20 * SECOND_US}},
            }
            for name in ("big", "large")
        ),
        {
            "client": "calm",
            "requests": 1,
            "allowed": 1,
            "refused": 0,
            "busiest_second": {"at_us": NOON_US + 12 * SECOND_US, "requests": 1},
            "limits": {},
        },
    )

    def test_for_machines(self, offline: Terminal) -> None:
        """The most refused first, then by name; the first instant that hurts, the second with the most requests."""
        done = run(offline, self.CONFIG, self.LINES, "--summary", "--json")
        assert (done.code, done.err) == (0, "")
        assert done.json == list(self.COUNTS)

    def test_for_people(self, offline: Terminal) -> None:
        done = run(offline, self.CONFIG, self.LINES, "--summary")
        assert (done.code, done.err) == (0, "")
        first, titles, *rows = done.rows
        assert first.endswith("plans.yaml: 11 requests of 4 clients, 7 refused, 3 clients hurt")
        assert titles == "client requests refused limit would refuse first busiest second"
        assert rows == [
            "busy 8 5 b 3 2026-03-10T12:00:10Z 5 at 2026-03-10T12:00:10Z",
            "d 2 2026-03-10T12:00:20Z",
            "big 1 1 b 1 2026-03-10T12:00:20Z 1 at 2026-03-10T12:00:20Z",
            "large 1 1 b 1 2026-03-10T12:00:20Z 1 at 2026-03-10T12:00:20Z",
            "calm 1 0 1 at 2026-03-10T12:00:12Z",
        ]

    def test_the_rest_of_many_clients_is_told_and_machines_get_all(self, offline: Terminal) -> None:
        lines = [line(NOON_US, f"client {number}") for number in range(60)]
        assert len(run(offline, ONE_PLAN, lines, "--summary", "--json").json) == 60
        done = run(offline, ONE_PLAN, lines, "--summary")
        assert len(done.rows) == 2 + 50 + 1
        assert "10 clients more" in done.rows[-1]

    def test_names_are_shown_as_they_are(self, offline: Terminal) -> None:
        names = ["[red]x[/red]", ":smile:", "[/]", "日本語"]
        done = run(offline, ONE_PLAN, [line(NOON_US, name) for name in names], "--summary")
        assert (done.code, done.err) == (0, "")
        assert {row.split()[0] for row in done.rows[2:]} == set(names)


class TestCompare:
    TIGHT = limits(b={"rate": "0/second", "burst": 1})
    ROOMY = limits(b={"rate": "0/second", "burst": 4})
    LINES = tuple(line(NOON_US, name) for name in ("a", "b", "a", "a", "a", "b", "c"))

    def compared(self, terminal: Terminal, first: str, second: str, *options: str) -> Done:
        terminal.file("other.yaml", second)
        done = run(terminal, first, self.LINES, "--compare", "other.yaml", *options)
        assert (done.code, done.err) == (0, "")
        return done

    def test_the_first_column_is_the_first_file(self, offline: Terminal) -> None:
        done = self.compared(offline, self.TIGHT, self.ROOMY)
        here = str(offline.folder)
        assert done.rows == [
            f"{here}/plans.yaml: 7 requests of 3 clients, 4 refused, 2 clients hurt",
            f"{here}/other.yaml: 7 requests of 3 clients, 0 refused, 0 clients hurt",
            f"client requests refused by {here}/plans.yaml refused by {here}/other.yaml difference",
            "a 4 3 0 -3",
            "b 2 1 0 -1",
            "c 1 0 0 +0",
        ]

    def test_and_the_other_way_round(self, offline: Terminal) -> None:
        done = self.compared(offline, self.ROOMY, self.TIGHT)
        assert done.rows[-3:] == ["a 4 0 3 +3", "b 2 0 1 +1", "c 1 0 0 +0"]

    def test_for_machines_a_summary_for_each_file(self, offline: Terminal) -> None:
        found = self.compared(offline, self.TIGHT, self.ROOMY, "--json").json
        assert [Path(source).name for source in found] == ["plans.yaml", "other.yaml"]
        refused = [{each["client"]: each["refused"] for each in summary} for summary in found.values()]
        assert refused == [{"a": 3, "b": 1, "c": 0}, {"a": 0, "b": 0, "c": 0}]

    def test_over_many_batches_both_see_every_line(self, offline: Terminal) -> None:
        offline.file("other.yaml", self.ROOMY)
        lines = [line(NOON_US, f"client {number % 7}") for number in range(3 * BATCH + 5)]
        done = run(offline, self.TIGHT, lines, "--compare", "other.yaml", "--json")
        for summary, allowed in zip(done.json.values(), (7, 28), strict=True):
            assert sum(each["requests"] for each in summary) == len(lines)
            assert sum(each["allowed"] for each in summary) == allowed

    def test_the_plan_option_is_for_both_files(self, offline: Terminal) -> None:
        """A log without plans under two files of several plans: the option is the only way to name one."""
        offline.file("other.yaml", TWO_PLANS.replace("burst: 5", "burst: 3"))
        done = run(offline, TWO_PLANS, self.LINES, "--compare", "other.yaml", "--plan", "pro", "--json")
        assert (done.code, done.err) == (0, "")
        assert [sum(each["refused"] for each in summary) for summary in done.json.values()] == [0, 1]

    def test_a_file_against_itself_is_two_of_the_same(self, offline: Terminal) -> None:
        done = run(offline, self.TIGHT, self.LINES, "--compare", "plans.yaml")
        assert (done.code, done.err) == (0, "")
        assert done.rows[-3:] == ["a 4 3 3 +0", "b 2 1 1 +0", "c 1 0 0 +0"]

    def test_a_bad_second_file(self, offline: Terminal) -> None:
        offline.file("other.yaml", limits(b={"rate": "5/fortnight"}))
        done = run(offline, self.TIGHT, self.LINES, "--compare", "other.yaml")
        assert (done.code, done.out) == (2, "")
        assert "other.yaml" in done.err
        assert "plans.only.limits.b" in done.err


class TestForeignLogs:
    COMBINED = (
        '192.0.2.1 - ada [10/Mar/2026:12:00:00 +0000] "GET /search/a?key=SECRET123 HTTP/1.1" 200 5 "-" "curl/8"\n'
        '192.0.2.1 - - [10/Mar/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "curl/8"\n'
        '192.0.2.2 - ada [10/Mar/2026:13:00:01 +0100] "POST / HTTP/1.1" 200 5 "-" "curl/8"\n'
        '192.0.2.2 - ada [10/Mar/2026:12:00:01 +0000] "\\x16\\x03\\x01" 400 5 "-" "-"\n'
    )
    CONFIG = limits(
        all={"rate": "0/second", "burst": 3}, search={"rate": "0/second", "burst": 9, "match": {"path": "/search/*"}}
    )

    def read(self, terminal: Terminal, log: str, *options: str) -> Done:
        terminal.file("plans.yaml", self.CONFIG)
        terminal.file("access.log", log)
        return terminal("replay", "--config", "plans.yaml", "access.log", *options)

    def test_combined_by_user(self, offline: Terminal) -> None:
        done = self.read(offline, self.COMBINED, "--log-format", "combined")
        assert done.code == 0
        assert [(each["client"], each["at_us"], sorted(each["limits"])) for each in done.lines] == [
            ("ada", NOON_US, ["all", "search"]),
            ("ada", NOON_US + SECOND_US, ["all"]),
        ]
        assert sorted(done.err.splitlines()) == [
            "skipped 1 lines: no HTTP request",
            "skipped 1 lines: no client, or none that could have this name",
        ]
        assert SECRET not in done.out + done.err

    def test_combined_by_address(self, offline: Terminal) -> None:
        done = self.read(offline, self.COMBINED, "--log-format", "combined", "--client-from", "remote_addr")
        assert done.code == 0
        assert [each["client"] for each in done.lines] == ["192.0.2.1", "192.0.2.1", "192.0.2.2"]
        assert done.err.splitlines() == ["skipped 1 lines: no HTTP request"]

    def test_json(self, offline: Terminal) -> None:
        log = jsonl(
            [
                {"ts": 1773144000.25, "request": {"method": "GET", "uri": "/search/x?a=SECRET123", "who": ["ada"]}},
                {"ts": 1773144000.5, "request": {"method": "POST", "uri": "/", "who": []}},
                {"ts": 1773144001, "request": {"method": "GET", "uri": "/", "who": ["bob"]}},
            ]
        )
        done = self.read(offline, log, "--log-format", "json", "--client-from", "request.who.0")
        assert done.code == 0
        assert [(each["client"], each["at_us"], sorted(each["limits"])) for each in done.lines] == [
            ("ada", NOON_US + 250_000, ["all", "search"]),
            ("bob", NOON_US + SECOND_US, ["all"]),
        ]
        assert done.err.splitlines() == ["skipped 1 lines: no client, or none that could have this name"]
        assert SECRET not in done.out + done.err

    @pytest.mark.parametrize("options", [(), ("--summary",), ("--summary", "--json")])
    def test_no_line_with_a_client_is_wrong_use(self, offline: Terminal, options: tuple[str, ...]) -> None:
        log = self.COMBINED.replace(" ada ", " - ")
        done = self.read(offline, log, "--log-format", "combined", *options)
        assert (done.code, done.out) == (2, "")
        assert "skipped" in done.err
        assert "--client-from" in done.err

    def test_a_line_of_another_kind_is_told_by_its_number(self, offline: Terminal) -> None:
        done = self.read(offline, self.COMBINED + f"{SECRET}\n", "--log-format", "combined")
        assert done.code == 2
        assert "line 5: " in done.err
        assert SECRET not in done.out + done.err

    def test_a_credential_that_stands_for_a_client_is_not_told_in_a_fault(self, offline: Terminal) -> None:
        """Logs name clients by what they sent, and a header can be a key."""
        offline.file("plans.yaml", TWO_PLANS)
        log = jsonl([{"ts": 1773144000, "request": {"headers": {"X-Api-Key": [SECRET]}}}])
        words = ("--log-format", "json", "--client-from", "request.headers.X-Api-Key.0")
        done = offline("replay", "--config", "plans.yaml", "-", *words, stdin=log)
        assert done.code == 2
        assert "--plan" in done.err
        assert SECRET not in done.out + done.err


class TestLiveState:
    LINES = tuple(line(NOON_US, name) for name in ("acme", "acme", "acme", "listed"))

    def used(self, terminal: Terminal) -> None:
        """Clients of the same names as those of the log, with keys, and one that has spent something."""
        terminal.file("plans.yaml", TWO_PLANS)
        terminal.environment["QUOTAS_CONFIG"] = "plans.yaml"
        for name in ("acme", "listed"):
            terminal.good("clients", "create", name, "--plan", "free")
            assert terminal("keys", "create", "--client", name).code == 0

    def test_of_the_named_store(self, terminal: Terminal, redis_url: str) -> None:
        self.used(terminal)

        async def spend(store: Store) -> None:
            await store.call("SET", "q1:{cl_0}:state", "of somebody else", "PX", 10**9)
            await store.call("HSET", "q1:{cl_0}:client", "generation", 7)

        with_store(redis_url, spend)
        before = snapshot(redis_url)
        assert len(before) == 11
        run(terminal, TWO_PLANS, self.LINES, "--plan", "free", "--compare", "plans.yaml", "--summary")
        found = replayed(terminal, TWO_PLANS, self.LINES, "--plan", "free")
        assert [each["allowed"] for each in found] == [True, True, False, True]
        assert snapshot(redis_url) == before

    def test_of_the_private_store_of_a_service(self, offline: Terminal) -> None:
        with tempfile.TemporaryDirectory() as folder, embedded.hold(Path(folder)) as url:
            offline.environment["QUOTAS_DATA_DIR"] = folder
            self.used(offline)
            before = snapshot(url)
            files = {file.name for file in Path(folder).iterdir()}
            assert [each["allowed"] for each in replayed(offline, ONE_PLAN, self.LINES)] == [True, True, False, True]
            assert snapshot(url) == before
            assert {file.name for file in Path(folder).iterdir()} == files

    @pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1/0", "unix:///nowhere/none.sock"])
    def test_none_is_needed_and_none_is_made(self, offline: Terminal, url: str | None) -> None:
        if url is not None:
            offline.environment["QUOTAS_REDIS_URL"] = url
        assert replayed(offline, ONE_PLAN, self.LINES)
        assert sorted(file.name for file in offline.folder.iterdir()) == ["log.jsonl", "plans.yaml"]

    @pytest.mark.parametrize(("lines", "code"), [(LINES, 0), ((line(NOON_US, ""),), 2)])
    def test_its_own_store_goes_with_it(self, offline: Terminal, lines: Sequence[dict[str, Any]], code: int) -> None:
        with tempfile.TemporaryDirectory() as folder, patch.object(tempfile, "tempdir", folder):
            assert run(offline, ONE_PLAN, lines).code == code
            assert list(Path(folder).iterdir()) == []


class TestBoundedMemory:
    """Held against the structure: how far the log is read ahead of what has been decided."""

    def test_the_log_is_read_two_batches_ahead_and_no_more(self, redis_url: str) -> None:
        read = 0

        def log() -> Iterator[LoggedRequest]:
            nonlocal read
            for number in range(8 * BATCH + 3):
                read += 1
                yield LoggedRequest(NOON_US + number, f"client {number % 5}")

        async def work(store: Store) -> list[tuple[int, int]]:
            replay = Replay(store, plan_files.parse(ONE_PLAN, "test"))
            done, seen = 0, []
            async for batch in replay.run(log()):
                done += len(batch)
                seen.append((done, read))
            return seen

        seen = with_store(redis_url, work)
        assert [done for done, _ in seen] == [min(8 * BATCH + 3, number * BATCH) for number in range(1, 10)]
        assert all(ahead - done <= BATCH for done, ahead in seen)

    def test_a_file_is_read_line_by_line(self) -> None:
        text = jsonl([line(NOON_US + number) for number in range(100)]).encode()
        log = LogFile(io.BytesIO(text), parser())
        requests = iter(log)
        assert next(requests).at_us == NOON_US
        assert log.read == text.index(b"\n") + 1
        assert len(list(requests)) == 99
        assert log.read == len(text)

    def test_a_summary_grows_with_clients_and_not_with_lines(self, redis_url: str) -> None:
        """What a replay keeps of a client is one id."""

        async def work(store: Store) -> int:
            replay = Replay(store, plan_files.parse(ONE_PLAN, "test"))
            requests = (LoggedRequest(NOON_US + number, f"client {number % 3}") for number in range(4 * BATCH))
            async for _ in replay.run(requests):
                pass
            return int(await store.call("DBSIZE"))

        assert with_store(redis_url, work) == 2 * 3  # A record and a state for each.
