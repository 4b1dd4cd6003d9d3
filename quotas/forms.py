"""What HTTP reads: one model for each body and each query that is asked with, of the admin API and for everybody.

They are read strictly: no unknown field, no number for text, nothing longer than it may be. Instants are RFC 3339 text
outside and microseconds inside.
"""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from quotas import instants
from quotas.audit import is_id
from quotas.clients import MAX_KEY_NAME
from quotas.holders import Status
from quotas.issuers import MAX_TEXT
from quotas.keys import Environment
from quotas.limits import EXACT
from quotas.overrides import Override
from quotas.plan_files import Scopes
from quotas.plans import MAX_CLIENT_NAME, is_client_name
from quotas.rates import AnchorDay, BurstNumber, QuotaText, RateText, ZoneName
from quotas.reports import Asked, By
from quotas.revocations import Revocation
from quotas.scopes import MAX_SCOPES

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


class RefundRequest(_Asked):
    """The body of `POST /v1/refund`. `taken_at` is when the units were taken: RFC 3339 text, microseconds here."""

    client: str
    units: Annotated[int, Field(ge=1, lt=EXACT)]
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)]
    key_id: Annotated[str, Field(max_length=64)] = ""
    method: Annotated[str, Field(pattern=METHOD)] = "GET"
    path: Annotated[str, Field(max_length=8192)] = "/"
    taken_at: Instant | None = None
