"""What a request takes of its plan: which limits are about it, what it costs, and which scopes it needs. No I/O."""

from collections.abc import Callable
from functools import partial

from quotas import paths
from quotas.holders import Identity
from quotas.planbook import Planbook, PlanInForce
from quotas.plans import Plan
from quotas.requests import CheckRequest
from quotas.scripts import Once, Take


class Costs:
    """What requests take, by the plans in force. The store's clock decides limits, unless `clock_decides`."""

    def __init__(self, planbook: Planbook, *, clock_decides: bool) -> None:
        self._planbook = planbook
        self._clock_decides = clock_decides

    def take_of(self, request: CheckRequest, identity: Identity, in_force: PlanInForce, now_us: int) -> Take:
        """What a request takes of its plan: which limits are about it, and what it costs."""
        plan = in_force.plan
        skipped: frozenset[str] = frozenset()
        cost = 1 if request.cost is None else request.cost
        if plan.asks_for_paths and not request.look:
            readings = paths.readings(request.target)
            skipped = plan.skipped(request.method, readings)
            if request.cost is None:
                cost = plan.cost(request.method, readings)
        client = identity.client
        once = None if request.request_id is None else self._once(request, identity, in_force, cost, skipped)
        kept_s = self._planbook.kept_s(client, in_force)
        asked = (client.id, client.generation, identity.subject_id, cost, now_us, self._clock_decides)
        return _take((*asked, in_force.test_of is not None, skipped, once, kept_s))

    def _once(
        self, request: CheckRequest, identity: Identity, in_force: PlanInForce, cost: int, skipped: frozenset[str]
    ) -> Once | None:
        """What makes a check the same as one before: all that its answer depends on."""
        dedupe = self._planbook.config.dedupe
        if dedupe is None or request.request_id is None:
            return None
        asked = (
            request.request_id,
            identity.subject_id.encode(),
            request.method.encode(),
            request.target,
            b"%d" % cost,
        )
        limits = (in_force.packed.fingerprint, *(name.encode() for name in sorted(skipped)))
        return Once.of(dedupe.within_us, *asked, *limits)


# The constructor of a named tuple is Python, and felt in a check.
_take: Callable[[tuple[object, ...]], Take] = partial(tuple.__new__, Take)


def required(request: CheckRequest, plan: Plan, skipped: frozenset[str]) -> frozenset[str]:
    """The scopes that a request needs; a look is about no limit more than about another."""
    return request.scopes | (plan.required_scopes if request.look else plan.scopes_for(skipped))
