"""`quotas tokens …`: revoke tokens, take a revocation back, see what is revoked."""

import sys
from typing import Annotated, Any

import typer

from quotas import tables, terminal, tokens
from quotas.revocations import Revocation
from quotas.revoking import fields
from quotas.terminal import AsJson, ConfigFile, Yes, out

tokens_app = typer.Typer(help="Tokens of issuers: revoke them.", no_args_is_help=True)


@tokens_app.command("revoke")
def revoke_tokens(  # One parameter for each option.
    issuer: Annotated[str | None, typer.Option(help="The issuer, exactly as its tokens say it.")] = None,
    jti: Annotated[str | None, typer.Option(help="One token, by its `jti`.")] = None,
    subject: Annotated[str | None, typer.Option(help="All tokens of a subject, until it is restored.")] = None,
    issued_before: Annotated[
        str | None,
        typer.Option(help="RFC 3339: what was issued before, by the subject, the issuer or, alone, any issuer."),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="RFC 3339: when the token of the jti expires and can be forgotten.")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Read a token from standard input, and revoke it by its jti.")
    ] = False,
    config: ConfigFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Revoke tokens; when this is done no worker lets one of them pass."""
    try:
        if token:
            if (issuer, jti, subject, issued_before, expires_at) != (None,) * 5:
                raise typer.BadParameter("--token says it all: leave the other options out")
            revocation = _of_token(sys.stdin.readline().strip())
        else:
            before_us = None if issued_before is None else terminal.instant_us(issued_before)
            expires_us = None if expires_at is None else terminal.instant_us(expires_at)
            revocation = Revocation(issuer, jti, subject, before_us, expires_us)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if revocation.jti is None and revocation.subject is None:
        whose = "of all issuers" if issuer is None else f"of {issuer}"
        terminal.confirm(f"Revoke every token {whose} that was issued before {issued_before}?", yes=yes)
    terminal.with_revoking(lambda revoking: revoking.revoke(revocation), config)
    if as_json:
        terminal.print_json(_told(revocation))
    else:
        terminal.err.print(f"Revoked as {revocation.id}; `quotas tokens restore {revocation.id}` takes it back.")


@tokens_app.command("restore")
def restore_tokens(
    revocation_id: Annotated[str, typer.Argument(help="The revocation's id, as listed.")], as_json: AsJson = False
) -> None:
    """Take a revocation back."""
    revocation = terminal.with_revoking(lambda revoking: revoking.restore(revocation_id), None)
    if as_json:
        terminal.print_json(_told(revocation))


@tokens_app.command("list")
def list_revocations(as_json: AsJson = False) -> None:
    """List what is revoked, without tokens that have expired since."""
    found = terminal.with_revoking(lambda revoking: revoking.all(), None)
    if as_json:
        terminal.print_json([_told(each) for each in found])
        return
    columns = ("issuer", "jti", "subject", "issued_before", "expires_at")
    rows = [(each.id, *(str(fields(each).get(name, "")) for name in columns)) for each in found]
    tables.print_table(out, ("id", "issuer", "jti", "subject", "issued before", "expires"), rows)


def _of_token(text: str) -> Revocation:
    """The revocation of one token. Nothing in it is verified: whoever holds it may have it refused."""
    issuer, jti, expires_at_us = tokens.claimed(terminal.as_bytes(text))
    return Revocation(issuer, jti, expires_at_us=expires_at_us)


def _told(revocation: Revocation) -> dict[str, Any]:
    return {"id": revocation.id, **fields(revocation)}
