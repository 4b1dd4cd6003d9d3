"""What operators do with clients and keys: create, put on a plan, suspend, issue, revoke."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from quotas import instants, keys
from quotas.audit import Change, Told
from quotas.errors import ConflictError, NotFoundError
from quotas.holders import Alias, Client, Key, Status
from quotas.issuers import MAX_TEXT
from quotas.keys import Environment
from quotas.overrides import Override, names, told, written
from quotas.plans import MAX_CLIENT_NAME, Config, is_client_name
from quotas.registry import Registry
from quotas.scopes import checked, joined
from quotas.tokens import is_text

MAX_KEY_NAME = 128


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just made: the only time its `secret` exists outside of its holder."""

    key: Key
    secret: str = field(repr=False)


class Clients:
    """Clients and their keys. Every method can raise StoreUnavailableError.

    `heard` is told of every change once it has been made, also when a later step of the same call fails.

    A method that names a client or a key raises NotFoundError when there is none, and what is against the
    registry's present state raises ConflictError.
    """

    def __init__(  # noqa: PLR0913 # The composition root names each part once.
        self,
        registry: Registry,
        *,
        config: Config,
        brand: str,
        pepper: bytes | None,
        clock: Callable[[], int],
        heard: Told = lambda _: None,
    ) -> None:
        self._registry = registry
        self._config = config
        self._brand = brand
        self._pepper = pepper
        self._clock = clock
        self._heard = heard

    async def create(self, name: str, plan: str) -> Client:
        """A new client; its name is 1 to 128 printable characters and compared exactly."""
        if not is_client_name(name):
            raise ConflictError(f"a client's name has 1 to {MAX_CLIENT_NAME} printable characters")
        self._known_plan(plan)
        client = await self._registry.create_client(name, plan, self._clock())
        self._did("client.create", name, id=client.id, plan=plan)
        return client

    async def get(self, name: str) -> Client:
        """The client of this exact name."""
        client = await self._registry.client(name) if is_client_name(name) else None
        if client is None:
            raise NotFoundError(f"there is no client {name!r}; `quotas clients list` shows all")
        return client

    async def all(self) -> list[Client]:
        """All clients by name."""
        return sorted([client async for client in self._registry.clients()], key=lambda client: client.name)

    async def set_plan(self, name: str, plan: str) -> Client:
        """Put a client on another plan, from its next check on; what it has spent stays spent, by limit name."""
        self._known_plan(plan)
        if self._config.clients.get(name, plan) != plan:
            raise ConflictError(f"the configuration file keeps the client {name!r}, and its plan; change it there")
        return await self._amend(Change("client.set_plan", name, {"plan": plan}), plan=plan)

    async def set_limit(self, name: str, limit: str, override: Override) -> Client:
        """Give a client a limit of its own in place of its plan's, from its next check on."""
        client = await self.get(name)
        plan = self._config.plans.get(client.plan)
        known = {} if plan is None else {each.name: each for each in plan.limits}
        if limit not in known:
            raise ConflictError(f"the plan {client.plan!r} has no limit {limit!r}; it has {', '.join(known)}")
        if override.until_us is not None and override.until_us <= self._clock():
            raise ConflictError("the override would be over already; name an instant in the future")
        try:
            override.applied(known[limit])
        except ValueError as error:
            raise ConflictError(f"the limit {limit!r} cannot be this: {error}") from error
        change = Change("limit.set", name, {"limit": limit, **told(override)})
        return await self._own_limit(client, limit, written(override), change)

    async def unset_limit(self, name: str, limit: str) -> Client:
        """Give a client its plan's limit back."""
        client = await self.get(name)
        if limit not in names(client.overrides):
            raise NotFoundError(f"the client {name!r} has no limit {limit!r} of its own")
        return await self._own_limit(client, limit, "", Change("limit.unset", name, {"limit": limit}))

    async def keep(self) -> None:
        """Have the clients of the configuration file: create what is missing, move what differs."""
        for name, plan in self._config.clients.items():
            client = await self._registry.client(name)
            try:
                if client is None:
                    await self.create(name, plan)
                elif client.plan != plan:
                    await self.set_plan(name, plan)
            except (ConflictError, NotFoundError):
                continue  # Another worker was faster.

    async def suspend(self, name: str) -> Client:
        """Refuse every check of a client until it is resumed; its keys and what it has spent stay."""
        return await self._amend(Change("client.suspend", name, {}), status=Status.SUSPENDED.value)

    async def resume(self, name: str) -> Client:
        """Let a suspended client pass again."""
        return await self._amend(Change("client.resume", name, {}), status=Status.ACTIVE.value)

    async def delete(self, name: str) -> None:
        """Remove a client, its keys and what it has spent; a new client of the same name is another one."""
        if not is_client_name(name) or not await self._registry.delete_client(name):
            raise NotFoundError(f"there is no client {name!r}; `quotas clients list` shows all")
        self._did("client.delete", name)

    async def add_alias(self, name: str, alias: Alias) -> Alias:
        """Have a subject's tokens count against a client, from the next check on, so that both share its limits."""
        if not is_text(alias.issuer) or not is_text(alias.subject):
            raise ConflictError(f"an issuer and a subject have 1 to {MAX_TEXT} printable characters")
        client = await self.get(name)
        await self._registry.add_alias(client.id, alias)
        self._did("alias.add", name, issuer=alias.issuer, subject=alias.subject)
        return alias

    async def aliases_of(self, name: str) -> list[Alias]:
        """The subjects whose tokens count against a client, by issuer and subject."""
        found = [alias async for alias in self._registry.aliases_of(await self.get(name))]
        return sorted(found, key=lambda alias: (alias.issuer, alias.subject))

    async def remove_alias(self, name: str, alias_id: str) -> None:
        """Have a subject's tokens count against a client of its own again; `alias_id` is the subject's digest."""
        client = await self.get(name)
        if not alias_id.isascii() or not await self._registry.remove_alias(client.id, alias_id):
            raise NotFoundError(f"the client {name!r} has no such alias; `quotas clients aliases NAME` lists them")
        self._did("alias.remove", name, id=alias_id)

    async def issue_key(
        self,
        client_name: str,
        *,
        name: str = "",
        environment: Environment = Environment.LIVE,
        expires_at_us: int | None = None,
        scopes: Iterable[str] = (),
    ) -> IssuedKey:
        """A new key of a client. `expires_at_us` is the first instant at which it is too old; None is never."""
        issued = await self._issue(
            client_name, name=name, environment=environment, expires_at_us=expires_at_us, scopes=scopes
        )
        expires_at = None if expires_at_us is None else instants.show(expires_at_us)
        details = {"client": client_name, "name": name, "environment": environment.value, "expires_at": expires_at}
        self._did("key.create", issued.key.id, **details, scopes=joined(issued.key.scopes))
        return issued

    async def _issue(
        self,
        client_name: str,
        *,
        name: str,
        environment: Environment,
        expires_at_us: int | None = None,
        scopes: Iterable[str],
    ) -> IssuedKey:
        now_us = self._clock()
        if len(name) > MAX_KEY_NAME or not (name == "" or name.isprintable()):
            raise ConflictError(f"a key's name has at most {MAX_KEY_NAME} printable characters")
        if expires_at_us is not None and expires_at_us <= now_us:
            raise ConflictError("the key would have expired already; name an instant in the future")
        try:
            allowed = checked(scopes)
        except ValueError as error:
            raise ConflictError(str(error)) from error
        client = await self.get(client_name)
        secret = keys.generate(self._brand, environment)
        key = Key(
            keys.new_id(keys.KEY_KIND), client.id, name, keys.shown(secret), environment, now_us, expires_at_us, allowed
        )
        await self._registry.create_key(key, keys.digest(secret.encode(), self._pepper).hex())
        return IssuedKey(key, secret)

    async def keys_of(self, client_name: str) -> list[Key]:
        """All keys of a client, oldest first."""
        client = await self.get(client_name)
        found = [key async for key in self._registry.keys_of(client)]
        return sorted(found, key=lambda key: (key.created_at_us, key.id))

    async def key(self, key_id: str) -> tuple[Key, Client]:
        """A key and its client."""
        found = await self._registry.key(key_id) if key_id.isascii() else None
        if found is None:
            raise NotFoundError(f"there is no key {key_id!r}; `quotas keys list --client NAME` shows a client's")
        return found

    async def rotate_key(self, key_id: str, grace_s: int, *, keep_expiry: bool = False) -> tuple[IssuedKey, Client]:
        """A new key in a key's place: same client, name, environment and scopes; the old is valid for `grace_s` more.

        The end of the grace is exclusive, and no later than the old key's own expiry; 0 ends it at once. The new key
        has no expiry, or the old one's when that is to be kept. What the client has spent stays spent.
        """
        found = await self._registry.key(key_id) if key_id.isascii() else None
        now_us = self._clock()
        if found is None or found[0].is_expired(now_us):
            raise NotFoundError(f"there is no valid key {key_id!r}; `quotas keys list --client NAME` shows a client's")
        old, client = found
        issued = await self._issue(
            client.name,
            name=old.name,
            environment=old.environment,
            expires_at_us=old.expires_at_us if keep_expiry else None,
            scopes=old.scopes,
        )
        self._did("key.rotate", key_id, client=client.name, new=issued.key.id, grace_seconds=grace_s)
        if not await self._registry.expire_key(key_id, now_us + grace_s * 1_000_000):
            raise ConflictError(f"the key {key_id!r} was revoked meanwhile; the new key {issued.key.id} is valid")
        return issued, client

    async def revoke_key(self, key_id: str) -> None:
        """Remove a key; when this returns, no check that starts afterwards passes with it."""
        found = await self._registry.key(key_id) if key_id.isascii() else None
        # A revocation that broke off may have left an index alone, with nothing to find and something to remove.
        if not key_id.isascii() or not await self._registry.delete_key(key_id):
            raise NotFoundError(f"there is no key {key_id!r}; `quotas keys list --client NAME` shows a client's")
        self._did("key.revoke", key_id, client=None if found is None else found[1].name)

    async def demo_key(self, name: str, plan: str, lifetime_us: int) -> IssuedKey:
        """A fresh key of the demonstration client, which is made if need be; its expired keys are removed."""
        client = await self._registry.client(name)
        if client is None:
            await self.create(name, plan)
        now_us = self._clock()
        for key in await self.keys_of(name):
            if key.is_expired(now_us):
                await self.revoke_key(key.id)
        return await self.issue_key(name, name="demo", expires_at_us=now_us + lifetime_us)

    async def _amend(self, change: Change, **fields: str) -> Client:
        client = await self.get(change.target)
        if not await self._registry.amend(client.id, **fields):
            raise NotFoundError(f"the client {client.name!r} was deleted meanwhile")
        self._heard(change)
        return await self.get(client.name)

    async def _own_limit(self, client: Client, limit: str, override: str, change: Change) -> Client:
        if not await self._registry.set_limit(client.id, limit, override):
            raise NotFoundError(f"the client {client.name!r} was deleted meanwhile")
        self._heard(change)
        return await self.get(client.name)

    def _did(self, action: str, target: str, **details: str | int | None) -> None:
        self._heard(Change(action, target, details))

    def _known_plan(self, plan: str) -> None:
        if plan not in self._config.plans:
            raise ConflictError(
                f"there is no plan {plan!r} in the configuration; it has {', '.join(self._config.plans)}"
            )
