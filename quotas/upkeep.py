"""What a worker does beside its answers: chores, every few seconds, on a connection that no check waits for.

A chore that the store does not answer is left until the next time. None may matter to a check that is under way.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from quotas.errors import StoreUnavailableError
from quotas.store import deadline

TIMEOUT_S = 1.0
"""How long one chore may take."""

Chore = Callable[[], Awaitable[None]]


class Upkeep:
    """Does the chores while entered: once before it is, every `every_s` seconds, and once more when it is left."""

    def __init__(self, chores: Sequence[Chore], *, every_s: float) -> None:
        self._chores = chores
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.round()
        self._task = asyncio.create_task(self._keep_on(), name="quotas-upkeep")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None, "what is left was entered"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.round()

    async def round(self) -> None:
        """Do each chore once."""
        for chore in self._chores:
            with contextlib.suppress(StoreUnavailableError):
                async with deadline(TIMEOUT_S):
                    await chore()

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.round()
