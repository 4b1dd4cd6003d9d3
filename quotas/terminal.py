"""What the commands share: consoles, options, and the way to the running service's store."""

import asyncio
import getpass
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import orjson
import typer
from rich.console import Console

from quotas import configuration, instants, operations
from quotas.clients import Clients
from quotas.errors import ConfigError
from quotas.importing import Importer
from quotas.operations import Operations
from quotas.plans import Config
from quotas.revoking import Revoking
from quotas.settings import Settings
from quotas.settings import load as load_settings
from quotas.store import deadline

COMMAND_TIMEOUT_S = 30.0
LONG_COMMAND_TIMEOUT_S = 3600.0
"""Of a command whose work is as long as a file, or as the list of clients. No single step of it takes longer than the
store's own bounds."""
_MAX_ACTOR = 64

T = TypeVar("T")
# What is printed may hold anything that a client is called: no markup, no highlighting, no wrapping in a pipe.
out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
err = Console(markup=False, highlight=False, emoji=False, soft_wrap=True, stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Plan file; default $QUOTAS_CONFIG, ./quotas.yaml, starter plans."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def environment(config: Path | None) -> Mapping[str, str]:
    """The process's environment, with the plan file that was named."""
    return os.environ if config is None else {**os.environ, "QUOTAS_CONFIG": str(config)}


def settings(config: Path | None) -> Settings:
    """The process's settings, with the plan file that was named."""
    return load_settings(environment(config))


def with_clients(work: Callable[[Clients], Awaitable[T]], config: Path | None = None) -> T:
    """Do something with the clients of the running service, or of the data directory when none runs."""
    return with_operations(lambda services: work(services.clients), config)


def without_plans(work: Callable[[Clients], Awaitable[T]]) -> T:
    """The same for what no plan is needed for: a file that cannot be used must not keep anybody from revoking."""
    return with_operations_of_no_plan(lambda services: work(services.clients))


def with_operations_of_no_plan(work: Callable[[Operations], Awaitable[T]]) -> T:
    """Do something that no plan is needed for."""
    return _with_plans(work, settings(None), Config("no plans", {}))


def with_revoking(work: Callable[[Revoking], Awaitable[T]], config: Path | None) -> T:
    """Do something with tokens. A plan file that cannot be used must not keep anybody from revoking."""
    found = settings(config)
    try:
        plans = configuration.find(found.config).read()
    except ConfigError as error:
        err.print(f"warning: {error.source} cannot be used, so the issuer is not looked up in it")
        plans = Config("no plans", {})
    return _with_plans(lambda services: work(services.revoking), found, plans)


def with_importer(work: Callable[[Importer], Awaitable[T]]) -> T:
    """Bring foreign keys in, for which no plan is needed."""
    found = settings(None)
    with operations.store_for_command(found) as url:
        return run(
            found,
            url,
            Config("no plans", {}),
            lambda services: work(services.importer),
            timeout_s=LONG_COMMAND_TIMEOUT_S,
        )


def with_operations(
    work: Callable[[Operations], Awaitable[T]], config: Path | None = None, *, timeout_s: float = COMMAND_TIMEOUT_S
) -> T:
    """Do something that needs the plans."""
    found = settings(config)
    return _with_plans(work, found, configuration.find(found.config).read(), timeout_s)


def _with_plans(
    work: Callable[[Operations], Awaitable[T]],
    settings: Settings,
    plans: Config,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> T:
    with operations.store_for_command(settings) as url:
        return run(settings, url, plans, work, timeout_s=timeout_s)


def run(
    settings: Settings,
    url: str,
    plans: Config,
    work: Callable[[Operations], Awaitable[T]],
    *,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> T:
    """Do something with the store at `url`, within bounds."""

    async def in_time() -> T:
        opened = operations.open_operations(settings, url, plans, actor=_actor())
        async with deadline(timeout_s), opened as services:
            return await work(services)

    return asyncio.run(in_time())


def _actor() -> str:
    """Who runs the command, for the audit log. No admin token's name has a colon."""
    try:
        return f"cli:{getpass.getuser()}"[:_MAX_ACTOR]
    except (OSError, KeyError):
        return "cli:"  # A process whose user has no name, as in some containers.


def as_bytes(argument: str) -> bytes:
    """An argument as it was given, also where it is no UTF-8."""
    return argument.encode("utf-8", "surrogateescape")


def instant_us(text: str) -> int:
    """An instant as an argument. Raises BadParameter."""
    try:
        return instants.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def print_json(content: object) -> None:
    """Print JSON for machines."""
    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what destroys; leaves with exit code 1 when the answer is no."""
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)
