"""The lines to the nodes of a cluster: every call goes to the node that has its key.

Theory of operation. Each master has a `Link`, which connects when it is first asked. Which of them has a slot is read
by redis-py (`servers.Nodes.owners`) when the first call comes, when a node says that it is not as was read, and when a
connection ends: a replica may have taken over. Until it is known, and where it never is, calls go to any node.

A node refuses what it has not before it runs anything, and says why with the first word of an error. These are the
commands that may be sent again, beside scripts that are not known (`links`):

    MOVED slot host:port    the slot is elsewhere: ask there, and remember it
    ASK slot host:port      this key has gone ahead of its slot: ask there, this once, after ASKING
    TRYAGAIN                some of the keys have gone ahead and others have not: ask once more in a moment

What a script itself calls is never answered so: Redis checks all its keys before it begins. So nothing is charged
twice. A caller that is gone is not asked for again, and nothing is asked more than `MAX_TIMES`.

A node that is lost fails what waits in its own line, and no other's.
"""

import asyncio
import random
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from quotas.commands import Script, Word, key_of, key_of_packed, pack
from quotas.errors import StoreUnavailableError
from quotas.links import STALL_S, Again, Link, times_of
from quotas.pipe import Call
from quotas.servers import Address, Nodes

MAX_TIMES = 24
"""How often one call is asked again: hops are few, and the pauses of a slot on its way add up to about a second."""

_HOPS = 3
"""Redirections that are followed without a pause."""

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
_READ_PAUSE_S = 0.1
"""At most so often, or half as often, it is asked where the slots are."""

_REFUSAL = re.compile(r"(?P<word>MOVED|ASK|TRYAGAIN) (?:(?P<slot>[0-9]{1,5}) (?P<host>\S*):(?P<port>[0-9]{1,5})$)?")
_ASKING = pack(("ASKING",))


class Cluster:
    """A `links.Road` to a cluster, in one event loop."""

    def __init__(self, nodes: Nodes, *, patience_s: float) -> None:
        self._nodes = nodes
        self._patience_s = patience_s
        self._any = Link(nodes, patience_s=patience_s, refused=self._refused)
        self._links: dict[Address, Link] = {}
        self._owners = [self._any] * REDIS_CLUSTER_HASH_SLOTS
        self._leaving: list[Link] = []
        self._is_read = False
        self._was_read = False
        self._reading: asyncio.Task[None] | None = None
        self._read_at = 0.0
        self._is_closed = False

    async def close(self) -> None:
        """Tell who waits that it is over."""
        self._is_closed = True
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        for link in (self._any, *self._links.values(), *self._leaving):
            await link.close()

    async def call(self, words: tuple[Word, ...], at: str | None) -> Any:
        """The reply to one command, of the node that has its key, or the key `at`."""
        packed = pack(words)
        if at is None:
            key = key_of(words)
        else:
            await self._read_first()  # Another node would not say that it is not meant.
            key = at.encode()
        return await (self._some() if key is None else self._owner(key)).reply_to(packed)

    async def call_all(self, commands: Collection[tuple[Word, ...]]) -> list[Any]:
        """The replies to commands, one after the other: on two nodes they would overtake each other."""
        return [await self.call(words, None) for words in commands]

    async def run(self, script: Script, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> Any:
        """The reply of a script, which is loaded first when the node does not know it."""
        return await self._owner(keys[0].encode()).run(script, keys, arguments)

    def run_then(self, script: Script, packed: bytes, done: Callable[[Any], object]) -> None:
        """Have `done` told the reply of a script."""
        self.send(Call(packed, done, None, script.source))

    def send(self, call: Call) -> None:
        """The same for a call of one's own."""
        self._owner(key_of_packed(call.packed)).send(call)

    async def run_all(self, script: Script, calls: Sequence[tuple[tuple[str, ...], tuple[Word, ...]]]) -> list[Any]:
        """The replies of runs of one script. Those of one key wait for each other: a redirected one would be late."""
        replies: list[Any] = [None] * len(calls)
        by_key: dict[str, list[int]] = {}
        for index, (keys, _) in enumerate(calls):
            by_key.setdefault(keys[0], []).append(index)

        async def run_in_order(indexes: list[int]) -> None:
            for index in indexes:
                replies[index] = await self.run(script, *calls[index])

        # All of them end before an error is told: who asks again would else meet its own calls.
        ended = await asyncio.gather(*map(run_in_order, by_key.values()), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
        return replies

    async def load(self, script: Script) -> None:
        """Have the nodes that can be reached know a script. Raises StoreUnavailableError when none can."""
        await self._read_first()
        links = list(self._links.values()) or [self._any]
        ended = await asyncio.gather(*(link.load(script) for link in links), return_exceptions=True)
        errors = [error for error in ended if error is not None]
        if len(errors) == len(links):
            raise errors[0]

    async def _read_first(self) -> None:
        """Wait for the slots to be read, if they never were."""
        if not self._was_read:
            self._read_soon()
            if self._reading is not None:
                await asyncio.shield(self._reading)

    def _owner(self, key: bytes) -> Link:
        if not self._is_read:
            self._read_soon()
        return self._owners[key_slot(key)]

    def _some(self) -> Link:
        """The line to a node that is up, or whichever answers first."""
        if not self._is_read:
            self._read_soon()
        return next((link for link in self._links.values() if link.is_up), self._any)

    def _link(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            place = self._nodes.server.at(address)
            link = Link(place, patience_s=self._patience_s, refused=self._refused, ended=self._doubt)
            self._links[address] = link
        return link

    def _doubt(self) -> None:
        """What was read about the slots may not be so any more."""
        self._is_read = False
        self._read_soon()

    def _read_soon(self) -> None:
        """Read where the slots are, unless that is under way or was done just now; then the next call sees to it."""
        loop = asyncio.get_running_loop()
        is_reading = self._reading is not None and not self._reading.done()
        if not self._is_read and not is_reading and not self._is_closed and loop.time() >= self._read_at:
            self._reading = loop.create_task(self._read(), name="quotas-store-slots")

    async def _read(self) -> None:
        self._is_read = True  # Unless it is doubted meanwhile.
        try:
            async with asyncio.timeout(STALL_S):
                owners = await self._nodes.owners(self._links)
            await self._use(owners)
        except (RedisError, OSError):
            self._is_read = False
        finally:
            pause_s = _READ_PAUSE_S * random.uniform(1, 2)  # noqa: S311 # Jitter.
            self._read_at = asyncio.get_running_loop().time() + pause_s

    async def _use(self, owners: dict[int, Address]) -> None:
        """Ask the masters that were read, and let go of nodes that are none once nothing is asked of them."""
        if not owners:
            return
        self._was_read = True
        unneeded = [*self._leaving, self._any]
        masters = set(owners.values())
        unneeded += [self._links.pop(address) for address in set(self._links) - masters]
        self._any = Link(self._nodes, patience_s=self._patience_s, refused=self._refused)
        lines = {address: self._link(address) for address in masters}
        self._owners = [
            lines[owners[slot]] if slot in owners else self._any for slot in range(REDIS_CLUSTER_HASH_SLOTS)
        ]
        self._leaving = unneeded
        for link in [link for link in unneeded if link.is_idle]:
            await link.close()
            self._leaving.remove(link)

    def _refused(self, link: Link, call: Call, text: str) -> bool:
        """See to an error reply that says that the command did not run here; False for every other."""
        if text.startswith("CLUSTERDOWN"):
            self._doubt()  # Perhaps it is only this node that has lost the others.
        found = _REFUSAL.match(text)
        if found is None or (found["word"] != "TRYAGAIN" and found["slot"] is None):
            return False
        if not call.is_awaited():
            return True
        times = times_of(call) + 1
        if times > MAX_TIMES:
            return False
        if found["word"] == "TRYAGAIN":
            again = Again(call.packed, call.tell, call.script, origin=call, times=times, expected=call.expected)
            self._put_after(_pause_s(times), link, again)
            return True
        # Where the host is not said it is the one that was asked.
        there = self._link((found["host"].strip("?") or link.host, int(found["port"])))
        if found["word"] == "MOVED":
            self._owners[int(found["slot"])] = there
            self._doubt()
        again = _redirected(call, times, asking=found["word"] == "ASK")
        if times > _HOPS:
            self._put_after(_pause_s(times), there, again)
        else:
            there.put(again)
        return True

    def _put_after(self, pause_s: float, link: Link, again: Again) -> None:
        def put() -> None:
            if self._is_closed:
                again.tell(StoreUnavailableError("lost", "closed"))
            elif link in self._links.values():
                link.put(again)
            else:
                self._any.put(again)  # The node has left meanwhile.

        asyncio.get_running_loop().call_later(pause_s, put)


def _redirected(call: Call, times: int, *, asking: bool) -> Again:
    """The call for another node, as it was first asked."""
    first = call
    while isinstance(first, Again):
        first = first.origin
    assert first.expected == 1, "runs are asked one by one"
    if not asking:
        return Again(first.packed, first.tell, first.script, origin=first, times=times)

    def told(reply: Any) -> None:
        first.tell(reply if isinstance(reply, StoreUnavailableError) else reply[1])

    return Again(_ASKING + first.packed, told, first.script, origin=first, times=times, expected=2)


def _pause_s(times: int) -> float:
    longest_s: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**times)
    return longest_s * random.uniform(0.5, 1)  # noqa: S311 # Jitter.
