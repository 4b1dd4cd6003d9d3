"""Who holds credentials, as values: clients, their keys and aliases, and whom a credential speaks for. Pure."""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from quotas import keys, scopes
from quotas.tokens import subject_digest

_SUBJECT = "sub_"

HOUR_US = 3_600_000_000
"""How exactly a key's last use is kept."""


class Status(Enum):
    """Whether a client may pass at all."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


# These are tuples: a check may have to make them of what is remembered, at a fifth of a dataclass's cost.
class Client(NamedTuple):
    """A client's record. `generation` rises with every change of the client or of its keys.

    `overrides` is text that `overrides.load` reads: a limit's name on a line, and what is different on the next.
    """

    id: str
    name: str
    plan: str
    status: Status
    generation: int
    created_at_us: int
    overrides: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key without its secret. `expires_at_us` None is never; the instant itself is too late.

    `scopes` never change: a key with others is another key. An `imported` key was made by others; `shown` is then what
    they said, and may be empty. `last_used_at_us` is when the hour began in which it was last seen; None is never.
    """

    id: str
    client_id: str
    name: str
    shown: str
    environment: keys.Environment
    created_at_us: int
    expires_at_us: int | None = None
    scopes: frozenset[str] = scopes.NONE
    imported: bool = False
    last_used_at_us: int | None = None

    def is_expired(self, now_us: int) -> bool:
        """Whether the key's time is up; it is valid strictly before its expiry."""
        return self.expires_at_us is not None and now_us >= self.expires_at_us


@dataclass(frozen=True, slots=True)
class Alias:
    """A subject whose tokens count against a client that is not its own."""

    issuer: str
    subject: str = field(repr=False)

    @property
    def digest(self) -> str:
        """The subject's digest: how it is found, and the alias's id for operators."""
        return subject_digest(self.issuer, self.subject)


class Held(NamedTuple):
    """What a check may need of a key. `used_hour` is when it was last seen, in hours since the epoch; -1 is never.

    `record` is the digest that its record is under; empty is the credential's own.
    """

    record: bytes
    environment: keys.Environment
    used_hour: int = -1


class Identity(NamedTuple):
    """Whom a credential speaks for, as of its client's generation.

    `subject` is a key's id, or a token's subject; `subject_id` is what limits per key count by. The credential is
    valid strictly before `expires_at_us`; None is for ever. `key` is None for a token; `token_id` is the digest of a
    token's `jti`, None where it has none. `stays` says that the worker remembers this very object, so that what is made
    of it can be kept with it.
    """

    client: Client
    subject: str
    subject_id: str
    expires_at_us: int | None = None
    key: Held | None = None
    token_id: str | None = None
    scopes: frozenset[str] = scopes.NONE
    stays: bool = False

    @classmethod
    def of_nobody(cls, state_id: str, plan: str) -> "Identity":
        """A caller without a credential, counted under this id: a client without a name and without a record.

        Its generation is 0, which no record has and `take.lua` compares with none.
        """
        return cls(Client(state_id, "", plan, Status.ACTIVE, 0, 0), "", "address")

    @property
    def environment(self) -> keys.Environment:
        """A key's; tokens are live."""
        return keys.Environment.LIVE if self.key is None else self.key.environment

    def on(self, plan: str) -> "Identity":
        """The same, with its client on the plan that is in force for it."""
        return self if plan == self.client.plan else self._replace(client=self.client._replace(plan=plan))

    def is_expired(self, now_us: int) -> bool:
        """Whether the credential's time is up."""
        return self.expires_at_us is not None and now_us >= self.expires_at_us


def subject_client_id(digest: str) -> str:
    """The id of a subject's own client, by the subject's digest: 128 bits of it."""
    return f"{_SUBJECT}{digest[:32]}"


def is_subject_s(client_id: str) -> bool:
    """Whether a client is a subject's own."""
    return client_id.startswith(_SUBJECT)
