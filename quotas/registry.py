"""Clients and keys as the store keeps them.

What is where (layout version `q1`):

    q1:clients             hash    client name -> client id, with a mark before it while the client is deleted
    q1:keys                hash    key id -> client id
    q1:{<client id>}:client  hash  name, plan, status, generation, created_at_us, and
                                  limit:<name> for each limit of the client's own
    q1:{<client id>}:keys  hash    key id -> digest
    q1:aliases             hash    digest of (issuer, subject) -> client id, marked while the alias is taken away
    q1:{<client id>}:aliases hash  digest of (issuer, subject) -> both, as JSON
    q1:key:<digest>        hash    id, client_id, name, shown, environment, created_at_us, expires_at_us, scopes,
                                  imported (1 for a foreign key), used_hour (whole hours since the epoch)
    q1:foreign             string  there, for good, before the first foreign key is

Every change that a worker could have cached the opposite of ends in `amend.lua`, which raises the client's
generation; `lua/take.lua` then refuses to decide on what a worker knew before. A notice to all workers follows, which
ends what they may refuse without asking (`refusal_memory`). Indexes are written before what
they point to and removed after it, so that whatever exists can be found, listed and removed, wherever a
process may die in between. An index whose key has another id is what a broken import has left: it counts for nothing.
The secret of a key is never here, only its digest.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import orjson

from quotas import keys, overrides, scopes
from quotas.errors import ConflictError
from quotas.holders import HOUR_US, Alias, Client, Held, Identity, Key, Status, subject_client_id
from quotas.news import about_clients, announce
from quotas.plans import LONGEST_MONTH_DAYS, MAX_KEEP_MONTHS
from quotas.scripts import AMEND, ENROL, SEEN, SWAP, key_state_key, record_key, refused_key, state_key, used_key
from quotas.store import Store

_CLIENTS = "q1:clients"
_KEYS = "q1:keys"
_ALIASES = "q1:aliases"
_FOREIGN = "q1:foreign"
_CLIENT_FIELDS = ("name", "plan", "status", "generation", "created_at_us")
_KEY_FIELDS = (
    "id",
    "client_id",
    "name",
    "shown",
    "environment",
    "created_at_us",
    "expires_at_us",
    "scopes",
    "imported",
    "used_hour",
)
_HELD_FIELDS = ("id", "client_id", "environment", "expires_at_us", "scopes", "imported", "used_hour")
_IMPORTED = _HELD_FIELDS.index("imported")
_PAGE = 500
_LEAVING = "-"
_LIMIT = "limit:"
_DAY_S = 86_400
_KEPT_DAYS = MAX_KEEP_MONTHS * LONGEST_MONTH_DAYS + 2
"""Days back from today that a usage history can have, whatever it was kept for when it was written."""


class Registry:
    """Reads and writes of clients and keys. Every method can raise StoreUnavailableError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create_client(self, name: str, plan: str, now_us: int) -> Client:
        """A new client with an id of its own. Raises ConflictError when the name is taken."""
        client_id = keys.new_id("cl")
        while not await self._store.call("HSETNX", _CLIENTS, name, client_id):
            client_id = await self._holder(name)
            if not client_id.startswith(_LEAVING):
                break  # Somebody's: made, or half made and then finished below.
            await self._remove(name, client_id.removeprefix(_LEAVING))
            client_id = keys.new_id("cl")
        client = Client(client_id, name, plan, Status.ACTIVE, 1, now_us)
        if not await self._enrol(client):
            raise ConflictError(f"the client {name!r} exists already")
        return client

    async def subject_client(
        self, client_id: str, names: tuple[str, str], plan: str | None, now_us: int
    ) -> Client | None:
        """The client of a token's subject, made on `plan` when it is not there; None when there is no plan either.

        It is called by the first of the names that is not another's. Its generations begin with the time: a client
        that was deleted and made anew must not come by a generation that it has had.
        """
        client = await self._load_client(client_id)
        if client is not None or plan is None:
            return client
        for name in names:
            holder = await self._holder(name)
            if holder == _LEAVING + client_id:
                await self._remove(name, client_id)
            if holder == client_id or await self._store.call("HSETNX", _CLIENTS, name, client_id):
                await self._enrol(Client(client_id, name, plan, Status.ACTIVE, now_us, now_us))
                return await self._load_client(client_id)
        raise ConflictError("both names of a token's client are taken")

    async def client_of_id(self, client_id: str) -> Client | None:
        """The client of this id, or None."""
        return await self._load_client(client_id)

    async def ids(self, names: Collection[str], *, all_up_to: int) -> dict[str, str]:
        """The ids of the clients of these names by name; of all clients, when there are at most `all_up_to`."""
        if await self._store.call("HLEN", _CLIENTS) <= all_up_to:
            found = [word.decode() for word in await self._store.call("HGETALL", _CLIENTS)]
            holders = dict(zip(found[::2], found[1::2], strict=True))
        else:
            found = await self._store.call("HMGET", _CLIENTS, *names) if names else []
            holders = {name: holder.decode() for name, holder in zip(names, found, strict=True) if holder is not None}
        return {name: holder for name, holder in holders.items() if not holder.startswith(_LEAVING)}

    async def client(self, name: str) -> Client | None:
        """The client of this exact name, or None."""
        client_id = await self._holder(name)
        return await self._load_client(client_id) if client_id and not client_id.startswith(_LEAVING) else None

    async def clients(self) -> AsyncIterator[Client]:
        """All clients, in no order; a client created or deleted meanwhile may or may not be among them."""
        async for _, client_id in self._scan(_CLIENTS):
            client = None if client_id.startswith(_LEAVING) else await self._load_client(client_id)
            if client is not None:
                yield client

    async def set_limit(self, client_id: str, limit: str, override: str) -> int:
        """Keep what is different about one limit of a client; empty is nothing. Returns as `amend`."""
        return await self.amend(client_id, **{_LIMIT + limit: override})

    async def amend(self, client_id: str, **changes: str) -> int:
        """Set fields of a client and raise its generation; returns it, or 0 when the client is gone.

        When this returns, no worker repeats a refusal from before either.
        """
        words = tuple(word for pair in changes.items() for word in pair)
        generation = int(await self._store.run(AMEND, (record_key(client_id), *_states(client_id)), words))
        if generation:
            await announce(self._store, about_clients([client_id]))
        return generation

    async def delete_client(self, name: str) -> bool:
        """Remove a client, its keys and what it has spent; False when there is none. Can be asked again."""
        client_id = await self._holder(name)
        if not client_id:
            return False
        await self._remove(name, client_id.removeprefix(_LEAVING))
        return True

    async def _remove(self, name: str, client_id: str) -> None:
        """Take a client away: mark its name first, so that whatever breaks off can only be finished.

        With the record gone, no worker lets it pass. Its history goes in the same command: what a subject uses that
        comes back under this id is not what it used before.
        """
        if not await self._leave(_CLIENTS, name, client_id):
            return  # Somebody else has removed it, and the name may be another's by now.
        seconds, _ = await self._store.call("TIME")
        history = _history(client_id, int(seconds) // _DAY_S)
        await self._store.call("UNLINK", record_key(client_id), *_states(client_id), *history)
        await announce(self._store, about_clients([client_id]))
        async for key_id, digest in self._scan(_keys_of(client_id)):
            await self._remove_key(key_id, digest)
            await self._store.call("DEL", key_state_key(client_id, key_id))
            await self._store.call("HDEL", _KEYS, key_id)
        await self._store.call("DEL", _keys_of(client_id))
        async for digest, _ in self._scan(_aliases_of(client_id)):
            if await self._leave(_ALIASES, digest, client_id):
                await self._swap(_ALIASES, digest, _LEAVING + client_id, "")
        await self._store.call("DEL", _aliases_of(client_id))
        await self._swap(_CLIENTS, name, _LEAVING + client_id, "")

    async def _leave(self, index: str, field_name: str, client_id: str) -> bool:
        """Mark an entry of a client as leaving; False when it is not this client's, not even marked already."""
        marked = _LEAVING + client_id
        return await self._swap(index, field_name, client_id, marked) or await self._swap(
            index, field_name, marked, marked
        )

    async def _swap(self, index: str, field_name: str, seen: str, value: str) -> bool:
        """Change an entry of an index, or take it away, unless it has changed since it was seen."""
        return bool(await self._store.run(SWAP, (index,), (field_name, seen, value)))

    async def alias(self, digest: str) -> str | None:
        """The id of the client that this subject's tokens count against, when that is not its own."""
        holder = await self._store.call("HGET", _ALIASES, digest)
        return None if holder is None or holder.startswith(_LEAVING.encode()) else str(holder.decode())

    async def alias_holder(self, digest: str) -> str | None:
        """The same, also while the alias is taken away: a worker may know it still."""
        holder = await self._store.call("HGET", _ALIASES, digest)
        return None if holder is None else str(holder.decode().removeprefix(_LEAVING))

    async def add_alias(self, client_id: str, alias: Alias) -> None:
        """Have a subject's tokens count against a client, from the next check on. Can be asked again.

        Raises ConflictError when they count against another one that is not the subject's own.
        """
        digest = alias.digest
        await self._store.call("HSET", _aliases_of(client_id), digest, orjson.dumps([alias.issuer, alias.subject]))
        while not await self._store.call("HSETNX", _ALIASES, digest, client_id):
            holder = await self._store.call("HGET", _ALIASES, digest)
            if holder == client_id.encode():
                break  # Made before, perhaps by a call that broke off here.
            if holder is not None and not holder.startswith(_LEAVING.encode()):
                await self._store.call("HDEL", _aliases_of(client_id), digest)
                raise ConflictError("this subject is another client's alias; take it away there first")
            if holder is not None:
                await self._finish_alias(holder.decode().removeprefix(_LEAVING), digest)
        await self.amend(subject_client_id(digest))

    async def remove_alias(self, client_id: str, digest: str) -> bool:
        """Have a subject's tokens count against a client of its own again; False when it is no alias of this client.

        Can be asked again.
        """
        if await self.alias_holder(digest) != client_id:
            return bool(await self._store.call("HDEL", _aliases_of(client_id), digest))
        await self._finish_alias(client_id, digest)
        return True

    async def _finish_alias(self, client_id: str, digest: str) -> None:
        """Take an alias away. It stays findable until no worker knows it: its revocation may be under way as well."""
        if await self._leave(_ALIASES, digest, client_id):
            await self.amend(client_id)
            await self._swap(_ALIASES, digest, _LEAVING + client_id, "")
        await self._store.call("HDEL", _aliases_of(client_id), digest)

    async def aliases_of(self, client: Client) -> AsyncIterator[Alias]:
        """All subjects whose tokens count against a client that is not their own, in no order."""
        async for digest, text in self._scan(_aliases_of(client.id)):
            if await self.alias(digest) == client.id:
                yield Alias(*orjson.loads(text))

    async def create_key(self, key: Key, digest: str) -> None:
        """Keep a new key under its digest. Its client must exist."""
        await self._store.call("HSET", _keys_of(key.client_id), key.id, digest)
        await self._store.call("HSET", _KEYS, key.id, key.client_id)
        await self._store.call("HSET", _key(digest), *_key_words(key))

    async def import_keys(self, found: Sequence[tuple[Key, str]]) -> int:
        """Keep keys that others have made, under their digests; what is there already stays. Returns how many are new.

        Their clients must exist. Can be asked again with keys of other ids.
        """
        await self._store.call("SET", _FOREIGN, 1)
        if not found:
            return 0
        await self._store.load(ENROL)
        of_client: dict[str, list[str]] = {}
        for key, digest in found:
            of_client.setdefault(key.client_id, []).extend((key.id, digest))
        places = [word for key, _ in found for word in (key.id, key.client_id)]
        lists = (self._store.call("HSET", _keys_of(client), *words) for client, words in of_client.items())
        await asyncio.gather(*lists)
        await self._store.call("HSET", _KEYS, *places)
        enrolled = await self._store.run_all(ENROL, [((_key(digest),), _key_words(key)) for key, digest in found])
        late = [key for (key, _), new in zip(found, enrolled, strict=True) if not new]
        if late:
            await self._store.call("HDEL", _KEYS, *(key.id for key in late))
        await asyncio.gather(*(self._store.call("HDEL", _keys_of(key.client_id), key.id) for key in late))
        return len(found) - len(late)

    async def seen(self, seen: Mapping[bytes, tuple[str, int]]) -> None:
        """Note when keys were seen: by the digest of the record, the key's id and whole hours since the epoch.

        Keys that are gone stay so.
        """
        await self._store.load(SEEN)
        await self._store.run_all(SEEN, [((_key(record.hex()),), words) for record, words in seen.items()])

    async def has_foreign_keys(self) -> bool:
        """Whether a foreign key has ever been imported."""
        return bool(await self._store.call("EXISTS", _FOREIGN))

    async def owners(self, digests: Sequence[str]) -> list[str | None]:
        """The id of the client that the key of each digest belongs to, in order; None where there is no such key."""
        found = await asyncio.gather(*(self._store.call("HGET", _key(digest), "client_id") for digest in digests))
        return [None if owner is None else owner.decode() for owner in found]

    async def key(self, key_id: str) -> tuple[Key, Client] | None:
        """The key of this id and its client, or None."""
        digest = await self._digest(key_id)
        key = None if digest is None else await self._load_key(digest, key_id)
        client = None if key is None else await self._load_client(key.client_id)
        return None if key is None or client is None else (key, client)

    async def keys_of(self, client: Client) -> AsyncIterator[Key]:
        """All keys of a client, in no order, expired ones among them."""
        async for key_id, digest in self._scan(_keys_of(client.id)):
            key = await self._load_key(digest, key_id)
            if key is not None:
                yield key

    async def expire_key(self, key_id: str, expires_at_us: int) -> bool:
        """Have a key end at an instant, or earlier if it does already; False when there is none. Can be asked again."""
        digest = await self._digest(key_id)
        key = None if digest is None else await self._load_key(digest, key_id)
        if digest is None or key is None:
            return False
        if key.expires_at_us is None or expires_at_us < key.expires_at_us:
            await self._store.call("HSET", _key(digest), "expires_at_us", expires_at_us)
        await self.amend(key.client_id)
        return True

    async def delete_key(self, key_id: str) -> bool:
        """Remove a key; False when there is none. When this returns no worker lets it pass. Can be asked again."""
        client_id, digest = await self._owner(key_id), await self._digest(key_id)
        if client_id is None:
            return False
        if digest is not None:  # Else an earlier call broke off when all but the last index was gone.
            await self._remove_key(key_id, digest)
        await self.amend(client_id)
        await self._store.call("DEL", key_state_key(client_id, key_id))
        await self._store.call("HDEL", _keys_of(client_id), key_id)
        await self._store.call("HDEL", _KEYS, key_id)
        return True

    async def _remove_key(self, key_id: str, digest: str) -> None:
        """Remove a key's record, but no other key's: what a broken import has left may name one that is alive."""
        if await self._load_key(digest, key_id) is not None:
            await self._store.call("DEL", _key(digest))

    async def identity(self, digests: Sequence[bytes], *, imported: bytes | None = None) -> Identity | None:
        """Whom the key of the first of these digests that has one speaks for, or None: in two round trips.

        The first is the credential's own. Last comes that under which an `imported` key would be, and only such a one.

        The key is read once more after its client: a key that is still there when the generation has been
        read can only be revoked by raising that generation.
        """
        asked = [*digests] if imported is None else [*digests, imported]
        found = await self._store.call_all([("HMGET", _key(digest.hex()), *_HELD_FIELDS) for digest in asked])
        for record, values in zip(asked, found, strict=True):
            if values[0] is not None and (record is not imported or values[_IMPORTED] is not None):
                return await self._identity_of(record, values, is_own=record in digests[:1])
        return None

    async def _identity_of(self, record: bytes, values: Sequence[bytes | None], *, is_own: bool) -> Identity | None:
        """Whom a key speaks for that has been read."""
        key_id, client_id, environment, expires_at_us, words, _, used_hour = (
            None if each is None else each.decode() for each in values
        )
        assert key_id, "there was one"
        assert client_id, "a record is written at once"
        reads = (("HGETALL", record_key(client_id)), ("HGET", _key(record.hex()), "id"))
        told, still = await self._store.call_all(reads)
        client = _client(client_id, told)
        if client is None or still != values[0]:
            return None
        return Identity(
            client,
            key_id,
            key_id,
            None if expires_at_us is None else int(expires_at_us),
            Held(b"" if is_own else record, keys.Environment(environment), -1 if used_hour is None else int(used_hour)),
            scopes=scopes.NONE if words is None else scopes.split(words),
        )

    async def _holder(self, name: str) -> str:
        """The id of the client of this name, marked while it is deleted; empty for none."""
        return str((await self._store.call("HGET", _CLIENTS, name) or b"").decode())

    async def _owner(self, key_id: str) -> str | None:
        """The id of a key's client, or None."""
        client_id = await self._store.call("HGET", _KEYS, key_id)
        return None if client_id is None else str(client_id.decode())

    async def _digest(self, key_id: str) -> str | None:
        """The digest of a key, under which its record is, or None."""
        client_id = await self._owner(key_id)
        digest = None if client_id is None else await self._store.call("HGET", _keys_of(client_id), key_id)
        return None if digest is None else str(digest.decode())

    async def _enrol(self, client: Client) -> bool:
        """Write the record of a client that has no limits of its own, unless there is one."""
        words = ("name", client.name, "plan", client.plan, "status", client.status.value)
        dates = ("created_at_us", client.created_at_us, "generation", client.generation)
        return bool(await self._store.run(ENROL, (record_key(client.id),), (*words, *dates)))

    async def _load_client(self, client_id: str) -> Client | None:
        return _client(client_id, await self._store.call("HGETALL", record_key(client_id)))

    async def _load_key(self, digest: str, key_id: str | None = None) -> Key | None:
        """The key of a digest, or None; with a `key_id`, None as well when it has another."""
        values: list[Any] = await self._store.call("HMGET", _key(digest), *_KEY_FIELDS)
        if values[0] is None or (key_id is not None and values[0] != key_id.encode()):
            return None
        key_id, client_id, name, shown, environment, created_at_us = (value.decode() for value in values[:6])
        expires_at_us = None if values[6] is None else int(values[6])
        return Key(
            key_id,
            client_id,
            name,
            shown,
            keys.Environment(environment),
            int(created_at_us),
            expires_at_us,
            scopes.NONE if values[7] is None else scopes.split(values[7].decode()),
            imported=values[8] is not None,
            last_used_at_us=None if values[9] is None else int(values[9]) * HOUR_US,
        )

    async def _scan(self, name: str) -> AsyncIterator[tuple[str, str]]:
        cursor = b"0"
        while True:
            cursor, found = await self._store.call("HSCAN", name, cursor, "COUNT", _PAGE)
            for entry, value in zip(found[::2], found[1::2], strict=True):
                yield entry.decode(), value.decode()
            if cursor == b"0":
                return


def _client(client_id: str, told: Sequence[bytes]) -> Client | None:
    """The client of a record as fields and values in a row; None of an empty one."""
    if not told:
        return None
    words = [word.decode() for word in told]
    record = dict(zip(words[::2], words[1::2], strict=True))
    name, plan, status, generation, created_at_us = (record[field] for field in _CLIENT_FIELDS)
    text = ""
    if len(record) > len(_CLIENT_FIELDS):
        own = {field.removeprefix(_LIMIT): value for field, value in record.items() if field.startswith(_LIMIT)}
        text = overrides.joined({name: value for name, value in sorted(own.items()) if value})
    return Client(client_id, name, plan, Status(status), int(generation), int(created_at_us), text)


def _aliases_of(client_id: str) -> str:
    return f"q1:{{{client_id}}}:aliases"


def _states(client_id: str) -> tuple[str, str]:
    """The states that hold a copy of the client's generation."""
    return state_key(client_id), state_key(client_id, test=True)


def _history(client_id: str, today: int) -> list[str]:
    """Where a client's usage history can be; a worker's clock may be a day ahead."""
    days = range(today - _KEPT_DAYS, today + 2)
    return [key(client_id, day) for day in days for key in (used_key, refused_key)]


def _keys_of(client_id: str) -> str:
    return f"q1:{{{client_id}}}:keys"


def _key(digest: str) -> str:
    return f"q1:key:{digest}"


def _key_words(key: Key) -> tuple[str | int, ...]:
    """A key's record, as fields and values in a row; what is absent is left out."""
    fields: dict[str, str | int | None] = {
        "id": key.id,
        "client_id": key.client_id,
        "name": key.name,
        "shown": key.shown,
        "environment": key.environment.value,
        "created_at_us": key.created_at_us,
        "expires_at_us": key.expires_at_us,
        "scopes": scopes.joined(key.scopes) or None,
        "imported": 1 if key.imported else None,
    }
    return tuple(word for field, value in fields.items() if value is not None for word in (field, value))
