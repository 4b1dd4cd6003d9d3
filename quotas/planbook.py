"""The plans in force, packed for the scripts: one book in each worker, swapped whole when the file changes.

A client's plan is found by name and, where it has overrides, made for it and kept for as long as it holds. Its test
keys are on the test plan of its plan, if that has one: as it is, without overrides, and whatever its own test plan is.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

from quotas import overrides
from quotas.holders import Client, Identity, is_subject_s
from quotas.keys import Environment
from quotas.plans import Config, Plan
from quotas.scripts import PackedPlan

MAX_MADE = 10_000
"""Plans with overrides that a worker keeps made; the least recently used goes first."""


@dataclass(frozen=True, slots=True)
class PlanInForce:
    """A plan and how the scripts take it. It holds until `until_us`; None is until the book is swapped.

    `test_of` is the plan whose test plan this is in force as; what is taken then is kept apart. None is no test plan.
    """

    plan: Plan
    packed: PackedPlan
    until_us: int | None = None
    test_of: str | None = None


class Planbook:
    """Plans by name, and as overridden for a client."""

    def __init__(self, config: Config) -> None:
        self.use(config)

    def use(self, config: Config) -> None:
        """Have these plans in force from now on."""
        self.config = config
        self._plans = {name: PlanInForce(plan, PackedPlan(plan.limits)) for name, plan in config.plans.items()}
        self._test_plans = {
            name: replace(self._plans[plan.test_plan], test_of=name)
            for name, plan in config.plans.items()
            if plan.test_plan is not None
        }
        self._has_claims = any(issuer.plan_claim is not None for issuer in config.issuers.values())
        self._made: OrderedDict[tuple[str, str], PlanInForce] = OrderedDict()

    def of(self, client: Client, now_us: int, environment: Environment = Environment.LIVE) -> PlanInForce | None:
        """The plan of a client's keys at an instant; None when the configuration has none of that name.

        Of a client that the file keeps, the file has the last word: its record may still be on the way there.
        """
        name = self.config.clients.get(client.name, client.plan)
        if environment is Environment.TEST and name in self._test_plans:
            return self._test_plans[name]
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

    def of_identity(self, identity: Identity, now_us: int) -> PlanInForce | None:
        """The plan that decides for who presents this identity."""
        return self.of(identity.client, now_us, identity.environment)

    def is_sole(self, client: Client) -> bool:
        """Whether one plan at a time is in force for all that counts together of a client: two tokens can claim two."""
        return not (self._has_claims and is_subject_s(client.id))

    def kept_s(self, client: Client, in_force: PlanInForce) -> int:
        """For how many seconds the usage history of a client on this plan is kept.

        It is 0, none, where the configuration says so, for callers without a record, and for test keys on a test plan.
        """
        return self.config.keep_s if client.generation and in_force.test_of is None else 0

    def _make(self, plan: Plan, text: str, now_us: int) -> PlanInForce:
        overridden = overrides.apply(plan, overrides.load(text), now_us)
        return PlanInForce(overridden.plan, PackedPlan(overridden.plan.limits), overridden.until_us)
