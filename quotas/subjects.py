"""Whom verified tokens speak for: a client of its own for each (issuer, subject), made when it is first seen.

Its id is a digest of both, so that no two subjects can meet and the same one is always the same client. Its name says
both in words. Its plan is the token's where the issuer has a plan claim and the token fills it, else its record's.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from quotas.errors import CredentialError, RequestError, StoreUnavailableError
from quotas.jwks import KeySets, KeysUnavailable, NoSuchKey, read_decryption_keys
from quotas.plans import Config, is_client_name
from quotas.registry import Identity, Registry
from quotas.tokens import UnknownKey, Verified, subject_digest, verify

if TYPE_CHECKING:
    from quotas.issuers import DecryptionKey

_ID_LENGTH = 32
"""Hexadecimal digits of a subject's digest in its client's id: 128 bits."""


class Subjects:
    """A worker's way from a token to its client. `key_sets` is entered and left by who made it."""

    def __init__(self, registry: Registry, key_sets: KeySets, *, secrets: Mapping[str, str], folder: Path) -> None:
        self._registry = registry
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

    async def identity(self, credential: bytes, now_us: int) -> Identity:
        """Whom a token speaks for; its client may be suspended.

        Raises CredentialError, RequestError with the reason `no_plan`, and StoreUnavailableError: of kind `jwks` when
        an issuer's keys cannot be had, so that nothing can be said about its tokens.
        """
        verified = await self._verified(credential, now_us)
        if verified.jkt is not None:
            raise CredentialError(
                "invalid_credential"
            )  # Bound to a key (RFC 9449): a bearer has not proved to hold it.
        issuer, plans = self._config.issuers[verified.issuer], self._config.plans
        plan = issuer.plan(verified.plan_value, plans)
        recorded = issuer.plan(None, plans) or plan
        digest = subject_digest(verified.issuer, verified.subject)[:_ID_LENGTH]
        client = await self._registry.subject_client(f"sub_{digest}", _names(verified, digest), recorded, now_us)
        if client is None:
            raise RequestError("no_plan")
        if verified.plan_value is not None and plan is not None:
            client = replace(client, plan=plan)
        return Identity(client, verified.subject, digest, verified.lasts_until_us)

    async def _verified(self, credential: bytes, now_us: int) -> Verified:
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
