"""Each rule of the load tests' verdicts: a run that holds it and a run that breaks it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from loadtests.verdicts import abuser, counts, herd, nginx, overshoot, rotation, stall, steady
from loadtests.verdicts.abuser import Abuse, Phase
from loadtests.verdicts.counts import Counted, Seen
from loadtests.verdicts.overshoot import Taken
from loadtests.verdicts.rotation import Rotation
from loadtests.verdicts.verdict import SHOWN_FAULTS, Check, Verdict, first_of, percentile
from quotas.limits import Bucket, Limit, Mode, Quota, Window

SECOND = 1_000_000
PLAN = [Limit("per-second", Bucket(count=5, period_us=SECOND, burst=10))]


def check(client: str = "c", key: str = "", status: int = 200, said: str = "", **more: Any) -> Check:
    at_us = more.pop("at_us")
    return Check(client, key, status, said, at_us, more.pop("to_us", at_us + 1_000), **more)


def holds(verdict: Verdict) -> None:
    assert verdict.faults == ()
    assert verdict.summary
    assert verdict.lines
    assert verdict.figures


def breaks(verdict: Verdict, *words: str) -> None:
    assert len(verdict.faults) == len(words), verdict.faults
    for fault, word in zip(verdict.faults, words, strict=True):
        assert word in fault


class TestPercentile:
    def test_is_the_nearest_rank(self) -> None:
        assert percentile([3, 1, 2], 50) == 2
        assert percentile(range(1, 101), 99) == 99
        assert percentile(range(1, 102), 99) == 100
        assert percentile([7], 1) == 7

    def test_faults_of_a_kind_are_told_up_to_a_number(self) -> None:
        assert first_of(str(number) for number in range(SHOWN_FAULTS)) == [str(n) for n in range(SHOWN_FAULTS)]
        told = first_of(str(number) for number in range(SHOWN_FAULTS + 5))
        assert told[SHOWN_FAULTS:] == ["and 5 more like these"]


class TestPermitted:
    @pytest.mark.parametrize(
        ("elapsed_us", "most"), [(0, 10), (199_999, 10), (200_000, 11), (20_030_000, 110), (20_199_999, 110)]
    )
    def test_a_bucket_gives_its_burst_and_what_came_back(self, elapsed_us: int, most: int) -> None:
        assert counts.permitted(PLAN, elapsed_us) == most

    def test_the_least_limit_counts_that_is_enforced(self) -> None:
        quota = Limit("hourly", Quota(units=7, window=Window.HOUR))
        shadow = Limit("trial", Quota(units=1, window=Window.HOUR), mode=Mode.SHADOW)
        assert counts.permitted([*PLAN, quota, shadow], 60 * SECOND) == 14


def seen(client: str = "hot", *, hot: bool = True, **more: Any) -> Seen:
    known = {"allowed": 110, "refused": 500, "errors": {}, "elapsed_us": 20_030_000}
    return Seen(client=client, hot=hot, **{**known, **more})


POLITE = seen("polite", hot=False, allowed=20, refused=0)
COUNTED = {"hot": Counted(110, 500), "polite": Counted(20, 0)}


def steadily(*clients: Seen, told: Mapping[str, Counted] | None = None) -> Verdict:
    found = {each.client: Counted(each.allowed, each.refused) for each in clients}
    return steady.judge(clients, found if told is None else told, PLAN)


class TestSteady:
    def test_holds_up_to_the_last_unit_and_one_for_the_clocks(self) -> None:
        holds(steadily(seen(), POLITE))
        holds(steadily(seen(allowed=111), POLITE))

    def test_over_granted(self) -> None:
        breaks(steadily(seen(allowed=112)), "hot: over-granted: allowed 112, which is 2 more")

    def test_under_granted(self) -> None:
        holds(steadily(seen(allowed=99)))
        breaks(steadily(seen(allowed=98)), "hot: under-granted")

    def test_never_refused(self) -> None:
        breaks(steadily(seen(refused=0)), "hot: never refused")

    def test_a_polite_one_refused(self) -> None:
        breaks(steadily(seen(), replace(POLITE, refused=1)), "polite: refused 1 times")

    def test_a_polite_one_never_allowed(self) -> None:
        breaks(steadily(seen(), replace(POLITE, allowed=0)), "polite: never allowed")

    def test_errors(self) -> None:
        breaks(steadily(seen(errors={"503 store_unavailable": 3})), "hot: errors: 3 x 503 store_unavailable")

    @pytest.mark.parametrize("wrong", [Counted(109, 500), Counted(110, 499)])
    def test_metrics_that_differ(self, wrong: Counted) -> None:
        breaks(steadily(seen(), told={"hot": wrong}), "the service counted")

    def test_metrics_with_errors_that_nobody_saw(self) -> None:
        breaks(steadily(seen(), told={"hot": Counted(110, 500, 2)}), "2 errors that the client has not seen")

    def test_metrics_of_a_stranger(self) -> None:
        breaks(steadily(seen(), told={"hot": Counted(110, 500), "unknown": Counted(1)}), "'unknown', which made none")

    def test_the_table_shows_the_busiest_and_those_with_faults(self) -> None:
        others = [seen(f"polite-{number:02}", hot=False, allowed=99 - number, refused=0) for number in range(30)]
        verdict = steadily(seen(), *others, replace(POLITE, client="last", allowed=1, refused=1))
        text = "\n".join(verdict.lines)
        assert "hot" in text
        assert "polite-10" in text
        assert "polite-11" not in text
        assert "last" in text
        assert "19 more" in text

    def test_counts_are_read_from_an_exposition(self) -> None:
        lines = [
            "# TYPE quotas_checks_total counter",
            'quotas_checks_total{client="a",plan="p",outcome="allowed"} 3',
            'quotas_checks_total{client="a",plan="q",outcome="allowed"} 4',
            'quotas_checks_total{client="a",plan="p",outcome="rate_limited"} 5',
            'quotas_checks_total{client="a",plan="p",outcome="quota_exceeded"} 6',
            'quotas_checks_total{client="a",plan="p",outcome="error"} 7',
            'quotas_checks_total{client="b",plan="p",outcome="allowed"} 0',
        ]
        assert counts.counted("\n".join([*lines, ""])) == {"a": Counted(7, 11, 7)}


class TestNginx:
    def test_holds(self) -> None:
        holds(nginx.judge([seen(), POLITE], COUNTED, PLAN, upstream=130))

    def test_a_request_that_the_upstream_should_not_have_got(self) -> None:
        breaks(nginx.judge([seen(), POLITE], COUNTED, PLAN, upstream=131), "the upstream got 131 requests")

    def test_is_judged_as_steady_is(self) -> None:
        wrong = seen(errors={"429 without retry-after": 1})
        breaks(nginx.judge([wrong, POLITE], COUNTED, PLAN, upstream=130), "1 x 429 without retry-after")


END = 1_800_000_000 * SECOND
UNITS = {"rush": 2}


def herded(*more: Check, without: Sequence[int] = ()) -> Verdict:
    """Two units in each window, one refusal in each, and one retry; all of them, but those at some places."""
    checks = [
        check("rush", at_us=END - 3 * SECOND, resets_s=3),
        check("rush", at_us=END - 2 * SECOND, resets_s=2),
        check("rush", status=429, at_us=END - SECOND, resets_s=1),
        check("rush", herd.RETRY, at_us=END, resets_s=3_600),
        check("rush", at_us=END + SECOND, resets_s=3_599),
        check("rush", status=429, at_us=END + 2 * SECOND, resets_s=3_598),
    ]
    kept = [each for number, each in enumerate(checks) if number not in without]
    return herd.judge([*kept, *more], units=UNITS, end_us=END)


class TestHerd:
    def test_holds(self) -> None:
        holds(herded())

    @pytest.mark.parametrize(("resets_s", "window", "place"), [(1, "old", 1), (3_600, "new", 4)])
    def test_a_check_under_way_at_the_end_is_of_the_window_that_it_tells(
        self, resets_s: int, window: str, place: int
    ) -> None:
        """In place of another that was allowed in that window."""
        across = check("rush", at_us=END - 1_000, to_us=END + 1_000, resets_s=resets_s)
        holds(herded(across, without=[place]))
        breaks(herded(across), f"{window} window: over-granted: allowed 3 of 2")

    @pytest.mark.parametrize(("place", "window"), [(1, "old"), (4, "new")])
    def test_withheld(self, place: int, window: str) -> None:
        breaks(herded(without=[place]), f"{window} window: withheld: allowed 1 of 2, and refused 1")

    @pytest.mark.parametrize(("place", "window"), [(2, "old"), (5, "new")])
    def test_never_refused(self, place: int, window: str) -> None:
        breaks(herded(without=[place]), f"{window} window: never refused")

    def test_over_granted(self) -> None:
        more = check("rush", at_us=END - 4 * SECOND, resets_s=4)
        breaks(herded(more), "old window: over-granted: allowed 3 of 2")

    @pytest.mark.parametrize("resets_s", [3, 1, 3_602])
    def test_another_rest_of_the_window(self, resets_s: int) -> None:
        """A refusal 1.5 seconds before the end, answered at once: 2 seconds, rounded up."""
        holds(herded(check("rush", status=429, at_us=END - 1_500_000, resets_s=2)))
        wrong = check("rush", status=429, at_us=END - 1_500_000, resets_s=resets_s)
        breaks(herded(wrong), f"{resets_s} s to the end of the old window, not 2 to 2")

    def test_no_rest_of_the_window(self) -> None:
        breaks(herded(check("rush", status=429, at_us=END + SECOND)), "an answer without RateLimit")

    def test_other_answers(self) -> None:
        breaks(herded(check("rush", status=503, said="store_unavailable", at_us=END)), "answered 503 store_unavailable")

    def test_a_retry_before_the_end(self) -> None:
        early = check("rush", herd.RETRY, 429, at_us=END - 500_000, to_us=END - 400_000, resets_s=1)
        breaks(herded(early), "Retry-After ended 500000 µs before the window did")

    def test_a_retry_that_is_refused(self) -> None:
        late = check("rush", herd.RETRY, 429, "quota_exceeded", at_us=END + SECOND, resets_s=3_599)
        breaks(herded(late), "answered 429 quota_exceeded after Retry-After")

    def test_nobody_has_waited(self) -> None:
        breaks(herded(check("rush", at_us=END, resets_s=3_600), without=[3]), "nobody waited for Retry-After")


ROTATED = Rotation("c", "old", "new", 10 * SECOND, 10 * SECOND + 5_000)
ENDS = {"old": 11 * SECOND + 3_000}


def rotated(
    *more: Check,
    without: Sequence[int] = (),
    ends: Mapping[str, int] = ENDS,
    used: int = 4,
    rotations: Sequence[Rotation] = (ROTATED,),
) -> Verdict:
    checks = [
        check(key="old", at_us=9 * SECOND),
        check(key="new", at_us=ROTATED.answered_us),
        check(key="old", at_us=ENDS["old"] - 1_001),
        check(key="old", status=401, said="expired_credential", at_us=ENDS["old"]),
        check(key="new", at_us=20 * SECOND),
    ]
    kept = [each for number, each in enumerate(checks) if number not in without]
    return rotation.judge([*kept, *more], rotations, ends=ends, grace_s=1, used={"c": used})


class TestRotation:
    def test_holds(self) -> None:
        holds(rotated())

    def test_a_check_under_way_at_the_end_may_be_either(self) -> None:
        holds(rotated(check(key="old", status=401, at_us=ENDS["old"] - 500, to_us=ENDS["old"] + 500)))
        holds(rotated(check(key="old", at_us=ENDS["old"] - 500, to_us=ENDS["old"]), used=5))

    def test_a_new_key_refused(self) -> None:
        breaks(rotated(check(key="new", status=401, at_us=12 * SECOND)), "a key that nobody had replaced")

    def test_an_old_key_refused_within_its_grace(self) -> None:
        wrong = check(key="old", status=401, at_us=ENDS["old"] - 1_001)
        breaks(rotated(wrong), "answered 401 to a key 1 µs before its end")

    def test_an_old_key_passes_after_its_grace(self) -> None:
        breaks(rotated(check(key="old", at_us=ENDS["old"] + 7), used=5), "a key passed 7 µs after its end")

    @pytest.mark.parametrize("end_us", [10 * SECOND + 999_999, 11 * SECOND + 5_001])
    def test_a_grace_of_another_length(self, end_us: int) -> None:
        verdict = rotated(check(key="old", at_us=9 * SECOND), ends={"old": end_us}, used=5)
        assert any("a grace does not begin while its rotation was under way" in fault for fault in verdict.faults)

    def test_a_replaced_key_without_an_end(self) -> None:
        verdict = rotated(ends={})
        assert any("a replaced key has no end" in fault for fault in verdict.faults)

    @pytest.mark.parametrize(
        ("places", "what", "used"),
        [
            ([0, 2], "no check with an old key passed within its grace", 2),
            ([3], "no check with an old key was refused after its grace", 4),
        ],
    )
    def test_a_side_that_nobody_has_tried(self, places: Sequence[int], what: str, used: int) -> None:
        breaks(rotated(without=places, used=used), what)

    def test_a_new_key_that_nobody_has_tried(self) -> None:
        last = check(key="other", at_us=20 * SECOND)
        breaks(rotated(last, without=[1, 4], used=3), "no check with a new key passed")

    def test_no_grace_has_ended(self) -> None:
        breaks(rotated(rotations=[]), "no grace ended under load")

    @pytest.mark.parametrize("used", [3, 5])
    def test_a_quota_that_counts_otherwise(self, used: int) -> None:
        breaks(rotated(used=used), f"{used} units are used by its quota, and 4 checks were allowed")

    def test_other_answers(self) -> None:
        breaks(rotated(check(key="new", status=503, at_us=12 * SECOND)), "answered 503")


STOPPED, CONTINUED = 10 * SECOND, 12 * SECOND
UNCHECKED = {"deny": (503, "store_unavailable"), "allow": (200, "degraded")}


def stalled(
    *more: Check, without: str = "", charged: Mapping[str, int] | None = None, late_us: int = stall.CALM_US
) -> Verdict:
    """60 checks of each plan before, while and after the store stood still; `without` leaves one of the times out."""
    times = {
        name: begin
        for name, begin in (("before", 5 * SECOND), ("while", STOPPED + 100_000), ("after", CONTINUED + SECOND))
        if name != without
    }
    checks = []
    for client, (status, said) in UNCHECKED.items():
        for name, begin in times.items():
            for number in range(60):
                if name == "while":
                    at_us = begin + number * 1_000
                    checks.append(check(client, status=status, said=said, at_us=at_us, to_us=at_us + 60_000))
                else:
                    checks.append(check(client, at_us=begin + number * 1_000))
    taken = {client: 60 * len([name for name in times if name != "while"]) for client in UNCHECKED}
    return stall.judge(
        [*checks, *more],
        stopped_us=STOPPED,
        continued_us=CONTINUED,
        deadline_us=50_000,
        charged=taken if charged is None else charged,
        late_us=late_us,
    )


class TestStall:
    def test_holds_with_any_part_of_what_was_in_flight(self) -> None:
        holds(stalled())
        holds(stalled(charged={"deny": 180, "allow": 150}))

    @pytest.mark.parametrize(("units", "what"), [(181, "more than 120 allowed and 60"), (119, "less than the 120")])
    def test_charged_otherwise(self, units: int, what: str) -> None:
        breaks(stalled(charged={"deny": units, "allow": 120}), what)

    def test_a_late_answer(self) -> None:
        most_us = 50_000 + stall.MARGIN_US
        at_us = STOPPED + SECOND
        holds(stalled(check("deny", status=503, said="store_unavailable", at_us=at_us, to_us=at_us + most_us)))
        late = check("deny", status=503, said="store_unavailable", at_us=at_us, to_us=at_us + most_us + 1)
        breaks(stalled(late), "an answer took 200 ms, more than 200")
        breaks(
            stalled(late, late_us=stall.CALM_US + 1_000), "an answer took", "a program that only slept was 21 ms late"
        )
        holds(stalled(late_us=SECOND))

    @pytest.mark.parametrize(("client", "other"), [("deny", "allow"), ("allow", "deny")])
    def test_the_other_plan_s_answer(self, client: str, other: str) -> None:
        status, said = UNCHECKED[other]
        breaks(stalled(check(client, status=status, said=said, at_us=STOPPED + SECOND)), f"{client}: answered {status}")

    @pytest.mark.parametrize(("status", "said"), [(200, ""), (429, "quota_exceeded")])
    def test_a_decision_while_the_store_stood_still(self, status: int, said: str) -> None:
        charged = {"deny": 121, "allow": 120}
        at_us = STOPPED + stall.SETTLE_US
        breaks(
            stalled(check("deny", status=status, said=said, at_us=at_us), charged=charged), "decided while the store"
        )

    def test_unchecked_before_the_store_stood_still(self) -> None:
        early = check("deny", status=503, said="store_unavailable", at_us=STOPPED - 3_000)
        breaks(stalled(early), "unchecked 2 ms before the store stood still")

    def test_unchecked_after_the_store_is_back(self) -> None:
        status, said = UNCHECKED["allow"]
        holds(stalled(check("allow", status=status, said=said, at_us=CONTINUED + SECOND - 1)))
        breaks(
            stalled(check("allow", status=status, said=said, at_us=CONTINUED + SECOND)),
            "unchecked 1000 ms after the store went on",
        )

    def test_no_answer(self) -> None:
        breaks(stalled(check("deny", status=0, said="ConnectionError", at_us=SECOND)), "answered 0 ConnectionError")

    @pytest.mark.parametrize("when", ["before", "while", "after"])
    def test_a_time_in_which_nobody_asked(self, when: str) -> None:
        breaks(stalled(without=when), f"only 0 checks {when} the store", f"only 0 checks {when} the store")


ABUSE = Abuse(60, 2_000, 0, 60)


def abused(*more: Check, having_us: int = 1_200, busy: float = 0.5, polite: int = 200, abuse: Abuse = ABUSE) -> Verdict:
    """Two phases without and two with the abuser; the answers take 1000 µs without it."""
    return abusing([1_000, having_us] * 2, *more, busy=busy, polite=polite, abuse=abuse)


def abusing(
    took_us: Sequence[int], *more: Check, busy: float = 0.1, polite: int = 200, abuse: Abuse | None = None
) -> Verdict:
    """Phases of ten seconds, every other with the abuser, in each of which all answers take this long."""
    phases, checks = [], []
    for number, took in enumerate(took_us):
        begun_us = number * 10 * SECOND
        phases.append(Phase(begun_us, begun_us + 5 * SECOND, busy, abused=number % 2 == 1))
        checks += [check(at_us=begun_us + each, to_us=begun_us + each + took) for each in range(polite)]
    asked = sum(number % 2 for number in range(len(took_us))) * 5 * polite
    return abuser.judge([*checks, *more], phases, abuse or Abuse(60, asked, 0, 60))


class TestAbuser:
    def test_holds_up_to_the_limits(self) -> None:
        verdict = abused()
        holds(verdict)
        assert verdict.figures["ratio"] == 1.2

    def test_the_polite_notice(self) -> None:
        breaks(abused(having_us=1_201), "waited 1.20 times as long with the abuser")

    def test_the_median_of_the_phases_counts(self) -> None:
        """One slow phase of three is this machine's, not the abuser's."""
        verdict = abusing([1_000, 1_100, 1_000, 9_000, 1_000, 1_150])
        holds(verdict)
        assert verdict.figures["ratio"] == 1.15

    @pytest.mark.parametrize(("slower", "told"), [(1_200, False), (1_201, True)])
    def test_a_machine_that_is_too_busy_to_tell(self, slower: int, *, told: bool) -> None:
        verdict = abusing([1_000, 2_000, slower, 2_000])
        assert [("too busy to tell" in fault) for fault in verdict.faults] == [False, True][: 1 + told]

    def test_a_polite_one_refused(self) -> None:
        refused = check(status=429, said="rate_limited", at_us=7 * SECOND, to_us=7 * SECOND + 55_000)
        breaks(abused(refused), "answered 429 rate_limited, 7.0 s after the first check, in 55 ms")

    def test_a_sender_that_measures_itself(self) -> None:
        breaks(abused(busy=0.51), *["the sender was busy for 51%"] * 4)

    def test_too_few_checks(self) -> None:
        breaks(abused(polite=199), *["only 199 checks"] * 4)

    def test_nothing_measured(self) -> None:
        verdict = abused(polite=0)
        assert verdict.summary == "nothing was measured"
        assert len(verdict.faults) == 4

    @pytest.mark.parametrize(
        ("abuse", "what"),
        [
            (Abuse(62, 2_000, 0, 60), "over-granted: allowed 62"),
            (Abuse(60, 1_999, 0, 60), "refused 1999 times beside 400 checks"),
            (Abuse(60, 2_000, 1, 60), "1 answers that are neither yes nor no"),
        ],
    )
    def test_an_abuser_that_is_none_or_got_something_else(self, abuse: Abuse, what: str) -> None:
        breaks(abused(abuse=abuse), what)


QUOTA = Taken(
    client="quota",
    allowed=50,
    refused=150,
    errors={},
    most=50,
    exact=True,
    counted=Counted(50, 150),
    used=50,
    units=50,
    left=0,
)
BUCKET = replace(QUOTA, client="bucket", exact=False, units=None, left=None)


def taken(*each: Taken, takes: int = 200, served: int = 4) -> Verdict:
    return overshoot.judge(each, takes=takes, workers=4, served=served, seconds=1)


def alike(base: Taken, allowed: int) -> Taken:
    """The same with another number of allowed takes, of which everybody knows."""
    left = None if base.units is None else base.units - allowed
    return replace(base, allowed=allowed, counted=Counted(allowed, 150), used=allowed, left=left)


class TestOvershoot:
    def test_holds(self) -> None:
        verdict = taken(QUOTA, BUCKET)
        holds(verdict)
        assert verdict.figures["overshoot"] == 0

    def test_one_more_than_a_quota(self) -> None:
        verdict = taken(alike(QUOTA, 51))
        breaks(verdict, "over-granted: allowed 51, and its limits permit 50")
        assert verdict.figures["overshoot"] == 1

    def test_one_less_than_a_quota(self) -> None:
        breaks(taken(alike(QUOTA, 49), takes=0), "withheld: allowed 49 of 50")

    def test_a_bucket_has_one_for_the_clocks(self) -> None:
        holds(taken(alike(BUCKET, 51)))
        breaks(taken(alike(BUCKET, 52)), "over-granted: allowed 52")

    def test_a_bucket_that_gives_too_little(self) -> None:
        holds(taken(alike(BUCKET, 44), takes=0))
        breaks(taken(alike(BUCKET, 43), takes=0), "under-granted: allowed 43")

    def test_never_refused(self) -> None:
        breaks(taken(replace(QUOTA, refused=0, counted=Counted(50, 0)), takes=0), "never refused")

    def test_errors(self) -> None:
        breaks(taken(replace(QUOTA, errors={"503": 2})), "errors: 2 x 503")

    @pytest.mark.parametrize("told", [Counted(49, 150), Counted(50, 149), Counted(50, 150, 1)])
    def test_metrics_that_differ(self, told: Counted) -> None:
        breaks(taken(replace(QUOTA, counted=told)), "the metrics say")

    def test_a_history_that_differs(self) -> None:
        breaks(taken(replace(QUOTA, used=51)), "its history has 51 units, and it was allowed 50")

    def test_a_state_that_differs(self) -> None:
        breaks(taken(replace(QUOTA, left=1)), "its state has 1 of 50 left")

    def test_takes_that_were_not_answered(self) -> None:
        breaks(taken(QUOTA, takes=201), "only 200 of 201 takes were answered")

    def test_a_worker_without_work(self) -> None:
        breaks(taken(QUOTA, served=3), "only 3 of 4 workers answered")
