"""`quotas clients …` and `quotas keys …`."""

from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from quotas import assembly, instants, keys, overrides, scopes, tables, terminal
from quotas.errors import ConfigError
from quotas.holders import Alias, Client, Key
from quotas.keys import Environment
from quotas.overrides import Override
from quotas.terminal import AsJson, ConfigFile, Yes, out

clients_app = typer.Typer(help="Clients: whom usage is counted against.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of clients.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The client's name.")]


@clients_app.command("create")
def create_client(
    name: Name,
    plan: Annotated[str, typer.Option(help="A plan of the configuration.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a client."""
    _show_clients([terminal.with_clients(lambda clients: clients.create(name, plan), config)], as_json)


@clients_app.command("list")
def list_clients(as_json: AsJson = False) -> None:
    """List all clients."""
    _show_clients(terminal.without_plans(lambda clients: clients.all()), as_json, many=True)


@clients_app.command("show")
def show_client(name: Name, as_json: AsJson = False) -> None:
    """Show one client."""
    _show_clients([terminal.without_plans(lambda clients: clients.get(name))], as_json)


@clients_app.command("set-plan")
def set_plan(
    name: Name,
    plan: Annotated[str, typer.Argument(help="A plan of the configuration.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Put a client on another plan; what it has spent stays spent, by limit name."""
    _show_clients([terminal.with_clients(lambda clients: clients.set_plan(name, plan), config)], as_json)


@clients_app.command()
def suspend(name: Name, as_json: AsJson = False) -> None:
    """Refuse every check of a client until it is resumed."""
    _show_clients([terminal.without_plans(lambda clients: clients.suspend(name))], as_json)


@clients_app.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Let a suspended client pass again."""
    _show_clients([terminal.without_plans(lambda clients: clients.resume(name))], as_json)


@clients_app.command("delete")
def delete_client(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a client, its keys and what it has spent."""
    terminal.confirm(f"Delete the client {name!r}, its keys and what it has spent?", yes=yes)
    terminal.without_plans(lambda clients: clients.delete(name))
    if as_json:
        terminal.print_json({"deleted": name})


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
    _show_clients([terminal.with_clients(lambda clients: clients.set_limit(name, limit, override), config)], as_json)


@clients_app.command("unset-limit")
def unset_limit(
    name: Name,
    limit: Annotated[str, typer.Argument(help="The limit's name.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a client its plan's limit back."""
    _show_clients([terminal.with_clients(lambda clients: clients.unset_limit(name, limit), config)], as_json)


Issuer = Annotated[str, typer.Option(help="The issuer, exactly as its tokens say it.")]
Subject = Annotated[str, typer.Option(help="The subject, exactly as its tokens say it.")]


@clients_app.command("alias")
def add_alias(name: Name, issuer: Issuer, subject: Subject, as_json: AsJson = False) -> None:
    """Have a subject's tokens count against this client, so that keys and tokens share its limits."""
    alias = Alias(issuer, subject)
    _show_aliases([terminal.without_plans(lambda clients: clients.add_alias(name, alias))], as_json)


@clients_app.command("unalias")
def remove_alias(name: Name, issuer: Issuer, subject: Subject, as_json: AsJson = False) -> None:
    """Have a subject's tokens count against a client of its own again."""
    alias = Alias(issuer, subject)
    terminal.without_plans(lambda clients: clients.remove_alias(name, alias.digest))
    if as_json:
        terminal.print_json({"removed": alias.digest})


@clients_app.command("aliases")
def list_aliases(name: Name, as_json: AsJson = False) -> None:
    """List the subjects whose tokens count against this client."""
    _show_aliases(terminal.without_plans(lambda clients: clients.aliases_of(name)), as_json, many=True)


@keys_app.command("create")
def create_key(
    client: Annotated[str, typer.Option(help="The client that the key is for.")],
    name: Annotated[str, typer.Option(help="What to call it in listings.")] = "",
    environment: Annotated[Environment, typer.Option(help="Part of the key's prefix.")] = Environment.LIVE,
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days it is valid; for ever when left out.")
    ] = None,
    scope: Annotated[list[str] | None, typer.Option(help="What it may do, where plans ask; once for each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, this once."""
    expires_at_us = None
    if expires_in_days is not None:
        expires_at_us = assembly.clock() + expires_in_days * 86_400 * 1_000_000
    issued = terminal.without_plans(
        lambda clients: clients.issue_key(
            client, name=name, environment=environment, expires_at_us=expires_at_us, scopes=scope or ()
        )
    )
    if as_json:
        terminal.print_json({"id": issued.key.id, "key": issued.secret, "client": client, **_key_fields(issued.key)})
    else:
        out.print(issued.secret)
        terminal.err.print(f"This is {issued.key.id} of {client!r}. Keep it: it is not shown again.")


@keys_app.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as listed.")],
    grace: Annotated[
        int, typer.Option(min=0, max=31_536_000, help="Seconds that the old key is valid for; 0 ends it at once.")
    ] = 3600,
    as_json: AsJson = False,
) -> None:
    """Make a new key in a key's place and print it, this once; the old one goes on for a grace time."""
    issued, client = terminal.without_plans(lambda clients: clients.rotate_key(key_id, grace))
    if as_json:
        fields = {"id": issued.key.id, "key": issued.secret, "client": client.name, "replaces": key_id}
        terminal.print_json({**fields, **_key_fields(issued.key)})
    else:
        out.print(issued.secret)
        told = "ends now" if grace == 0 else f"is valid for {grace} seconds more"
        terminal.err.print(f"This is {issued.key.id} of {client.name!r}; {key_id} {told}. It is not shown again.")


@keys_app.command("pattern")
def show_pattern(as_json: AsJson = False) -> None:
    """Print the pattern of keys, for secret scanners: GitHub custom patterns, gitleaks, TruffleHog."""
    pattern = keys.pattern(terminal.settings(None).key_brand)
    if as_json:
        terminal.print_json({"pattern": pattern})
    else:
        out.print(pattern)


@keys_app.command("list")
def list_keys(client: Annotated[str, typer.Option(help="Whose keys.")], as_json: AsJson = False) -> None:
    """List the keys of a client, without their secrets."""
    found = terminal.without_plans(lambda clients: clients.keys_of(client))
    if as_json:
        terminal.print_json([{"id": key.id, "client": client, **_key_fields(key)} for key in found])
        return
    rows = [
        (
            key.id,
            key.shown + "…" if key.shown else "imported",
            key.name,
            key.environment.value,
            scopes.joined(key.scopes),
            instants.show(key.created_at_us),
            _instant_or_never(key.expires_at_us),
            _instant_or_never(key.last_used_at_us),
        )
        for key in found
    ]
    tables.print_table(out, ("id", "key", "name", "environment", "scopes", "created", "expires", "last used"), rows)


@keys_app.command("import")
def import_keys(
    file: Annotated[
        Path, typer.Argument(help="CSV: client,name,sha256 and, if need be, scopes,expires_at,environment,shown.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring in keys that others have made, by their SHA-256 digests; asked again, it brings in what is missing."""
    source = str(file).encode("utf-8", "backslashreplace").decode()
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        if not lines.seekable():
            raise typer.BadParameter(f"{source} is read twice, so it must be a file and no pipe")
        try:
            found = terminal.with_importer(lambda importer: importer.run(lines, source, dry_run=dry_run))
        except ConfigError as error:
            if not as_json:
                raise
            terminal.print_json({"source": error.source, "faults": [asdict(fault) for fault in error.faults]})
            raise typer.Exit(2) from error
    if as_json:
        terminal.print_json({**asdict(found), "dry_run": dry_run})
        return
    done = "would be imported" if dry_run else "imported"
    out.print(f"{found.new} keys {done}; {found.present} were there already, {found.expired} have expired")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as listed.")], yes: Yes = False, as_json: AsJson = False
) -> None:
    """Revoke a key; the next check with it is refused by every worker."""
    terminal.confirm(f"Revoke {key_id}?", yes=yes)
    terminal.without_plans(lambda clients: clients.revoke_key(key_id))
    if as_json:
        terminal.print_json({"revoked": key_id})


def _show_clients(clients: list[Client], as_json: bool, *, many: bool = False) -> None:
    if as_json:
        listed = [_client_fields(client) for client in clients]
        terminal.print_json(listed if many else listed[0])
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


def _show_aliases(aliases: list[Alias], as_json: bool, *, many: bool = False) -> None:
    if as_json:
        listed = [{"id": each.digest, "issuer": each.issuer, "subject": each.subject} for each in aliases]
        terminal.print_json(listed if many else listed[0])
        return
    tables.print_table(out, ("issuer", "subject"), [(each.issuer, each.subject) for each in aliases])


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
        "scopes": sorted(key.scopes),
        "imported": key.imported,
        "created_at": instants.show(key.created_at_us),
        "expires_at": None if key.expires_at_us is None else instants.show(key.expires_at_us),
        "last_used_at": None if key.last_used_at_us is None else instants.show(key.last_used_at_us),
    }


def _instant_or_never(at_us: int | None) -> str:
    return "never" if at_us is None else instants.show(at_us)


def _until_us(text: str) -> int:
    """The first instant after a last day, or the instant itself."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return terminal.instant_us(text)
    return terminal.instant_us(f"{day}T00:00:00Z") + 86_400_000_000
