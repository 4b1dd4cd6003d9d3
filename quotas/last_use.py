"""When keys were last seen: the hour, written beside the checks and seldom.

A worker notes a key in memory when it sees it for the first time in an hour; every few seconds what it has noted is
written. So a key is written at most once an hour by each worker, and what a crash may lose are a few seconds.
"""

from itertools import islice

from quotas.registry import HOUR_US, Registry

MAX_NOTED = 100_000
"""Keys of one hour that a worker remembers to have seen; with more it starts over, and may write some twice."""

BATCH = 100
"""Keys that are written at a time: the store serves checks between two batches."""


class LastUse:
    """What one worker has seen and not yet written."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._hour = 0
        self._seen: set[str] = set()
        self._noted: dict[str, int] = {}

    def note(self, key_id: str, now_us: int) -> None:
        """A key was seen; asks nobody."""
        hour = now_us // HOUR_US
        if hour != self._hour:
            self._hour = hour
            self._seen.clear()
        if key_id in self._seen:
            return
        if len(self._seen) >= MAX_NOTED or len(self._noted) >= MAX_NOTED:
            self._seen.clear()
            self._noted.clear()
        self._seen.add(key_id)
        self._noted[key_id] = hour

    async def write(self) -> None:
        """Write what was noted. Raises StoreUnavailableError, and then the rest is written the next time."""
        while self._noted:
            batch = dict(islice(self._noted.items(), BATCH))
            await self._registry.seen(batch)
            for key_id, hour in batch.items():
                if self._noted.get(key_id) == hour:
                    del self._noted[key_id]
