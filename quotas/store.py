"""The one road to Redis: a line to one server (`links`), or to each node of a cluster (`clusters`).

What callers are promised, whatever is behind it. Replies come to who asked. Nothing is sent twice that may have run.
A caller that is cancelled or out of time harms no other. Each node has one connection, and what is asked of it in one
turn of the event loop leaves in one write.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from quotas import servers
from quotas.clusters import Cluster
from quotas.commands import Script, Word
from quotas.links import STALL_S, Link, Road, late
from quotas.pipe import Call

__all__ = ["Script", "Store", "Word", "deadline"]


class Store:
    """A worker's connections to Redis. Use it as an async context manager, in one event loop.

    `patience_s` is how long who asks by `run_then` waits; all others wait as long as they like.
    Raises ConfigError for a URL that cannot be read, see `servers`.
    """

    run_then: Callable[[Script, bytes, Callable[[Any], object]], None]
    """Have a function told what `run` would return, or the StoreUnavailableError that it would raise.

    The bytes are from `Script.packed`. The function is told once, after the store's patience at the latest and never
    within this call; it must not raise. Raises StoreUnavailableError, and then the function is told nothing.
    """

    send: Callable[[Call], None]
    """The same for a call of one's own with the text of its script, which is told by `Call.tell` and has no future."""

    def __init__(self, url: str, *, patience_s: float = STALL_S) -> None:
        place = servers.read(url)
        road: Road
        if isinstance(place, servers.Nodes):
            road = Cluster(place, patience_s=patience_s)
        else:
            road = Link(place, patience_s=patience_s)
        self._road = road
        self.run_then = road.run_then  # So that nothing stands between a check and its line.
        self.send = road.send

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._road.close()

    def call(self, *words: Word, at: str | None = None) -> Coroutine[Any, Any, Any]:
        """The reply to one command: bytes, an integer, None or a list of these.

        It waits as long as its caller does. `at` is a key whose node is to answer what is about no key, such as its
        time; None is any node. Raises StoreUnavailableError; an error reply is one of kind `reply`.
        """
        return self._road.call(words, at)

    def call_all(self, commands: Collection[tuple[Word, ...]]) -> Coroutine[Any, Any, list[Any]]:
        """The replies to one or more commands, in order: none runs before those before it have.

        Errors are `call`'s; one error reply fails them all.
        """
        return self._road.call_all(commands)

    def run(self, script: Script, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> Coroutine[Any, Any, Any]:
        """The reply of a script; it is loaded first when the server does not know it. Errors are `call`'s."""
        return self._road.run(script, keys, arguments)

    def run_all(
        self, script: Script, calls: Sequence[tuple[tuple[str, ...], tuple[Word, ...]]]
    ) -> Coroutine[Any, Any, list[Any]]:
        """The replies of one or more runs of one script, in order; see `load`.

        Those that begin with the same key are run in order. Errors are `call`'s; one error reply fails them all.
        """
        return self._road.run_all(script, calls)

    async def load(self, script: Script) -> None:
        """Have the server, or the nodes of the cluster that can be reached, know a script."""
        await self._road.load(script)


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Bound everything inside; raises StoreUnavailableError of kind `timeout` when the time is up."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise late(seconds) from error
