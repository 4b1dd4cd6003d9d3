"""Refunds: units given back for work that was charged and not done, once per idempotency key."""

from collections.abc import Callable

from quotas import paths
from quotas.errors import ConflictError, NotFoundError
from quotas.holders import Client
from quotas.keys import KEY_KIND, Environment
from quotas.planbook import Planbook, PlanInForce
from quotas.plans import is_client_name
from quotas.registry import Registry
from quotas.scripts import Refund, Refunded, refund
from quotas.store import Store


class Refunds:
    """Gives units back to clients. `clock` gives epoch microseconds; `told` hears the id of who was given some."""

    def __init__(
        self,
        *,
        store: Store,
        registry: Registry,
        planbook: Planbook,
        clock: Callable[[], int],
        told: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._planbook = planbook
        self._clock = clock
        self._told = told

    async def give(  # noqa: PLR0913 # What was charged, to whom, and when: each its own fact.
        self,
        client_name: str,
        units: int,
        *,
        idempotency_key: str,
        key_id: str = "",
        method: str = "GET",
        target: str = "/",
        taken_us: int | None = None,
    ) -> Refunded:
        """Give `units` (1 or more) back to the limits that a request of this method and target takes from.

        `key_id` names the key whose limits per key get theirs; empty leaves those out. Where the client's plan has a
        test plan, it also says which of the two the units were taken of. `taken_us` is when the units were taken: a
        quota whose window began later gets nothing. Never above full.

        Raises NotFoundError for an unknown client, ConflictError for one without a plan, StoreUnavailableError.
        """
        client = await self._registry.client(client_name) if is_client_name(client_name) else None
        if client is None:
            raise NotFoundError(f"there is no client {client_name!r}")
        if not key_id.isascii():
            raise NotFoundError(f"there is no key {key_id!r}")
        in_force = await self._in_force(client, key_id)
        if in_force is None:
            raise ConflictError(f"the plan {client.plan!r} of the client {client_name!r} is not in the configuration")
        readings = paths.readings(target.encode("utf-8", "surrogateescape"))
        skipped = in_force.plan.skipped(method, readings)
        if not key_id:
            skipped |= {limit.name for limit in in_force.packed.per_key.limits}
        asked = Refund(
            client_id=client.id,
            key_id=key_id,
            idempotency_key=idempotency_key,
            units=units,
            now_us=self._clock(),
            taken_us=taken_us,
            test=in_force.test_of is not None,
            skipped=skipped,
            keep_s=self._planbook.kept_s(client, in_force),
        )
        refunded = await refund(self._store, in_force.packed, asked)
        if refunded is None:
            raise NotFoundError(f"the client {client_name!r} was deleted meanwhile")
        if not refunded.repeated:
            self._told(client.id)
        return refunded

    async def _in_force(self, client: Client, key_id: str) -> PlanInForce | None:
        """The plan that units were taken of. A revoked key's is not known, and no guess may give live units back."""
        live, test = (self._planbook.of(client, self._clock(), each) for each in (Environment.LIVE, Environment.TEST))
        if not key_id.startswith(KEY_KIND + "_") or test is None or test.test_of is None:
            return live
        found = await self._registry.key(key_id)
        if found is None or found[1].id != client.id:
            raise NotFoundError(f"the client {client.name!r} has no key {key_id!r}, whose plan the units were taken of")
        return test if found[0].environment is Environment.TEST else live
