"""`quotas gateway …`: prints the configuration with which a gateway asks this service."""

import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from quotas import gateway
from quotas.errors import ConfigError, Fault
from quotas.gateway import Gateway, Options

T = TypeVar("T")


def print_configuration(  # The options are those of the command.
    name: Annotated[Gateway, typer.Argument(help="Which gateway.")],
    upstream: Annotated[str, typer.Option(help="The application behind it: http://HOST:PORT.")] = (
        "http://127.0.0.1:3000"
    ),
    check: Annotated[str, typer.Option(help="Where this service is: http://HOST:PORT.")] = "http://127.0.0.1:8080",
    listen: Annotated[str, typer.Option(help="Where the gateway listens: IP:PORT.")] = "127.0.0.1:8000",
    check_timeout_ms: Annotated[
        int, typer.Option(min=1, max=60_000, help="How long a request waits for its check; connecting takes 2/5 of it.")
    ] = 250,
    fail_open: Annotated[
        bool, typer.Option("--fail-open", help="Let requests through while the service is down; else they get 503.")
    ] = False,
    hide_credentials: Annotated[
        bool, typer.Option("--hide-credentials", help="Keep headers that hold credentials from the upstream.")
    ] = False,
    credential_header: Annotated[
        str, typer.Option(help="`credentials: header` of the plan file, if it has one: the check gets it too.")
    ] = "",
    credential_cookie: Annotated[
        bool,
        typer.Option("--credential-cookie", help="`credentials: cookie` of the plan file: the check gets cookies."),
    ] = False,
    lua: Annotated[bool, typer.Option("--lua", help="haproxy: print the Lua file instead.")] = False,
    lua_path: Annotated[str, typer.Option(help="haproxy: where the configuration loads the Lua file from.")] = (
        "/etc/haproxy/quotas.lua"
    ),
) -> None:
    """Print a whole configuration file for a gateway that asks this service about every request."""
    faults: list[Fault] = []
    upstream_at = _read(gateway.url, upstream, "--upstream", faults)
    check_at = _read(gateway.url, check, "--check", faults)
    listen_at = _read(gateway.listener, listen, "--listen", faults)
    header = _read(gateway.credential_header, credential_header, "--credential-header", faults)
    lua_at = _read(gateway.lua_path, lua_path, "--lua-path", faults)
    if lua and name is not Gateway.HAPROXY:
        faults.append(Fault("--lua", f"{name.value} needs no Lua file; only haproxy does"))
    if fail_open and name is Gateway.TRAEFIK:
        faults.append(Fault("--fail-open", "Traefik's ForwardAuth lets nothing through while the service is down"))
    if faults:
        raise ConfigError("command line", faults)
    assert upstream_at is not None
    assert check_at is not None
    assert listen_at is not None
    assert header is not None
    assert lua_at is not None
    options = Options(
        upstream=upstream_at,
        check=check_at,
        listen=listen_at,
        fail_open=fail_open,
        hide_credentials=hide_credentials,
        credential_header=header,
        credential_cookie=credential_cookie,
        check_timeout_ms=check_timeout_ms,
        lua_path=lua_at,
    )
    sys.stdout.write(gateway.render_lua(options) if lua else gateway.render(name, options))


def _read(reader: Callable[[str], T], text: str, option: str, faults: list[Fault]) -> T | None:
    """The option as it was read, or None and one more fault."""
    try:
        return reader(text)
    except ValueError as error:
        faults.append(Fault(option, str(error)))
        return None
