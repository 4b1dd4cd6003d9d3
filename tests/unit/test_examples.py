"""The example files parse, name their sources, and do what they say that others have published."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

import quotas
from quotas.decisions import Decision, Memory, Outcome, take
from quotas.limits import Bucket, Mode, Per, Quota
from quotas.paths import readings
from quotas.plan_files import parse
from quotas.plans import Plan
from quotas.windows import window_at

EXAMPLES = Path(quotas.__file__).parent / "examples"
STARTER = "quotas.example.yaml"
"""The file that people copy and change; its numbers are nobody's."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def us(text: str) -> int:
    """Epoch microseconds of an ISO 8601 instant with its offset."""
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def iso(at_us: int) -> str:
    return (EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%MZ")


NOON = us("2026-03-02T12:00:00Z")
"""A Monday; nothing of a day, week or month is used yet."""


def text_of(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


def plan_of(name: str, plan: str) -> Plan:
    return parse(text_of(name), name).plans[plan]


class Client:
    """One client on a plan of an example, with one key, in the pure model."""

    def __init__(self, name: str, plan: str) -> None:
        self.plan = plan_of(name, plan)
        self.memory: Memory | None = None

    def ask(
        self, request: str, *, at: int, units: int | None = None, besides: frozenset[str] = frozenset()
    ) -> Decision:
        """Take what the request costs, or `units`; limits named in `besides` are left out, as if another key's."""
        method, target = request.split()
        paths = readings(target.encode())
        cost = self.plan.cost(method, paths) if units is None else units
        skipped = self.plan.skipped(method, paths) | besides
        self.memory, decision = take(self.plan.limits, self.memory, now_us=at, cost=cost, skipped=skipped)
        return decision

    def fill(self, request: str, *, at: int) -> tuple[int, Decision]:
        """Ask until the first refusal: how many were let through, and the refusal."""
        passed = 0
        while (decision := self.ask(request, at=at)).allowed:
            passed += 1
            assert passed <= 20_000, "this request has no limit"
        return passed, decision


FILES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
PUBLISHED = [name for name in FILES if name != STARTER]


class Published(NamedTuple):
    """A published number, held by what happens: so many requests at once, then a refusal by that limit."""

    name: str
    plan: str
    request: str
    passes: int
    limit: str
    retry_after_us: int


GIVEN_AT_ONCE = [
    Published("github-rest.yaml", "user", "GET /repos/octocat/hello", 5000, "hourly", HOUR),
    Published("github-rest.yaml", "user", "GET /search/issues", 30, "search", 2 * SECOND),
    Published("github-rest.yaml", "user", "GET /search/code", 10, "search-code", 6 * SECOND),
    Published("github-rest.yaml", "enterprise", "GET /repos/octocat/hello", 15_000, "hourly", HOUR),
    Published("github-rest.yaml", "enterprise", "GET /search/issues", 30, "search", 2 * SECOND),
    Published("github-rest.yaml", "enterprise", "GET /search/code", 10, "search-code", 6 * SECOND),
    Published("github-rest.yaml", "actions", "POST /repos/octocat/hello/issues", 1000, "hourly", HOUR),
    Published("github-rest.yaml", "unauthenticated", "GET /users/octocat", 60, "hourly", HOUR),
    Published("github-rest.yaml", "unauthenticated", "GET /search/issues", 10, "search", 6 * SECOND),
    Published("stripe.yaml", "live", "GET /v1/balance", 100, "global", SECOND // 100),
    Published("stripe.yaml", "live", "POST /v1/payment_intents", 25, "create-payment-intent", SECOND // 25),
    Published("stripe.yaml", "live", "GET /v1/customers/search", 20, "search", SECOND // 20),
    Published("stripe.yaml", "live", "GET /v1/files", 20, "files-read", SECOND // 20),
    Published("stripe.yaml", "live", "POST /v1/files", 20, "files-write", SECOND // 20),
    Published("stripe.yaml", "test", "GET /v1/balance", 25, "global", SECOND // 25),
    Published("stripe.yaml", "test", "GET /v1/charges/search", 20, "search", SECOND // 20),
    Published("stripe.yaml", "test", "GET /v1/files/file_1", 20, "files-read", SECOND // 20),
    Published("stripe.yaml", "test", "POST /v1/files", 20, "files-write", SECOND // 20),
    Published("airtable.yaml", "base", "GET /v0/appBase/Table", 5, "per-second", SECOND // 5),
    Published("airtable.yaml", "user", "GET /v0/appBase/Table", 5, "per-base", SECOND // 5),
    Published("twilio.yaml", "long-code", "POST /2010-04-01/Accounts/AC1/Messages.json", 1, "per-second", SECOND),
    Published("twilio.yaml", "toll-free", "POST /2010-04-01/Accounts/AC1/Messages.json", 3, "per-second", 333_334),
    Published(
        "twilio.yaml", "toll-free-pending", "POST /2010-04-01/Accounts/AC1/Messages.json", 3, "per-second", 333_334
    ),
    Published("sendgrid.yaml", "user", "GET /v3/scopes", 600, "per-minute", SECOND // 10),
    Published("sendgrid.yaml", "user", "GET /v3/messages", 6, "email-activity", 10 * SECOND),
    Published("sendgrid.yaml", "user", "GET /v3/messages/msg_1", 6, "email-activity", 10 * SECOND),
    Published(
        "google-endpoints.yaml", "service-usage", "GET /v1/projects/7/services", 240, "read-calls", MINUTE // 240
    ),
    Published(
        "google-endpoints.yaml", "service-usage", "POST /v1/projects/7/services/x:enable", 60, "write-calls", SECOND
    ),
    Published(
        "google-endpoints.yaml",
        "service-usage",
        "POST /v1/projects/7/services:batchEnable",
        12,
        "write-calls",
        5 * SECOND,
    ),
    Published("google-endpoints.yaml", "library", "DELETE /v1/shelves/1/books/2", 10_000, "write-calls", 6000),
    Published("google-endpoints.yaml", "library", "PUT /v1/shelves/1/books/2", 5000, "write-calls", 12_000),
]

# These take longer to reach, and have tests of their own below.
REACHED_LATER = {
    ("airtable.yaml", "user", "per-user"),
    ("twilio.yaml", "toll-free-pending", "daily"),
    ("twilio.yaml", "toll-free-pending", "weekly"),
    ("twilio.yaml", "toll-free-pending", "monthly"),
    ("billing.yaml", "prepaid", "monthly"),
    ("billing.yaml", "metered", "monthly"),
}


def test_there_is_an_example_for_every_api() -> None:
    apis = ["airtable", "billing", "github-rest", "google-endpoints", "sendgrid", "stripe", "twilio"]
    assert [f"{api}.yaml" for api in apis] == PUBLISHED


@pytest.mark.parametrize("name", FILES)
def test_parses_and_is_on_the_wire_as_written(name: str) -> None:
    text = text_of(name)
    assert text.isascii(), "limit names travel in header fields, and comments are read in any terminal"
    for plan in parse(text, name).plans.values():
        assert plan.limits
        for limit in plan.limits:
            assert re.fullmatch(r"[\x21-\x7e]+", limit.name), limit.name


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_its_sources_their_age_and_what_is_missing(name: str) -> None:
    text = text_of(name)
    sources = re.findall(r"^# Source: (.+)$", text, re.MULTILINE)
    assert sources
    for source in sources:
        assert re.fullmatch(
            r"https://\S+ \((as published|published \d{4}-\d\d-\d\d|stored copy of \d{4}-\d\d-\d\d)\b.*\)", source
        ), source
    assert "# Which plan for whom: " in text
    assert "# What plans cannot say yet:" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_comment_introduces_every_plan(name: str) -> None:
    comment, _, _ = text_of(name).partition("\nplans:")
    assert {plan for plan in parse(text_of(name), name).plans if f"`{plan}`" not in comment} == set()


def test_no_limit_of_an_example_goes_untried() -> None:
    tried = {(row.name, row.plan, row.limit) for row in GIVEN_AT_ONCE} | REACHED_LATER
    written = {
        (name, plan.name, limit.name)
        for name in PUBLISHED
        for plan in parse(text_of(name), name).plans.values()
        for limit in plan.limits
    }
    assert tried == written


@pytest.mark.parametrize("row", GIVEN_AT_ONCE, ids=lambda row: f"{row.plan}: {row.request}")
def test_lets_the_published_number_through_and_refuses_the_next(row: Published) -> None:
    client = Client(row.name, row.plan)
    passed, refusal = client.fill(row.request, at=NOON)
    assert passed == row.passes
    assert refusal.outcome is Outcome.WAIT
    assert refusal.binding is not None
    assert (refusal.binding.name, refusal.retry_after_us) == (row.limit, row.retry_after_us)
    assert not client.ask(row.request, at=NOON + row.retry_after_us - 1).allowed
    assert client.ask(row.request, at=NOON + row.retry_after_us).allowed


def test_github_counts_5000_in_an_hour_however_they_are_spread() -> None:
    client = Client("github-rest.yaml", "user")
    start = us("2026-03-02T12:20:00Z")
    for second in range(2000):  # 5,000 requests in 33 minutes, and none comes back meanwhile.
        units = 2 + second % 2
        assert client.ask("GET /user", at=start + second * SECOND, units=units).allowed
    refusal = client.ask("GET /user", at=us("2026-03-02T12:54:00Z"))
    assert refusal.retry_after_us == 6 * MINUTE
    assert client.fill("GET /user", at=us("2026-03-02T13:00:00Z"))[0] == 5000


def test_github_leaves_the_question_for_the_rate_limit_free() -> None:
    client = Client("github-rest.yaml", "unauthenticated")
    assert client.fill("GET /users/octocat", at=NOON)[0] == 60
    assert client.ask("GET /rate_limit", at=NOON).allowed
    assert not client.ask("GET /users/octocat", at=NOON).allowed


def test_a_github_search_counts_against_the_hour_too() -> None:
    client = Client("github-rest.yaml", "unauthenticated")
    assert client.fill("GET /search/users", at=NOON)[0] == 10
    assert client.fill("GET /users/octocat", at=NOON)[0] == 50


def test_stripes_stricter_limits_count_against_the_global_one() -> None:
    client = Client("stripe.yaml", "live")
    assert client.fill("POST /v1/payment_intents", at=NOON)[0] == 25
    assert client.fill("GET /v1/customers/search", at=NOON)[0] == 20
    assert client.fill("GET /v1/balance", at=NOON)[0] == 55


@pytest.mark.parametrize(
    ("name", "plan", "request_", "number", "period_us"),
    [
        ("stripe.yaml", "live", "GET /v1/balance", 100, SECOND),
        ("airtable.yaml", "base", "GET /v0/appBase/Table", 5, SECOND),
        ("sendgrid.yaml", "user", "GET /v3/scopes", 600, MINUTE),
    ],
)
def test_a_full_bucket_and_its_refill_allow_twice_the_number_at_most(
    name: str, plan: str, request_: str, number: int, period_us: int
) -> None:
    client = Client(name, plan)
    step = period_us // number
    counts = [sum(client.fill(request_, at=NOON + k * period_us + i * step)[0] for i in range(number)) for k in (0, 1)]
    assert counts == [2 * number - 1, number]


@pytest.mark.parametrize(
    ("name", "advice", "number", "period_us"),
    [
        ("stripe.yaml", "{rate: 50/second, burst: 50}", 100, SECOND),
        ("airtable.yaml", "{rate: 5 per 2 seconds, burst: 3}", 5, SECOND),
        ("sendgrid.yaml", "{rate: 300/minute, burst: 300}", 600, MINUTE),
    ],
)
def test_the_advice_for_never_passing_the_number_is_right(name: str, advice: str, number: int, period_us: int) -> None:
    assert advice in text_of(name)
    (limit,) = parse(f"plans: {{p: {{limits: {{only: {advice}}}}}}}", name).plans["p"].limits
    bucket = limit.rule
    assert isinstance(bucket, Bucket)
    assert bucket.burst + bucket.count * period_us // bucket.period_us <= number


def test_airtable_bases_share_what_their_user_has() -> None:
    client = Client("airtable.yaml", "user")
    per = {limit.name: limit.per for limit in client.plan.limits}
    assert per == {"per-base": Per.KEY, "per-user": Per.CLIENT}
    # Ten bases with 5 each, every one with a key of its own and so with a `per-base` of its own.
    for _ in range(50):
        assert client.ask("GET /v0/appBase/Table", at=NOON, besides=frozenset({"per-base"})).allowed
    refusal = client.ask("GET /v0/appBase/Table", at=NOON, besides=frozenset({"per-base"}))
    assert refusal.binding is not None
    assert (refusal.binding.name, refusal.retry_after_us) == ("per-user", SECOND // 50)


def test_twilio_caps_the_day_then_the_week_then_the_month() -> None:
    client = Client("twilio.yaml", "toll-free-pending")

    def send(day: str) -> tuple[int, str, int | None]:
        """A segment a second until one is refused: segments sent, by which limit, the instant to retry at."""
        at, sent = us(f"{day}T08:00:00Z"), 0
        while (decision := client.ask("POST /Messages.json", at=at)).allowed:
            at, sent = at + SECOND, sent + 1
        assert decision.binding is not None
        assert decision.retry_after_us is not None
        return sent, decision.binding.name, at + decision.retry_after_us

    assert send("2026-03-02") == (2000, "daily", us("2026-03-03T00:00:00Z"))
    assert send("2026-03-03") == (2000, "daily", us("2026-03-04T00:00:00Z"))
    assert send("2026-03-04") == (2000, "weekly", us("2026-03-09T00:00:00Z"))
    assert send("2026-03-05") == (0, "weekly", us("2026-03-09T00:00:00Z"))
    assert send("2026-03-09") == (2000, "daily", us("2026-03-10T00:00:00Z"))
    assert send("2026-03-10") == (2000, "monthly", us("2026-04-01T00:00:00Z"))
    assert send("2026-03-16") == (0, "monthly", us("2026-04-01T00:00:00Z"))
    assert send("2026-04-01")[0] == 2000


def test_a_twilio_message_longer_than_the_burst_never_passes() -> None:
    refusal = Client("twilio.yaml", "toll-free").ask("POST /Messages.json", at=NOON, units=4)
    assert (refusal.outcome, refusal.retry_after_us) == (Outcome.NEVER, None)


def test_sendgrid_leaves_mail_sending_out() -> None:
    client = Client("sendgrid.yaml", "user")
    assert client.fill("GET /v3/scopes", at=NOON)[0] == 600
    assert client.ask("POST /v3/mail/send", at=NOON).allowed
    assert not client.ask("GET /v3/mail/send", at=NOON).allowed


def test_a_google_metric_is_drained_by_its_own_methods_only() -> None:
    client = Client("google-endpoints.yaml", "service-usage")
    assert client.fill("GET /v1/projects/7/services:batchGet", at=NOON)[0] == 240
    assert client.fill("POST /v1/projects/7/services:batchEnable", at=NOON)[0] == 12
    library = Client("google-endpoints.yaml", "library")
    assert library.fill("PUT /v1/shelves/1/books/2", at=NOON)[0] == 5000
    assert library.ask("GET /v1/shelves/1/books/2", at=NOON).allowed
    assert not library.ask("DELETE /v1/shelves/1/books/2", at=NOON).allowed


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2026-01-31T04:59:59Z", "2025-12-31T05:00Z", "2026-01-31T05:00Z"),
        ("2026-01-31T05:00:00Z", "2026-01-31T05:00Z", "2026-02-28T05:00Z"),
        ("2026-02-28T04:59:59Z", "2026-01-31T05:00Z", "2026-02-28T05:00Z"),
        ("2026-02-28T05:00:00Z", "2026-02-28T05:00Z", "2026-03-31T04:00Z"),
        ("2026-03-31T04:00:00Z", "2026-03-31T04:00Z", "2026-04-30T04:00Z"),
        ("2026-05-15T00:00:00Z", "2026-04-30T04:00Z", "2026-05-31T04:00Z"),
        ("2026-11-15T00:00:00Z", "2026-10-31T04:00Z", "2026-11-30T05:00Z"),
        ("2028-02-29T04:59:59Z", "2028-01-31T05:00Z", "2028-02-29T05:00Z"),
    ],
)
@pytest.mark.parametrize("plan", ["prepaid", "metered"])
def test_billing_cycles_start_on_the_31st_or_the_last_of_the_month(plan: str, at: str, start: str, end: str) -> None:
    (limit,) = plan_of("billing.yaml", plan).limits
    assert isinstance(limit.rule, Quota)
    assert [iso(instant) for instant in window_at(limit.rule, us(at))] == [start, end]


def test_prepaid_units_end_with_the_cycle() -> None:
    client = Client("billing.yaml", "prepaid")
    at = us("2026-02-28T04:59:50Z")
    assert client.ask("POST /", at=at, units=100_000).allowed
    refusal = client.ask("POST /", at=at)
    assert (refusal.outcome, refusal.retry_after_us) == (Outcome.WAIT, 10 * SECOND)
    fresh = client.ask("POST /", at=us("2026-02-28T05:00:00Z"))
    (standing,) = fresh.standings
    assert (fresh.allowed, standing.remaining) == (True, 99_999)
    assert standing.reset_after_us == 31 * DAY - HOUR


def test_metered_units_go_on_past_the_quota_and_are_told_apart() -> None:
    client = Client("billing.yaml", "metered")
    (limit,) = client.plan.limits
    assert limit.mode is Mode.OVERAGE
    assert client.ask("POST /", at=NOON, units=100_000).allowed
    past = client.ask("POST /", at=NOON, units=7)
    assert (past.allowed, past.standings[0].remaining) == (True, -7)
