"""What HTTP reads and writes as JSON: one model for each body and each query, of the admin API and for everybody.

Requests are read strictly: no unknown field, no number for text, nothing longer than it may be. Instants are RFC 3339
text outside and microseconds inside. Only `IssuedKeyBody` ever holds a credential, and only on its way out.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from quotas import instants, overrides
from quotas.answers import Reason
from quotas.audit import Entry, is_id
from quotas.clients import MAX_KEY_NAME, IssuedKey
from quotas.decisions import Decision, Standing
from quotas.directory import Page
from quotas.issuers import MAX_TEXT
from quotas.keys import Environment
from quotas.limits import EXACT, Bucket, Mode, Per
from quotas.overrides import Override
from quotas.plan_files import Scopes
from quotas.plans import MAX_CLIENT_NAME, is_client_name
from quotas.rates import AnchorDay, BurstNumber, QuotaText, RateText, ZoneName
from quotas.registry import Alias, Client, Identity, Key, Status
from quotas.reports import Asked, By, History, HistoryPage
from quotas.revocations import Revocation
from quotas.revoking import fields
from quotas.scopes import MAX_SCOPES
from quotas.tallies import Span, Tally

MAX_PAGE = 500
PAGE = 100
METHOD = r"^[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,31}$"
"""An HTTP method as a JSON schema's pattern."""

MONTH = r"^2[01][0-9]{2}-(0[1-9]|1[0-2])$"
"""A month as a JSON schema's pattern: year and number."""

_SHORT = Field(max_length=64)


def _client_name(name: str) -> str:
    if not is_client_name(name):
        raise ValueError(f"must have 1 to {MAX_CLIENT_NAME} printable characters")
    return name


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must have printable characters only")
    return text


def _instant(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("must be text, an RFC 3339 instant such as 2026-12-31T23:59:59Z")  # noqa: TRY004 # pydantic collects it.
    return instants.parse(value)


def _month(text: str) -> str:
    if not re.fullmatch(MONTH, text):
        raise ValueError("must be a month of this century or the next, such as 2026-11")
    return text


def _cursor(text: str) -> str:
    return text and _client_name(text)


def _entry_id(text: str) -> str:
    if text and not is_id(text):
        raise ValueError("must be the id of an entry, or left out")
    return text


ClientName = Annotated[str, AfterValidator(_client_name), Field(min_length=1, max_length=MAX_CLIENT_NAME)]
PlanName = Annotated[str, Field(min_length=1, max_length=64)]
KeyName = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=MAX_KEY_NAME)]
Instant = Annotated[int, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
TokenText = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=MAX_TEXT)]
Month = Annotated[
    str, AfterValidator(_month), WithJsonSchema({"type": "string", "pattern": MONTH, "examples": ["2026-11"]})
]
PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE, strict=False)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewClient(_Asked):
    """A client to be: its name, compared exactly, and a plan of the configuration."""

    name: ClientName
    plan: PlanName


class ClientChange(_Asked):
    """What is to be different about a client; what is left out stays."""

    plan: PlanName | None = None
    status: Status | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.plan is None and self.status is None:
            raise ValueError("must have `plan`, `status` or both")
        return self


class NewKey(_Asked):
    """A key to be. `expires_at` is the first instant at which it is too old; left out, it is valid until revoked.

    `scopes` are what it may do, where plans ask for them.
    """

    client: ClientName
    name: KeyName
    expires_at: Instant | None = None
    environment: Environment = Environment.LIVE
    scopes: Annotated[Scopes, Field(max_length=MAX_SCOPES)] = []


class Rotation(_Asked):
    """A key is to be replaced; the old one is valid for `grace_seconds` more, 0 to a year. 0 ends it at once."""

    grace_seconds: Annotated[int, Field(ge=0, le=31_536_000)]


class OwnRotation(_Asked):
    """A holder's key is to be replaced; the old one is valid for `grace_seconds` more, 0 to a year."""

    grace_seconds: Annotated[int, Field(ge=0, le=31_536_000)] = 3600


class LimitChange(_Asked):
    """What is different about one limit of one client; left out is as in the plan. `until` is when it is over."""

    rate: Annotated[RateText, _SHORT] | None = None
    burst: BurstNumber | None = None
    quota: Annotated[QuotaText, _SHORT] | None = None
    timezone: Annotated[ZoneName, _SHORT] | None = None
    anchor_day: AnchorDay | None = None
    until: Instant | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.to_domain().model_copy(update={"until_us": None}) == Override():
            raise ValueError("must have `rate`, `burst`, `quota`, `timezone` or `anchor_day`")
        return self

    def to_domain(self) -> Override:
        """The override that this makes."""
        return Override(**self.model_dump(exclude={"until"}), until_us=self.until)


class NewAlias(_Asked):
    """A subject whose tokens are to count against a client: both as its tokens say them, compared exactly."""

    issuer: TokenText
    subject: TokenText


class NewRevocation(_Asked):
    """Tokens to be refused: one by its `jti`, those of a `subject`, or what was issued before an instant.

    `issued_before` is about a subject, an issuer or, alone, all issuers. `expires_at` is when the token of a `jti`
    expires: from then on it is not remembered; left out, the `jti` is refused until it is restored.
    """

    issuer: TokenText | None = None
    jti: TokenText | None = None
    subject: TokenText | None = None
    issued_before: Instant | None = None
    expires_at: Instant | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        self.to_domain()
        return self

    def to_domain(self) -> Revocation:
        """The revocation that this asks for. Raises ValueError for what makes no sense together."""
        return Revocation(self.issuer, self.jti, self.subject, self.issued_before, self.expires_at)


class ClientsQuery(_Asked):
    """Which clients to list: those behind `cursor`, which is `next` of the page before."""

    cursor: Annotated[str, AfterValidator(_cursor), Field(max_length=MAX_CLIENT_NAME)] = ""
    limit: PageSize = PAGE


class HistoryQuery(_Asked):
    """What a usage history is told by (by day if left out), and of which month: the one that begins in it.

    Months begin on `anchor_day`. Without a month it is the current one or, by month, all that are kept. `timezone` left
    out is the client's own: that of the first quota of its plan, or UTC.
    """

    by: Annotated[By, Field(strict=False)] | None = None
    month: Month | None = None
    timezone: Annotated[ZoneName, _SHORT] | None = None
    anchor_day: Annotated[int, Field(ge=1, le=31, strict=False)] = 1

    def to_domain(self) -> Asked:
        """What this asks for."""
        year, _, month = (self.month or "").partition("-")
        return Asked(
            by=self.by or By.DAY,
            month=(int(year), int(month)) if self.month else None,
            timezone=self.timezone,
            anchor_day=self.anchor_day,
        )


class HistoriesQuery(HistoryQuery):
    """Whose usage to tell: one client's or, without `client`, of those behind `cursor` what each used in the month."""

    client: ClientName | None = None
    cursor: Annotated[str, AfterValidator(_cursor), Field(max_length=MAX_CLIENT_NAME)] = ""
    limit: PageSize = PAGE

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.client is None and self.by not in {None, By.MONTH}:
            raise ValueError("`by` hour or day goes with `client`")
        if self.client is not None and self.model_fields_set & {"cursor", "limit"}:
            raise ValueError("`cursor` and `limit` are for all clients, without `client`")
        return self

    def to_domain(self) -> Asked:
        """What this asks for; of all clients no month but one, which is the current one if it is left out."""
        asked = super().to_domain()
        return asked if self.client is not None else asked.of_all()


class KeysQuery(_Asked):
    """Whose keys to list."""

    client: ClientName


class AuditQuery(_Asked):
    """Which entries to list: those older than `before`, which is `next` of the page before."""

    before: Annotated[str, AfterValidator(_entry_id), Field(max_length=41)] = ""
    limit: PageSize = PAGE


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


class RefundRequest(_Asked):
    """The body of `POST /v1/refund`. `taken_at` is when the units were taken: RFC 3339 text, microseconds here."""

    client: str
    units: Annotated[int, Field(ge=1, lt=EXACT)]
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)]
    key_id: Annotated[str, Field(max_length=64)] = ""
    method: Annotated[str, Field(pattern=METHOD)] = "GET"
    path: Annotated[str, Field(max_length=8192)] = "/"
    taken_at: Instant | None = None


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
