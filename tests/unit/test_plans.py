"""Plans as text: what is right is read exactly, what is wrong is told whole, with its path, and nothing hangs."""

from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import quotas
from quotas.errors import ConfigError
from quotas.faces import FACES
from quotas.limits import Bucket, Limit, Mode, Per, Quota, Window
from quotas.places import ALWAYS
from quotas.plan_files import parse
from quotas.plans import Config, Dedupe, HeaderStyle, Preflight, StoreErrorPolicy
from quotas.rates import parse_quota, parse_rate
from quotas.requests import _looked_at

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 86_400 * SECOND
A = "plans.free.limits.a"


def of_limit(body: str) -> str:
    """A file with one plan of one limit, `a`."""
    return f"plans:\n  free:\n    limits:\n      a: {body}\n"


def read(body: str) -> Limit:
    (limit,) = parse(of_limit(body), "test").plans["free"].limits
    return limit


def all_faults(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "quotas.yaml")
    assert caught.value.source == "quotas.yaml"
    for fault in caught.value.faults:
        assert fault.path
        assert fault.message
    return [(fault.path, fault.message) for fault in caught.value.faults]


def only_fault(text: str) -> tuple[str, str]:
    (fault,) = all_faults(text)
    return fault


def bucket(count: int, period_us: int, burst: int) -> Bucket:
    return Bucket(count=count, period_us=period_us, burst=burst)


class TestReading:
    def test_a_thousand_clients_are_counted_by_name_unless_the_file_says_otherwise(self) -> None:
        assert parse(of_limit("{rate: 5/day}"), "test").max_clients == 1000
        for text, expected in (("{}", 1000), ("{max_clients: 0}", 0), ("{max_clients: 10_000}", 10_000)):
            assert parse(of_limit("{rate: 5/day}") + f"metrics: {text}", "test").max_clients == expected

    @pytest.mark.parametrize(
        ("text", "path", "message"),
        [
            ("{max_clients: -1}", "metrics.max_clients", "greater than or equal to 0"),
            ("{max_clients: 10001}", "metrics.max_clients", "less than or equal to 10000"),
            ("{max_clients: many}", "metrics.max_clients", "integer"),
            ("{max_client: 5}", "metrics.max_client", "did you mean `max_clients`?"),
        ],
    )
    def test_a_bound_that_is_none_is_a_fault(self, text: str, path: str, message: str) -> None:
        found = only_fault(of_limit("{rate: 5/day}") + f"metrics: {text}")
        assert found[0] == path
        assert message in found[1]

    @pytest.mark.parametrize("preflight", Preflight)
    def test_preflights_are_checked_unless_they_are_to_pass(self, preflight: Preflight) -> None:
        assert parse(of_limit("{rate: 5/day}"), "test").preflight is Preflight.CHECK
        assert parse(of_limit("{rate: 5/day}") + f"preflight: {preflight.value}", "test").preflight is preflight

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("{}", Dedupe(b"x-request-id", 5 * SECOND)),
            ("{header: X-Trace, within: 500 ms}", Dedupe(b"x-trace", SECOND // 2)),
            ("{within: 1ms}", Dedupe(b"x-request-id", 1_000)),
            ("{within: 2 seconds}", Dedupe(b"x-request-id", 2 * SECOND)),
            ("{within: 1 minute}", Dedupe(b"x-request-id", 60 * SECOND)),
            ("{within: 1 min}", Dedupe(b"x-request-id", 60 * SECOND)),
        ],
    )
    def test_how_checks_that_are_sent_twice_are_known(self, text: str, expected: Dedupe) -> None:
        assert parse(of_limit("{rate: 5/day}"), "test").dedupe is None
        assert parse(of_limit("{rate: 5/day}") + f"dedupe: {text}", "test").dedupe == expected

    @pytest.mark.parametrize(
        ("text", "months", "days"), [("", 13, 404), ("usage: {}", 13, 404), ("usage: {keep_months: 36}", 36, 1117)]
    )
    def test_how_long_usage_is_kept(self, text: str, months: int, days: int) -> None:
        config = parse(of_limit("{rate: 5/day}") + text, "test")
        assert (config.keep_months, config.keep_s) == (months, days * 86_400)

    def test_no_usage_is_kept_for_0_months(self) -> None:
        assert parse(of_limit("{rate: 5/day}") + "usage: {keep_months: 0}", "test").keep_s == 0

    @pytest.mark.parametrize("name", sorted({name for face in FACES for name in _looked_at(face, ALWAYS, None)}))
    def test_no_header_that_is_read_otherwise_can_be_the_id(self, name: bytes) -> None:
        path, message = only_fault(of_limit("{rate: 5/day}") + f"dedupe: {{header: {name.decode().title()}}}")
        assert path == "dedupe.header"
        assert "a meaning of its own" in message

    def test_the_id_is_no_place_of_a_credential(self) -> None:
        text = of_limit("{rate: 5/day}") + "credentials: {header: X-My-Key}\ndedupe: {header: x-my-key}"
        assert only_fault(text) == ("dedupe.header", "is where `credentials` looks for one; name another header")

    @pytest.mark.parametrize("style", HeaderStyle)
    def test_headers_are_of_one_style(self, style: HeaderStyle) -> None:
        assert parse(of_limit("{rate: 5/day}"), "test").headers is HeaderStyle.DRAFT
        assert parse(of_limit("{rate: 5/day}") + f"headers: {style.value}", "test").headers is style

    def test_the_example_of_the_design(self) -> None:
        config = parse(
            """
plans:
  free:
    limits:
      per-second: {rate: 5/second, burst: 10}
      monthly:    {quota: 10000/month}
  pro:
    limits:
      per-second: {rate: 100/second, burst: 200}
      odd:        {rate: 13 per 7 seconds, burst: 29}
      per-key:    {rate: 50/second, per: key}
      monthly:    {quota: 1000000/month, timezone: America/New_York, anchor_day: 15}
    on_store_error: allow
""",
            "quotas.yaml",
        )
        assert config.source == "quotas.yaml"
        assert list(config.plans) == ["free", "pro"]
        assert config.plans["free"].name == "free"
        assert config.plans["free"].on_store_error is StoreErrorPolicy.DENY
        assert config.plans["free"].limits == (
            Limit("per-second", bucket(5, SECOND, 10)),
            Limit("monthly", Quota(units=10_000, window=Window.MONTH)),
        )
        assert config.plans["pro"].on_store_error is StoreErrorPolicy.ALLOW
        assert config.plans["pro"].limits == (
            Limit("per-second", bucket(100, SECOND, 200)),
            Limit("odd", bucket(13, 7 * SECOND, 29)),
            Limit("per-key", bucket(50, SECOND, 50), per=Per.KEY),
            Limit("monthly", Quota(units=1_000_000, window=Window.MONTH, timezone="America/New_York", anchor_day=15)),
        )

    def test_a_test_plan(self) -> None:
        limits = "limits: {a: {rate: 1/second}}"
        config = parse(f"plans: {{pro: {{{limits}, test_plan: box}}, box: {{{limits}, test_plan: box}}}}", "test")
        assert [plan.test_plan for plan in config.plans.values()] == ["box", "box"]
        wrong = f"plans: {{pro: {{{limits}, test_plan: boks}}, box: {{{limits}, test_plan: 5}}}}"
        assert sorted(all_faults(wrong)) == [
            ("plans.box.test_plan", "Input should be a valid string (given: 5)"),
            ("plans.pro.test_plan", "there is no plan 'boks' in `plans`"),
        ]

    def test_the_starter_file_is_right(self) -> None:
        starter = Path(quotas.__path__[0]) / "examples" / "quotas.example.yaml"
        config = parse(starter.read_text("utf-8"), starter.name)
        assert config.plans["free"].limits == (Limit("per-second", bucket(5, SECOND, 10)),)

    @pytest.mark.parametrize(
        ("text", "count", "period_us"),
        [
            ("5/second", 5, SECOND),
            ("5 / second", 5, SECOND),
            (" 5/seconds ", 5, SECOND),
            ("5 per second", 5, SECOND),
            ("100 per minute", 100, 60 * SECOND),
            ("13 per 7 seconds", 13, 7 * SECOND),
            ("13/7 seconds", 13, 7 * SECOND),
            ("1 per 15 seconds", 1, 15 * SECOND),
            ("70000/second", 70_000, SECOND),
            ("1_000_000/day", 1_000_000, DAY),
            ("1 per 1_000 milliseconds", 1, SECOND),
            ("5/millisecond", 5, 1_000),
            ("5/microsecond", 5, 1),
            ("30/minute", 30, 60 * SECOND),
            ("7/hours", 7, HOUR),
            ("7/week", 7, 7 * DAY),
            ("1 per 366 days", 1, 366 * DAY),
            ("0/second", 0, SECOND),
        ],
    )
    def test_a_rate(self, text: str, count: int, period_us: int) -> None:
        assert parse_rate(text) == (count, period_us)

    @pytest.mark.parametrize(
        ("text", "units", "window"),
        [
            ("10000/month", 10_000, Window.MONTH),
            ("1_000_000 per months", 1_000_000, Window.MONTH),
            ("5 / day", 5, Window.DAY),
            ("5/hour", 5, Window.HOUR),
            ("5/weeks", 5, Window.WEEK),
            ("5/year", 5, Window.YEAR),
            ("0/day", 0, Window.DAY),
            ("9007199254740991/day", 2**53 - 1, Window.DAY),
        ],
    )
    def test_a_quota(self, text: str, units: int, window: Window) -> None:
        assert parse_quota(text) == (units, window)

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ("{rate: 5/second}", Limit("a", bucket(5, SECOND, 5))),
            ("{rate: 1_000_000/day}", Limit("a", bucket(1_000_000, DAY, 1_000_000))),
            ("{rate: 0/second, burst: 3}", Limit("a", bucket(0, SECOND, 3))),
            ("{rate: 5/second, mode: shadow}", Limit("a", bucket(5, SECOND, 5), Mode.SHADOW)),
            ("{rate: 5/second, mode: enforce, per: client}", Limit("a", bucket(5, SECOND, 5))),
            ("{quota: 5/day, mode: overage}", Limit("a", Quota(units=5, window=Window.DAY), Mode.OVERAGE)),
            ("{quota: 0/day}", Limit("a", Quota(units=0, window=Window.DAY))),
            (
                "{quota: 5/month, timezone: Asia/Kathmandu, anchor_day: 31, per: key}",
                Limit(
                    "a",
                    Quota(units=5, window=Window.MONTH, timezone="Asia/Kathmandu", anchor_day=31),
                    per=Per.KEY,
                ),
            ),
            ("{quota: 5/month, anchor_day: 1}", Limit("a", Quota(units=5, window=Window.MONTH))),
        ],
    )
    def test_a_limit(self, body: str, expected: Limit) -> None:
        assert read(body) == expected

    @pytest.mark.parametrize("name", ["per-second", 'say "hi"', "back\\slash", "with space", "a.b", "%", "~" * 64])
    def test_a_name_is_printable_ascii(self, name: str) -> None:
        text = yaml.safe_dump({"plans": {name: {"limits": {name: {"rate": "5/second"}}}}})
        config = parse(text, "test")
        assert config.plans[name].limits == (Limit(name, bucket(5, SECOND, 5)),)

    def test_limits_keep_their_order(self) -> None:
        names = [f"l{number}" for number in range(16, 0, -1)]
        text = yaml.safe_dump(
            {"plans": {"p": {"limits": {name: {"rate": "5/day"} for name in names}}}}, sort_keys=False
        )
        assert [limit.name for limit in parse(text, "test").plans["p"].limits] == names

    def test_anchors_and_merges_of_yaml_work(self) -> None:
        text = "plans: {a: {limits: &all {x: {rate: 5/second}}}, b: {limits: {<<: *all, y: {quota: 1/day}}}}"
        assert {limit.name for limit in parse(text, "test").plans["b"].limits} == {"x", "y"}

    def test_a_byte_order_mark_is_no_part_of_the_file(self) -> None:
        assert parse("\ufeff" + of_limit("{rate: 5/second}"), "test").plans["free"]


class TestFaults:
    @pytest.mark.parametrize(
        ("body", "path", "message"),
        [
            ("{rate: 5/second, brust: 10}", f"{A}.brust", "unknown field; did you mean `burst`?"),
            ("{rates: 5/second}", f"{A}.rates", "unknown field; did you mean `rate`?"),
            ("{rate: 5/second, xyzzy: 1}", f"{A}.xyzzy", "unknown field; known: rate, burst"),
            ("{rate: 5}", f"{A}.rate", "string"),
            ("{rate: true}", f"{A}.rate", "string"),
            ("{rate: [5/second]}", f"{A}.rate", "string"),
            ('{rate: 5/second, burst: "10"}', f"{A}.burst", "integer"),
            ("{rate: 5/second, burst: true}", f"{A}.burst", "integer"),
            ("{rate: 5/second, burst: 1.5}", f"{A}.burst", "integer"),
            ("{rate: 5/second, burst: 10.0}", f"{A}.burst", "integer"),
            ("{rate: 5/second, burst: .inf}", f"{A}.burst", "integer"),
            ("{rate: 5/second, burst: .nan}", f"{A}.burst", "integer"),
            ("{rate: 5/second, burst: 2026-01-01}", f"{A}.burst", "integer"),
            ("{quota: 5}", f"{A}.quota", "string"),
            ("{quota: 5/month, anchor_day: true}", f"{A}.anchor_day", "integer"),
            ('{quota: 5/month, anchor_day: "15"}', f"{A}.anchor_day", "integer"),
            ("{quota: 5/month, timezone: 3}", f"{A}.timezone", "string"),
            ("{rate: 5/second, mode: loud}", f"{A}.mode", "'enforce', 'shadow' or 'overage'"),
            ("{rate: 5/second, mode: off}", f"{A}.mode", "'enforce', 'shadow' or 'overage'"),
            ("{rate: 5/second, mode: [shadow]}", f"{A}.mode", "'enforce', 'shadow' or 'overage'"),
            ("{rate: 5/second, per: planet}", f"{A}.per", "'client' or 'key'"),
            ("5", A, ""),
            ("[]", A, ""),
            ("null", A, ""),
            ("5/second", A, ""),
        ],
    )
    def test_a_wrong_field_has_its_path(self, body: str, path: str, message: str) -> None:
        found = only_fault(of_limit(body))
        assert found[0] == path
        assert message in found[1]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("{}", "must have either `rate`"),
            ("{mode: shadow}", "must have either `rate`"),
            ("{rate: 5/second, quota: 5/day}", "must have either `rate`"),
            ("{rate: -5/second}", "the rate must not be negative"),
            ("{rate: 5/second, burst: 0}", "the burst must be at least 1"),
            ("{rate: 5/second, burst: -1}", "the burst must be at least 1"),
            ("{rate: 0/second}", "a rate of 0 needs a `burst`"),
            ("{rate: 5/fortnight}", "unknown unit 'fortnight'"),
            ("{rate: 5/s}", "unknown unit 's'"),
            ("{rate: 5/month}", "use `quota: 5/month`"),
            ("{rate: 5/years}", "use `quota: 5/year`"),
            ("{rate: 5}".replace("5", "five/second"), "is no rate; write it as"),
            ("{rate: 1.5/second}", "is no rate"),
            ("{rate: 1e3/second}", "is no rate"),
            ("{rate: 5/Second}", "is no rate"),
            ("{rate: 5//second}", "is no rate"),
            ("{rate: 5 per -1 seconds}", "is no rate"),
            ("{rate: 5 per 1.5 seconds}", "is no rate"),
            ('{rate: ""}', "is no rate"),
            ("{rate: \u0663/second}", "is no rate"),
            ("{rate: _/second}", "is no whole number"),
            ("{rate: 5 per 0 seconds}", "the period must be between"),
            ("{rate: 5 per 367 days}", "the period must be between"),
            ("{rate: 1 per 99999999999999999999 days}", "is no whole number below 2^53"),
            ("{rate: 99999999999999999999/second}", "is no whole number below 2^53"),
            ("{rate: 9007199254740992/second}", "pass 2^53"),
            ("{rate: 70000/second, burst: 90071992547410}", "use a burst of at most 90071992547409"),
            (f"{{rate: 5/second, burst: {'9' * 30}}}", "pass 2^53"),
            ("{rate: 5/second, mode: overage}", "only a quota can be in overage mode"),
            ("{rate: 5/second, timezone: UTC}", "`timezone` goes with `quota`"),
            ("{rate: 5/second, anchor_day: 3}", "`anchor_day` goes with `quota`"),
            ("{quota: 5/day, burst: 3}", "`burst` goes with `rate`"),
            ("{quota: 9007199254740992/month}", "the quota must be less than 2^53"),
            ("{quota: -1/day}", "the quota must not be negative"),
            ("{quota: 5/minute}", "unknown window 'minute'"),
            ("{quota: 5 per 2 months}", "is no quota; write it as"),
            ("{quota: 5/day, anchor_day: 3}", "only a month can have an anchor day"),
            ("{quota: 5/month, anchor_day: 32}", "the anchor day must be between 1 and 31"),
            ("{quota: 5/month, anchor_day: -1}", "the anchor day must be between 1 and 31"),
            ("{quota: 5/month, anchor_day: 0}", "the anchor day must be between 1 and 31"),
            ("{quota: 5/month, timezone: Mars/Base}", "the time zone 'Mars/Base' is unknown"),
            ("{quota: 5/month, timezone: utc}", "did you mean 'UTC'?"),
            ("{quota: 5/month, timezone: ../../etc/passwd}", "is a path"),
            ("{quota: 5/month, timezone: localtime}", "is unknown"),
            ('{quota: 5/month, timezone: ""}', "the time zone is empty"),
        ],
    )
    def test_what_no_limit_can_be_has_the_limit_s_path(self, body: str, message: str) -> None:
        path, told = only_fault(of_limit(body))
        assert path == A or path.startswith(f"{A}.")
        assert message in told

    @pytest.mark.parametrize(
        ("text", "path", "message"),
        [
            ("", "(file)", "must hold a mapping with the field `plans`"),
            ("# nothing yet", "(file)", "must hold a mapping"),
            ("---\n...\n", "(file)", "must hold a mapping"),
            ("[]", "(file)", "must hold a mapping"),
            ("plans", "(file)", "must hold a mapping"),
            ("5", "(file)", "must hold a mapping"),
            ("{}", "plans", "is missing"),
            ("plans:", "plans", "dictionary"),
            ("plans: []", "plans", "dictionary"),
            ("plans: {}", "plans", "at least 1"),
            ("plans: {free: }", "plans.free", ""),
            ("plans: {free: {}}", "plans.free.limits", "is missing"),
            ("plans: {free: {limits: }}", "plans.free.limits", "dictionary"),
            ("plans: {free: {limits: {}}}", "plans.free.limits", "at least 1"),
            ("plans: {free: {limits: {5: {rate: 5/day}}}}", "plans.free.limits.5", "put it in quotes"),
            ("plans: {5: {limits: {a: {rate: 5/day}}}}", "plans.5", "put it in quotes"),
            ("plans: {caf\u00e9: {limits: {a: {rate: 5/day}}}}", "plans.caf\u00e9", "printable ASCII"),
            ("plans: {free: {limits: {caf\u00e9: {rate: 5/day}}}}", "plans.free.limits.caf\u00e9", "printable ASCII"),
            ('plans: {" a": {limits: {a: {rate: 5/day}}}}', "plans. a", "printable ASCII"),
            (f"plans: {{{'x' * 65}: {{limits: {{a: {{rate: 5/day}}}}}}}}", f"plans.{'x' * 65}", "1 to 64"),
            (of_limit("{rate: 5/day}") + "    on_store_error: maybe", "plans.free.on_store_error", "'allow'"),
            (of_limit("{rate: 5/day}") + "preflight: true", "preflight", "'pass' or 'check' (given: True)"),
            (of_limit("{rate: 5/day}") + "usage: 13", "usage", "must be a mapping of fields (given: 13)"),
            (of_limit("{rate: 5/day}") + "usage: {keep_month: 1}", "usage.keep_month", "did you mean `keep_months`?"),
            (of_limit("{rate: 5/day}") + "usage: {keep_months: -1}", "usage.keep_months", "greater than or equal to 0"),
            (of_limit("{rate: 5/day}") + "usage: {keep_months: 37}", "usage.keep_months", "less than or equal to 36"),
            (of_limit("{rate: 5/day}") + "usage: {keep_months: 1.5}", "usage.keep_months", "integer"),
            (of_limit("{rate: 5/day}") + "dedupe: yes", "dedupe", "must be a mapping of fields (given: True)"),
            (of_limit("{rate: 5/day}") + "dedupe: {heder: X-Id}", "dedupe.heder", "did you mean `header`?"),
            (of_limit("{rate: 5/day}") + "dedupe: {header: X Id}", "dedupe.header", "the name of a header"),
            (of_limit("{rate: 5/day}") + "dedupe: {header: ''}", "dedupe.header", "the name of a header"),
            (of_limit("{rate: 5/day}") + "dedupe: {within: 5}", "dedupe.within", "written as 5 s, 500 ms or 1 minute"),
            (of_limit("{rate: 5/day}") + "dedupe: {within: 5 h}", "dedupe.within", "written as 5 s, 500 ms"),
            (of_limit("{rate: 5/day}") + "dedupe: {within: -5 s}", "dedupe.within", "written as 5 s, 500 ms"),
            (of_limit("{rate: 5/day}") + "dedupe: {within: 0 s}", "dedupe.within", "between 1 ms and 60 s"),
            (of_limit("{rate: 5/day}") + "dedupe: {within: 61 s}", "dedupe.within", "between 1 ms and 60 s"),
            (of_limit("{rate: 5/day}") + "headers: draft-11", "headers", "'draft', 'legacy' or 'both'"),
            (of_limit("{rate: 5/day}") + "headers: [draft]", "headers", "'draft', 'legacy' or 'both'"),
            (
                of_limit("{rate: 5/day}") + "    on_store_eror: deny",
                "plans.free.on_store_eror",
                "did you mean `on_store_error`?",
            ),
            (of_limit("{rate: 5/day}") + "plan: {}", "plan", "did you mean `plans`?"),
        ],
    )
    def test_a_wrong_file_or_plan_has_its_path(self, text: str, path: str, message: str) -> None:
        found = only_fault(text)
        assert found[0] == path
        assert message in found[1]

    def test_seventeen_limits_are_one_too_many(self) -> None:
        limits = {f"l{number}": {"rate": "5/day"} for number in range(17)}
        path, message = only_fault(yaml.safe_dump({"plans": {"free": {"limits": limits}}}))
        assert path == "plans.free.limits"
        assert "16" in message

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("plans: {free: {limits: {a: {rate: 5/day}, a: {rate: 6/day}}}}", A),
            ("plans: {free: {limits: {a: {rate: 5/day, burst: 1, burst: 2}}}}", f"{A}.burst"),
            ("plans: {free: {limits: {a: {rate: 5/day}}}, free: {limits: {a: {rate: 5/day}}}}", "plans.free"),
            ('plans: {free: {limits: {a: {rate: 5/day}, "a": {rate: 6/day}}}}', A),
        ],
    )
    def test_a_name_that_stands_twice_is_a_fault(self, text: str, path: str) -> None:
        found = only_fault(text)
        assert found[0] == path
        assert "stands twice, on lines 1 and 1" in found[1]

    def test_every_fault_of_every_kind_is_told_at_once(self) -> None:
        text = """
plans:
  free:
    limits:
      daily: {rate: 5/day}
      daily: {rate: 6/day}
      typo: {rate: 5/second, brust: 10}
      negative: {rate: -5/second}
      empty: {rate: 5/second, burst: 0}
      huge: {quota: 9007199254740992/month}
      unit: {rate: 5/fortnight}
      zone: {quota: 5/day, timezone: Mars/Base}
      type: {rate: 5}
    on_store_error: maybe
  none:
    limits: {}
"""
        names = {path.removeprefix("plans.free.limits.").partition(".")[0] for path, _ in all_faults(text)}
        assert names >= {"daily", "typo", "negative", "empty", "huge", "unit", "zone", "type"}
        assert {path for path, _ in all_faults(text)} >= {"plans.free.on_store_error", "plans.none.limits"}
        assert len(all_faults(text)) == 10
        (twice,) = [message for _, message in all_faults(text) if "twice" in message]
        assert "lines 5 and 6" in twice

    @pytest.mark.parametrize(
        ("body", "messages"),
        [
            ("{quota: 5/fortnight, timezone: Mars/Base, anchor_day: 32}", ["fortnight", "Mars/Base", "anchor day"]),
            ("{rate: -5/second, brust: 5}", ["must not be negative", "`burst`"]),
            ("{rate: -5/second, burst: 0}", ["must not be negative", "burst must be at least 1"]),
            ("{rate: 5/month, mode: loud}", ["use `quota", "'enforce'"]),
            ("{rate: 5/day, timezone: UTC, anchor_day: 3}", ["`timezone` goes with", "`anchor_day` goes with"]),
            ("{rate: 5/day, burst: 0, timezone: UTC}", ["burst must be at least 1", "`timezone` goes with"]),
        ],
    )
    def test_several_faults_of_one_limit_are_told_at_once(self, body: str, messages: list[str]) -> None:
        told = [message for _, message in all_faults(of_limit(body))]
        assert all(any(message in one for one in told) for message in messages), told

    def test_clients_on_a_plan_that_is_not_there_are_told_beside_all_other_faults(self) -> None:
        text = of_limit("{rate: -5/day}") + "clients: {acme: {plan: gone}, fine: {plan: free}, other: {plan: lost}}"
        found = dict(all_faults(text))
        assert {path for path in found if not path.startswith(A)} == {"clients.acme.plan", "clients.other.plan"}
        assert any(path.startswith(A) for path in found)
        assert "'gone'" in found["clients.acme.plan"]

    @pytest.mark.parametrize(
        ("text", "path", "known"),
        [
            ("plans: {limits: {limits: {a: {rate: 5/day}}, on_store_eror: deny}}", "plans.limits.on_store_eror", "did"),
            ("plans: {free: {limits: {limits: {rate: 5/day, brust: 5}}}}", "plans.free.limits.limits.brust", "`burst`"),
            ("plans: {free: {limits: {plans: {rate: 5/day, brust: 5}}}}", "plans.free.limits.plans.brust", "`burst`"),
            ('plans: {free: {limits: {"[key]": {rate: 5/day, brust: 5}}}}', "plans.free.limits.[key].brust", "`burst`"),
        ],
    )
    def test_names_that_are_words_of_the_format_confuse_no_message(self, text: str, path: str, known: str) -> None:
        found = only_fault(text)
        assert found[0] == path
        assert known in found[1]

    @pytest.mark.parametrize(
        "body", ["5", "null", "{rate: 5}", "{rate: 5/second, burst: x}", "{rate: 5/second, mode: 1}"]
    )
    def test_no_message_speaks_of_what_is_inside_the_program(self, body: str) -> None:
        _, message = only_fault(of_limit(body))
        assert "instance of" not in message
        assert "_Limit" not in message

    @pytest.mark.parametrize(
        "text",
        [
            'plans: {"a\\nb": 5}',
            '"a\\nquotas: all is well": 1',
            '"\\ud800": 1\n"\\ud800": 2',
            '"\\e[2J": 1\n"\\e[2J": 2',
            of_limit('{rate: 5/day, "a\\rb": 1}'),
            of_limit('{rate: "\\e[2J"}'),
            of_limit('{quota: 5/day, timezone: "\\ud800"}'),
        ],
    )
    def test_every_fault_is_one_line_that_can_be_printed(self, text: str) -> None:
        for path, message in all_faults(text):
            assert f"{path}: {message}".isprintable()

    def test_a_fault_does_not_repeat_a_text_of_any_length(self) -> None:
        for body in (f"{{rate: 5/{'x' * 9_000}}}", f"{{rate: {'x' * 9_000}}}", f"{{quota: 5/{'x' * 9_000}}}"):
            _, message = only_fault(of_limit(body))
            assert len(message) < 500


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("plans: {", "line 1, column 9"),
            ("plans:\n  free: a: b", "line 2, column 10"),
            ("plans:\n\tfree: 1", "line 2, column 1"),
            ("plans: *nobody", "line 1, column 8"),
            ("plans: {}\n--- \nplans: {}", "line 2, column 1"),
            ("a: b\n  c: d", "line 2, column 4"),
            ("plans: !!python/object/apply:os.system [true]", "line 1, column 8"),
            ("plans: !mine x", "line 1, column 8"),
            ("? [a, b]\n: c", "line 1, column 3"),
            ("<<: 5", "line 1, column 5"),
        ],
    )
    def test_invalid_yaml_has_its_line_and_column(self, text: str, path: str) -> None:
        found = only_fault(text)
        assert found[0] == path
        assert found[1].startswith("no valid YAML: ")

    @pytest.mark.parametrize("text", ["plans: \x00", "plans: \x07", "\ud800", '"\\q"'])
    def test_what_is_no_yaml_text_is_a_fault(self, text: str) -> None:
        assert "no valid YAML" in only_fault(text)[1]

    @pytest.mark.parametrize(
        "text",
        [
            "a: &a [*a]",
            "a: &a {b: *a}",
            "&a {plans: *a}",
            "plans: &a {free: *a}",
            "plans: &a {free: {limits: *a}}",
            "plans: {free: &a {limits: {x: *a}}}",
            "a: &a {<<: *a}",
            "&a {<<: [*a, *a], plans: {}}",
            "? &a [*a]\n: b",
        ],
    )
    def test_a_document_that_holds_itself_is_a_fault(self, text: str) -> None:
        assert all_faults(text)

    @pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"], ids=["aliases", "merges"])
    def test_a_small_file_that_stands_for_a_huge_one_is_a_fault(self, form: str) -> None:
        """Nine lines of nine aliases each; whoever expands them is here for minutes."""
        lines = ["x0: &x0 {a: 1}"]
        lines += [f"x{n}: &x{n} " + form.format(",".join([f"*x{n - 1}"] * 9)) for n in range(1, 10)]
        assert all_faults("\n".join([*lines, "plans: *x9"]))

    @pytest.mark.parametrize(
        "text",
        [
            "plans: 2026-02-30",
            of_limit("{rate: 5/second, burst: 9999-99-99}"),
            "plans: 2026-01-01T25:00:00Z",
            "plans: 2026-01-01T00:00:00+99:99",
            "plans: 0x_",
            f"plans: {'9' * 5_000}",
            of_limit(f"{{rate: 5/second, burst: {'9' * 5_000}}}"),
            f"plans: 0x{'f' * 6_000}",
            of_limit(f"{{rate: 5/second, burst: 0x{'f' * 6_000}}}"),
            "plans: !!int x",
            'plans: !!int ""',
            "plans: !!float x",
            "plans: !!bool x",
            "plans: !!timestamp x",
            'plans: "\\U00110000"',
            'plans: "\\UFFFFFFFF"',
        ],
    )
    def test_a_value_that_yaml_cannot_make_is_a_fault(self, text: str) -> None:
        assert all_faults(text)

    @pytest.mark.parametrize("text", ["[" * 5_000, "{a: " * 5_000, "- " * 5_000 + "a", "[" * 5_000 + "]" * 5_000])
    def test_a_document_too_deep_is_a_fault(self, text: str) -> None:
        assert all_faults(text)


PIECES = [
    *("plans", "free", "limits", "rate", "burst", "quota", "timezone", "mode", "5/second", "1/month", "UTC"),
    *(": ", ":", ", ", "{", "}", "[", "]", "\n", "\n  ", "- ", "? ", "#", '"', "'", "&a ", "*a", "<<: ", "--- ", "| "),
    *("!!int ", "!!set ", "!!omap ", "!!binary ", "!!timestamp ", "5", "0x", "1.5", ".inf", "true", "~", "2026-02-30"),
    *("\\", "\t", "\x00", "\ufeff", "\u2028", "\u00e9", "%YAML 1.1"),
]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.dates(date(1, 1, 1))
    | st.binary(max_size=5)
    | st.text(max_size=10)
    | st.sampled_from(["5/second", "10/month", "1/fortnight", "America/New_York", "shadow", "overage", "key", "deny"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["plans", "limits", "rate", "burst", "quota", "timezone", "anchor_day", "mode", "per", "on_store_error"]
            )
            | st.text(max_size=5)
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def outcome_of(text: str) -> Config | None:
    """The configuration, or None when there are faults; anything else is raised."""
    try:
        return parse(text, "test")
    except ConfigError as error:
        assert error.faults  # noqa: PT017 # Both ends are right here.
        return None


class TestAnything:
    @given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
    @example("&a {? *a : *a}")
    def test_arbitrary_text_raises_nothing_but_faults(self, text: str) -> None:
        outcome_of(text)

    @given(values)
    def test_an_arbitrary_document_raises_nothing_but_faults(self, document: object) -> None:
        outcome_of(yaml.safe_dump(document))

    @given(values)
    def test_an_arbitrary_limit_raises_nothing_but_faults(self, limit: object) -> None:
        outcome_of(yaml.safe_dump({"plans": {"free": {"limits": {"a": limit}}}}))

    @given(
        st.integers(0, 10**6),
        st.integers(1, 400),
        st.sampled_from(["second", "minutes", "hour", "days"]),
        st.integers(1, 10**6),
    )
    def test_what_is_written_is_what_is_read(self, count: int, times: int, unit: str, burst: int) -> None:
        config = outcome_of(of_limit(f"{{rate: {count} per {times} {unit}, burst: {burst}}}"))
        if config is None:
            return
        (limit,) = config.plans["free"].limits
        unit_us = {"second": SECOND, "minutes": 60 * SECOND, "hour": HOUR, "days": DAY}[unit]
        assert limit.rule == bucket(count, times * unit_us, burst)
