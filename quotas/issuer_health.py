"""Whether the keys of configured issuers can be had, and verify what the configuration allows.

Keys are fetched as a worker does, by `jwks`, once for each issuer and all at the same time.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.x509 import load_der_x509_certificate

from quotas.errors import ConfigError
from quotas.fetching import Answer, Fetch, Fetcher
from quotas.findings import Finding, ok, problem, warning
from quotas.issuers import (
    Discovery,
    Issuer,
    JwksFile,
    SharedSecret,
)
from quotas.jwks import KeySets
from quotas.key_sets import KeySet, parse_json

SOON = timedelta(days=7)
"""A certificate that ends within this time is worth a warning."""


class _Listening:
    """A fetch that keeps the last answer, which is the key set."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self.last: Answer | None = None

    async def __call__(self, url: str, written: str) -> Answer:
        self.last = await self._fetch(url, written)
        return self.last


async def examine(
    issuers: Iterable[Issuer],
    *,
    secrets: Mapping[str, str],
    folder: Path,
    clock: Callable[[], int],
    fetch: Fetch | None = None,
) -> list[Finding]:
    """A finding or two for each issuer, bounded by the time that `jwks` gives a refresh.

    `secrets` and `folder` are as for `KeySets`, `clock` tells microseconds since the epoch.
    """
    fetch = Fetcher() if fetch is None else fetch
    looks = (_look(issuer, _Listening(fetch), secrets, folder, clock) for issuer in issuers)
    return [finding for findings in await asyncio.gather(*looks) for finding in findings]


async def _look(
    issuer: Issuer,
    fetch: _Listening,
    secrets: Mapping[str, str],
    folder: Path,
    clock: Callable[[], int],
) -> list[Finding]:
    subject = f"issuer {issuer.issuer}"
    try:
        key_sets = KeySets((issuer,), secrets=secrets, folder=folder, fetch=fetch)
    except ConfigError as error:
        return [problem(subject, error.faults[0].message, "set the variable that `secret_env` names")]
    if isinstance(issuer.keys, SharedSecret):
        return [ok(subject, f"a shared secret, from {issuer.keys.variable}")]
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    keys = await key_sets.find(issuer.issuer, None)
    took_ms = (loop.time() - begun_s) * 1000
    if not isinstance(keys, KeySet):
        why = key_sets.failure(issuer.issuer)
        if why is None:
            return [_no_keys(subject)]
        told = f"no keys, so its tokens are answered 503: {why}"
        return [problem(subject, told, _where(issuer))]
    found = [_usable(subject, issuer, keys, fetch.last, took_ms)]
    if fetch.last is not None:
        found += _certificates(subject, fetch.last.body, datetime.fromtimestamp(clock() / 1e6, UTC))
    return found


def _where(issuer: Issuer) -> str:
    match issuer.keys:
        case JwksFile():
            return "have `jwks_file` name a file that this user may read, with the issuer's JWK Set in it"
        case Discovery():
            return (
                "see that this machine reaches the issuer, and that `issuer` is as its metadata have it, to the letter"
            )
        case _:
            return "see that `jwks_url` is right and that this machine reaches it without a proxy; else use `jwks_file`"


def _no_keys(subject: str) -> Finding:
    told = "its key set has no key that can verify a token here, so all its tokens are refused"
    return problem(subject, told, "see that `jwks_url` or `jwks_file` is that of public keys for signatures")


def _usable(subject: str, issuer: Issuer, keys: KeySet, answer: Answer | None, took_ms: float) -> Finding:
    if not keys.keys:
        return _no_keys(subject)
    able = frozenset[str]().union(*(key.algorithms for key in keys.keys))
    if not able & issuer.algorithms:
        told = (
            f"its keys are for {', '.join(sorted(able))}, and `algorithms` allows only"
            f" {', '.join(sorted(issuer.algorithms))}: all its tokens are refused"
        )
        return problem(subject, told, "have `algorithms` name what the issuer signs with")
    count = len(keys.keys)
    told = f"{count} {'key' if count == 1 else 'keys'} for {', '.join(sorted(able & issuer.algorithms))}"
    if answer is not None:
        ignored = len(_listed(answer.body)) - count
        told += f", {ignored} more that cannot be used" if ignored else ""
        told += f"; asked in {took_ms:.0f} ms"
        told += f", good for {answer.max_age_s} s" if answer.max_age_s is not None else ""
    if unserved := issuer.algorithms - able:
        told += f"; none for {', '.join(sorted(unserved))}"
    return ok(subject, told)


def _listed(body: bytes) -> list[dict[str, Any]]:
    return [jwk for jwk in parse_json(body)["keys"] if isinstance(jwk, dict)]


def _certificates(subject: str, body: bytes, now: datetime) -> list[Finding]:
    """What ends soon or has ended. Keys are believed whatever their certificates say: it only tells of a rotation."""
    ends = [(end, jwk.get("kid")) for jwk in _listed(body) if (end := _end(jwk)) is not None]
    found = []
    for end, kid in sorted(ends, key=lambda each: each[0]):
        if end > now + SOON:
            break
        told = f"the certificate of its key {kid!r} {'ended' if end <= now else 'ends'} on {end:%Y-%m-%d}"
        advice = "ask who runs the issuer; the key itself is believed as long as it is in the key set"
        found.append(warning(subject, told, advice))
    return found


def _end(jwk: Mapping[str, Any]) -> datetime | None:
    """When the certificate of a key ends (RFC 7517, section 4.7); None without one that can be read."""
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
        return None
    try:
        return load_der_x509_certificate(base64.b64decode(chain[0])).not_valid_after_utc
    except (ValueError, binascii.Error):
        return None
