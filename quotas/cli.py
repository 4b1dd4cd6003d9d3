"""The command line: arguments in, tables or JSON out.

Exit codes: 0 done, 1 the answer is no, 2 wrong use or wrong configuration.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from quotas import app as composition
from quotas.clients import Clients
from quotas.errors import (
    ConfigError,
    ConflictError,
    EmbeddedStoreError,
    NotFoundError,
    StoreUnavailableError,
)
from quotas.keys import Environment
from quotas.plans import Config
from quotas.registry import Client, Key
from quotas.settings import Settings
from quotas.settings import load as load_settings
from quotas.store import deadline

DEMO_CLIENT = "demo"
DEMO_PLAN = "free"
DEMO_KEY_DAYS = 30
COMMAND_TIMEOUT_S = 30.0

T = TypeVar("T")
# What is printed may hold anything that a client is called: no markup, no highlighting, no wrapping in a pipe.
out = Console(markup=False, highlight=False, soft_wrap=True)
err = Console(markup=False, highlight=False, soft_wrap=True, stderr=True)

app = typer.Typer(
    help="Rate limits and quotas as an HTTP check service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
clients_app = typer.Typer(help="Clients: whom usage is counted against.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of clients.", no_args_is_help=True)
app.add_typer(clients_app, name="clients")
app.add_typer(keys_app, name="keys")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Plan file; default $QUOTAS_CONFIG, ./quotas.yaml, starter plans."),
]
Name = Annotated[str, typer.Argument(help="The client's name.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def main() -> None:
    """The entry point: errors that an operator can act on become a message and an exit code."""
    try:
        app()
    except ConfigError as error:
        _say_faults(error)
        sys.exit(2)
    except EmbeddedStoreError as error:
        err.print(f"error: {error}")
        sys.exit(2)
    except (NotFoundError, ConflictError) as error:
        err.print(f"no: {error}")
        sys.exit(1)
    except StoreUnavailableError as error:
        err.print(f"store: {error}")
        sys.exit(1)


@app.command()
def serve(
    config: ConfigFile = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes; they share one store.")] = 1,
    demo: Annotated[bool, typer.Option("--demo", help="Make a client to try, and print its key.")] = False,
) -> None:
    """Serve checks."""
    settings = _settings(config)
    plans = composition.load_config(settings)
    with composition.store_for_service(settings) as serving:
        assert serving.redis_url is not None, "a service has a store"
        secret = _run(serving, serving.redis_url, plans, _demo) if demo else None

        def announce(url: str) -> None:
            out.print(f"quotas serves {plans.source} ({', '.join(plans.plans)}) on {url}")
            if secret is not None:
                out.print(f"\nThe client `{DEMO_CLIENT}` has a new key, shown this once. Try:\n")
                out.print(f"    curl -i -H 'X-API-Key: {secret}' {url}/check\n")
            sys.stdout.flush()

        try:
            composition.serve(serving, plans, host=host, port=port, workers=workers, announce=announce)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


async def _demo(clients: Clients) -> str:
    lifetime_us = DEMO_KEY_DAYS * 86_400 * 1_000_000
    return (await clients.demo_key(DEMO_CLIENT, DEMO_PLAN, lifetime_us)).secret


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="The plan file.")], as_json: AsJson = False) -> None:
    """Say whether a plan file can be used, and everything that is wrong with it."""
    try:
        config = composition.read_config(file)
    except ConfigError as error:
        if not as_json:
            raise
        faults = [{"path": fault.path, "message": fault.message} for fault in error.faults]
        _print_json({"valid": False, "source": error.source, "faults": faults})
        raise typer.Exit(2) from error
    if as_json:
        _print_json({"valid": True, "source": config.source, "plans": list(config.plans)})
    else:
        out.print(f"{config.source}: good; plans: {', '.join(config.plans)}")


@clients_app.command("create")
def create_client(
    name: Name,
    plan: Annotated[str, typer.Option(help="A plan of the configuration.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a client."""
    _show_clients([_with_clients(lambda clients: clients.create(name, plan), config)], as_json)


@clients_app.command("list")
def list_clients(as_json: AsJson = False) -> None:
    """List all clients."""
    _show_clients(_with_clients(lambda clients: clients.all()), as_json, many=True)


@clients_app.command("show")
def show_client(name: Name, as_json: AsJson = False) -> None:
    """Show one client."""
    _show_clients([_with_clients(lambda clients: clients.get(name))], as_json)


@clients_app.command("set-plan")
def set_plan(
    name: Name,
    plan: Annotated[str, typer.Argument(help="A plan of the configuration.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Put a client on another plan; what it has spent stays spent, by limit name."""
    _show_clients([_with_clients(lambda clients: clients.set_plan(name, plan), config)], as_json)


@clients_app.command()
def suspend(name: Name, as_json: AsJson = False) -> None:
    """Refuse every check of a client until it is resumed."""
    _show_clients([_with_clients(lambda clients: clients.suspend(name))], as_json)


@clients_app.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Let a suspended client pass again."""
    _show_clients([_with_clients(lambda clients: clients.resume(name))], as_json)


@clients_app.command("delete")
def delete_client(name: Name, yes: Yes = False) -> None:
    """Delete a client, its keys and what it has spent."""
    _confirm(f"Delete the client {name!r}, its keys and what it has spent?", yes)
    _with_clients(lambda clients: clients.delete(name))


@keys_app.command("create")
def create_key(
    client: Annotated[str, typer.Option(help="The client that the key is for.")],
    name: Annotated[str, typer.Option(help="What to call it in listings.")] = "",
    environment: Annotated[Environment, typer.Option(help="Part of the key's prefix.")] = Environment.LIVE,
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days it is valid; for ever when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, this once."""
    expires_at_us = None
    if expires_in_days is not None:
        expires_at_us = composition.clock() + expires_in_days * 86_400 * 1_000_000
    issued = _with_clients(
        lambda clients: clients.issue_key(client, name=name, environment=environment, expires_at_us=expires_at_us)
    )
    if as_json:
        _print_json({"id": issued.key.id, "key": issued.secret, "client": client, **_key_fields(issued.key)})
    else:
        out.print(issued.secret)
        err.print(f"This is {issued.key.id} of {client!r}. Keep it: it is not shown again.")


@keys_app.command("list")
def list_keys(client: Annotated[str, typer.Option(help="Whose keys.")], as_json: AsJson = False) -> None:
    """List the keys of a client, without their secrets."""
    found = _with_clients(lambda clients: clients.keys_of(client))
    if as_json:
        _print_json([{"id": key.id, "client": client, **_key_fields(key)} for key in found])
        return
    rows = [
        (
            key.id,
            key.shown + "…",
            key.name,
            key.environment.value,
            _instant(key.created_at_us),
            "never" if key.expires_at_us is None else _instant(key.expires_at_us),
        )
        for key in found
    ]
    _print_table(("id", "key", "name", "environment", "created", "expires"), rows)


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="The key's id, as listed.")], yes: Yes = False) -> None:
    """Revoke a key; the next check with it is refused by every worker."""
    _confirm(f"Revoke {key_id}?", yes)
    _with_clients(lambda clients: clients.revoke_key(key_id))


def _settings(config: Path | None) -> Settings:
    return load_settings(os.environ if config is None else {**os.environ, "QUOTAS_CONFIG": str(config)})


def _with_clients(work: Callable[[Clients], Awaitable[T]], config: Path | None = None) -> T:
    """Do something with the clients of the running service, or of the data directory when none runs."""
    settings = _settings(config)
    plans = composition.load_config(settings)
    with composition.store_for_command(settings) as url:
        return _run(settings, url, plans, work)


def _run(settings: Settings, url: str, plans: Config, work: Callable[[Clients], Awaitable[T]]) -> T:
    async def run() -> T:
        async with deadline(COMMAND_TIMEOUT_S), composition.open_clients(settings, url, plans) as clients:
            return await work(clients)

    return asyncio.run(run())


def _show_clients(clients: list[Client], as_json: bool, *, many: bool = False) -> None:
    if as_json:
        listed = [_client_fields(client) for client in clients]
        _print_json(listed if many else listed[0])
        return
    rows = [
        (client.name, client.plan, client.status.value, client.id, _instant(client.created_at_us)) for client in clients
    ]
    _print_table(("name", "plan", "status", "id", "created"), rows)


def _client_fields(client: Client) -> dict[str, Any]:
    return {
        "name": client.name,
        "plan": client.plan,
        "status": client.status.value,
        "id": client.id,
        "created_at": _instant(client.created_at_us),
    }


def _key_fields(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "shown": key.shown,
        "environment": key.environment.value,
        "created_at": _instant(key.created_at_us),
        "expires_at": None if key.expires_at_us is None else _instant(key.expires_at_us),
    }


def _instant(at_us: int) -> str:
    """RFC 3339 in UTC, whole seconds rounded down."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be: an id that was cut is of no use."""
    table = Table(*(Column(title, no_wrap=True) for title in titles), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    wide = Console(markup=False, highlight=False, width=1_000)
    wide.print(table, no_wrap=True, crop=False)


def _print_json(content: object) -> None:
    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")


def _confirm(question: str, yes: bool) -> None:
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)


def _say_faults(error: ConfigError) -> None:
    count = len(error.faults)
    err.print(f"{error.source} cannot be used: {count} {'fault' if count == 1 else 'faults'}")
    for fault in error.faults:
        err.print(f"  {fault.path}: {fault.message}")
