"""The command line: arguments in, tables or JSON out.

Exit codes: 0 done, 1 the answer is no, 2 wrong use or wrong configuration.
"""

import asyncio
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer

from quotas import (
    addresses,
    audit,
    configuration,
    doctor_command,
    gateway_command,
    logs,
    operations,
    replay_command,
    tables,
    terminal,
    usage_command,
)
from quotas.client_commands import clients_app, keys_app
from quotas.errors import (
    ConfigError,
    ConflictError,
    EmbeddedStoreError,
    NotFoundError,
    StoreUnavailableError,
)
from quotas.explaining import RawState
from quotas.logged_requests import LogError, Skip
from quotas.operations import Operations
from quotas.plans import Config
from quotas.scripts import Refunded
from quotas.terminal import AsJson, ConfigFile, err, out
from quotas.token_commands import tokens_app

DEMO_CLIENT = "demo"
DEMO_PLAN = "free"
DEMO_KEY_DAYS = 30

app = typer.Typer(
    help="Rate limits and quotas as an HTTP check service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(clients_app, name="clients")
app.add_typer(keys_app, name="keys")
app.add_typer(tokens_app, name="tokens")
app.command("doctor")(doctor_command.examine)
app.command("gateway")(gateway_command.print_configuration)
app.command("usage")(usage_command.show_usage)


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
    # All that serves is a quarter of what there is to import: no other command waits for it.
    from quotas.serving import serve as serve_workers  # noqa: PLC0415 # See above.

    settings = terminal.settings(config)
    file = configuration.find(settings.config)
    file.read()
    with operations.store_for_service(settings) as serving:

        def announce(url: str, plans: Config) -> None:
            assert serving.redis_url is not None, "a service has a store"
            with suppress(StoreUnavailableError):  # The workers go on trying.
                asyncio.run(operations.keep_file_clients(serving, plans))
            secret = terminal.run(serving, serving.redis_url, plans, _demo) if demo else None
            out.print(f"quotas serves {plans.source} ({', '.join(plans.plans)}) on {url}")
            if secret is not None:
                out.print(f"\nThe client `{DEMO_CLIENT}` has a new key, shown this once. Try:\n")
                out.print(f"    curl -i -H 'X-API-Key: {secret}' {url}/check\n")
            sys.stdout.flush()

        try:
            serve_workers(serving, file, host=host, port=port, workers=workers, announce=announce)
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
        terminal.print_json({"valid": False, "source": error.source, "faults": faults})
        raise typer.Exit(2) from error
    if as_json:
        terminal.print_json({"valid": True, "source": config.source, "plans": list(config.plans)})
    else:
        out.print(f"{config.source}: good; plans: {', '.join(config.plans)}")


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
    taken_us = None if taken_at is None else terminal.instant_us(taken_at)

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

    refunded = terminal.with_operations(give, config)
    if as_json:
        terminal.print_json({"client": client, "refunded": refunded.units, "repeated": refunded.repeated})
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
    """List who changed what, newest first: an admin token by its name, or `cli:` and a user, or `file:`."""
    if before is not None and not audit.is_id(before):
        raise typer.BadParameter(f"{before!r} is no entry's id, as listed")
    entries = terminal.with_operations(lambda services: services.audit.entries(before, limit))
    if as_json:
        terminal.print_json([asdict(entry) for entry in entries])
        return
    rows = [
        (each.id, each.at, each.actor, each.action, each.target, orjson.dumps(each.details).decode())
        for each in entries
    ]
    tables.print_table(out, ("id", "at", "actor", "action", "target", "details"), rows)


@app.command()
def explain(
    credential: Annotated[
        str, typer.Argument(help="The credential; - reads it from standard input. See --address and --state.")
    ],
    method: Annotated[str, typer.Argument(help="The request's method.")] = "",
    path: Annotated[str, typer.Argument(help="The request's path.")] = "",
    cost: Annotated[int | None, typer.Option(min=0, help="Units; the plan's cost rules decide if unset.")] = None,
    address: Annotated[bool, typer.Option("--address", help="It is the address of a caller without one.")] = False,
    state: Annotated[
        bool, typer.Option("--state", help="It is a client's name: show what the store remembers of its limits, raw.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say why a request would be allowed or refused; takes nothing. Exit code 1 when it would be refused."""
    if state:
        if method or path or address or cost is not None:
            raise typer.BadParameter("--state goes with a client's name alone")
        _show_states(credential, as_json=as_json)
        return
    if not method or not path:
        raise typer.BadParameter("say the request's method and path")
    given = sys.stdin.readline().strip() if credential == "-" else credential
    who = addresses.parse(given) if address else terminal.as_bytes(given)
    if who is None:
        raise typer.BadParameter("with --address, the first argument is an IP address")
    explanation = terminal.with_operations(
        lambda services: services.explainer.explain(who, method, terminal.as_bytes(path), cost), config
    )
    if as_json:
        terminal.print_json(tables.explanation_fields(explanation))
    else:
        tables.print_explanation(out, explanation)
    raise typer.Exit(0 if explanation.reason is None else 1)


def _show_states(name: str, *, as_json: bool) -> None:
    async def look(services: Operations) -> list[RawState]:
        client = await services.clients.get(name)
        keys = [key.id for key in await services.clients.keys_of(name)]
        return await services.explainer.states(client.id, keys)

    states = terminal.with_operations_of_no_plan(look)
    if as_json:
        terminal.print_json([tables.state_fields(each) for each in states])
        return
    for each in states:
        tables.print_state(out, each)
    if not states:
        err.print("The store remembers nothing of it: every bucket is full and no quota is used.")


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
    configs = [configuration.find(terminal.settings(config).config).read()]
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
        if why is not Skip.BLANK:
            err.print(f"skipped {lines} lines: {why.value}")
    if not log.requests and log.skipped[Skip.NO_CLIENT]:
        err.print("error: no line names a client; say where it is with --client-from")
        raise typer.Exit(2)
    if summarised and as_json:
        found = [replay_command.summary_fields(each) for each in summaries]
        terminal.print_json(
            found[0] if compare is None else dict(zip((each.source for each in configs), found, strict=True))
        )
    elif summarised:
        replay_command.print_summary(out, configs, summaries)


def _say_faults(error: ConfigError) -> None:
    count = len(error.faults)
    err.print(f"{error.source} cannot be used: {count} {'fault' if count == 1 else 'faults'}")
    for fault in error.faults:
        err.print(f"  {fault.path}: {fault.message}")
