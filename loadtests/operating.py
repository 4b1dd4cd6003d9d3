"""An operator's work on the store of a running service, in this process: to start a command takes a second."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from quotas.operations import Operations, open_operations, store_for_command
from quotas.plans import Config
from quotas.settings import Settings

T = TypeVar("T")


def operate(settings: Settings, config: Config, work: Callable[[Operations], Awaitable[T]], *, actor: str) -> T:
    """Do it, with what changes audited as done by `actor`. Raises what the work raises, and EmbeddedStoreError."""

    async def operating(url: str) -> T:
        async with open_operations(settings, url, config, actor=actor) as operations:
            return await work(operations)

    with store_for_command(settings) as url:
        return asyncio.run(operating(url))
