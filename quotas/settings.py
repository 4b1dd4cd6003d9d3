"""Process settings: the only place that reads the environment.

Host and port are flags of `quotas serve`, not variables: Kubernetes puts `QUOTAS_PORT=tcp://…` into every
pod beside a service that is called quotas.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from quotas.errors import ConfigError, Fault

SOURCE = "environment"


class LogFormat(Enum):
    """How a line of the log is written."""

    CONSOLE = "console"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process runs with. Secrets are left out of the repr, so that no log line can show them."""

    config: Path | None = None
    """`QUOTAS_CONFIG`: the plan file. None: `quotas.yaml` here if there is one, else the starter plans."""

    redis_url: str | None = field(default=None, repr=False)
    """`QUOTAS_REDIS_URL`: redis://, redis+sentinel://, redis+cluster://, these with rediss for TLS, or unix://.
    None: a private Valkey in the data directory."""

    data_dir: Path = Path(".quotas")
    """`QUOTAS_DATA_DIR`: where the private Valkey keeps its files and its socket."""

    key_brand: str = "quotas"
    """`QUOTAS_KEY_BRAND`: what API keys start with; 2 to 20 lower-case letters and digits."""

    key_pepper: bytes | None = field(default=None, repr=False)
    """`QUOTAS_KEY_PEPPER`: secret for the digests of keys, at least 16 bytes. None: plain SHA-256."""

    key_pepper_previous: tuple[bytes | None, ...] = field(default=(), repr=False)
    """`QUOTAS_KEY_PEPPER_PREVIOUS`: the pepper before, under which older keys stay valid; `none` if there was none."""

    admin_token: Mapping[str, str] = field(default_factory=dict, repr=False)
    """`QUOTAS_ADMIN_TOKEN`: tokens of the admin API, by the names that the audit log shows; a list of `name:token`,
    where a token alone is called `admin`. Empty: there is no admin API."""

    admin_port: int | None = None
    """`QUOTAS_ADMIN_PORT`: the one port at which the admin API is served, beside `--port`. None: at `--port`."""

    store_timeout_ms: int = 50
    """`QUOTAS_STORE_TIMEOUT_MS`: how long one check may wait for the store, 1 to 60,000 milliseconds."""

    hot_road: bool = True
    """`QUOTAS_HOT_ROAD`: 1, or 0 to answer checks through the ASGI application as everything else is; slower."""

    remembered: int = 1_000_000
    """`QUOTAS_REMEMBERED`: keys that a worker remembers, and as many tokens, 1 to 100,000,000; about 300 bytes each."""

    refusal_memory: bool = True
    """`QUOTAS_REFUSAL_MEMORY`: 1, or 0 to ask the store about every check of a client that was refused just now."""

    log_level: str = "info"
    """`QUOTAS_LOG_LEVEL`: debug, info, warning or error."""

    log_format: LogFormat = LogFormat.CONSOLE
    """`QUOTAS_LOG_FORMAT`: console, or json for one JSON object a line."""

    log_refusals: int = 1
    """`QUOTAS_LOG_REFUSALS`: refused checks that a worker logs in a second at most, 0 to 1000; 0 logs none."""

    traces: float | None = None
    """`QUOTAS_TRACES`: the share, 0 to 1, of checks that are traced where their caller does not say. None: none is."""


def secrets() -> Mapping[str, str]:
    """The environment, for the variables that a configuration file names as secrets, and for OpenTelemetry's own."""
    return os.environ


def names() -> frozenset[str]:
    """The variables that are settings."""
    return frozenset(f"QUOTAS_{name}" for name in _READERS)


def load(environment: Mapping[str, str]) -> Settings:
    """Settings from `QUOTAS_*` variables; an empty variable counts as unset. Raises ConfigError with all faults."""
    faults: list[Fault] = []
    found = {name: environment.get(f"QUOTAS_{name}", "").strip() for name in _READERS}
    values: dict[str, object] = {}
    for name, read in _READERS.items():
        if not found[name]:
            continue
        try:
            values[name.lower()] = read(found[name])
        except ValueError as error:
            faults.append(Fault(f"QUOTAS_{name}", str(error)))
    if faults:
        raise ConfigError(SOURCE, faults)
    return Settings(**values)  # type: ignore[arg-type] # Each reader returns the type of the field it is named after.


def _url(text: str) -> str:
    if not re.match(r"(rediss?(\+sentinel|\+cluster)?|unix)://.", text):
        told = "must start with redis://, rediss://, redis+sentinel://, redis+cluster:// or unix:// and name a server"
        raise ValueError(told)
    return text


def _brand(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]{1,19}", text):
        raise ValueError("must be 2 to 20 lower-case letters and digits, the first a letter")
    return text


def _pepper(text: str) -> bytes:
    try:
        secret = text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8 text") from None  # The error would quote the secret.
    if len(secret) < 16:  # noqa: PLR2004 # The bound is said in the message and in the docstring above.
        raise ValueError("must have at least 16 bytes; `openssl rand -base64 32` makes a good one")
    return secret


def _previous_pepper(text: str) -> tuple[bytes | None, ...]:
    return (None if text.lower() == "none" else _pepper(text),)


def _admin_tokens(text: str) -> Mapping[str, str]:
    """A token is what a Bearer header can hold (RFC 6750, section 2.1); no message quotes one."""
    found: dict[str, str] = {}
    for entry in re.split(r"[\s,]+", text.strip(", \t\r\n")):
        name, colon, token = entry.rpartition(":")
        name = name if colon else "admin"
        if not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", name) or not re.fullmatch(r"[A-Za-z0-9._~+/-]{8,4096}=*", token):
            raise ValueError("must be `name:token`, a token at least 8 of A-Z a-z 0-9 . _ ~ + / -; several with commas")
        if name in found:
            raise ValueError(f"has two tokens named {name!r}; a token's name tells who it was in the audit log")
        found[name] = token
    return found


def _port(text: str) -> int | None:
    if text.startswith("tcp://"):
        return None  # Kubernetes says so in every pod beside a service that is called quotas-admin.
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:  # noqa: PLR2004 # The highest port.
        raise ValueError("must be a port, 1 to 65535")
    return int(text)


def _milliseconds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 60_000:  # noqa: PLR2004 # One minute.
        raise ValueError("must be a whole number of milliseconds between 1 and 60000")
    return int(text)


def _entries(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= 100_000_000:  # noqa: PLR2004 # Said in the message.
        raise ValueError("must be a whole number between 1 and 100000000")
    return int(text)


def _switch(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ValueError("must be 1 (on) or 0 (off)")
    return text == "1"


def _level(text: str) -> str:
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError("must be debug, info, warning or error")
    return text.lower()


def _format(text: str) -> LogFormat:
    try:
        return LogFormat(text.lower())
    except ValueError:
        raise ValueError("must be console or json") from None


def _lines(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) > 1000:  # noqa: PLR2004 # The bound is said in the message.
        raise ValueError("must be a whole number of lines a second between 0 and 1000")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"0|1|[01]\.[0-9]{1,18}|\.[0-9]{1,18}", text) or float(text) > 1:
        raise ValueError("must be a share between 0 and 1, such as 0.01")
    return float(text)


_READERS: Mapping[str, Callable[[str], object]] = {
    "CONFIG": Path,
    "REDIS_URL": _url,
    "DATA_DIR": Path,
    "KEY_BRAND": _brand,
    "KEY_PEPPER": _pepper,
    "KEY_PEPPER_PREVIOUS": _previous_pepper,
    "ADMIN_TOKEN": _admin_tokens,
    "ADMIN_PORT": _port,
    "STORE_TIMEOUT_MS": _milliseconds,
    "HOT_ROAD": _switch,
    "REMEMBERED": _entries,
    "REFUSAL_MEMORY": _switch,
    "LOG_LEVEL": _level,
    "LOG_FORMAT": _format,
    "LOG_REFUSALS": _lines,
    "TRACES": _share,
}
