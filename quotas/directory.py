"""What operators look up in the registry: clients in pages, a key by its id; and what they asked for before.

Theory of operation. A page is sorted by name and begins behind a name, so it does not depend on what was listed
before: a client that exists throughout is listed exactly once, whatever is created and deleted meanwhile. For a page
the whole index of names is read (HSCAN, 0.7 s for a million), and only the records of the page. HSCAN alone would be
neither bounded, as long as the index is small, nor free of repetitions.

A receipt remembers for a day that something was asked for under a name of the asker's choice:

    q1:receipt:<SHA-256 of the name>   string   what was asked, and the id of what was made once it is

It never holds a credential or its digest.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256

from quotas.holders import Client, Key
from quotas.registry import Registry
from quotas.store import Store

RECEIPT_MS = 86_400_000
"""How long a receipt is kept: a day."""

_CLIENTS = "q1:clients"
_COUNT = 1000


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was asked under a name, and what it made; `made` is empty until it is known."""

    asked: str
    made: str


@dataclass(frozen=True, slots=True)
class Page:
    """Clients by name. `after` is where the next page begins; None when this is the last."""

    clients: list[Client]
    after: str | None


class Directory:
    """Looks things up. Every method can raise StoreUnavailableError."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def page(self, after: str, limit: int) -> Page:
        """Up to `limit` clients whose names come behind `after`, in the order of code points."""
        names: list[str] = []
        async for found in self._names():
            names = sorted({*names, *(name for name in found if name > after)})[: limit + 1]
        shown = names[:limit]
        clients = await asyncio.gather(*(self._registry.client(name) for name in shown))
        return Page([client for client in clients if client is not None], shown[-1] if len(names) > limit else None)

    async def key(self, key_id: str) -> tuple[Key, Client] | None:
        """The key of this id and its client, or None."""
        return await self._registry.key(key_id) if key_id.isascii() else None

    async def claim(self, name: str, asked: str) -> Receipt | None:
        """Take a name for what is asked; None when it is taken now, else the receipt of who was earlier."""
        words = (_receipt(name), f"{asked} ", "NX", "GET", "PX", RECEIPT_MS)
        earlier = await self._store.call("SET", *words)
        return None if earlier is None else Receipt(*earlier.decode().split(" "))

    async def settle(self, name: str, receipt: Receipt) -> None:
        """Remember what was made under a name that was claimed."""
        await self._store.call("SET", _receipt(name), f"{receipt.asked} {receipt.made}", "XX", "PX", RECEIPT_MS)

    async def release(self, name: str) -> None:
        """Give a claimed name back: nothing was made."""
        await self._store.call("DEL", _receipt(name))

    async def _names(self) -> AsyncIterator[list[str]]:
        cursor = b"0"
        while True:
            cursor, found = await self._store.call("HSCAN", _CLIENTS, cursor, "COUNT", _COUNT)
            yield [name.decode() for name in found[::2]]
            if cursor == b"0":
                return


def _receipt(name: str) -> str:
    return f"q1:receipt:{sha256(name.encode()).hexdigest()}"
