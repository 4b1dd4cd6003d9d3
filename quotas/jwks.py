"""The keys of issuers, held: from an address, discovery, a file or a secret, each refreshed in its time.

What a worker holds is the last good set of every issuer. Looking at it (`get`) never waits and never fetches itself;
it starts a refresh in the background when between three fifths and three quarters of the set's time are over, each
worker at a moment of its own, so that they do not all ask at once. There is at most one refresh per issuer at a
time, and everybody who must wait (`find`) waits for that one.

A failed refresh changes nothing but the time of the next. A set is used until `max_stale_s` after it was asked for;
then there is none, which is 503 and not 401: nobody can tell a good token from a bad one.

Worked example, for a set that came at 0 with `max-age=300`: refreshed from 225 on with a jitter of 0, from 202.5 on
with 0.5; while that fails, tried again every 30 s (33 s), and the set from 0 verifies tokens until 86400. A token
with an unknown `kid` at 100 costs one fetch; the next unknown `kid` may cause one at 130, and the same one, if it was
not in the set, at 220.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from quotas.errors import ConfigError, Fault
from quotas.fetching import MAX_BYTES, Answer, Fetch, Fetcher, FetchError
from quotas.issuers import (
    DecryptionKeySource,
    Discovery,
    Issuer,
    JwksFile,
    JwksUrl,
    KeySource,
    SharedSecret,
)
from quotas.key_sets import (
    DecryptionKey,
    KeySet,
    parse_decryption_key,
    parse_json,
    parse_key_set,
    parse_shared_secret,
)

TIMEOUT_S = 5.0
"""For a whole refresh: discovery, redirects and every byte of the answers."""

TTL_S = 600.0
TTL_BOUNDS_S = (60.0, 86_400.0)
"""Between these an answer's `max-age` is honoured."""

FILE_TTL_S = 5.0
EARLY = 0.75
EARLIEST = 0.6
"""Parts of a set's time after which it is due, with a jitter of 0 and of 1."""

RETRY_S = 30.0
RETRY_SPREAD = 0.2
"""A failed refresh is repeated after `RETRY_S`, and up to this part of it later: never sooner."""

COOLDOWN_S = 30.0
"""Between two fetches for unknown `kid`s of one issuer."""

MISS_S = 120.0
"""How long an unknown `kid` is no reason to fetch again. One is remembered for each fetch in vain: at most a few."""

MAX_STALE_S = 86_400.0

_POLL_S = 1.0


log = logging.getLogger("quotas.jwks")


@dataclass(frozen=True, slots=True)
class NoSuchKey:
    """The issuer has no key of this name, or it was asked too recently: the token is refused."""


@dataclass(frozen=True, slots=True)
class KeysUnavailable:
    """There is no set that may be used, so that nothing can be said about the token: 503."""


@dataclass(slots=True)
class _Held:
    """What is known of one issuer's keys. Times are the clock's, in seconds; the defaults are those of never asked."""

    issuer: str
    source: KeySource
    keys: KeySet | None = None
    usable_until_s: float = float("-inf")
    due_s: float = float("-inf")
    ask_again_s: float = float("-inf")
    flight: "asyncio.Task[None] | None" = None
    failure: FetchError | None = None
    missed: dict[str | None, float] = field(default_factory=dict)
    jwks_uri: str | None = None
    fingerprint: tuple[int, int, int, int] | None = None

    def usable(self, now_s: float) -> KeySet | None:
        return self.keys if now_s < self.usable_until_s else None


class KeySets:
    """Key sets by issuer, for `tokens.verify`. Enter it, so that idle issuers are refreshed too.

    `secrets` are the environment's variables, `folder` is where relative paths of `jwks_file` start. `told` hears
    (issuer, result) of every refresh that was needed, where result is `loaded` or a FetchError's kind, and
    `unknown_kid` for every token that was refused without asking. `clock` counts seconds and never goes
    back; `jitter` draws a number from 0 to 1 for each refresh.

    Raises ConfigError for a shared secret that is missing or cannot be used.
    """

    def __init__(  # noqa: PLR0913 # The composition root names each part once; the rest is for tests.
        self,
        issuers: Iterable[Issuer],
        *,
        secrets: Mapping[str, str],
        folder: Path,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        told: Callable[[str, str], None] = lambda _issuer, _result: None,
        max_stale_s: float = MAX_STALE_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._folder = folder
        self._fetch = Fetcher() if fetch is None else fetch
        self._clock = clock
        self._jitter = jitter
        self._told = told
        self._max_stale_s = max_stale_s
        self._timeout_s = timeout_s
        self._held: dict[str, _Held] = {}
        self._watch: asyncio.Task[None] | None = None
        self.configure(issuers, secrets)

    async def __aenter__(self) -> Self:
        self._watch = asyncio.get_running_loop().create_task(self._keep_fresh(), name="quotas-jwks")
        return self

    async def __aexit__(self, *_: object) -> None:
        flights = [held.flight for held in self._held.values()]
        for task in (self._watch, *flights):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def configure(self, issuers: Iterable[Issuer], secrets: Mapping[str, str]) -> None:
        """Follow another configuration. An issuer whose source is the same keeps its set.

        Raises ConfigError, and then nothing has changed.
        """
        new, faults = {}, []
        for index, issuer in enumerate(issuers):
            try:
                new[issuer.issuer] = self._continued(issuer, secrets)
            except ValueError as error:
                faults.append(Fault(f"issuers.{index}.secret_env", str(error)))
        if faults:
            raise ConfigError("issuers", faults)
        for name, old in self._held.items():
            if new.get(name) is not old and old.flight is not None:
                old.flight.cancel()
        self._held = new

    def _continued(self, issuer: Issuer, secrets: Mapping[str, str]) -> _Held:
        if isinstance(issuer.keys, SharedSecret):
            keys, never = parse_shared_secret(_variable(secrets, issuer.keys.variable)), float("inf")
            return _Held(issuer.issuer, issuer.keys, keys, usable_until_s=never, due_s=never, ask_again_s=never)
        old = self._held.get(issuer.issuer)
        return old if old is not None and old.source == issuer.keys else _Held(issuer.issuer, issuer.keys)

    def get(self, issuer: str) -> KeySet | None:
        """The issuer's set, at once; None when there is none that may be used. Starts a refresh that is due."""
        held = self._held.get(issuer)
        if held is None:
            return None
        now_s = self._clock()
        if now_s >= held.due_s:
            self._refresh(held)
        return held.usable(now_s)

    async def find(self, issuer: str, kid: str | None) -> KeySet | NoSuchKey | KeysUnavailable:
        """The set with a key for this `kid`, fetched if that is allowed now. For what `verify` did not know."""
        keys, held = self.get(issuer), self._held.get(issuer)
        if held is None:
            return NoSuchKey()
        if keys is not None and keys.named(kid):
            return keys
        if keys is not None and not self._may_ask(held, kid):
            self._told(issuer, "unknown_kid")
            return NoSuchKey()
        is_mine = held.flight is None and keys is not None
        if is_mine:
            held.ask_again_s = self._clock() + (FILE_TTL_S if isinstance(held.source, JwksFile) else COOLDOWN_S)
            self._refresh(held)
        if held.flight is not None:
            await asyncio.wait([held.flight])
        found = self._found(held, kid)
        if is_mine and held.failure is None and isinstance(found, NoSuchKey):
            self._miss(held, kid)
        return found

    def failure(self, issuer: str) -> str | None:
        """Why the last refresh failed; None when it did not."""
        held = self._held.get(issuer)
        return None if held is None or held.failure is None else str(held.failure)

    def _may_ask(self, held: _Held, kid: str | None) -> bool:
        now_s = self._clock()
        if held.missed.get(kid, now_s) > now_s:
            return False
        # Whoever comes while the set is on its way waits for it, and causes nothing.
        return held.flight is not None or now_s >= held.ask_again_s

    def _found(self, held: _Held, kid: str | None) -> KeySet | NoSuchKey | KeysUnavailable:
        keys = held.usable(self._clock())
        if keys is None:
            return KeysUnavailable()
        return keys if keys.named(kid) else NoSuchKey()

    def _miss(self, held: _Held, kid: str | None) -> None:
        """Remember a `kid` that was asked for in vain. Those who only waited may have come too late for the answer."""
        now_s = self._clock()
        held.missed = {name: until_s for name, until_s in held.missed.items() if until_s > now_s}
        held.missed[kid] = now_s + MISS_S

    async def _keep_fresh(self) -> None:
        while True:
            for issuer in tuple(self._held):
                self.get(issuer)
            await asyncio.sleep(_POLL_S)

    def _refresh(self, held: _Held) -> None:
        if held.flight is None:
            held.flight = asyncio.get_running_loop().create_task(self._load(held), name="quotas-jwks-refresh")

    async def _load(self, held: _Held) -> None:
        asked_at_s, jitter = self._clock(), self._jitter()
        retry_s = FILE_TTL_S if isinstance(held.source, JwksFile) else RETRY_S * (1 + RETRY_SPREAD * jitter)
        # Whatever happens, also what nobody foresaw: not before this.
        held.due_s = asked_at_s + retry_s
        try:
            async with asyncio.timeout(self._timeout_s):
                keys, ttl_s = await self._read(held)
        except TimeoutError:
            self._failed(held, FetchError("timeout", f"no answer within {self._timeout_s:g} s"))
        except FetchError as error:
            self._failed(held, error)
        else:
            if keys is not held.keys:
                held.keys = keys
                self._told(held.issuer, "loaded")
            held.failure = None
            held.due_s = asked_at_s + (EARLY - (EARLY - EARLIEST) * jitter) * ttl_s
            held.usable_until_s = asked_at_s + max(ttl_s, self._max_stale_s)
        finally:
            held.flight = None

    def _failed(self, held: _Held, error: FetchError) -> None:
        if held.failure is None:
            log.warning("keys of %s could not be refreshed: %s", held.issuer, error)
        held.failure = error
        if error.kind == "status":
            held.jwks_uri = None  # It may have moved.
        self._told(held.issuer, error.kind)

    async def _read(self, held: _Held) -> tuple[KeySet, float]:
        """The set as its source has it now, and for how long it may be believed."""
        match held.source:
            case JwksUrl(url):
                return _parsed(await self._fetch(url, url))
            case Discovery():
                # Found once and kept: an unknown `kid` is a reason to ask for keys, not for where they are.
                held.jwks_uri = held.jwks_uri or await self._discover(held.issuer)
                return _parsed(await self._fetch(held.jwks_uri, held.issuer))
            case JwksFile(path):
                return await self._read_file(held, self._folder / path), FILE_TTL_S
            case SharedSecret():
                raise AssertionError("a secret is never due")

    async def _read_file(self, held: _Held, path: Path) -> KeySet:
        try:
            found = await asyncio.to_thread(path.stat)
            fingerprint = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
            if held.keys is not None and held.fingerprint == fingerprint:
                return held.keys
            body = await asyncio.to_thread(_head, path)
        except OSError as error:
            raise FetchError("file", f"{path} cannot be read: {error.strerror}") from error
        keys, _ = _parsed(Answer(body))
        held.fingerprint = fingerprint
        return keys

    async def _discover(self, issuer: str) -> str:
        """The `jwks_uri` of OpenID Connect Discovery 1.0, section 4; where there is no such document, of RFC 8414."""
        parts = urlsplit(issuer.removesuffix("/"))
        root = f"{parts.scheme}://{parts.netloc}"
        try:
            answer = await self._fetch(f"{root}{parts.path}/.well-known/openid-configuration", issuer)
            return _jwks_uri(answer.body, issuer)
        except FetchError as error:
            if error.kind not in {"status", "invalid"}:
                raise
        answer = await self._fetch(f"{root}/.well-known/oauth-authorization-server{parts.path}", issuer)
        return _jwks_uri(answer.body, issuer)


def read_decryption_keys(
    sources: Sequence[DecryptionKeySource], secrets: Mapping[str, str], folder: Path
) -> tuple[DecryptionKey, ...]:
    """The configured private keys. Raises ConfigError with every one that cannot be used."""
    keys, faults = [], []
    for index, source in enumerate(sources):
        try:
            data = _variable(secrets, source.variable) if source.variable else _head(folder / str(source.file))
            keys.append(parse_decryption_key(data, source.kid))
        except OSError as error:
            faults.append(Fault(f"decryption_keys.{index}.key_file", f"{source.file} cannot be read: {error.strerror}"))
        except ValueError as error:
            field_name = "key_env" if source.variable else "key_file"
            faults.append(Fault(f"decryption_keys.{index}.{field_name}", str(error)))
    if faults:
        raise ConfigError("decryption_keys", faults)
    return tuple(keys)


def _variable(secrets: Mapping[str, str], name: str) -> bytes:
    if name not in secrets:
        raise ValueError(f"{name} is not set in the environment")
    # Bytes that are no UTF-8 come back as they were.
    return secrets[name].encode("utf-8", "surrogateescape")


def _head(path: Path) -> bytes:
    """A file's beginning, one byte more than is allowed, so that a longer one can be told."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _parsed(answer: Answer) -> tuple[KeySet, float]:
    if len(answer.body) > MAX_BYTES:
        raise FetchError("too_large", f"more than {MAX_BYTES} bytes")
    try:
        keys = parse_key_set(answer.body)
    except ValueError as error:
        raise FetchError("invalid", f"the key set {error}") from error
    least, most = TTL_BOUNDS_S
    return keys, TTL_S if answer.max_age_s is None else min(max(least, answer.max_age_s), most)


def _jwks_uri(body: bytes, issuer: str) -> str:
    try:
        metadata = parse_json(body)
    except ValueError as error:
        raise FetchError("invalid", f"the metadata {error}") from error
    if not isinstance(metadata, dict) or metadata.get("issuer") != issuer:
        raise FetchError("mismatch", "the metadata are another issuer's")
    if not isinstance(uri := metadata.get("jwks_uri"), str):
        raise FetchError("invalid", "the metadata have no `jwks_uri`")
    return uri
