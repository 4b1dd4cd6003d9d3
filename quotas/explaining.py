"""Why a check would be allowed or refused, told from what the store holds. It takes nothing and writes nothing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from quotas import paths, scopes
from quotas.addresses import Address, counted
from quotas.answers import Reason
from quotas.decisions import Decision, Memory, Standing, take
from quotas.errors import CredentialError
from quotas.holders import Identity, Key, Status
from quotas.identities import Identities
from quotas.limits import Limit
from quotas.planbook import Planbook, PlanInForce
from quotas.registry import Registry
from quotas.scripts import OpenQuarter, PackedLimits, decode_state, key_state_key, state_key
from quotas.store import Store


@dataclass(frozen=True, slots=True)
class LimitStory:
    """One limit of the plan: whether it is about this request, how it stands now, and whether it is the client's own.

    `standing` has what is left now, before anything is taken, and when the cost would have room. None when the
    limit is not about this request.
    """

    limit: Limit
    overridden: bool
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a check would be answered, and from what. `reason` None is allowed.

    `readings` are the ways in which an upstream could understand the path; a limit is about the request when it
    is about one of them. `required_scopes` are those that the request needs, whether or not they are there; where
    one is missing there is no decision. `key` is None for a token, and for a key that has just been removed.
    """

    reason: Reason | None
    identity: Identity | None = None
    plan: PlanInForce | None = None
    cost: int = 0
    readings: tuple[str, ...] = ()
    stories: tuple[LimitStory, ...] = ()
    decision: Decision | None = None
    required_scopes: frozenset[str] = scopes.NONE
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class RawState:
    """One of a client's states as the store has it, and what its bytes say.

    It still lives for `lives_ms`; None is for ever, which no script writes.
    """

    key: str
    data: bytes
    lives_ms: int | None
    generation: int
    memory: Memory
    open_quarter: OpenQuarter | None


class Explainer:
    """Explains checks. `clock` gives epoch microseconds and judges expiry; the store's own judges limits."""

    def __init__(self, *, store: Store, identities: Identities, planbook: Planbook, clock: Callable[[], int]) -> None:
        self._store = store
        self._identities = identities
        self._planbook = planbook
        self._clock = clock

    async def explain(self, who: bytes | Address, method: str, target: bytes, cost: int | None) -> Explanation:
        """What a check with this credential, or without one from this address, would be answered.

        `cost` None leaves it to the plan's rules. Raises StoreUnavailableError.
        """
        try:
            identity = await self._identity(who)
        except CredentialError as error:
            return Explanation(Reason(error.reason))
        key = await self._key(identity)
        if identity.client.status is Status.SUSPENDED:
            return Explanation(Reason.SUSPENDED_CLIENT, identity, key=key)
        in_force = self._planbook.of(identity.client, self._clock(), identity.environment)
        if in_force is None:
            return Explanation(Reason.NO_PLAN, identity, key=key)
        identity = identity.on(in_force.plan.name)
        readings = paths.readings(target)
        if cost is None:
            cost = in_force.plan.cost(method, readings)
        skipped = in_force.plan.skipped(method, readings)
        required = in_force.plan.scopes_for(skipped)
        standings, now_us = await self._standings(identity, in_force, skipped, cost)
        of_the_plan = self._planbook.config.plans[in_force.plan.name].limits
        stories = tuple(
            LimitStory(limit, limit != planned, standings.get(limit.name))
            for limit, planned in zip(in_force.plan.limits, of_the_plan, strict=True)
        )
        decision = Decision.of(now_us, list(standings.values())) if required <= identity.scopes else None
        reason = Reason.INSUFFICIENT_SCOPE if decision is None else Reason.of(decision)
        return Explanation(reason, identity, in_force, cost, readings, stories, decision, required, key)

    async def states(self, client_id: str, key_ids: Iterable[str]) -> list[RawState]:
        """The states of a client that exist: of its limits, of its test keys, and of what counts per key."""
        names = [state_key(client_id), state_key(client_id, test=True)]
        names += [key_state_key(client_id, key_id) for key_id in key_ids]
        found = []
        for name in names:
            data, lives_ms = await self._store.call("GET", name), await self._store.call("PTTL", name)
            if data is not None:
                found.append(RawState(name, data, lives_ms if lives_ms >= 0 else None, *decode_state(data)))
        return found

    async def _key(self, identity: Identity) -> Key | None:
        """All that is known of a key; None for a token, and for a key that is gone by now."""
        found = None if identity.key is None else await Registry(self._store).key(identity.subject)
        return None if found is None else found[0]

    async def _identity(self, who: bytes | Address) -> Identity:
        if isinstance(who, bytes):
            _, identity = await self._identities.find(who, self._clock())
            return identity
        plan = self._planbook.config.anonymous
        if plan is None:
            raise CredentialError("missing_credential")
        return self._identities.of_address(counted(who), plan)

    async def _standings(
        self, identity: Identity, in_force: PlanInForce, skipped: frozenset[str], cost: int
    ) -> tuple[dict[str, Standing], int]:
        """How the limits that are about a request stand, by name, and the store's time that it is of."""
        client_id = identity.client.id
        seconds, microseconds = await self._store.call("TIME", at=state_key(client_id))
        now_us = int(seconds) * 1_000_000 + int(microseconds)
        states = (
            (in_force.packed.per_client, state_key(client_id, test=in_force.test_of is not None)),
            (in_force.packed.per_key, key_state_key(client_id, identity.subject_id)),
        )
        standings: dict[str, Standing] = {}
        for packed, key in states:
            data = await self._store.call("GET", key) if packed.limits else None
            memory = None if data is None else decode_state(data).memory
            standings |= _weighed(packed, memory, skipped, cost, now_us)
        return standings, now_us


def _weighed(
    packed: PackedLimits, memory: Memory | None, skipped: frozenset[str], cost: int, now_us: int
) -> dict[str, Standing]:
    """What is left now, with the wait that this cost would have."""
    _, look = take(packed.limits, memory, now_us=now_us, cost=0, skipped=skipped)
    _, weighed = take(packed.limits, memory, now_us=now_us, cost=cost, skipped=skipped)
    return {
        now.limit.name: now._replace(retry_after_us=then.retry_after_us)
        for now, then in zip(look.standings, weighed.standings, strict=True)
    }
