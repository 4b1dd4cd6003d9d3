"""Which refusals a worker remembers, for how long, and which checks it answers from them."""

from dataclasses import dataclass

import pytest

from quotas import decisions
from quotas.decisions import Decision, Memory, Outcome
from quotas.limits import Bucket, Limit, Mode, Per, Quota, Window
from quotas.news import about_clients
from quotas.paths import PathPattern
from quotas.plans import Match
from quotas.refusal_memory import LONGEST_US, MARGIN_US, RefusalMemory
from quotas.scripts import Once, PackedPlan, Take

NOW_US = 1_773_144_000_000_000
SECOND_US = 1_000_000
FIVE = Limit("five", Bucket(count=5, period_us=SECOND_US, burst=10))
HOURLY = Limit("hourly", Bucket(count=1, period_us=3600 * SECOND_US, burst=10))
MONTHLY = Limit("monthly", Quota(units=1000, window=Window.MONTH))
SEARCH = {"search": Match(path=PathPattern("/search"))}
ASKED = Take(client_id="cl_1", generation=1, key_id="key_1", cost=1, now_us=NOW_US)


@dataclass(slots=True)
class Ear:
    current: bool = True
    begun: int = 0

    def begin(self) -> None:
        self.begun += 1

    def is_current(self) -> bool:
        return self.current


class Worker:
    """A worker whose takes go to the pure model, at `now_us` of both its clock and the store's."""

    def __init__(self, *limits: Limit, matches: dict[str, Match] | None = None, most: int = 100) -> None:
        self.now_us = NOW_US
        self.ear = Ear()
        self.memory = RefusalMemory(lambda: self.now_us, max_remembered=most)
        self.memory.listen(self.ear)
        self.plan = PackedPlan(limits)
        self.matches = matches or {}
        self.states: dict[str, Memory | None] = {}

    def take(self, asked: Take = ASKED) -> Decision:
        state = self.states.get(asked.client_id)
        self.states[asked.client_id], decision = decisions.take(
            self.plan.limits, state, now_us=self.now_us, cost=asked.cost, skipped=asked.skipped
        )
        return decision

    def remember(self, decision: Decision, asked: Take = ASKED, *, sent: int = 0, heard: int = 0) -> None:
        """Remember it, as asked and answered so many microseconds from now."""
        self.memory.remember(
            self.plan, self.matches, asked, decision, sent_us=self.now_us + sent, heard_us=self.now_us + heard
        )

    def refused(self, units: int, asked: Take = ASKED) -> Decision:
        """Take so many units at once, and remember the refusal that follows."""
        assert self.take(asked._replace(cost=units, skipped=frozenset())).allowed
        decision = self.take(asked)
        assert decision.outcome is Outcome.WAIT
        self.remember(decision, asked)
        return decision

    def recall(self, asked: Take = ASKED, *, after: int = 0) -> Decision | None:
        self.now_us += after
        return self.memory.recall(self.plan, asked)


def told(decision: Decision | None) -> object:
    """All that anybody is told of a decision, or counts: in whole units and whole seconds."""
    assert decision is not None
    standings = [
        (limit.name, left, seconds(standing.next_unit_after_us), seconds(reset_us), seconds(wait_us), wait_us == 0)
        for standing in decision.standings
        for limit, left, reset_us, wait_us in [standing]
    ]
    return decision.outcome, decision.binding, decision.at_us // SECOND_US, seconds(decision.retry_after_us), standings


def seconds(microseconds: int | None) -> int | None:
    return None if microseconds is None else -(-microseconds // SECOND_US)


def wait_us(decision: Decision | None) -> int | None:
    assert decision is not None
    return decision.retry_after_us


def test_the_worked_example() -> None:
    worker = Worker(FIVE)
    worker.take(ASKED._replace(cost=10))
    decision = worker.take()
    assert decision.retry_after_us == 200_000
    worker.remember(decision, sent=0, heard=1000)
    worker.now_us += 151_000
    again = worker.recall()
    assert again is not None
    assert (again.at_us, again.retry_after_us) == (decision.at_us + 150_000, 50_000)
    assert worker.recall(after=1) is again
    assert worker.recall(after=47_998) is not None
    assert worker.recall(after=1) is None
    assert worker.now_us == NOW_US + 199_000


def test_it_is_over_before_the_wait_is_and_told_as_no_shorter_than_it_is() -> None:
    """Sent 5 ms before, heard 3 ms after the instant that the store decided at: it ends early, and is told late."""
    worker = Worker(Limit("slow", Bucket(count=1, period_us=1_100_000, burst=10)))
    worker.take(ASKED._replace(cost=10))
    worker.remember(worker.take(), sent=-5000, heard=3000)
    assert wait_us(worker.recall()) == 1_100_000
    for after in (3000, 99_997):
        assert seconds(wait_us(worker.recall(after=after))) == 2
    assert wait_us(worker.recall(after=3)) == 1_000_000
    assert worker.recall(after=LONGEST_US - 5000 - 103_000 - 1) is not None
    assert worker.recall(after=1) is None
    worker = Worker(FIVE)
    worker.take(ASKED._replace(cost=10))
    worker.remember(worker.take(), sent=-5000, heard=3000)
    assert worker.recall(after=200_000 - 5000 - MARGIN_US - 1) is not None
    assert worker.recall(after=1) is None


def test_a_long_wait_is_repeated_for_a_second_and_then_asked_for_again() -> None:
    worker = Worker(HOURLY)
    worker.refused(10)
    assert wait_us(worker.recall(after=LONGEST_US - 1)) == 3600 * SECOND_US - LONGEST_US + 1
    assert worker.recall(after=1) is None


def test_what_is_hardly_to_be_waited_for_is_not_remembered() -> None:
    worker = Worker(Limit("fast", Bucket(count=1, period_us=MARGIN_US, burst=1)))
    worker.refused(1)
    assert not worker.memory.clients


def test_a_quota_counts_on_to_the_end_of_its_window() -> None:
    worker = Worker(FIVE, Limit("hour", Quota(units=3, window=Window.HOUR)))
    worker.now_us += 3600 * SECOND_US - 500_000
    decision = worker.refused(3)
    assert decision.binding is not None
    assert decision.binding.name == "hour"
    again = worker.recall(after=200_000)
    assert told(again) == told(worker.take())
    assert again is not None
    assert [standing.remaining for standing in again.standings] == [8, 0]
    assert worker.recall(after=300_000 - MARGIN_US) is None


def test_a_window_that_ends_sooner_than_the_wait_ends_it() -> None:
    """From then on the quota has another number and another end."""
    worker = Worker(HOURLY, Limit("hour", Quota(units=30, window=Window.HOUR)))
    worker.now_us += 3600 * SECOND_US - 500_000
    worker.refused(10)
    assert told(worker.recall(after=500_000 - MARGIN_US - 1)) == told(worker.take())
    assert worker.recall(after=1) is None


@pytest.mark.parametrize(
    "change",
    [
        {"cost": 0},
        {"cost": 1},
        {"generation": 2},
        {"client_id": "cl_2"},
        {"test": True},
        {"skipped": frozenset({"five"})},
        {"once": Once("digest", SECOND_US)},
    ],
)
def test_another_check_is_asked_about(change: dict[str, object]) -> None:
    worker = Worker(FIVE, MONTHLY)
    asked = ASKED._replace(cost=2)
    worker.refused(10, asked)
    assert worker.recall(asked) is not None
    assert worker.recall(asked._replace(**change)) is None  # type: ignore[arg-type] # Each is of its field.


def test_another_plan_is_asked_about_even_if_it_reads_the_same() -> None:
    worker = Worker(FIVE)
    worker.refused(10)
    worker.plan = PackedPlan([FIVE])
    assert worker.recall() is None


def test_keys_count_together_unless_a_limit_is_per_key() -> None:
    other = ASKED._replace(key_id="key_2")
    worker = Worker(FIVE)
    worker.refused(10)
    assert worker.recall(other) is not None
    worker = Worker(FIVE, Limit("each", FIVE.rule, per=Per.KEY))
    worker.refused(10)
    assert worker.recall() is not None
    assert worker.recall(other) is None


def test_a_larger_cost_waits_longer_or_for_ever() -> None:
    worker = Worker(FIVE, MONTHLY)
    worker.refused(10)
    worker.now_us += 50_000
    for cost in (2, 10, 11, 1001):
        asked = ASKED._replace(cost=cost)
        assert told(worker.recall(asked)) == told(worker.take(asked))
    assert worker.take(ASKED._replace(cost=11)).outcome is Outcome.NEVER


def test_a_check_that_may_be_repeated_is_remembered_for_those_that_may_not() -> None:
    worker = Worker(FIVE)
    worker.refused(10, ASKED._replace(once=Once("digest", SECOND_US)))
    assert worker.recall() is not None


def test_what_never_passes_and_what_passed_are_not_remembered() -> None:
    worker = Worker(FIVE)
    worker.remember(worker.take())
    worker.remember(worker.take(ASKED._replace(cost=11)), ASKED._replace(cost=11))
    assert not worker.memory.clients


def test_limits_that_refuse_nothing_stand_as_they_would() -> None:
    tried = Limit("tried", Bucket(count=1, period_us=300_000, burst=1), Mode.SHADOW)
    billed = Limit("billed", Quota(units=5, window=Window.DAY), Mode.OVERAGE)
    worker = Worker(FIVE, tried, billed)
    worker.refused(10)
    for after in (0, 100_000, 50_000):
        again = worker.recall(after=after)
        assert told(again) == told(worker.take())
        assert again is not None
        assert again.standings[2].remaining == -5
    # No shadow keeps anybody from taking.
    worker = Worker(tried, HOURLY)
    worker.take()
    worker.take(ASKED._replace(cost=8))
    decision = worker.take(ASKED._replace(cost=2))
    assert [(standing.remaining, standing.retry_after_us == 0) for standing in decision.standings] == [
        (0, False),
        (1, False),
    ]
    worker.remember(decision, ASKED._replace(cost=2))
    assert not worker.memory.clients


def test_while_a_smaller_cost_could_take_something_nothing_is_remembered() -> None:
    worker = Worker(FIVE)
    worker.refused(7, ASKED._replace(cost=5))
    assert not worker.memory.clients
    # Nothing is left: it is the same for everybody until there is one again, and not until there are five.
    worker = Worker(FIVE)
    worker.refused(10, ASKED._replace(cost=5))
    assert wait_us(worker.recall(ASKED._replace(cost=5), after=100_000)) == 900_000
    assert worker.recall(ASKED._replace(cost=5), after=99_000) is None


def test_while_another_path_could_take_something_nothing_is_remembered() -> None:
    search = Limit("search", HOURLY.rule)
    worker = Worker(search, MONTHLY, matches=SEARCH)
    worker.refused(10)
    assert not worker.memory.clients
    # What is asked of each check that the other is asked of, is enough.
    worker = Worker(search, Limit("more", MONTHLY.rule), matches=SEARCH | {"more": SEARCH["search"]})
    worker.refused(10)
    assert told(worker.recall()) == told(worker.take())
    worker = Worker(HOURLY, Limit("search", MONTHLY.rule), matches=SEARCH)
    worker.refused(10)
    assert told(worker.recall()) == told(worker.take())


def test_an_empty_limit_of_one_key_keeps_no_other_key_from_taking() -> None:
    worker = Worker(Limit("each", HOURLY.rule, per=Per.KEY), MONTHLY)
    worker.refused(10)
    assert not worker.memory.clients
    worker = Worker(Limit("each", HOURLY.rule, per=Per.KEY))
    worker.refused(10)
    assert told(worker.recall()) == told(worker.take())


def test_where_a_unit_may_have_come_a_microsecond_ago_the_store_is_asked() -> None:
    """Seven grains a microsecond, a hundred to the unit: six of them are not known."""
    worker = Worker(HOURLY, Limit("fast", Bucket(count=70_000, period_us=SECOND_US, burst=1000)))
    worker.now_us += 3
    worker.take(ASKED._replace(cost=9))
    worker.now_us += 5
    worker.refused(1)
    asked, left = 0, set()
    for _ in range(500):
        again = worker.recall(after=1)
        if again is None:
            asked += 1
            continue
        assert told(again) == told(worker.take())
        left.add(again.standings[1].remaining)
    assert 0 < asked < 50
    assert left >= {993, 999, 1000}


def test_numbers_that_the_scripts_cut_off_are_asked_for() -> None:
    worker = Worker(FIVE, Limit("slow", Bucket(count=1, period_us=366 * 86_400 * SECOND_US, burst=200)))
    worker.take(ASKED._replace(cost=10))
    decision = worker.take(ASKED)
    assert decision.standings[1].reset_after_us is not None
    cut = decision.standings[1]._replace(reset_after_us=decisions.FOREVER_US)
    worker.remember(decision._replace(standings=(decision.standings[0], cut)))
    assert not worker.memory.clients


class TestNotices:
    def test_one_about_the_client_ends_it_and_one_about_others_does_not(self) -> None:
        worker = Worker(FIVE)
        worker.refused(10)
        for notice in (about_clients(["cl_2"]), "jti:cl_1", "tokens", "clientsx cl_1"):
            worker.memory.hear(notice)
        assert worker.recall() is not None
        worker.memory.hear(about_clients(["cl_2", "cl_1"]))
        assert worker.recall() is None

    @pytest.mark.parametrize("notice", [None, about_clients(f"cl_{number}" for number in range(100))])
    def test_missed_ones_and_one_about_many_end_all(self, notice: str | None) -> None:
        worker = Worker(FIVE)
        for client in ("cl_1", "cl_2000"):
            worker.refused(10, ASKED._replace(client_id=client))
        worker.memory.hear(notice)
        assert not worker.memory.clients

    @pytest.mark.parametrize("own", [False, True])
    def test_what_was_sent_before_one_came_is_not_remembered(self, *, own: bool) -> None:
        """The store may have decided on it before what the notice is about."""
        worker = Worker(HOURLY)
        worker.take(ASKED._replace(cost=10))
        decision = worker.take()
        worker.now_us += 100
        if own:
            worker.memory.changed("cl_9")
        else:
            worker.memory.hear(about_clients(["cl_9"]))
        worker.now_us += 100
        worker.remember(decision, sent=-101)
        assert not worker.memory.clients
        worker.remember(decision, sent=-100)
        assert worker.recall() is not None

    def test_this_worker_s_own_change_ends_it(self) -> None:
        worker = Worker(FIVE)
        worker.refused(10)
        worker.memory.changed("cl_2")
        assert worker.recall() is not None
        worker.memory.changed("cl_1")
        assert worker.recall() is None


class TestLiveness:
    def test_the_first_refusal_makes_it_listen_and_is_not_remembered(self) -> None:
        worker = Worker(HOURLY)
        worker.ear.current = False
        decision = worker.refused(10)
        assert worker.ear.begun == 1
        worker.ear.current = True
        assert worker.recall() is None
        worker.remember(decision)
        assert worker.recall() is not None

    def test_without_a_lease_nothing_is_repeated_and_with_it_again_it_is(self) -> None:
        worker = Worker(HOURLY)
        worker.refused(10)
        worker.ear.current = False
        assert worker.recall() is None
        worker.ear.current = True
        assert worker.recall() is not None

    def test_who_does_not_listen_remembers_nothing(self) -> None:
        worker = Worker(HOURLY)
        worker.memory = RefusalMemory(lambda: NOW_US)
        worker.refused(10)
        worker.memory.hear(None)
        assert worker.recall() is None


class TestRoom:
    def test_who_was_refused_longest_ago_goes_first(self) -> None:
        worker = Worker(HOURLY, most=3)
        clients = [ASKED._replace(client_id=f"cl_{number}") for number in range(5)]
        for asked in clients[:3]:
            worker.refused(10, asked)
        worker.remember(worker.take(clients[0]), clients[0])
        for asked in clients[3:]:
            worker.refused(10, asked)
        assert [worker.recall(asked) is not None for asked in clients] == [True, False, False, True, True]

    def test_one_client_s_kinds_have_the_same_room(self) -> None:
        worker = Worker(Limit("each", HOURLY.rule, per=Per.KEY), most=3)
        worker.take(ASKED._replace(cost=10))
        for number in range(10):
            worker.remember(worker.take(), ASKED._replace(key_id=f"key_{number}"))
        assert sum(map(len, worker.memory.clients.values())) <= 3

    def test_what_is_over_is_forgotten_when_something_is_remembered(self) -> None:
        worker = Worker(FIVE, most=1000)
        for number in range(100):
            worker.refused(10, ASKED._replace(client_id=f"cl_{number}"))
        assert len(worker.memory.clients) == 100
        worker.now_us += SECOND_US
        for number in range(100, 160):
            worker.refused(10, ASKED._replace(client_id=f"cl_{number}"))
        assert len(worker.memory.clients) == 60
