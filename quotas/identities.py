"""Whom a credential speaks for, remembered by each worker and never on its own authority.

A remembered identity carries the generation of its client; the take is refused as stale when that has risen,
and the identity is forgotten and loaded anew. Only a yes is remembered: unknown keys, suspended clients and
whatever else is refused are looked up each time, so that a new key or a resumed client works at once.

What is remembered of a token is decided on only by a worker that has heard all notices (`news`): a notice names a token
that was revoked, or says that any may have been, and then all are forgotten.
"""

import sys

from quotas import keys, tokens
from quotas.caches import Cache
from quotas.errors import CredentialError
from quotas.news import Listener
from quotas.registry import Identity, Registry, Status
from quotas.revocations import TOKEN
from quotas.subjects import Subjects

MAX_REMEMBERED = 100_000
"""Keys, and as many tokens, that one worker remembers."""

MAX_REMEMBERED_BYTES = 128 * 2**20
"""What each of both may take, by `_size`: names and overrides can be long."""

MAX_REVOKED = 10_000
"""Revoked tokens that a worker keeps apart before it forgets all instead; the store knows them for good."""

_IDENTITY_BYTES = 1000


_ADDRESS_DIGITS = 32
"""Hexadecimal digits of an address's digest: 128 bits."""


class Identities:
    """A worker's knowledge of credentials. Brand and peppers are those of the settings.

    A key that is not found under the pepper is looked for under the previous ones (None is plain SHA-256), so that a
    pepper can be set or changed without ending the keys that were digested before.

    `subjects` None is without tokens; without `listen`, none is remembered. `hear` is for the listener.

    While `foreign` is false nobody has imported keys, and what does not have the form of ours is refused unseen. Who
    learns that somebody has sets it; it is never taken back.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        brand: str,
        pepper: bytes | None,
        previous_peppers: tuple[bytes | None, ...] = (),
        subjects: Subjects | None = None,
    ) -> None:
        self._registry = registry
        self._brand = brand
        self._pepper = pepper
        self._previous_peppers = previous_peppers
        self._subjects = subjects
        self.foreign = False
        self._listener: Listener | None = None
        self._keys: Cache[Identity] = Cache(MAX_REMEMBERED, MAX_REMEMBERED_BYTES, _size)
        self._tokens: Cache[Identity] = Cache(MAX_REMEMBERED, MAX_REMEMBERED_BYTES, _size)
        self._revoked: set[str] = set()
        self._forgot = 0

    def listen(self, listener: Listener) -> None:
        """Remember tokens from now on, as far as this listener, which tells `hear`, is heard."""
        self._listener = listener

    def hear(self, notice: str | None) -> None:
        """Follow a notice; None is any number of them that were missed."""
        if notice is not None and notice.startswith(TOKEN) and len(self._revoked) < MAX_REVOKED:
            self._revoked.add(notice.removeprefix(TOKEN))
        else:
            self._forget_tokens()

    async def find(self, credential: bytes, now_us: int, *, anew: bool = False) -> tuple[str, Identity]:
        """The credential's digest, to forget it by, and its identity; its client may be suspended.

        It is as of this call when it is to be found `anew`, else perhaps as of an earlier generation.

        Raises CredentialError: a malformed key is answered like an unknown one, without asking the store.
        Raises StoreUnavailableError.
        """
        digest = keys.digest(credential, self._pepper)
        identity = None if anew else self._keys.get(digest) or await self._remembered_token(digest)
        if identity is None:
            try:
                identity = await self._load(credential, digest, now_us)
            except CredentialError:
                self.forget(digest)
                raise
        if identity.is_expired(now_us):
            self.forget(digest)
            raise CredentialError("expired_credential")
        return digest, identity

    def known(self, credential: bytes, now_us: int) -> tuple[str, Identity] | None:
        """What `find` would return without asking anybody; None where it has to ask, or to refuse."""
        digest = keys.digest(credential, self._pepper)
        identity = self._keys.get(digest)
        if identity is None and self._listener is not None and self._listener.is_current():
            identity = self._token(digest)
        return None if identity is None or identity.is_expired(now_us) else (digest, identity)

    def of_address(self, address: str, plan: str) -> Identity:
        """Who asks from this address without a credential; the address itself is not in it. Nothing is remembered."""
        digest = keys.digest(f"address {address}".encode(), self._pepper)
        return Identity.of_nobody(f"ip_{digest[:_ADDRESS_DIGITS]}", plan)

    def remembered(self, credential: bytes) -> Identity | None:
        """Whom this worker remembers, without asking anybody: for when nobody can be asked. It may have expired."""
        digest = keys.digest(credential, self._pepper)
        identity = self._keys.get(digest) or self._tokens.get(digest)
        return None if identity is None or identity.token_id in self._revoked else identity

    async def _remembered_token(self, digest: str) -> Identity | None:
        if self._tokens.get(digest) is None or self._listener is None:
            return None
        if not self._listener.is_current():
            await self._listener.catch_up()
        return self._token(digest)

    def _token(self, digest: str) -> Identity | None:
        identity = self._tokens.get(digest)
        return None if identity is None or identity.token_id in self._revoked else identity

    async def _load(self, credential: bytes, digest: str, now_us: int) -> Identity:
        if self._subjects is not None and tokens.looks_like_token(credential):
            try:
                return await self._load_token(self._subjects, credential, digest, now_us)
            except CredentialError as refusal:
                # Keys of some makers have dots as tokens have.
                found = await self._load_foreign(credential) if refusal.reason == "invalid_credential" else None
                if found is None:
                    raise
                identity = found
        else:
            identity = await self._load_key(credential, digest)
        if identity.client.status is Status.ACTIVE:
            self._keys.keep(digest, identity)
        else:
            self.forget(digest)
        return identity

    async def _load_token(self, subjects: Subjects, credential: bytes, digest: str, now_us: int) -> Identity:
        """A token's identity; remembered unless a notice came meanwhile that it may be untrue."""
        verified = await subjects.verified(credential, now_us)
        if self._listener is not None:
            await self._listener.catch_up()
        forgot = self._forgot
        identity = await subjects.identity(verified, now_us)
        if self._listener is not None and self._forgot == forgot and identity.client.status is Status.ACTIVE:
            self._tokens.keep(digest, identity)
        return identity

    async def _load_key(self, credential: bytes, digest: str) -> Identity:
        identity = None
        if keys.is_well_formed(credential, self._brand):
            identity = await self._registry.identity(digest)
            for pepper in self._previous_peppers if identity is None else ():
                identity = await self._registry.identity(keys.digest(credential, pepper))
                if identity is not None:
                    break
        elif keys.is_of_brand(credential, self._brand):
            raise CredentialError("invalid_credential")
        identity = identity or await self._load_foreign(credential)
        if identity is None:
            raise CredentialError("invalid_credential")
        return identity

    async def _load_foreign(self, credential: bytes) -> Identity | None:
        """Whom an imported key speaks for. Its digest is plain: who made the file knew no pepper of ours."""
        found = await self._registry.identity(keys.digest(credential, None)) if self.foreign else None
        return found if found is not None and found.key is not None and found.key.imported else None

    def forget_all(self) -> None:
        """Load everybody anew: the configuration that they were known by is another one."""
        self._keys.clear()
        self._forget_tokens()

    def forget(self, digest: str) -> None:
        """Load this identity anew next time."""
        self._keys.forget(digest)
        self._tokens.forget(digest)

    def _forget_tokens(self) -> None:
        self._tokens.clear()
        self._revoked.clear()
        self._forgot += 1


def _size(identity: Identity) -> int:
    """About how many bytes an identity takes, most of all its texts."""
    client = identity.client
    named = (client.id, client.name, client.plan, client.overrides, identity.subject, identity.subject_id)
    return _IDENTITY_BYTES + sum(map(sys.getsizeof, (*named, identity.scopes, *identity.scopes)))
