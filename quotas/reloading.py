"""A worker's plans follow the plan file: on SIGHUP, and within a second of a change.

A file that cannot be used changes nothing: the old plans stay in force, a log line says every fault, and the
metric `quotas_config_last_reload_successful` is 0 until a file can be used.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from quotas import plan_files
from quotas.configuration import ConfigFile, Fingerprint
from quotas.errors import ConfigError, StoreUnavailableError
from quotas.metrics import Metrics
from quotas.planbook import Planbook
from quotas.plans import Config

POLL_S = 0.5
"""How often a change is looked for. A ConfigMap's link swap shows as another inode."""

ADOPT_AFTER_S = 1.5
"""How long after a reload clients are moved: by then every worker has the new plans."""

ADOPT_AGAIN_S = 1.0

log = logging.getLogger("quotas.reloading")


class Reloader:
    """Watches the file while entered.

    `use` has a configuration in force, the planbook's among others, or raises ConfigError and changes nothing. `known`
    is the file's fingerprint from before the planbook's configuration was read. `shelf` is where the workers
    of a service keep the text of the newest file that could be used, so that a worker that replaces another one
    begins with the plans of the others. `adopt` makes the registry have the clients of a configuration.
    """

    def __init__(  # noqa: PLR0913 # The composition root names each part once.
        self,
        *,
        file: ConfigFile,
        known: Fingerprint | None,
        planbook: Planbook,
        use: Callable[[Config], None],
        metrics: Metrics,
        adopt: Callable[[Config], Awaitable[None]],
        shelf: Path | None = None,
    ) -> None:
        self._file = file
        self._known = known
        self._planbook = planbook
        self._use = use
        self._metrics = metrics
        self._adopt = adopt
        self._shelf = shelf
        self._refused = False
        self._asked = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._adopting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):  # Signals reach the main thread only; tests may not be it.
            loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        if self._file.fingerprint() != self._known and self._shelf is not None and self._shelf.exists():
            self._use(plan_files.parse(self._shelf.read_text("utf-8"), self._planbook.config.source))
        try:
            await self._adopt(self._planbook.config)
        except StoreUnavailableError:
            self._start_adopting(0)
        await self._look()
        self._watching = loop.create_task(self._watch(), name="quotas-reload")
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._watching, self._adopting):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        with contextlib.suppress(RuntimeError, ValueError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    async def reload(self) -> bool:
        """Read the file and have its plans in force; False, and nothing has changed, when it cannot be used."""
        try:
            text = await asyncio.to_thread(self._file.text)
            config = await asyncio.to_thread(plan_files.parse, text, self._file.source)
            self._use(config)
        except ConfigError as error:
            log.error("the configuration was not reloaded, the old plans stay in force: %s", error)  # noqa: TRY400 # No fault of ours.
            self._refused = True
            self._metrics.reloaded(successful=False)
            return False
        self._refused = False
        self._put_on_shelf(text)
        self._metrics.reloaded(successful=True)
        log.info("the configuration %s was reloaded: plans %s", config.source, ", ".join(config.plans))
        self._start_adopting(ADOPT_AFTER_S)
        return True

    def _put_on_shelf(self, text: str) -> None:
        if self._shelf is not None:
            fresh = self._shelf.with_suffix(f".{os.getpid()}")
            fresh.write_text(text, "utf-8")
            fresh.replace(self._shelf)

    def _start_adopting(self, after_s: float) -> None:
        if self._adopting is not None:
            self._adopting.cancel()
        self._adopting = asyncio.create_task(self._keep_clients(self._planbook.config, after_s), name="quotas-clients")

    async def _keep_clients(self, config: Config, after_s: float) -> None:
        """Have the clients of the file, once every worker knows the plans that they may be moved to."""
        if not config.clients:
            return
        await asyncio.sleep(after_s)
        while True:
            try:
                await self._adopt(config)
            except StoreUnavailableError as error:
                self._metrics.reloaded(successful=False)
                log.warning("the clients of %s cannot be kept yet: %s", config.source, error)
                await asyncio.sleep(ADOPT_AGAIN_S)
            else:
                self._metrics.reloaded(successful=not self._refused)
                return

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
