"""The plans in force, packed for the scripts: one book in each worker, swapped whole when the file changes.

A client's plan is found by name and, where it has overrides, made for it and kept for as long as it holds.
"""

from collections import OrderedDict
from dataclasses import dataclass

from quotas import overrides
from quotas.plans import Config, Plan
from quotas.registry import Client
from quotas.scripts import PackedPlan

MAX_MADE = 10_000
"""Plans with overrides that a worker keeps made; the least recently used goes first."""


@dataclass(frozen=True, slots=True)
class PlanInForce:
    """A plan and how the scripts take it. It holds until `until_us`; None is until the book is swapped."""

    plan: Plan
    packed: PackedPlan
    until_us: int | None = None


class Planbook:
    """Plans by name, and as overridden for a client."""

    def __init__(self, config: Config) -> None:
        self.use(config)

    def use(self, config: Config) -> None:
        """Have these plans in force from now on."""
        self.config = config
        self._plans = {name: PlanInForce(plan, PackedPlan(plan.limits)) for name, plan in config.plans.items()}
        self._made: OrderedDict[tuple[str, str], PlanInForce] = OrderedDict()

    def of(self, client: Client, now_us: int) -> PlanInForce | None:
        """The plan of a client at an instant; None when the configuration has none of that name.

        Of a client that the file keeps, the file has the last word: its record may still be on the way there.
        """
        name = self.config.clients.get(client.name, client.plan)
        in_force = self._plans.get(name)
        if in_force is None or not client.overrides:
            return in_force
        key = (name, client.overrides)
        made = self._made.get(key)
        if made is None or (made.until_us is not None and now_us >= made.until_us):
            made = self._made[key] = self._make(in_force.plan, client.overrides, now_us)
            if len(self._made) > MAX_MADE:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return made

    def _make(self, plan: Plan, text: str, now_us: int) -> PlanInForce:
        overridden = overrides.apply(plan, overrides.load(text), now_us)
        return PlanInForce(overridden.plan, PackedPlan(overridden.plan.limits), overridden.until_us)
