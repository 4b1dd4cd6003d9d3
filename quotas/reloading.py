"""A worker's plans follow the plan file: on SIGHUP, and within a second of a change.

A file that cannot be used changes nothing: the old plans stay in force, a log line says every fault, and the
metric `quotas_config_last_reload_successful` is 0 until a file can be used.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Self

from quotas.configuration import ConfigFile, Fingerprint
from quotas.errors import ConfigError, StoreUnavailableError
from quotas.metrics import Metrics
from quotas.planbook import Planbook
from quotas.plans import Config

POLL_S = 0.5
"""How often a change is looked for. A ConfigMap's link swap shows as another inode."""

log = logging.getLogger("quotas.reloading")


class Reloader:
    """Watches the file while entered. `adopt` is told of a new configuration before it is in force.

    `known` is the file's fingerprint from before the planbook's configuration was read.
    """

    def __init__(
        self,
        file: ConfigFile,
        known: Fingerprint | None,
        planbook: Planbook,
        metrics: Metrics,
        adopt: Callable[[Config], Awaitable[None]],
    ) -> None:
        self._file = file
        self._known = known
        self._planbook = planbook
        self._metrics = metrics
        self._adopt = adopt
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):  # Signals reach the main thread only; tests may not be it.
            loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        await self._look()
        self._task = loop.create_task(self._watch(), name="quotas-reload")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None, "entered before it is left"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        with contextlib.suppress(RuntimeError, ValueError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    async def reload(self) -> bool:
        """Read the file and have its plans in force; False, and nothing has changed, when it cannot be used."""
        try:
            config = self._file.read()
            await self._adopt(config)
        except ConfigError as error:
            log.error("the configuration was not reloaded, the old plans stay in force: %s", error)  # noqa: TRY400 # No fault of ours.
        except StoreUnavailableError as error:
            log.error("the configuration was not reloaded: its clients cannot be kept: %s", error)  # noqa: TRY400 # The same.
        else:
            self._planbook.use(config)
            self._metrics.reloaded(successful=True)
            log.info("the configuration %s was reloaded: plans %s", config.source, ", ".join(config.plans))
            return True
        self._metrics.reloaded(successful=False)
        return False

    async def _watch(self) -> None:
        while True:
            await self._look(asked=await self._wait())

    async def _look(self, *, asked: bool = False) -> None:
        now = self._file.fingerprint()
        if asked or now != self._known:
            self._known = now
            await self.reload()

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(POLL_S):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True
