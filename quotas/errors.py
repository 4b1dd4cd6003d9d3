"""What can go wrong, split by who can do something about it.

A refusal is a decision, never an error. Nothing here carries a credential: messages may be shown and logged.
"""

from dataclasses import dataclass


class QuotasError(Exception):
    """The root of every error this package raises on purpose."""


MAX_TOLD = 300
"""Characters of a fault's path and of its message; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a configuration: `path` says where, `message` what and what to do.

    Both can quote what somebody wrote, so they are made one line that can be printed.
    """

    path: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", one_line(self.path))
        object.__setattr__(self, "message", one_line(self.message))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def one_line(text: str) -> str:
    """The text as one line of bounded length that can be printed: what is no visible character is an escape."""
    cut = text if len(text) <= MAX_TOLD else text[:MAX_TOLD] + "…"
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut)


class ConfigError(QuotasError):
    """A configuration or a setting that cannot be used; the operator must change it. Holds every fault at once."""

    def __init__(self, source: str, faults: list[Fault]) -> None:
        assert faults, "a configuration error without a fault helps nobody"
        self.source = source
        self.faults = tuple(faults)
        super().__init__(f"{source}: " + "; ".join(str(fault) for fault in faults))


class RequestError(QuotasError):
    """A check request that cannot be answered with a decision; `reason` is the machine code of the answer."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class CredentialError(RequestError):
    """A request that names no client; it never carries the credential."""


class NotFoundError(QuotasError):
    """A client or a key that an operator named and the registry does not hold."""


class ConflictError(QuotasError):
    """A change that the registry's present state does not allow, such as a client name that is taken."""


class StoreUnavailableError(QuotasError):
    """The store did not answer, or answered that it cannot serve.

    `kind` is a short word for the metric: `connect`, `timeout`, `lost`, `overload`, `reply`.
    Unless it is `connect` or `overload`, the command may have run.
    """

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {detail}")


class EmbeddedStoreError(QuotasError):
    """The private Valkey could not be started, or another service owns its data directory."""
