"""The command line: arguments in, tables or JSON out.

Exit codes: 0 done, 1 the answer is no, 2 wrong use or wrong configuration.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console

from quotas import app as composition
from quotas import audit, configuration, instants, logs, overrides, replay_command, tables
from quotas.app import Operations
from quotas.clients import Clients
from quotas.errors import (
    ConfigError,
    ConflictError,
    EmbeddedStoreError,
    NotFoundError,
    StoreUnavailableError,
)
from quotas.keys import Environment
from quotas.logs import LogError
from quotas.overrides import Override
from quotas.plans import Config
from quotas.registry import Client, Key
from quotas.scripts import Refunded
from quotas.settings import Settings
from quotas.settings import load as load_settings
from quotas.store import deadline

DEMO_CLIENT = "demo"
DEMO_PLAN = "free"
DEMO_KEY_DAYS = 30
COMMAND_TIMEOUT_S = 30.0

T = TypeVar("T")
# What is printed may hold anything that a client is called: no markup, no highlighting, no wrapping in a pipe.
out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
err = Console(markup=False, highlight=False, emoji=False, soft_wrap=True, stderr=True)

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
    except (EmbeddedStoreError, LogError, OSError) as error:
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
    file = configuration.find(settings.config)
    file.read()
    with composition.store_for_service(settings) as serving:

        def announce(url: str, plans: Config) -> None:
            assert serving.redis_url is not None, "a service has a store"
            with suppress(StoreUnavailableError):  # The workers go on trying.
                asyncio.run(composition.keep_file_clients(serving, plans))
            secret = _run(serving, serving.redis_url, plans, _demo) if demo else None
            out.print(f"quotas serves {plans.source} ({', '.join(plans.plans)}) on {url}")
            if secret is not None:
                out.print(f"\nThe client `{DEMO_CLIENT}` has a new key, shown this once. Try:\n")
                out.print(f"    curl -i -H 'X-API-Key: {secret}' {url}/check\n")
            sys.stdout.flush()

        try:
            composition.serve(serving, file, host=host, port=port, workers=workers, announce=announce)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


async def _demo(services: Operations) -> str:
    lifetime_us = DEMO_KEY_DAYS * 86_400 * 1_000_000
    return (await services.clients.demo_key(DEMO_CLIENT, DEMO_PLAN, lifetime_us)).secret


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="The plan file.")], as_json: AsJson = False) -> None:
    """Say whether a plan file can be used, and everything that is wrong with it."""
    try:
        config = configuration.ConfigFile(file).read()
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
    _show_clients(_without_plans(lambda clients: clients.all()), as_json, many=True)


@clients_app.command("show")
def show_client(name: Name, as_json: AsJson = False) -> None:
    """Show one client."""
    _show_clients([_without_plans(lambda clients: clients.get(name))], as_json)


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
    _show_clients([_without_plans(lambda clients: clients.suspend(name))], as_json)


@clients_app.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Let a suspended client pass again."""
    _show_clients([_without_plans(lambda clients: clients.resume(name))], as_json)


@clients_app.command("delete")
def delete_client(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a client, its keys and what it has spent."""
    _confirm(f"Delete the client {name!r}, its keys and what it has spent?", yes)
    _without_plans(lambda clients: clients.delete(name))
    if as_json:
        _print_json({"deleted": name})


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
    issued = _without_plans(
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
    found = _without_plans(lambda clients: clients.keys_of(client))
    if as_json:
        _print_json([{"id": key.id, "client": client, **_key_fields(key)} for key in found])
        return
    rows = [
        (
            key.id,
            key.shown + "…",
            key.name,
            key.environment.value,
            instants.show(key.created_at_us),
            "never" if key.expires_at_us is None else instants.show(key.expires_at_us),
        )
        for key in found
    ]
    tables.print_table(out, ("id", "key", "name", "environment", "created", "expires"), rows)


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as listed.")], yes: Yes = False, as_json: AsJson = False
) -> None:
    """Revoke a key; the next check with it is refused by every worker."""
    _confirm(f"Revoke {key_id}?", yes)
    _without_plans(lambda clients: clients.revoke_key(key_id))
    if as_json:
        _print_json({"revoked": key_id})


@clients_app.command("set-limit")
def set_limit(
    name: Name,
    limit: Annotated[str, typer.Argument(help="The limit's name in the client's plan.")],
    rate: Annotated[str | None, typer.Option(help="Another rate, such as 50/second.")] = None,
    burst: Annotated[int | None, typer.Option(help="Another burst.")] = None,
    quota: Annotated[str | None, typer.Option(help="Other units, such as 20000/month.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Another time zone of the window.")] = None,
    anchor_day: Annotated[int | None, typer.Option(help="Another first day of the month.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Last day (UTC) it holds, or the RFC 3339 instant it is over; for good if unset.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a client a limit of its own in place of its plan's, from its next check on."""
    until_us = None if until is None else _until_us(until)
    try:
        override = Override(
            rate=rate, burst=burst, quota=quota, timezone=timezone, anchor_day=anchor_day, until_us=until_us
        )
    except ValidationError as error:
        told = (f"--{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors())
        raise typer.BadParameter("; ".join(told).replace("--anchor_day", "--anchor-day")) from error
    if override.model_copy(update={"until_us": None}) == Override():
        raise typer.BadParameter("say what is different: --rate, --burst, --quota, --timezone or --anchor-day")
    _show_clients([_with_clients(lambda clients: clients.set_limit(name, limit, override), config)], as_json)


@clients_app.command("unset-limit")
def unset_limit(
    name: Name,
    limit: Annotated[str, typer.Argument(help="The limit's name.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a client its plan's limit back."""
    _show_clients([_with_clients(lambda clients: clients.unset_limit(name, limit), config)], as_json)


@app.command()
def refund(
    client: Annotated[str, typer.Argument(help="The client to give units back to.")],
    units: Annotated[int, typer.Option(min=1, help="How many units.")],
    idempotency_key: Annotated[str, typer.Option(help="Names this refund: it is made once per key, for a day.")],
    key_id: Annotated[str, typer.Option(help="The key whose limits per key get theirs, too.")] = "",
    method: Annotated[str, typer.Option(help="The method of the request that was charged.")] = "GET",
    path: Annotated[str, typer.Option(help="Its path: limits that are not about it get nothing.")] = "/",
    taken_at: Annotated[
        str | None, typer.Option(help="RFC 3339: when it was charged. A window that began later gets nothing.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give units back, once per idempotency key, never above full."""
    taken_us = None if taken_at is None else _instant_us(taken_at)

    async def give(services: Operations) -> Refunded:
        return await services.refunds.give(
            client,
            units,
            idempotency_key=idempotency_key,
            key_id=key_id,
            method=method,
            target=path,
            taken_us=taken_us,
        )

    refunded = _with_operations(give, config)
    if as_json:
        _print_json({"client": client, "refunded": refunded.units, "repeated": refunded.repeated})
        return
    for name, given in refunded.units.items():
        out.print(f"{name}: {given} back")
    if refunded.repeated:
        out.print("This refund had been made before; nothing was given now.")


@app.command("audit")
def show_audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 50,
    before: Annotated[str | None, typer.Option(help="Only entries older than the one of this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what through the admin API, newest first."""
    if before is not None and not audit.is_id(before):
        raise typer.BadParameter(f"{before!r} is no entry's id, as listed")
    entries = _with_operations(lambda services: services.audit.entries(before, limit))
    if as_json:
        _print_json([asdict(entry) for entry in entries])
        return
    rows = [
        (each.id, each.at, each.actor, each.action, each.target, orjson.dumps(each.details).decode())
        for each in entries
    ]
    tables.print_table(out, ("id", "at", "actor", "action", "target", "details"), rows)


@app.command()
def explain(
    credential: Annotated[str, typer.Argument(help="The credential; - reads it from standard input.")],
    method: Annotated[str, typer.Argument(help="The request's method.")],
    path: Annotated[str, typer.Argument(help="The request's path.")],
    cost: Annotated[int | None, typer.Option(min=0, help="Units; the plan's cost rules decide if unset.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say why a request would be allowed or refused; takes nothing. Exit code 1 when it would be refused."""
    secret = _bytes(sys.stdin.readline().strip() if credential == "-" else credential)
    explanation = _with_operations(
        lambda services: services.explainer.explain(secret, method, _bytes(path), cost), config
    )
    if as_json:
        _print_json(tables.explanation_fields(explanation))
    else:
        tables.print_explanation(out, explanation)
    raise typer.Exit(0 if explanation.reason is None else 1)


@app.command()
def replay(
    requests: Annotated[Path, typer.Argument(help="The log; - is standard input.")],
    config: ConfigFile = None,
    plan: Annotated[str | None, typer.Option(help="Plan of the clients of whom nothing else is said.")] = None,
    log_format: Annotated[str, typer.Option(help="replay (JSON lines), combined (nginx, Apache) or json.")] = "replay",
    client_from: Annotated[
        str | None, typer.Option(help="Where the client is: remote_user, remote_addr, field:N, or a JSON path.")
    ] = None,
    time_from: Annotated[str | None, typer.Option(help="json: where the time is.")] = None,
    method_from: Annotated[str | None, typer.Option(help="json: where the method is.")] = None,
    path_from: Annotated[str | None, typer.Option(help="json: where the path is.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Say per client what would have been refused.")] = False,
    compare: Annotated[Path | None, typer.Option(help="Another plan file, to see both side by side.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a request log through the plans on a virtual clock; prints a decision for each request.

    The live state is neither used nor touched.
    """
    parse = logs.parser(
        log_format, client_from=client_from, time_from=time_from, method_from=method_from, path_from=path_from
    )
    configs = [configuration.find(_settings(config).config).read()]
    if compare is not None:
        configs.append(configuration.ConfigFile(compare.absolute()).read())
    summarised = summary or compare is not None
    summaries, log = replay_command.replay_file(
        None if requests == Path("-") else requests,
        parse,
        configs,
        plan=plan,
        decisions=None if summarised else sys.stdout.buffer,
    )
    sys.stdout.flush()
    for why, lines in log.skipped.items():
        if why is not logs.Skip.BLANK:
            err.print(f"skipped {lines} lines: {why.value}")
    if not log.requests and log.skipped[logs.Skip.NO_CLIENT]:
        err.print("error: no line names a client; say where it is with --client-from")
        raise typer.Exit(2)
    if summarised and as_json:
        found = [replay_command.summary_fields(each) for each in summaries]
        _print_json(found[0] if compare is None else dict(zip((each.source for each in configs), found, strict=True)))
    elif summarised:
        replay_command.print_summary(out, configs, summaries)


def _bytes(argument: str) -> bytes:
    """An argument as it was given, also where it is no UTF-8."""
    return argument.encode("utf-8", "surrogateescape")


def _until_us(text: str) -> int:
    """The first instant after a last day, or the instant itself."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return _instant_us(text)
    return _instant_us(f"{day}T00:00:00Z") + 86_400_000_000


def _instant_us(text: str) -> int:
    try:
        return instants.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _settings(config: Path | None) -> Settings:
    return load_settings(os.environ if config is None else {**os.environ, "QUOTAS_CONFIG": str(config)})


def _with_clients(work: Callable[[Clients], Awaitable[T]], config: Path | None = None) -> T:
    """Do something with the clients of the running service, or of the data directory when none runs."""
    return _with_operations(lambda services: work(services.clients), config)


def _without_plans(work: Callable[[Clients], Awaitable[T]]) -> T:
    """The same for what no plan is needed for: a file that cannot be used must not keep anybody from revoking."""
    return _with_plans(lambda services: work(services.clients), _settings(None), Config("no plans", {}))


def _with_operations(work: Callable[[Operations], Awaitable[T]], config: Path | None = None) -> T:
    settings = _settings(config)
    return _with_plans(work, settings, configuration.find(settings.config).read())


def _with_plans(work: Callable[[Operations], Awaitable[T]], settings: Settings, plans: Config) -> T:
    with composition.store_for_command(settings) as url:
        return _run(settings, url, plans, work)


def _run(settings: Settings, url: str, plans: Config, work: Callable[[Operations], Awaitable[T]]) -> T:
    async def run() -> T:
        async with deadline(COMMAND_TIMEOUT_S), composition.open_operations(settings, url, plans) as services:
            return await work(services)

    return asyncio.run(run())


def _show_clients(clients: list[Client], as_json: bool, *, many: bool = False) -> None:
    if as_json:
        listed = [_client_fields(client) for client in clients]
        _print_json(listed if many else listed[0])
        return
    rows = [
        (client.name, client.plan, client.status.value, client.id, instants.show(client.created_at_us))
        for client in clients
    ]
    tables.print_table(out, ("name", "plan", "status", "id", "created"), rows)
    for client in () if many else clients:
        for name, own in overrides.load(client.overrides).items():
            until = "" if own.until_us is None else f" until {instants.show(own.until_us)}"
            different = own.model_dump(exclude_none=True, exclude={"until_us"})
            out.print(f"own limit {name}: {', '.join(f'{key} {value}' for key, value in different.items())}{until}")


def _client_fields(client: Client) -> dict[str, Any]:
    return {
        "name": client.name,
        "plan": client.plan,
        "status": client.status.value,
        "id": client.id,
        "created_at": instants.show(client.created_at_us),
        "limits": {name: own.model_dump(exclude_none=True) for name, own in overrides.load(client.overrides).items()},
    }


def _key_fields(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "shown": key.shown,
        "environment": key.environment.value,
        "created_at": instants.show(key.created_at_us),
        "expires_at": None if key.expires_at_us is None else instants.show(key.expires_at_us),
    }


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
