"""What HTTP writes as JSON: one model for each body, of the admin API and for everybody.

Instants are RFC 3339 text outside and microseconds inside. Only `IssuedKeyBody` ever holds a credential, and only on
its way out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from quotas import instants, overrides
from quotas.answers import Reason
from quotas.audit import Entry
from quotas.clients import IssuedKey
from quotas.decisions import Decision, Standing
from quotas.directory import Page
from quotas.holders import Alias, Client, Identity, Key, Status
from quotas.keys import Environment
from quotas.limits import Bucket, Mode, Per
from quotas.reports import By, History, HistoryPage
from quotas.revocations import Revocation
from quotas.revoking import fields
from quotas.tallies import Span, Tally


class ClientBody(BaseModel):
    """A client. `limits` are those of its own, by name, with what is different about each."""

    name: str
    plan: str
    status: Status
    id: str
    created_at: str
    limits: dict[str, dict[str, str | int]]

    @classmethod
    def of(cls, client: Client) -> Self:
        """The body of a client's record."""
        return cls(
            name=client.name,
            plan=client.plan,
            status=client.status,
            id=client.id,
            created_at=instants.show(client.created_at_us),
            limits={limit: overrides.told(own) for limit, own in overrides.load(client.overrides).items()},
        )


class ClientsBody(BaseModel):
    """A page of clients by name; `next` is the cursor of the next page, null when this is the last."""

    clients: list[ClientBody]
    next: str | None

    @classmethod
    def of(cls, page: Page) -> Self:
        """The body of a page."""
        return cls(clients=[ClientBody.of(client) for client in page.clients], next=page.after)


class KeyBody(BaseModel):
    """A key without its secret: `shown` is its prefix and four characters more. `expires_at` null is never.

    An `imported` key was made by others; `shown` is then what they said, and may be empty. `last_used_at` is when the
    hour began in which the key was last seen, null when it never was.
    """

    id: str
    client: str
    name: str
    shown: str
    environment: Environment
    scopes: list[str]
    imported: bool
    created_at: str
    expires_at: str | None
    last_used_at: str | None

    @classmethod
    def of(cls, key: Key, client: str) -> Self:
        """The body of a key of the client of this name."""
        return cls(**_key_fields(key, client))


class IssuedKeyBody(KeyBody):
    """A key that was just made. `key` is the credential itself, shown this once."""

    key: Annotated[str, Field(repr=False)]

    @classmethod
    def issued(cls, issued: IssuedKey, client: str) -> Self:
        """The body of a new key."""
        return cls(key=issued.secret, **_key_fields(issued.key, client))


def _key_fields(key: Key, client: str) -> dict[str, Any]:
    return {
        "id": key.id,
        "client": client,
        "name": key.name,
        "shown": key.shown,
        "environment": key.environment,
        "scopes": sorted(key.scopes),
        "imported": key.imported,
        "created_at": instants.show(key.created_at_us),
        "expires_at": None if key.expires_at_us is None else instants.show(key.expires_at_us),
        "last_used_at": None if key.last_used_at_us is None else instants.show(key.last_used_at_us),
    }


class KeysBody(BaseModel):
    """All keys of a client, oldest first."""

    keys: list[KeyBody]

    @classmethod
    def of(cls, keys: Iterable[Key], client: str) -> Self:
        """The body of a client's keys."""
        return cls(keys=[KeyBody.of(key, client) for key in keys])


class AliasBody(BaseModel):
    """A subject whose tokens count against a client that is not its own. `id` names it."""

    id: str
    issuer: str
    subject: str

    @classmethod
    def of(cls, alias: Alias) -> Self:
        """The body of an alias."""
        return cls(id=alias.digest, issuer=alias.issuer, subject=alias.subject)


class AliasesBody(BaseModel):
    """All aliases of a client."""

    aliases: list[AliasBody]

    @classmethod
    def of(cls, aliases: Iterable[Alias]) -> Self:
        """The body of a client's aliases."""
        return cls(aliases=[AliasBody.of(alias) for alias in aliases])


class RevocationBody(BaseModel):
    """What is revoked; what is not part of it is left out. `id` names it, to take it back."""

    id: str
    issuer: str | None = None
    jti: str | None = None
    subject: str | None = None
    issued_before: str | None = None
    expires_at: str | None = None

    @classmethod
    def of(cls, revocation: Revocation) -> Self:
        """The body of a revocation."""
        return cls.model_validate({"id": revocation.id, **fields(revocation)})


class RevocationsBody(BaseModel):
    """All that is revoked."""

    revocations: list[RevocationBody]

    @classmethod
    def of(cls, revocations: Iterable[Revocation]) -> Self:
        """The body of all revocations."""
        return cls(revocations=[RevocationBody.of(each) for each in revocations])


class StandingBody(BaseModel):
    """How one limit stands: `limit` is its burst or its units, `remaining` whole units that could be taken now.

    `per` says what it counts by. `reset_at` is when a bucket is full or a window ends, null for never; in seconds,
    rounded up, `reset_after_seconds`.
    """

    name: str
    kind: Literal["bucket", "quota"]
    per: Per
    limit: int
    remaining: int
    reset_at: str | None
    reset_after_seconds: int | None

    @classmethod
    def of(cls, standing: Standing, at_us: int) -> Self:
        """The body of a limit's standing at an instant."""
        rule, reset_us = standing.limit.rule, standing.reset_after_us
        return cls(
            name=standing.limit.name,
            kind="bucket" if isinstance(rule, Bucket) else "quota",
            per=standing.limit.per,
            limit=rule.burst if isinstance(rule, Bucket) else rule.units,
            remaining=max(0, standing.remaining),
            reset_at=None if reset_us is None else instants.show(at_us + reset_us + 999_999),
            reset_after_seconds=None if reset_us is None else -(-reset_us // 1_000_000),
        )


class RefusedBody(BaseModel):
    """Refused checks, by outcome."""

    rate_limited: int
    quota_exceeded: int
    never: int

    @classmethod
    def of(cls, tally: Tally) -> Self:
        """The body of what was refused."""
        return cls(rate_limited=tally.rate_limited, quota_exceeded=tally.quota_exceeded, never=tally.never)


class SpanBody(BaseModel):
    """What was used in one hour, day or month from `start` on, as clocks of the history's time zone show it.

    `units` are below 0 where refunds without an instant were given for what had been taken before.
    """

    start: str
    units: int
    refused: RefusedBody

    @classmethod
    def of(cls, span: Span, timezone: str) -> Self:
        """The body of one row of a history."""
        start = instants.show_in(span.start_us, timezone)
        return cls(start=start, units=span.tally.units, refused=RefusedBody.of(span.tally))


class HistoryBody(BaseModel):
    """What a client has used from `start` up to `end`: all of it, and row by row.

    `units` are those of allowed checks, less refunds. Rows that have not begun are left out, empty ones are not.
    """

    client: str
    timezone: str
    by: By
    start: str
    end: str
    units: int
    refused: RefusedBody
    rows: list[SpanBody]

    @classmethod
    def of(cls, history: History) -> Self:
        """The body of a history."""
        zone, total = history.timezone, history.total
        return cls(
            client=history.client,
            timezone=zone,
            by=history.by,
            start=instants.show_in(history.begin_us, zone),
            end=instants.show_in(history.end_us, zone),
            units=total.units,
            refused=RefusedBody.of(total),
            rows=[SpanBody.of(span, zone) for span in history.spans],
        )


class HistoriesBody(BaseModel):
    """Histories of clients by name; `next` is the cursor of the next page, null when this is the last."""

    usage: list[HistoryBody]
    next: str | None

    @classmethod
    def of(cls, page: HistoryPage) -> Self:
        """The body of a page."""
        return cls(usage=[HistoryBody.of(each) for each in page.histories], next=page.after)


class UsageBody(BaseModel):
    """What is left to a caller, limit by limit; those that are tried out in shadow mode are not told.

    `history` is there when it was asked for; null says that none is kept, as of test keys on a plan of their own.
    """

    client: str
    plan: str
    subject: str
    at: str
    limits: list[StandingBody]
    history: HistoryBody | None = None

    @classmethod
    def of(cls, identity: Identity, decision: Decision) -> Self:
        """The body of a look."""
        seen = [each for each in decision.standings if each.limit.mode is not Mode.SHADOW]
        return cls(
            client=identity.client.name,
            plan=identity.client.plan,
            subject=identity.subject,
            at=instants.show(decision.at_us),
            limits=[StandingBody.of(each, decision.at_us) for each in seen],
        )


class EntryBody(BaseModel):
    """One change: who (`actor` is the name of an admin token) did what to which client or key, and when."""

    id: str
    at: str
    actor: str
    action: str
    target: str
    details: dict[str, str | int | None]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """The body of an entry."""
        return cls(**{**asdict(entry), "details": dict(entry.details)})


class EntriesBody(BaseModel):
    """A page of the audit log, newest first; `next` is `before` of the next page, null when this is the last."""

    entries: list[EntryBody]
    next: str | None

    @classmethod
    def of(cls, entries: Sequence[Entry], limit: int) -> Self:
        """The body of up to `limit` entries; one more than that says that there is another page."""
        shown = entries[:limit]
        return cls(
            entries=[EntryBody.of(entry) for entry in shown], next=shown[-1].id if len(entries) > limit else None
        )


class FaultBody(BaseModel):
    """One thing wrong with a request: `path` is the field's, `message` what to do."""

    path: str
    message: str


class ProblemBody(BaseModel):
    """Problem details (RFC 9457). `faults` are there when the request is malformed."""

    type: str
    title: str
    status: int
    detail: str
    faults: list[FaultBody] | None = None


class RefusalBody(BaseModel):
    """Problem details of a check that is not allowed. `violated-policies` are the limits that refuse, if any do.

    `required-scopes` are what the credential needs, when it lacks one.
    """

    type: str
    title: str
    status: int
    detail: str
    reason: Reason
    violated_policies: Annotated[list[str] | None, Field(serialization_alias="violated-policies")] = None
    required_scopes: Annotated[list[str] | None, Field(serialization_alias="required-scopes")] = None


class RefundBody(BaseModel):
    """Whole units that each limit got back, by name; `repeated` says that an earlier call gave them."""

    client: str
    refunded: dict[str, int]
    repeated: bool


class HealthBody(BaseModel):
    """That the process answers, and its version."""

    status: Literal["ok"] = "ok"
    version: str


class ReadyBody(BaseModel):
    """Whether checks can be decided. `store` is `ok` or why it cannot be asked, `plans` how many are loaded."""

    status: Literal["ready", "unavailable"]
    store: str
    plans: int
