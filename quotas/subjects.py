"""Whom verified tokens speak for: a client of its own for each (issuer, subject), made when it is first seen.

Its id is a digest of both, so that no two subjects can meet and the same one is always the same client. Its name says
both in words. Its plan is the token's where the issuer has a plan claim and the token fills it, else its record's.

A subject can be the alias of another client instead. Then its tokens count against that one, on that one's plan.

What is loaded here may be remembered: whether the token is revoked, and whose alias its subject is, are read once more
after the client's generation, so that both can only change by raising it or with a notice to all workers.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from quotas.errors import CredentialError, RequestError, StoreUnavailableError
from quotas.holders import Client, Identity, subject_client_id
from quotas.jwks import KeySets, KeysUnavailable, NoSuchKey, read_decryption_keys
from quotas.plans import Config, is_client_name
from quotas.registry import Registry
from quotas.revocations import Revocations, jti_digest
from quotas.tokens import UnknownKey, Verified, subject_digest, verify

if TYPE_CHECKING:
    from quotas.key_sets import DecryptionKey

_ID_LENGTH = 32
"""Hexadecimal digits of a subject's digest that its limits per key count by: 128 bits."""

_ROUNDS = 3
"""Times that a subject is loaded anew because it became an alias, or ceased to be one, meanwhile."""


class Subjects:
    """A worker's way from a token to its client. `key_sets` is entered and left by who made it."""

    def __init__(
        self,
        registry: Registry,
        revocations: Revocations,
        key_sets: KeySets,
        *,
        secrets: Mapping[str, str],
        folder: Path,
    ) -> None:
        self._registry = registry
        self._revocations = revocations
        self._key_sets = key_sets
        self._secrets = secrets
        self._folder = folder
        self._config = Config("no issuers", {})
        self._decryption_keys: tuple[DecryptionKey, ...] = ()

    def use(self, config: Config) -> None:
        """Believe the issuers of this configuration. Raises ConfigError, and then nothing has changed."""
        decryption_keys = read_decryption_keys(config.decryption_keys, self._secrets, self._folder)
        self._key_sets.configure(config.issuers.values(), self._secrets)
        self._config, self._decryption_keys = config, decryption_keys

    async def verified(self, credential: bytes, now_us: int) -> Verified:
        """What a token says when it is in order; it may be revoked.

        Raises CredentialError, and StoreUnavailableError of kind `jwks` when an issuer's keys cannot be had, so that
        nothing can be said about its tokens.
        """
        verified = await self._verify(credential, now_us)
        if verified.jkt is not None:
            # Bound to a key (RFC 9449): a bearer has not proved to hold it.
            raise CredentialError("invalid_credential")
        return verified

    async def identity(self, verified: Verified, now_us: int) -> Identity:
        """Whom a token speaks for; its client may be suspended.

        Raises CredentialError for a revoked token, RequestError with the reason `no_plan`, and StoreUnavailableError.
        """
        digest = subject_digest(verified.issuer, verified.subject)
        alias = await self._alias(verified, digest)
        for _ in range(_ROUNDS):
            client = None if alias is None else await self._registry.client_of_id(alias)
            if client is None:
                client = await self._own_client(verified, digest, now_us)
            before, alias = alias, await self._alias(verified, digest)
            if alias == before:
                token_id = None if verified.jti is None else jti_digest(verified.issuer, verified.jti)
                return Identity(
                    client,
                    verified.subject,
                    digest[:_ID_LENGTH],
                    verified.lasts_until_us,
                    token_id=token_id,
                    scopes=verified.scopes,
                )
        raise StoreUnavailableError("reply", "the subject changes faster than it can be loaded")

    async def _alias(self, verified: Verified, digest: str) -> str | None:
        """Whose alias the subject is. Raises CredentialError when the token is revoked."""
        alias, is_revoked = await asyncio.gather(self._registry.alias(digest), self._revocations.is_revoked(verified))
        if is_revoked:
            raise CredentialError("invalid_credential")
        return alias

    async def _own_client(self, verified: Verified, digest: str, now_us: int) -> Client:
        issuer, plans = self._config.issuers[verified.issuer], self._config.plans
        plan = issuer.plan(verified.plan_value, plans)
        recorded = issuer.plan(None, plans) or plan
        names = _names(verified, digest[:_ID_LENGTH])
        client = await self._registry.subject_client(subject_client_id(digest), names, recorded, now_us)
        if client is None:
            raise RequestError("no_plan")
        if verified.plan_value is not None and plan is not None:
            return client._replace(plan=plan)
        return client

    async def _verify(self, credential: bytes, now_us: int) -> Verified:
        now_s = now_us / 1_000_000
        issuers = self._config.issuers
        found = verify(credential, issuers, self._key_sets, self._decryption_keys, now_s=now_s)
        if isinstance(found, UnknownKey):
            keys = await self._key_sets.find(found.issuer, found.kid)
            if isinstance(keys, KeysUnavailable):
                raise StoreUnavailableError("jwks", f"the keys of {found.issuer} cannot be had")
            if not isinstance(keys, NoSuchKey):
                found = verify(credential, issuers, {found.issuer: keys}, self._decryption_keys, now_s=now_s)
        if isinstance(found, UnknownKey):
            raise CredentialError("invalid_credential")
        return found


def _names(verified: Verified, digest: str) -> tuple[str, str]:
    """What its client may be called, and what else when that is taken."""
    host = urlsplit(verified.issuer).hostname or verified.issuer
    named = f"{verified.subject}@{host}"
    numbered = f"{digest}@{host[:64]}"
    return (named if is_client_name(named) else numbered), numbered
