"""Counting in shared rows: sums that never go back, labels that are bounded, and rows for the busiest."""

import errno
import gc
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from quotas import plan_files, rows
from quotas.exposition import Format
from quotas.metrics import BOUNDS_S, OUTCOMES, Metrics
from quotas.plans import Config
from quotas.series import OTHER

PLANS = """
plans:
  free: {{limits: {{a: {{rate: 1/second}}, b: {{rate: 1/second, mode: shadow}}}}}}
  pro: {{limits: {{m: {{quota: 10/month, mode: overage}}}}}}
metrics: {{max_clients: {0}}}
"""

DURATIONS = st.one_of(st.sampled_from([0.0, *BOUNDS_S]), st.floats(0, 1))


@dataclass(frozen=True, slots=True)
class Client:
    id: str
    name: str
    plan: str = "free"

    @classmethod
    def called(cls, name: str, plan: str = "free") -> "Client":
        return cls(f"cl_{name}", name, plan)

    @property
    def text(self) -> tuple[str, str, str]:
        return self.id, self.name, self.plan


@dataclass(slots=True)
class Clock:
    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


def config(max_clients: int) -> Config:
    return plan_files.parse(PLANS.format(max_clients), "test plans")


@dataclass(slots=True)
class Service:
    """Workers that share a folder."""

    folder: Path
    max_clients: int
    clock: Clock = field(default_factory=Clock)

    def worker(self) -> Metrics:
        metrics = Metrics(self.folder, clock=self.clock, now=lambda: 1234.5)
        metrics.use(config(self.max_clients), first=True)
        return metrics


def alone(max_clients: int, clock: Clock | None = None) -> Metrics:
    metrics = Metrics(clock=clock or Clock(), now=lambda: 1234.5)
    metrics.use(config(max_clients))
    return metrics


def checks(metrics: Metrics, outcome: str | None = None) -> dict[tuple[str, str], float]:
    """The checks that are told, by label and plan: of one outcome, or of all."""
    found: Counter[tuple[str, str]] = Counter()
    for family in parse_text(metrics.exposition()):
        for sample in family.samples:
            if sample.name == "quotas_checks_total" and outcome in {None, sample.labels["outcome"]}:
                found[sample.labels["client"], sample.labels["plan"]] += sample.value  # type: ignore[assignment] # Whole.
    return dict(found)


def told(metrics: Metrics) -> set[str]:
    """The clients that have series, but for those that are none."""
    return {client for client, _ in checks(metrics)} - {"other", "unknown"}


def value(metrics: Metrics, line: str) -> float:
    """The value of the sample that is written like this."""
    (found,) = (each for each in metrics.exposition().splitlines() if each.startswith(line + " "))
    return float(found.rpartition(" ")[2])


def ask(metrics: Metrics, name: str, times: int = 1, plan: str = "free") -> None:
    for _ in range(times):
        metrics.check(Client.called(name, plan), "allowed", 0.001)


class TestSums:
    def test_every_worker_tells_the_sum_of_all(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 10)
        workers = [service.worker() for _ in range(4)]
        for number, worker in enumerate(workers, 1):
            ask(worker, "acme", number)
            worker.units(Client.called("acme"), 10 * number)
            worker.check(None, "unauthenticated", 0.3)
            worker.store_seconds("take", 0.002)
            worker.shadow_refused("free", "b")
            worker.overage("pro", "m", number)
            worker.degraded("deny")
            worker.store_error("timeout")
            worker.jwks_refresh("https://id.example.com", "loaded")
        expositions = {worker.exposition() for worker in workers}
        assert len(expositions) == 1
        lines = expositions.pop().splitlines()
        for line in (
            'quotas_checks_total{client="acme",outcome="allowed",plan="free"} 10.0',
            'quotas_checks_total{client="acme",outcome="never",plan="free"} 0.0',
            'quotas_checks_total{client="unknown",outcome="unauthenticated",plan=""} 4.0',
            'quotas_units_total{client="acme",plan="free"} 100.0',
            'quotas_check_duration_seconds_bucket{le="0.0005"} 0.0',
            'quotas_check_duration_seconds_bucket{le="0.001"} 10.0',
            'quotas_check_duration_seconds_bucket{le="0.25"} 10.0',
            'quotas_check_duration_seconds_bucket{le="+Inf"} 14.0',
            "quotas_check_duration_seconds_count 14.0",
            'quotas_store_duration_seconds_count{script="take"} 4.0',
            'quotas_store_errors_total{kind="timeout"} 4.0',
            'quotas_store_errors_total{kind="connect"} 0.0',
            'quotas_degraded_total{mode="deny"} 4.0',
            'quotas_degraded_total{mode="allow"} 0.0',
            'quotas_shadow_refused_total{limit="b",plan="free"} 4.0',
            'quotas_overage_units_total{limit="m",plan="pro"} 10.0',
            'quotas_jwks_refresh_total{issuer="https://id.example.com",result="loaded"} 4.0',
            "quotas_config_last_reload_successful 1.0",
            "quotas_config_last_reload_success_timestamp_seconds 1234.5",
            "quotas_workers 4.0",
        ):
            assert line in lines

    def test_what_the_plans_may_make_count_starts_at_0(self) -> None:
        metrics = alone(10)
        assert value(metrics, 'quotas_shadow_refused_total{limit="b",plan="free"}') == 0
        assert value(metrics, 'quotas_overage_units_total{limit="m",plan="pro"}') == 0
        assert value(metrics, 'quotas_checks_total{client="other",outcome="allowed",plan="pro"}') == 0
        assert value(metrics, 'quotas_checks_total{client="unknown",outcome="unauthenticated",plan=""}') == 0

    def test_one_worker_that_could_not_reload_is_told_of_while_it_lives(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 10)
        good, bad = service.worker(), service.worker()
        bad.reloaded(successful=False)
        assert value(good, "quotas_config_last_reload_successful") == 0
        bad.close()
        assert value(good, "quotas_config_last_reload_successful") == 1
        assert value(good, "quotas_workers") == 1

    def test_500_restarts_lose_nothing_and_leave_nothing(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 10)
        stays, goes = service.worker(), service.worker()
        for number in range(1, 501):
            ask(goes, "acme", 2)
            goes.close()
            goes = service.worker()
            if number % 50 == 0:
                assert checks(stays)["acme", "free"] == 2 * number
        assert sorted(path.name for path in tmp_path.iterdir()) == ["slot-0", "slot-1", "table"]

    def test_series_that_find_no_room_count_as_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        metrics = alone(10)
        with monkeypatch.context() as patch:
            patch.setattr(metrics._series, "_cells", 0)  # noqa: SLF001 # Sixteen thousand would take a while.
            metrics.shadow_refused("new plan", "new limit")
        assert value(metrics, f'quotas_shadow_refused_total{{limit="{OTHER}",plan="{OTHER}"}}') == 1

    @given(st.lists(st.tuples(st.sampled_from(["acme", "beta", ""]), st.integers(0, 5), DURATIONS, DURATIONS)))
    def test_what_is_counted_at_once_is_what_is_counted_one_by_one(
        self, takes: list[tuple[str, int, float, float]]
    ) -> None:
        """Whatever has a row, has none or is nobody's; with any two times, in any order."""
        at_once, one_by_one = alone(1), alone(1)
        for name, cost, seconds, store_seconds in takes:
            client = Client.called(name)
            at_once.taken(client.text, cost, seconds, store_seconds)
            one_by_one.check(client, "allowed", seconds)
            one_by_one.units(client, cost)
            one_by_one.store_seconds("take", store_seconds)
        assert at_once.exposition() == one_by_one.exposition()

    def test_clients_of_a_plan_that_finds_no_room_count_as_other_until_it_does(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        metrics = alone(0)
        with monkeypatch.context() as patch:
            patch.setattr(metrics._series, "_cells", 0)  # noqa: SLF001 # Sixteen thousand would take a while.
            ask(metrics, "acme", 2, "new plan")
        ask(metrics, "acme", 3, "new plan")
        assert checks(metrics, "allowed")[OTHER, OTHER] == 2
        assert checks(metrics, "allowed")[OTHER, "new plan"] == 3


class TestBounds:
    def test_100000_clients_are_told_of_in_bounded_space(self) -> None:
        clock = Clock()
        metrics = alone(100, clock)
        hostile = ['"', "\\", "\\n", 'a"} 1\nb', "🦊" * 32, "x" * 128, "=", "==other", "{}", "é", " ", "#", "a,b=c"]
        for number in range(100_000):
            clock.now_s += 0.0001
            name = hostile[number % len(hostile)] + (str(number) if number >= len(hostile) else "")
            metrics.check(Client.called(name[-128:]), OUTCOMES[number % len(OUTCOMES)], 0.001)
        text = metrics.exposition(used={})
        samples = [line for line in text.splitlines() if not line.startswith("#")]
        assert len(samples) <= 100 * (len(OUTCOMES) + 1) + 150
        assert sum(checks(metrics).values()) == 100_000
        assert {*hostile} - {"==other"} | {"===other"} <= told(metrics)
        families = list(parse_openmetrics(metrics.exposition(Format.OPENMETRICS, {})))  # type: ignore[no-untyped-call] # As it ships.
        assert len(families) == text.count("# TYPE")

    def test_1000_clients_that_come_and_go_leave_nothing(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 10)
        worker, other = service.worker(), service.worker()

        def rounds(name: str, times: int) -> None:
            for number in range(times):
                client = Client(f"cl_{name}{number}", f"{name}{number}")
                worker.check(client, "allowed", 0.001)
                other.check(client, "allowed", 0.001)
                worker.rows.refresh()
                worker.rows.release(row for row in worker.rows.all() if row.client_id == client.id)

        rounds("warm", 200)
        text = worker.exposition()
        gc.collect()
        before, size = sys.getallocatedblocks(), sum(path.stat().st_blocks for path in tmp_path.iterdir())
        rounds("more", 1000)
        other.rows.refresh()
        gc.collect()
        assert sys.getallocatedblocks() - before < 500
        assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) == size
        assert told(other) == told(worker) == set()
        assert len(worker.exposition().splitlines()) == len(text.splitlines())

    def test_a_client_that_finds_no_room_on_the_disk_counts_as_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        metrics = Service(tmp_path, 10).worker()
        ask(metrics, "early")
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            ask(metrics, "late", 2)
            assert checks(metrics, "allowed") == {
                ("unknown", ""): 0,
                ("other", "free"): 2,
                ("other", "pro"): 0,
                ("early", "free"): 1,
            }
        ask(metrics, "late")
        assert checks(metrics)["late", "free"] == 1

    def test_a_worker_that_was_stopped_with_the_lock_holds_up_nobody(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 10)
        goes_on, stopped = service.worker(), service.worker()
        ask(goes_on, "acme")
        with stopped._slots.lock():  # noqa: SLF001 # As one that stands still in the middle.
            ask(goes_on, "acme")
            ask(goes_on, "new")
            shown = checks(goes_on)
            goes_on.shadow_refused("free", "b")
        assert (shown["acme", "free"], shown["other", "free"]) == (2, 1)
        ask(goes_on, "new")
        assert checks(goes_on)["new", "free"] == 1

    def test_none_has_a_row_where_none_is_wanted(self) -> None:
        metrics = alone(0)
        ask(metrics, "acme", 1000)
        assert told(metrics) == set()
        assert checks(metrics)["other", "free"] == 1000

    def test_every_client_of_10000_can_have_one(self) -> None:
        metrics = alone(rows.MAX_ROWS)
        for number in range(rows.MAX_ROWS):
            ask(metrics, f"c{number}")
        assert set(checks(metrics, "allowed").values()) == {0, 1}
        assert len(told(metrics)) == rows.MAX_ROWS

    def test_another_bound_is_in_force_for_all_at_once(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 3)
        first, second = service.worker(), service.worker()
        for times, name in enumerate("abc", 1):
            ask(first, name, times)
        second.use(config(1))
        assert told(first) == {"c"}
        ask(first, "a")
        assert checks(second)["other", "free"] == 1
        second.use(config(3))
        ask(first, "a")
        assert checks(second, "allowed")["a", "free"] == 1

    def test_a_worker_that_starts_with_an_older_file_leaves_the_bound_as_it_is(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 1)
        first = service.worker()
        first.use(config(3))
        for name in "abc":
            ask(first, name)
        assert told(service.worker()) == {"a", "b", "c"}


class TestClients:
    def test_a_client_starts_at_0_in_every_outcome(self) -> None:
        metrics = alone(10)
        metrics.rows.admit([("cl_1", "acme", "free")])
        for outcome in OUTCOMES:
            assert checks(metrics, outcome)["acme", "free"] == 0
        assert value(metrics, 'quotas_units_total{client="acme",plan="free"}') == 0

    def test_each_plan_of_a_client_has_series_of_its_own(self) -> None:
        metrics = alone(10)
        ask(metrics, "acme", 2)
        ask(metrics, "acme", 3, "pro")
        assert {key: count for key, count in checks(metrics).items() if count} == {
            ("acme", "free"): 2,
            ("acme", "pro"): 3,
        }

    def test_a_client_may_check_on_two_plans_in_turns(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 10)
        worker, other = service.worker(), service.worker()
        for number in range(10):
            for plan, cost in (("free", 1), ("pro", 2)):
                worker.taken(Client.called("acme", plan).text, cost, 0.001, 0.001)
            if number == 4:
                other.rows.refresh()
                other.rows.release(row for row in other.rows.all() if row.plan == "pro")
        assert checks(worker, "allowed")["acme", "free"] == 10
        assert checks(worker, "allowed")["acme", "pro"] == 5
        assert value(worker, 'quotas_units_total{client="acme",plan="free"}') == 10
        assert value(worker, 'quotas_units_total{client="acme",plan="pro"}') == 10

    def test_who_is_created_after_one_of_the_same_name_is_another(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 10)
        first, second = service.worker(), service.worker()
        old, new = Client("cl_old", "acme"), Client("cl_new", "acme")
        for worker in (first, second):
            worker.check(old, "allowed", 0.001)
        second.check(new, "allowed", 0.001)
        for worker in (first, second):
            assert checks(worker)["acme", "free"] == 1
        first.check(new, "allowed", 0.001)
        assert checks(second)["acme", "free"] == 2

    def test_a_released_row_is_only_released_from_whom_it_was_of(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 1)
        first, second = service.worker(), service.worker()
        ask(first, "acme")
        known = first.rows.all()
        second.rows.release(known)
        ask(second, "beta")
        first.rows.release(known)
        assert told(first) == {"beta"}

    @pytest.mark.parametrize("name", ["other", "unknown", "=other", "==unknown"])
    def test_a_client_may_be_called_like_nobody(self, name: str) -> None:
        metrics = alone(1)
        ask(metrics, name, 2)
        ask(metrics, "no room", 3)
        metrics.check(None, "error", 0.1)
        counted = {key: count for key, count in checks(metrics).items() if count}
        assert counted == {("=" + name, "free"): 2, ("other", "free"): 3, ("unknown", ""): 1}


class TestBusiest:
    def test_who_is_clearly_busier_takes_the_row_of_who_asks_least(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 2)
        first, second = service.worker(), service.worker()
        ask(first, "busy", 1000)
        ask(second, "idle", 10)
        for _ in range(6):
            service.clock.now_s += 1
            ask(first, "new", 10)
        assert told(second) == {"busy", "new"}
        shown = checks(second)
        assert shown["busy", "free"] == 1000
        assert 0 < shown["new", "free"] < 60
        assert shown["new", "free"] + shown["other", "free"] == 60
        assert value(second, "quotas_clients_evicted_total") == 1
        ask(second, "idle")
        assert checks(first)["other", "free"] == shown["other", "free"] + 1

    def test_who_asks_as_often_as_the_others_takes_nothing(self) -> None:
        clock = Clock()
        metrics = alone(10, clock)
        for _ in range(200):
            clock.now_s += 1
            for number in range(20):
                ask(metrics, f"c{number}")
        assert told(metrics) == {f"c{number}" for number in range(10)}

    def test_what_is_counted_at_once_is_one_check_of_a_newcomer(self) -> None:
        """A row takes sixteen checks more than twice those of its owner."""
        clock = Clock()
        metrics = alone(1, clock)
        ask(metrics, "first", 10)
        for _ in range(35):
            clock.now_s += 1
            metrics.taken(Client.called("second").text, 2, 0.001, 0.0005)
        assert told(metrics) == {"first"}
        assert checks(metrics, "allowed")["other", "free"] == 35
        assert value(metrics, 'quotas_units_total{client="other",plan="free"}') == 70
        clock.now_s += 1
        metrics.taken(Client.called("second").text, 2, 0.001, 0.0005)
        assert told(metrics) == {"second"}

    def test_the_units_of_a_check_are_no_check_of_a_newcomer(self) -> None:
        clock = Clock()
        metrics = alone(1, clock)
        ask(metrics, "first")
        for _ in range(100):
            clock.now_s += 0.1
            metrics.units(Client.called("second"), 1)
        ask(metrics, "second")
        assert told(metrics) == {"first"}
        assert value(metrics, 'quotas_units_total{client="other",plan="free"}') == 100

    def test_where_checks_are_few_a_newcomer_takes_its_row_with_the_check_that_makes_it_busier(self) -> None:
        clock = Clock()
        metrics = alone(1, clock)
        ask(metrics, "first")
        for _ in range(17):
            clock.now_s += 0.6
            ask(metrics, "second")
        assert told(metrics) == {"first"}
        clock.now_s += 0.6
        ask(metrics, "second")
        assert told(metrics) == {"second"}
        assert checks(metrics, "allowed") == {
            ("unknown", ""): 0,
            ("other", "free"): 17,
            ("other", "pro"): 0,
            ("second", "free"): 1,
        }

    def test_where_checks_are_many_newcomers_are_weighed_before_any_time_has_passed(self) -> None:
        metrics = alone(1)
        ask(metrics, "first", 10)
        ask(metrics, "crowd")  # The first check of a newcomer is weighed at once.
        for number in range(rows.BATCH - 100):
            ask(metrics, f"crowd-{number}")
        ask(metrics, "second", 99)
        assert metrics.rows.evictions == 0
        ask(metrics, "second")
        assert told(metrics) == {"second"}
        assert checks(metrics, "allowed")["second", "free"] == 1
        assert checks(metrics, "allowed")["other", "free"] == rows.BATCH

    def test_of_newcomers_the_busiest_takes_the_row_whoever_checks_then(self) -> None:
        clock = Clock()
        metrics = alone(1, clock)
        ask(metrics, "first")
        ask(metrics, "third", 50)
        ask(metrics, "second", 100)
        clock.now_s += 0.5
        ask(metrics, "third")
        assert told(metrics) == {"second"}
        ask(metrics, "second", 3)
        assert checks(metrics, "allowed")["second", "free"] == 3
        assert checks(metrics, "allowed")["other", "free"] == 151

    def test_a_scrape_gives_no_row_away(self) -> None:
        clock = Clock()
        metrics = alone(1, clock)
        ask(metrics, "first")
        ask(metrics, "second", 100)
        clock.now_s += 10
        assert told(metrics) == {"first"}
        ask(metrics, "second")
        assert told(metrics) == {"second"}

    def test_what_was_noted_before_heat_faded_fades_with_it(self) -> None:
        """Of 40 checks 20 are left, beside 5 of 10: a row takes 26."""
        clock = Clock()
        metrics = alone(1, clock)
        metrics.exposition()
        ask(metrics, "first", 10)
        ask(metrics, "second", 40)
        clock.now_s += rows.AGE_S
        metrics.exposition()
        ask(metrics, "second")
        assert told(metrics) == {"first"}
        ask(metrics, "second", 4)
        clock.now_s += 1
        ask(metrics, "second")
        assert told(metrics) == {"second"}

    def test_a_row_that_another_worker_frees_is_had_at_once(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 1)
        first, second = service.worker(), service.worker()
        ask(first, "acme")
        ask(second, "beta", 2)
        first.rows.release(first.rows.all())
        ask(second, "beta")
        assert checks(first, "allowed")["beta", "free"] == 1

    def test_a_row_that_another_worker_gave_is_counted_in_at_once(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 1)
        first, second = service.worker(), service.worker()
        ask(first, "acme")
        ask(second, "beta", 2)
        for _ in range(2):
            service.clock.now_s += 1
            ask(first, "beta", 30)
        known = checks(first, "allowed")["beta", "free"]
        ask(second, "gamma")  # It learns whose the row is, and that none is free.
        ask(second, "beta")
        assert checks(first, "allowed")["beta", "free"] == known + 1

    def test_who_got_a_row_by_one_worker_is_no_newcomer_to_another(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 2)
        first, second = service.worker(), service.worker()
        ask(first, "acme")
        ask(first, "idle")
        ask(first, "beta", 100)
        ask(second, "beta", 100)
        service.clock.now_s += 1
        ask(first, "beta")
        assert told(first) == {"beta", "idle"}
        service.clock.now_s += 1
        ask(second, "gamma")
        assert told(first) == {"beta", "idle"}
        assert value(first, "quotas_clients_evicted_total") == 1

    def test_a_row_is_free_that_a_killed_worker_gave_up_without_a_note(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 1)
        steady, doomed = service.worker(), service.worker()
        ask(steady, "acme")
        ask(steady, "beta", 2)
        doomed.rows.refresh()
        known = doomed.rows.all()
        doom(doomed, 1)
        with pytest.raises(Killed):
            doomed.rows.release(known)
        doomed.close()
        assert told(steady) == set()
        ask(steady, "beta")
        assert told(steady) == {"beta"}

    def test_at_most_two_rows_change_hands_in_a_second(self, tmp_path: Path) -> None:
        service = Service(tmp_path, 8)
        workers = [service.worker() for _ in range(3)]
        for name in "abcdefgh":
            ask(workers[0], name)
        for step in range(40):
            service.clock.now_s += 0.1
            for number, worker in enumerate(workers):
                ask(worker, f"new-{step}-{number}", 50)
        assert 4 <= value(workers[1], "quotas_clients_evicted_total") <= 9

    def test_yesterday_s_traffic_keeps_no_row(self) -> None:
        clock = Clock()
        metrics = alone(1, clock)
        ask(metrics, "yesterday", 100_000)
        metrics.exposition()
        for _ in range(20):
            clock.now_s += rows.AGE_S
            metrics.exposition()
        ask(metrics, "today", 100)
        clock.now_s += rows.EVICTION_S
        ask(metrics, "today")
        assert told(metrics) == {"today"}

    def test_newcomers_count_over_time_as_rows_do(self) -> None:
        """One check in each half-life is never busier, however long it goes on."""
        clock = Clock()
        metrics = alone(1, clock)
        ask(metrics, "first")
        for _ in range(200):
            clock.now_s += rows.AGE_S
            ask(metrics, "second")
            metrics.exposition()
        assert told(metrics) == {"first"}


class Killed(BaseException):
    """The worker ends here."""


class Fragile:
    """Memory that ends its worker at the first write for which there is no life left."""

    def __init__(self, memory: Any, lives: Iterator[int]) -> None:
        self._memory = memory
        self._lives = lives

    def __getitem__(self, key: slice | int) -> Any:
        return self._memory[key]

    def __setitem__(self, key: slice | int, new: Any) -> None:
        if next(self._lives, None) is None:
            raise Killed
        self._memory[key] = new


def doom(worker: Metrics, lives: int) -> None:
    """Have a worker end after so many writes to the table."""
    left = iter(range(lives))
    found: Any = worker.rows
    found._table = Fragile(found._table, left)  # noqa: SLF001 # What it writes to is inside.
    found.versions = Fragile(found.versions, left)
    found._slots.table = Fragile(found._slots.table, left)  # noqa: SLF001 # The same.


def assign(_: Service, doomed: Metrics) -> None:
    ask(doomed, "new")


def evict(service: Service, doomed: Metrics) -> None:
    for _ in range(6):
        service.clock.now_s += 1
        ask(doomed, "new", 10)


def release(_: Service, doomed: Metrics) -> None:
    doomed.rows.release([row for row in doomed.rows.all() if row.name == "b"])


def limit(_: Service, doomed: Metrics) -> None:
    doomed.use(config(1))


@pytest.mark.parametrize("change", [assign, evict, release, limit])
def test_a_worker_may_be_killed_at_any_write(tmp_path: Path, change: Callable[[Service, Metrics], None]) -> None:
    """The others go on counting exactly, nobody gets what was another's, and every row can be used again."""
    for lives in range(40):
        folder = tmp_path / str(lives)
        folder.mkdir()
        service = Service(folder, 3)
        steady, doomed = service.worker(), service.worker()
        ask(steady, "a", 5)
        ask(doomed, "b", 3)
        if change is evict:
            ask(steady, "c", 4)
        before = told(steady)
        doom(doomed, lives)
        try:
            change(service, doomed)
        except Killed:
            doomed.close()
            look_after(service, steady)
        else:
            assert lives > 2
            assert told(steady) != before
            return
    pytest.fail("the change never came to its end")


def look_after(service: Service, steady: Metrics) -> None:
    """What is left by a worker that was killed at its work."""
    successor = service.worker()
    shown = checks(steady)
    assert shown == checks(successor)
    assert shown["a", "free"] == 5
    assert shown.get(("b", "free"), 3) == 3
    assert shown.get(("new", "free"), 0) == 0
    steady.use(config(5))
    for name in "abcde":
        ask(steady, name)
        ask(successor, name)
    after = checks(successor)
    assert checks(steady) == after
    assert after["a", "free"] == 7
    assert after["b", "free"] in {2, 5}
    assert {row.key for row in steady.rows.all()} == {row.key for row in successor.rows.all()}
    assert len(steady.rows.all()) == len(set(told(steady))) == 5


class Life(RuleBasedStateMachine):
    """Workers come, count, are killed and replaced; clients are deleted; the rows are too few.

    What was counted since the last look must show, but for what went with a row that was taken from somebody.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.service = Service(folder, 3)
        self.workers = [self.service.worker() for _ in range(2)]
        self.shown: dict[tuple[str, str], float] = {}
        self.asked: Counter[str] = Counter()
        self.fresh = 0
        self.taken = 0.0
        self.released = False

    @rule(worker=st.integers(0, 9), name=st.sampled_from("abcdef"), times=st.sampled_from([1, 2, 40]))
    def count(self, worker: int, name: str, times: int) -> None:
        ask(self.workers[worker % len(self.workers)], name, times)
        self.asked[name] += times
        self.fresh += times

    @rule(worker=st.integers(0, 9))
    def kill(self, worker: int) -> None:
        if len(self.workers) > 1:
            self.workers.pop(worker % len(self.workers)).close()

    @rule()
    def begin(self) -> None:
        if len(self.workers) < 4:
            self.workers.append(self.service.worker())

    @rule(seconds=st.sampled_from([0.1, 1, 31]))
    def wait(self, seconds: float) -> None:
        self.service.clock.now_s += seconds

    @rule(worker=st.integers(0, 9), name=st.sampled_from("abcdef"))
    def delete(self, worker: int, name: str) -> None:
        found = self.workers[worker % len(self.workers)].rows
        found.refresh()
        gone = [row for row in found.all() if row.name == name]
        found.release(gone)
        self.released = self.released or bool(gone)

    @invariant()
    def nothing_goes_back_and_nothing_is_lost(self) -> None:
        looks = [checks(worker) for worker in self.workers]
        assert all(look == looks[0] for look in looks)
        shown = looks[0]
        taken = value(self.workers[0], "quotas_clients_evicted_total")
        assert len(told(self.workers[0])) <= 3
        assert all(count <= self.asked[name] for (name, _), count in shown.items() if name in self.asked)
        before, now = sum(self.shown.values()), sum(shown.values())
        if taken == self.taken and not self.released:
            assert now == before + self.fresh
            assert all(shown[key] >= count for key, count in self.shown.items())
        else:
            assert now <= before + self.fresh
            assert shown["other", "free"] >= self.shown.get(("other", "free"), 0)
        self.shown, self.taken, self.fresh, self.released = shown, taken, 0, False


def test_nothing_goes_back_in_any_life_of_a_service(tmp_path: Path) -> None:
    class Here(Life):
        def __init__(self) -> None:
            super().__init__(Path(tempfile.mkdtemp(dir=tmp_path)))

    run_state_machine_as_test(Here, settings=settings(max_examples=30, stateful_step_count=30, deadline=None))
