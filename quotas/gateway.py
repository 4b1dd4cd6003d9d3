"""Configuration files of gateways that ask this service about every request: options in, text out.

Each gateway has one template in the folder `gateways`. In it `<<name>>` stands for a value, and whole lines
`%% if NAME`, `%% else` and `%% end` choose between parts: nothing that any of these gateways' own languages could mean.
An option is a host, a port, a number or a plain path before it gets into a template, so that none can say anything
else there.
"""

import re
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from quotas import places

_PLACEHOLDER = re.compile(r"<<([a-z_]+)>>")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_PATH = re.compile(r"[A-Za-z0-9_./-]{1,1024}")
_PORT = re.compile(r"[0-9]{1,5}")
_LARGEST_PORT = 65_535


class Gateway(Enum):
    """A gateway that a configuration can be printed for."""

    NGINX = "nginx"
    ENVOY = "envoy"
    CADDY = "caddy"
    TRAEFIK = "traefik"
    HAPROXY = "haproxy"


_TEMPLATES = {
    Gateway.NGINX: "nginx.conf",
    Gateway.ENVOY: "envoy.yaml",
    Gateway.CADDY: "Caddyfile",
    Gateway.TRAEFIK: "traefik.yaml",
    Gateway.HAPROXY: "haproxy.cfg",
}
_LUA = "haproxy.lua"


@dataclass(frozen=True, slots=True)
class Address:
    """A host, which is a name or an IP address without brackets, and a port."""

    host: str
    port: int

    @property
    def bracketed(self) -> str:
        """The host as it stands before a port: an IPv6 address is in brackets (RFC 3986, section 3.2.2)."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"


@dataclass(frozen=True, slots=True)
class Options:
    """What a printed configuration says.

    `check_timeout_ms` is how long a request waits for its check; `lua_path` is where HAProxy finds its Lua file.
    `credential_header` and `credential_cookie` are what the plan file's `credentials` names: one more header that is
    handed to the check, "" for none, and whether cookies are.
    """

    upstream: Address
    check: Address
    listen: Address
    fail_open: bool = False
    hide_credentials: bool = False
    credential_header: str = ""
    credential_cookie: bool = False
    check_timeout_ms: int = 250
    lua_path: str = "/etc/haproxy/quotas.lua"


def url(text: str) -> Address:
    """The address in `http://HOST[:PORT]`. Raises ValueError; the message does not repeat what was given.

    `localhost` becomes 127.0.0.1: nginx, asked once, would ask ::1 every other time, where most things do not listen.
    """
    said = "must be http://HOST or http://HOST:PORT"
    if not text.startswith("http://"):
        raise ValueError(f"{said}; TLS to it is yours to put into the printed file")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(said) from error
    if parts.username is not None or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(f"{said}, with no user, path, query or fragment")
    address = _address(text.removeprefix("http://").removesuffix("/"), said, 80 if port is None else port)
    return Address("127.0.0.1", address.port) if address.host.lower() == "localhost" else address


def listener(text: str) -> Address:
    """The address in `IP:PORT`, as in `0.0.0.0:8000` or `[::]:8000`. Raises ValueError."""
    said = "must be an IP address and a port, such as 0.0.0.0:8000 or [::]:8000"
    address = _address(text, said, None)
    try:
        ip_address(address.host)
    except ValueError as error:
        raise ValueError(said) from error
    return address


def credential_header(text: str) -> str:
    """A header that may hold a credential, or "" for none. Raises ValueError."""
    if text:
        if not _HEADER.fullmatch(text):
            raise ValueError("must be letters, digits and hyphens: gateways drop headers with others")
        places.parse_header(text)
    return text


def lua_path(text: str) -> str:
    """A path of letters, digits, `.`, `_`, `-` and `/`. Raises ValueError."""
    if not _PATH.fullmatch(text):
        raise ValueError("must be a path of letters, digits, `.`, `_`, `-` and `/`")
    return text


def render(gateway: Gateway, options: Options) -> str:
    """The whole configuration file. Traefik has no way to let requests through while the service is down."""
    assert not (gateway is Gateway.TRAEFIK and options.fail_open), "who asks for that is told before"
    return _fill(_read(_TEMPLATES[gateway]), options)


def render_lua(options: Options) -> str:
    """The Lua file that HAProxy's configuration loads."""
    return _fill(_read(_LUA), options)


def _address(text: str, said: str, port: int | None) -> Address:
    """The address in `HOST:PORT`, where IPv6 is in brackets; the port may be left out when one is given."""
    host, colon, digits = (text, "", "") if text.endswith("]") else text.rpartition(":")
    if not colon:
        host = text
    if colon or port is None:
        if not _PORT.fullmatch(digits) or not 1 <= int(digits) <= _LARGEST_PORT:
            raise ValueError(f"{said}; a port is 1 to {_LARGEST_PORT}")
        port = int(digits)
    if host.startswith("[") and host.endswith("]"):
        try:
            address = IPv6Address(host[1:-1])
        except ValueError as error:
            raise ValueError(said) from error
        if address.scope_id is not None:  # It can be any text, and no gateway here needs one.
            raise ValueError(f"{said}; an IPv6 address has no zone here")
        return Address(str(address), port)
    if not _HOST.fullmatch(host):
        raise ValueError(f"{said}; a host is a name or an IP address")
    return Address(host, port)


def _read(name: str) -> str:
    return (files("quotas") / "gateways" / name).read_text("utf-8")


def _fill(template: str, options: Options) -> str:
    conditions = {
        "fail_open": options.fail_open,
        "hide_credentials": options.hide_credentials,
        "credential_header": options.credential_header != "",
        "credential_cookie": options.credential_cookie,
    }
    connect_ms = max(1, options.check_timeout_ms * 2 // 5)
    values = {
        "upstream": str(options.upstream),
        "upstream_host": options.upstream.host,
        "upstream_port": str(options.upstream.port),
        "check": str(options.check),
        "check_host": options.check.host,
        "check_port": str(options.check.port),
        "listen": str(options.listen),
        "listen_host": options.listen.host,
        "listen_port": str(options.listen.port),
        "connect_ms": str(connect_ms),
        "connect_s": f"{connect_ms / 1000:.3f}",
        "answer_ms": str(options.check_timeout_ms),
        "answer_s": f"{options.check_timeout_ms / 1000:.3f}",
        "patience_ms": str(options.check_timeout_ms * 4),
        "lua_path": options.lua_path,
        "credential_header": options.credential_header.lower(),
        "credential_header_variable": options.credential_header.lower().replace("-", "_"),
    }
    lines = _chosen(template.splitlines(), conditions)
    return _PLACEHOLDER.sub(lambda found: values[found[1]], "\n".join(lines) + "\n")


def _chosen(lines: list[str], conditions: dict[str, bool]) -> list[str]:
    """The lines of the parts that are chosen, with every part that they stand in."""
    chosen = []
    wanted: list[bool] = []
    for line in lines:
        if not line.startswith("%% "):
            if all(wanted):
                chosen.append(line)
            continue
        word, _, name = line.removeprefix("%% ").partition(" ")
        if word == "if":
            wanted.append(conditions[name])
        elif word == "else":
            wanted[-1] = not wanted[-1]
        else:
            assert word == "end", line
            wanted.pop()
    assert not wanted, "a part that begins has an end"
    return chosen
