"""Where a scenario plays: a service of its own with clients, in a new folder, and nothing left of it afterwards."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import operating, processes
from loadtests.processes import Load, Running, Service
from loadtests.verdicts.counts import Seen
from quotas import configuration, settings
from quotas.clients import IssuedKey
from quotas.operations import Operations
from quotas.plans import Config

SCENARIOS = Path(__file__).with_name("scenarios")
STARTER = processes.ROOT / "quotas" / "examples" / "quotas.example.yaml"


PATIENT = {"QUOTAS_STORE_TIMEOUT_MS": "1000"}
"""Where it is not asked how soon a check must be answered: what else this machine does then makes none unanswered."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command says: seconds of load, workers and takes, None for the scenario's own; see `run`.

    `logs` is the folder in which what the programs wrote is kept, None for nowhere.
    """

    seconds: int | None = None
    workers: int | None = None
    takes: int | None = None
    web_port: int | None = None
    logs: Path | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A service that is ready, in a folder that is gone afterwards."""

    folder: Path
    environment: Mapping[str, str]
    config: Config
    service: Service

    @property
    def store_pid(self) -> int:
        """The process of the service's own Valkey."""
        return int((self.folder / "data" / "valkey.pid").read_text("ascii"))

    def enrol(self, plans: Mapping[str, str]) -> dict[str, IssuedKey]:
        """Clients on these plans, by name, with a key each.

        This is what `quotas clients create` and `quotas keys create` call; a hundred commands would start for a minute.
        """

        async def create(operations: Operations) -> dict[str, IssuedKey]:
            issued = {}
            for name, plan in plans.items():
                await operations.clients.create(name, plan)
                issued[name] = await operations.clients.issue_key(name)
            return issued

        issued: dict[str, IssuedKey] = self.operate(create)
        return issued

    def operate(self, work: Callable[[Operations], Any]) -> Any:
        """Do an operator's work on the running service's store; `work` is a coroutine function."""
        return operating.operate(settings.load(self.environment), self.config, work, actor="load")

    def load(  # noqa: PLR0913 # What a scenario is, once each.
        self,
        scenario: str,
        *,
        told: Mapping[str, object],
        users: int,
        seconds: int,
        options: Options,
        url: str | None = None,
        meanwhile: Callable[[Running], object] = lambda _: None,
    ) -> Any:
        """Have locust play a scenario against the service, or what serves at `url`; what it left."""
        file = SCENARIOS / f"{scenario}.py"
        load = Load(scenario=file, told=told, users=users, seconds=seconds, web_port=options.web_port)
        return processes.locust(self.folder, self.environment, url or self.service.url, load, meanwhile)


@contextmanager
def stage(plans: str, options: Options, *, workers: int = 1, more: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """A service with these plans, as YAML, on a private Valkey; `more` is added to its environment.

    It has so many workers unless the options say otherwise.

    Raises LoadTestError when a program does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quotas-load-")))
        file = folder / "quotas.yaml"
        file.write_text(plans, "utf-8")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("QUOTAS_", "LOCUST_"))}
        environment = {
            **inherited,
            "PYTHONPATH": str(processes.ROOT),  # All programs are those of this checkout, whatever is installed.
            "QUOTAS_DATA_DIR": str(folder / "data"),
            "QUOTAS_CONFIG": str(file),
            **(more or {}),
        }
        config = configuration.ConfigFile(file).read()
        if options.logs is not None:
            options.logs.mkdir(parents=True, exist_ok=True)
            stack.callback(_keep_logs, folder, options.logs)
        serving = stack.enter_context(processes.service(folder, environment, options.workers or workers))
        yield Stage(folder, environment, config, serving)


def _keep_logs(folder: Path, logs: Path) -> None:
    for log in folder.glob("*.log"):
        shutil.copy(log, logs)


def seen(tally: Mapping[str, Any], *, hot: bool) -> Seen:
    """A `scenarios.caller.Tally` that came through JSON."""
    elapsed_ns = (tally["last_received_ns"] or 0) - (tally["first_sent_ns"] or 0)
    return Seen(
        client=tally["client"],
        hot=hot,
        allowed=tally["allowed"],
        refused=tally["refused"],
        errors=tally["errors"],
        elapsed_us=-(-elapsed_ns // 1000),
    )
