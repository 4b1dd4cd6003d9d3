"""Process settings: the only place that reads the environment.

Host and port are flags of `quotas serve`, not variables: Kubernetes puts `QUOTAS_PORT=tcp://…` into every
pod beside a service that is called quotas.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quotas.errors import ConfigError, Fault

SOURCE = "environment"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process runs with. Secrets are left out of the repr, so that no log line can show them."""

    config: Path | None = None
    """`QUOTAS_CONFIG`: the plan file. None: `quotas.yaml` here if there is one, else the starter plans."""

    redis_url: str | None = field(default=None, repr=False)
    """`QUOTAS_REDIS_URL`: redis://, rediss:// or unix://. None: a private Valkey in the data directory."""

    data_dir: Path = Path(".quotas")
    """`QUOTAS_DATA_DIR`: where the private Valkey keeps its files and its socket."""

    key_brand: str = "quotas"
    """`QUOTAS_KEY_BRAND`: what API keys start with; 2 to 20 lower-case letters and digits."""

    key_pepper: bytes | None = field(default=None, repr=False)
    """`QUOTAS_KEY_PEPPER`: secret for the digests of keys, at least 16 bytes. None: plain SHA-256."""

    store_timeout_ms: int = 50
    """`QUOTAS_STORE_TIMEOUT_MS`: how long one check may wait for the store, 1 to 60,000 milliseconds."""

    log_level: str = "info"
    """`QUOTAS_LOG_LEVEL`: debug, info, warning or error."""


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
    if not re.match(r"(rediss?|unix)://.", text):
        raise ValueError("must start with redis://, rediss:// or unix:// and name a server")
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


def _milliseconds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 60_000:  # noqa: PLR2004 # One minute.
        raise ValueError("must be a whole number of milliseconds between 1 and 60000")
    return int(text)


def _level(text: str) -> str:
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError("must be debug, info, warning or error")
    return text.lower()


_READERS: Mapping[str, Callable[[str], object]] = {
    "CONFIG": Path,
    "REDIS_URL": _url,
    "DATA_DIR": Path,
    "KEY_BRAND": _brand,
    "KEY_PEPPER": _pepper,
    "STORE_TIMEOUT_MS": _milliseconds,
    "LOG_LEVEL": _level,
}
