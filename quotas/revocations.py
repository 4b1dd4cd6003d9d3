"""Tokens that are refused although they verify: by their `jti`, of a subject, or issued before an instant.

What is where:

    q1:jti:<digest>             string   this token is refused; it expires with the token
    q1:cutoffs                  zset     scope -> instant: tokens of the scope that were issued before it are refused. A
                                         scope is a digest of (issuer, subject) or of an issuer, or `*` for all issuers;
                                         a subject that is refused altogether has the instant of infinity
    q1:revocations              hash     id -> what was revoked, as JSON, to be listed and taken back
    q1:revocations:until        zset     id -> when the token of a `jti` has expired, in microseconds

Exactness. A worker reads these keys after its client's generation and before it remembers a token. A revoked subject
raises the generation of every client that its tokens may count against, so that the next take is refused as stale; for
what no generation can carry, a `jti` and whole issuers, a notice goes to all workers (`news`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import orjson

from quotas.holders import subject_client_id
from quotas.issuers import MAX_TEXT
from quotas.news import announce
from quotas.registry import Registry
from quotas.store import Store, Word
from quotas.tokens import Verified, is_text, subject_digest

EVERYTHING = "tokens"
"""The notice that any token may have been revoked."""

TOKEN = "jti:"  # noqa: S105 # The beginning of a notice.
"""The notice that one token was revoked is this and the digest of its `jti`."""

CLOCK_MARGIN_US = 120_000_000
"""How much longer than the token a revoked `jti` is kept: for the leeway of `exp`, and for clocks that differ."""

_CUTOFFS, _LISTED, _UNTIL = "q1:cutoffs", "q1:revocations", "q1:revocations:until"
_ALL = "*"
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is refused: a token by its `jti`, a subject, or what was issued before an instant by a subject or an issuer.

    An issuer of None is all of them, and then an instant is needed. `expires_at_us` is the token's, for a `jti`: from
    then on nothing needs to be remembered; None is not known, and the `jti` is refused until it is restored.

    Raises ValueError for what makes no sense together.
    """

    issuer: str | None = None
    jti: str | None = None
    subject: str | None = None
    issued_before_us: int | None = None
    expires_at_us: int | None = None

    def __post_init__(self) -> None:
        for name, text in (("issuer", self.issuer), ("jti", self.jti), ("subject", self.subject)):
            if text is not None and not is_text(text):
                raise ValueError(f"`{name}` has 1 to {MAX_TEXT} printable characters")
        if self.jti is not None and (self.subject is not None or self.issued_before_us is not None):
            raise ValueError("a `jti` goes alone: without a subject and without an instant")
        if self.jti is None and self.expires_at_us is not None:
            raise ValueError("`expires_at` goes with a `jti`: it is when that token expires")
        if self.jti is None and self.subject is None and self.issued_before_us is None:
            raise ValueError("say what is revoked: a `jti`, a `subject`, or what was `issued_before` an instant")
        if self.issuer is None and (self.jti is not None or self.subject is not None):
            raise ValueError("a `jti` or a `subject` means nothing without its `issuer`")

    @property
    def id(self) -> str:
        """Its name: what refuses the same tokens has the same, so that the newest instant is listed."""
        scope = orjson.dumps([self.issuer, self.jti, self.subject])
        return f"rev_{sha256(scope).hexdigest()[:24]}"

    @property
    def scope(self) -> str:
        """Where its instant is kept."""
        if self.subject is not None and self.issuer is not None:
            return subject_digest(self.issuer, self.subject)
        return _ALL if self.issuer is None else _issuer_digest(self.issuer)


class Revocations:
    """Reads and writes of revocations. Every method can raise StoreUnavailableError, and can be asked again."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def is_revoked(self, token: Verified) -> bool:
        """Whether this token is refused, as the store has it now."""
        subject = subject_digest(token.issuer, token.subject)
        cutoffs = self._store.call("ZMSCORE", _CUTOFFS, _ALL, _issuer_digest(token.issuer), subject)
        if token.jti is None:
            return _is_cut_off(token, await cutoffs)
        known = self._store.call("EXISTS", _jti_key(jti_digest(token.issuer, token.jti)))
        found, is_known = await asyncio.gather(cutoffs, known)
        return bool(is_known) or _is_cut_off(token, found)

    async def revoke(self, revocation: Revocation, now_us: int) -> None:
        """Refuse tokens: when this returns, no check that starts afterwards passes with one of them."""
        revocation = await self._list(revocation, now_us)
        if revocation.jti is not None and revocation.issuer is not None:
            digest = jti_digest(revocation.issuer, revocation.jti)
            await self._store.call("SET", _jti_key(digest), 1, *_lifetime(revocation, now_us))
            await announce(self._store, TOKEN + digest)
            return
        never = revocation.issued_before_us is None
        instant: Word = "+inf" if revocation.issued_before_us is None else revocation.issued_before_us
        await self._store.call("ZADD", _CUTOFFS, *(() if never else ("GT",)), instant, revocation.scope)
        if revocation.subject is None:
            await announce(self._store, EVERYTHING)
        else:
            await self._raise(revocation.scope)

    async def restore(self, revocation_id: str) -> Revocation | None:
        """Take a revocation back, whole; None when there is none of this id."""
        text = await self._store.call("HGET", _LISTED, revocation_id)
        if text is None:
            return None
        revocation = Revocation(**orjson.loads(text))
        if revocation.jti is not None and revocation.issuer is not None:
            await self._store.call("DEL", _jti_key(jti_digest(revocation.issuer, revocation.jti)))
            await announce(self._store, EVERYTHING)  # So that no worker asks for this token each time.
        else:
            await self._store.call("ZREM", _CUTOFFS, revocation.scope)
        await self._store.call("HDEL", _LISTED, revocation_id)
        await self._store.call("ZREM", _UNTIL, revocation_id)
        return revocation

    async def all(self, now_us: int) -> list[Revocation]:
        """What is revoked, in no order; without tokens that have expired since."""
        await self._prune(now_us)
        found, cursor = [], b"0"
        while True:
            cursor, words = await self._store.call("HSCAN", _LISTED, cursor, "COUNT", _PAGE)
            found += words[1::2]
            if cursor == b"0":
                return list({each.id: each for each in (Revocation(**orjson.loads(text)) for text in found)}.values())

    async def _raise(self, subject: str) -> None:
        """Have every worker load a subject anew: whatever client its tokens count against now, or did a moment ago."""
        alias = await self._registry.alias_holder(subject)
        await self._registry.amend(subject_client_id(subject))
        if alias is not None:
            await self._registry.amend(alias)

    async def _list(self, revocation: Revocation, now_us: int) -> Revocation:
        """Have it on the list; returns what is there, which is an earlier one when that refuses as much or more."""
        await self._prune(now_us)
        text = await self._store.call("HGET", _LISTED, revocation.id)
        earlier = None if text is None else Revocation(**orjson.loads(text))
        if earlier is not None and _is_wider(earlier, revocation):
            return earlier
        await self._store.call("HSET", _LISTED, revocation.id, orjson.dumps(_fields(revocation)))
        if revocation.expires_at_us is not None:
            await self._store.call("ZADD", _UNTIL, revocation.expires_at_us + CLOCK_MARGIN_US, revocation.id)
        else:
            await self._store.call("ZREM", _UNTIL, revocation.id)
        return revocation

    async def _prune(self, now_us: int) -> None:
        """Take off the list what has expired."""
        over = await self._store.call("ZRANGE", _UNTIL, "-inf", now_us, "BYSCORE", "LIMIT", 0, _PAGE)
        if over:
            await self._store.call("HDEL", _LISTED, *over)
            await self._store.call("ZREM", _UNTIL, *over)


def jti_digest(issuer: str, jti: str) -> str:
    """One name for (issuer, `jti`), in hexadecimal, that no subject has."""
    return sha256(f"jti {len(issuer)}:{issuer}{jti}".encode()).hexdigest()


def _issuer_digest(issuer: str) -> str:
    return sha256(f"issuer {issuer}".encode()).hexdigest()


def _jti_key(digest: str) -> str:
    return f"q1:jti:{digest}"


def _is_cut_off(token: Verified, cutoffs: list[bytes | None]) -> bool:
    """A token that does not say when it was issued may have been issued before any instant."""
    instants = [float(each) for each in cutoffs if each is not None]
    return bool(instants) and (token.issued_at_us is None or token.issued_at_us < max(instants))


def _is_wider(earlier: Revocation, revocation: Revocation) -> bool:
    """Whether an earlier revocation of the same id refuses all that this one does."""
    if revocation.jti is not None:
        return _or_never(revocation.expires_at_us) <= _or_never(earlier.expires_at_us)
    return _or_never(revocation.issued_before_us) <= _or_never(earlier.issued_before_us)


def _or_never(instant_us: int | None) -> float:
    return float("inf") if instant_us is None else instant_us


def _lifetime(revocation: Revocation, now_us: int) -> tuple[Word, ...]:
    if revocation.expires_at_us is None:
        return ()
    left_us = revocation.expires_at_us + CLOCK_MARGIN_US - now_us
    return ("PX", max(1, -(-left_us // 1000)))


def _fields(revocation: Revocation) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(revocation).items() if value is not None}
