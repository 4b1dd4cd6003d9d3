"""Which plan holds for a client now: found by name, made once for its overrides, and forgotten in time."""

import pytest

from quotas import plan_files
from quotas import planbook as planbook_module
from quotas.holders import Client, Status, subject_client_id
from quotas.limits import Bucket
from quotas.overrides import Override, dump
from quotas.planbook import Planbook, PlanInForce

NOW_US = 1_781_092_800_000_000
CONFIG = plan_files.parse(
    "plans: {free: {limits: {fast: {rate: 5/second, burst: 10}}}, pro: {limits: {fast: {rate: 9/second}}}}", "test"
)
OTHER = plan_files.parse("plans: {free: {limits: {fast: {rate: 7/second, burst: 70}}}}", "other")


def client(name: str = "acme", plan: str = "free", fast: Override | None = None) -> Client:
    """A client, with an override of the limit `fast` if there is one."""
    return Client(f"cl_{name}", name, plan, Status.ACTIVE, 1, 0, dump({} if fast is None else {"fast": fast}))


def burst(in_force: PlanInForce | None) -> int:
    """The burst of the one limit; the packed plan is of the same limits."""
    assert in_force is not None
    assert in_force.packed.limits == in_force.plan.limits
    (limit,) = in_force.plan.limits
    assert isinstance(limit.rule, Bucket)
    return limit.rule.burst


def test_a_plan_is_found_by_name_and_packed_once() -> None:
    book = Planbook(CONFIG)
    assert book.config is CONFIG
    assert burst(book.of(client(), NOW_US)) == 10
    assert burst(book.of(client(plan="pro"), NOW_US)) == 9
    assert book.of(client(), NOW_US) is book.of(client("other"), NOW_US + 1)


@pytest.mark.parametrize("fast", [None, Override(burst=80)])
def test_a_plan_that_there_is_not_is_none(fast: Override | None) -> None:
    assert Planbook(CONFIG).of(client(plan="gone", fast=fast), NOW_US) is None


def test_overrides_are_of_their_client_and_made_once() -> None:
    book = Planbook(CONFIG)
    raised = client(fast=Override(burst=80))
    assert burst(book.of(raised, NOW_US)) == 80
    assert burst(book.of(client("other"), NOW_US)) == 10
    assert book.of(raised, NOW_US) is book.of(raised, NOW_US + 10**15)
    assert burst(book.of(client(plan="pro", fast=Override(burst=80)), NOW_US)) == 80


def test_a_client_of_the_same_overrides_shares_what_was_made() -> None:
    book = Planbook(CONFIG)
    assert book.of(client(fast=Override(burst=80)), NOW_US) is book.of(client("b", fast=Override(burst=80)), NOW_US)


def test_one_that_is_over_is_made_anew_in_time() -> None:
    book = Planbook(CONFIG)
    until = client(fast=Override(burst=80, until_us=NOW_US))
    assert [burst(book.of(until, NOW_US + after_us)) for after_us in (-2, -1, 0, 1)] == [80, 80, 10, 10]


@pytest.mark.parametrize("fast", [None, Override(rate="1/second", burst=80)])
def test_another_configuration_holds_at_once(fast: Override | None) -> None:
    book = Planbook(CONFIG)
    who = client(fast=fast)
    before = book.of(who, NOW_US)
    assert burst(before) == (80 if fast else 10)
    book.use(OTHER)
    assert book.config is OTHER
    after = book.of(who, NOW_US)
    assert after is not before
    assert burst(after) == (80 if fast else 70)
    assert book.of(client(plan="pro", fast=fast), NOW_US) is None


def test_an_override_of_a_limit_that_comes_back_holds_again() -> None:
    book = Planbook(CONFIG)
    raised = client(fast=Override(burst=80))
    book.use(plan_files.parse("plans: {free: {limits: {fast: {quota: 5/day}}}}", "quota"))
    in_force = book.of(raised, NOW_US)
    assert in_force is not None
    assert not isinstance(in_force.plan.limits[0].rule, Bucket)
    book.use(CONFIG)
    assert burst(book.of(raised, NOW_US)) == 80


def test_what_is_made_is_bounded_and_the_least_recently_used_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planbook_module, "MAX_MADE", 3)
    book = Planbook(CONFIG)
    clients = [client(fast=Override(burst=100 + number)) for number in range(4)]
    made = [book.of(each, NOW_US) for each in clients[:3]]
    assert book.of(clients[0], NOW_US) is made[0]
    assert burst(book.of(clients[3], NOW_US)) == 103
    assert book.of(clients[0], NOW_US) is made[0]
    assert book.of(clients[2], NOW_US) is made[2]
    again = book.of(clients[1], NOW_US)
    assert again is not made[1]
    assert burst(again) == 101


def test_what_is_over_is_not_kept_beside_what_replaced_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planbook_module, "MAX_MADE", 1)
    book = Planbook(CONFIG)
    until = client(fast=Override(burst=80, until_us=NOW_US))
    assert burst(book.of(until, NOW_US - 1)) == 80
    after = book.of(until, NOW_US)
    assert book.of(until, NOW_US + 1) is after


@pytest.mark.parametrize(("claim", "sole"), [("", True), ("plan_claim: plan,", False)])
def test_only_tokens_that_claim_plans_can_have_two_of_them_in_force_for_one_client(claim: str, *, sole: bool) -> None:
    issuer = f"{{issuer: 'https://a.example', audience: [api], algorithms: [HS256], secret_env: A, {claim}}}"
    plans = "plans: {free: {limits: {fast: {rate: 5/second}}}}"
    book = Planbook(plan_files.parse(f"{plans}\nissuers: [{issuer}]", "test"))
    subject = client()._replace(id=subject_client_id("0" * 64))
    assert book.is_sole(subject) == sole
    assert book.is_sole(client())
    book.use(CONFIG)
    assert book.is_sole(subject)
