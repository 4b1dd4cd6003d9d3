"""Refusals that a worker repeats by itself, without asking the store, for as long as the store would repeat them.

Theory of operation. A refusal with a wait changes nothing. While a limit has not one unit left, every check that it is
about is refused, by every worker; so nothing is taken from any limit that is only asked together with it, and all that
the store could say is what it said, moved on by the time that has passed. That is when a worker that has heard a
refusal says it again: for a second at most, to checks of the same client under the same plan that meet the same limits
and cost no less. A client that goes on asking although it was refused costs the store nothing then.

Where a check that costs less, or is about another path, could pass and take something meanwhile, the store is asked:
when every limit has a unit left, or when one of them can be taken from without asking the one that has none.

What is said is not the old answer but the one of now. The reply to a take tells of each bucket how much it held, to
within the grains of one microsecond, and `buckets` says what that has become; a quota's count stays. Where the grains
that are not known would make a difference, of a whole unit or of a whole second, the store is asked. Until a whole unit
or a whole second makes one, an answer is the same, and so is what was written of it (`rendering`).

Two instants are known of a refusal, when the take was sent and when its reply was heard; the store decided in between.
How long the refusal holds is counted from the first, so that it never holds longer than the store would say it. What
is told is counted from the second, so that no countdown ends sooner than it should.

What else can make a check pass comes as a notice to all workers (`news`): that a client was changed, or was given units
back. It ends what is remembered of the client, and what was sent before it came is not remembered afterwards. While a
worker cannot be sure to hear notices, when it holds no lease, it neither remembers nor repeats anything.

Worked example. Of 5 per second, burst 10, all ten are gone; at 0 ms a check is sent, is refused at the store's instant
T with 200 ms to wait, and the reply is here at 1 ms. Until 199 ms, one millisecond before the wait is over, the worker
refuses by itself: at 151 ms with 50 ms to wait, as of T + 150 ms. At 199 ms it asks again, and the store decides.

Invariants
  It never refuses what the store would let pass, but for the time that a notice takes to come.
  Every number that is told is the store's of that instant, whatever other workers have done.
  A smaller cost is never refused by it, nor is a check that may be a repetition of one that was allowed.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from quotas import buckets
from quotas.decisions import FOREVER_US, Decision, Outcome, Standing
from quotas.limits import Bucket, Limit, Mode, Per
from quotas.news import clients_in
from quotas.plans import Match
from quotas.scripts import PackedPlan, Take

LONGEST_US = 1_000_000
"""How long a refusal is repeated at most. What a lost notice could cost is no more than this."""

MARGIN_US = 1_000
"""So much before its wait is over it is repeated no more: clocks may differ by a thousandth in speed."""

MAX_REMEMBERED = 10_000
"""Refusals that a worker remembers, of all clients: some 10 MB."""

_SECOND_US = 1_000_000
_SWEPT = 2
"""Clients that are looked at for what is over, each time that something is remembered: more than come."""


class Ear(Protocol):
    """What tells whether every notice is heard: a `news.Listener`."""

    def begin(self) -> None:
        """Listen from now on."""

    def is_current(self) -> bool:
        """Whether all notices were heard, as far as it matters."""


_Kind = tuple[bool, str, frozenset[str]]
"""What tells two checks of a client apart, but for what they cost: test keys' state, the key's id, what is skipped."""


@dataclass(slots=True)
class _Refusal:
    """A refusal by the store. Instants but the decision's own are by the memory's clock.

    `levels` are the least and the most that each bucket may have held, in grains; None is a quota. What was `said` last
    is said again to the same cost until then.
    """

    plan: PackedPlan
    generation: int
    cost: int
    decision: Decision
    levels: tuple[tuple[int, int] | None, ...]
    sent_us: int
    heard_us: int
    until_us: int
    said: Decision | None = None
    said_cost: int = 0
    said_until_us: int = 0

    def at(self, now_us: int, cost: int) -> Decision | None:
        """What the store would decide now on a cost that is no smaller; None where it has to be asked.

        Its instants and waits may be earlier by what nobody is told: less than a second, and no unit.
        """
        if cost == self.said_cost and now_us < self.said_until_us:
            return self.said
        decision = self.after(max(0, now_us - self.heard_us), cost)
        if decision is not None:
            self.said, self.said_cost, self.said_until_us = decision, cost, now_us + _same_us(decision)
        return decision

    def after(self, elapsed_us: int, cost: int) -> Decision | None:
        """What the store would decide so much later on a cost that is no smaller; None where it has to be asked."""
        standings = []
        for standing, levels in zip(self.decision.standings, self.levels, strict=True):
            later = _later(standing, levels, elapsed_us, cost)
            if later is None:
                return None
            standings.append(later)
        decision = Decision.of(self.decision.at_us + elapsed_us, standings)
        assert not decision.allowed, "a wait is not over before its time, and no smaller for a larger cost"
        return decision


class RefusalMemory:
    """What one worker remembers. `clock` counts microseconds and never goes back.

    Without `listen` nothing is remembered. `clients` are the ids of those whom something is remembered of: while
    there are none, nobody needs to be looked for.
    """

    def __init__(self, clock: Callable[[], int], *, max_remembered: int = MAX_REMEMBERED) -> None:
        self._clock = clock
        self._max_remembered = max_remembered
        self._ear: Ear | None = None
        self._changed_us: int | None = None
        self._remembered = 0
        self.clients: OrderedDict[str, dict[_Kind, _Refusal]] = OrderedDict()

    def listen(self, ear: Ear) -> None:
        """Remember refusals from now on, as far as notices are heard; `hear` is to be told them."""
        self._ear = ear

    def hear(self, notice: str | None) -> None:
        """Follow a notice; None is any number of them that were missed."""
        clients = [] if notice is None else clients_in(notice)
        if clients is None:
            return
        for client_id in clients:
            self._forget(client_id)
        if not clients:
            self.clear()
        self._changed_us = self._clock()

    def changed(self, client_id: str) -> None:
        """This very worker has changed a client, or given it units back."""
        self._forget(client_id)
        self._changed_us = self._clock()

    def clear(self) -> None:
        """Remember nothing."""
        self.clients.clear()
        self._remembered = 0

    def _forget(self, client_id: str) -> None:
        kinds = self.clients.pop(client_id, None)
        if kinds is not None:
            self._remembered -= len(kinds)

    def remember(  # noqa: PLR0913 # What was asked, under what, what was answered, and when.
        self,
        plan: PackedPlan,
        matches: Mapping[str, Match],
        asked: Take,
        decision: Decision,
        *,
        sent_us: int,
        heard_us: int,
    ) -> None:
        """Remember what the store has decided on a take that was sent and answered at these instants of the clock.

        `matches` are the plan's. All of the client's checks have to be under this plan, so far as they count together.
        Only a refusal that time alone will end is remembered. The first one makes this worker listen.
        """
        if self._ear is None or decision.outcome is not Outcome.WAIT:
            return
        if max(standing.reset_after_us or 0 for standing in decision.standings) >= FOREVER_US:
            return  # The scripts have cut this number off.
        levels = tuple(_levels(standing, asked.cost) for standing in decision.standings)
        until_us = sent_us + min(LONGEST_US, _holds_us(decision.standings, levels, matches) - MARGIN_US)
        now_us = self._clock()
        if until_us <= now_us:
            return
        if not self._ear.is_current():
            self._ear.begin()
            return
        if self._changed_us is not None and sent_us < self._changed_us:
            return  # The store may have decided before the change.
        refusal = _Refusal(plan, asked.generation, asked.cost, decision, levels, sent_us, heard_us, until_us)
        kinds = self.clients.setdefault(asked.client_id, {})
        self.clients.move_to_end(asked.client_id)
        kind = _kind(plan, asked)
        self._remembered += kind not in kinds
        kinds[kind] = refusal
        self._sweep(now_us)

    def recall(self, plan: PackedPlan, asked: Take) -> Decision | None:
        """What the store would decide now on a take that it would refuse; None where it has to be asked."""
        kinds = self.clients.get(asked.client_id)
        if kinds is None or asked.once is not None:
            return None
        refusal = kinds.get(_kind(plan, asked))
        if refusal is None or refusal.plan is not plan or refusal.generation != asked.generation:
            return None
        now_us = self._clock()
        if asked.cost < refusal.cost or not refusal.sent_us <= now_us < refusal.until_us:
            return None
        if self._ear is None or not self._ear.is_current():
            return None
        return refusal.at(now_us, asked.cost)

    def _sweep(self, now_us: int) -> None:
        """Forget clients of whom all is over, a few each time, and who was refused longest ago when there is no room.

        Clients stand in the order in which they were refused last.
        """
        for _ in range(_SWEPT):
            client_id, kinds = next(iter(self.clients.items()))
            if any(now_us < refusal.until_us for refusal in kinds.values()):
                break
            self._forget(client_id)
        while self._remembered > self._max_remembered:
            self._forget(next(iter(self.clients)))


def _kind(plan: PackedPlan, asked: Take) -> _Kind:
    return asked.test, asked.key_id if plan.per_key.limits else "", asked.skipped


def _same_us(decision: Decision) -> int:
    """For how long nothing of a decision changes that is told: no unit, and no second of an instant or of a wait."""
    since_us = decision.at_us % _SECOND_US
    lengths_us = [
        us
        for standing in decision.standings
        for us in (standing.next_unit_after_us, standing.reset_after_us, standing.retry_after_us)
        if us
    ]
    changes_us = [(us - 1) % _SECOND_US + 1 for us in lengths_us]
    changes_us.append(_SECOND_US - since_us if since_us else 1)
    # A unit may come two microseconds before it is told to: see `Standing.next_unit_after_us`, and `_levels`.
    return min(changes_us) - 2


def _holds_us(
    standings: Sequence[Standing], levels: Sequence[tuple[int, int] | None], matches: Mapping[str, Match]
) -> int:
    """How long nothing can be taken from any of these limits, nor does a window of theirs end; 0 where something can.

    A limit cannot be taken from while one that is about all of its checks has not one unit left.
    """
    empty_us = {
        standing.limit: _next_us(standing, known)
        for standing, known in zip(standings, levels, strict=True)
        if standing.remaining == 0 and standing.limit.mode is Mode.ENFORCE
    }
    holds_us = []
    for limit, _, reset_us, _ in standings:
        holds_us.append(max((us for empty, us in empty_us.items() if _covers(empty, limit, matches)), default=0))
        if not isinstance(limit.rule, Bucket):
            holds_us.append(reset_us or 0)
    return min(holds_us)


def _next_us(standing: Standing, levels: tuple[int, int] | None) -> int:
    """How long a limit without a unit left has none, at least; a bucket that never refills is no matter of time."""
    if levels is None or not isinstance(standing.limit.rule, Bucket):
        return standing.reset_after_us or 0
    return buckets.next_unit_after_us(standing.limit.rule, levels[1]) or 0


def _covers(one: Limit, other: Limit, matches: Mapping[str, Match]) -> bool:
    """Whether each check that takes from the other limit asks this very one."""
    match = matches.get(one.name)
    return (match is None or match == matches.get(other.name)) and (one.per is Per.CLIENT or other.per is Per.KEY)


def _levels(standing: Standing, cost: int) -> tuple[int, int] | None:
    """The least and the most that a bucket held, from all that was said of it: what is left, until full, the wait."""
    limit, left, reset_us, wait_us = standing
    rule = limit.rule
    if not isinstance(rule, Bucket):
        return None
    grains, refill, needed = rule.grains, rule.refill, cost * rule.grains
    least, most = left * grains, min(rule.capacity, (left + 1) * grains - 1)
    if reset_us == 0:
        return rule.capacity, rule.capacity
    if reset_us is not None:
        least = max(least, rule.capacity - refill * reset_us)
        most = min(most, rule.capacity - refill * (reset_us - 1) - 1)
    if wait_us:
        least = max(least, needed - refill * wait_us)
        most = min(most, needed - refill * (wait_us - 1) - 1)
    assert 0 <= least <= most, "what the script says of a bucket goes together"
    return least, most


def _later(standing: Standing, levels: tuple[int, int] | None, elapsed_us: int, cost: int) -> Standing | None:
    """How a limit stands so much later, for another cost; None where what is not known of it makes a difference."""
    return _quota(standing, elapsed_us, cost) if levels is None else _bucket(standing, levels, elapsed_us, cost)


def _bucket(standing: Standing, levels: tuple[int, int], elapsed_us: int, cost: int) -> Standing | None:
    """The same of a bucket."""
    limit = standing.limit
    rule = limit.rule
    assert isinstance(rule, Bucket), "only buckets have levels"
    least, most = (buckets.refilled(rule, level, elapsed_us) for level in levels)
    left, wait_us = buckets.remaining(rule, least), buckets.retry_after_us(rule, least, cost)
    if least != most:
        sooner_us = buckets.retry_after_us(rule, most, cost)
        if left != buckets.remaining(rule, most) or _seconds(wait_us) != _seconds(sooner_us):
            return None
    return Standing(limit, left, buckets.reset_after_us(rule, least), wait_us)


def _quota(standing: Standing, elapsed_us: int, cost: int) -> Standing:
    """The same of a quota, in the same window."""
    limit, left, reset_us, _ = standing
    assert not isinstance(limit.rule, Bucket), "a quota has a window"
    assert reset_us is not None, "every window ends"
    wait_us: int | None = 0
    if cost > limit.rule.units:
        wait_us = None
    elif cost > left:
        wait_us = reset_us - elapsed_us
    return Standing(limit, left, reset_us - elapsed_us, wait_us)


def _seconds(wait_us: int | None) -> int | None:
    """A wait as it is told: whole seconds, rounded up."""
    return None if wait_us is None else -(-wait_us // _SECOND_US)
