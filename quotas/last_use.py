"""When keys were last seen: the hour, written beside the checks and seldom.

What a worker knows of a key has the hour in which it was last seen (`holders.Held`); who sees it for the first time in
another one notes that here, and every few seconds what was noted is written. So a key is written at most once an hour
by each worker that remembers it, and what a crash may lose are a few seconds.
"""

from itertools import islice

from quotas.registry import Registry

MAX_NOTED = 100_000
"""Keys that wait to be written; others are noted when they are seen again."""

BATCH = 100
"""Keys that are written at a time: the store serves checks between two batches."""


class LastUse:
    """What one worker has seen and not yet written."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._noted: dict[bytes, tuple[str, int]] = {}

    def note(self, record: bytes, key_id: str, hour: int) -> bool:
        """A key, whose record is under this digest, was seen in this hour since the epoch; asks nobody.

        False when too many wait to be written: note it again.
        """
        if len(self._noted) >= MAX_NOTED and record not in self._noted:
            return False
        self._noted[record] = (key_id, hour)
        return True

    async def write(self) -> None:
        """Write what was noted. Raises StoreUnavailableError, and then the rest is written the next time."""
        while self._noted:
            batch = dict(islice(self._noted.items(), BATCH))
            await self._registry.seen(batch)
            for record, words in batch.items():
                if self._noted.get(record) == words:
                    del self._noted[record]
