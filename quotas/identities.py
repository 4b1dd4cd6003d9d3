"""Whom a credential speaks for, remembered by each worker and never on its own authority.

A remembered identity carries the generation of its client; the take is refused as stale when that has risen,
and the identity is forgotten and loaded anew. Only a yes is remembered: unknown keys, suspended clients and
whatever else is refused are looked up each time, so that a new key or a resumed client works at once.

What is remembered of a token is decided on only by a worker that has heard all notices (`news`): a notice names a token
that was revoked, or says that any may have been, and then all are forgotten.
"""

import asyncio
from dataclasses import dataclass, field

from quotas import keys, tokens
from quotas.caches import Cache
from quotas.errors import CredentialError, QuotasError
from quotas.holders import Identity, Status
from quotas.news import Listener, clients_in
from quotas.packed_identities import pack, seen, unpack
from quotas.registry import Registry
from quotas.revocations import TOKEN
from quotas.subjects import Subjects

Known = Identity | bytes
"""Whom a credential speaks for: as it is at hand, or else packed."""

BYTES_EACH = 500
"""What a remembered identity may take on average, by the count of `caches`: names and overrides can be long."""

MAX_REVOKED = 10_000
"""Revoked tokens that a worker keeps apart before it forgets all instead; the store knows them for good."""

_ADDRESS_DIGITS = 32
"""Hexadecimal digits of an address's digest: 128 bits."""


class Identities:
    """A worker's knowledge of credentials. Brand and peppers are those of the settings.

    A key that is not found under the pepper is looked for under the previous ones (None is plain SHA-256), so that a
    pepper can be set or changed without ending the keys that were digested before.

    `subjects` None is without tokens; without `listen`, none is remembered. `hear` is for the listener.

    While `foreign` is false nobody has imported keys, and what does not have the form of ours is refused unseen. Who
    learns that somebody has sets it; it is never taken back.

    At most so many keys are `remembered`, and as many tokens.
    """

    def __init__(  # noqa: PLR0913 # As many parts as settings that say whom a credential is of.
        self,
        registry: Registry,
        *,
        brand: str,
        pepper: bytes | None,
        previous_peppers: tuple[bytes | None, ...] = (),
        subjects: Subjects | None = None,
        remembered: int,
    ) -> None:
        self._registry = registry
        self._brand = brand
        self._pepper = pepper
        self._previous_peppers = previous_peppers
        self._subjects = subjects
        self.foreign = False
        self._listener: Listener | None = None
        self._keys: Cache[Identity] = Cache(remembered, remembered * BYTES_EACH, pack, unpack)
        self._tokens: Cache[Identity] = Cache(remembered, remembered * BYTES_EACH, pack, unpack)
        self._loading: dict[bytes, _Load] = {}
        self._revoked: set[str] = set()
        self._forgot = 0

    def listen(self, listener: Listener) -> None:
        """Remember tokens from now on, as far as this listener, which tells `hear`, is heard."""
        self._listener = listener

    def hear(self, notice: str | None) -> None:
        """Follow a notice; None is any number of them that were missed."""
        if notice is not None and clients_in(notice) is not None:
            return  # The generation says so with each take.
        if notice is not None and notice.startswith(TOKEN) and len(self._revoked) < MAX_REVOKED:
            self._revoked.add(notice.removeprefix(TOKEN))
        else:
            self._forget_tokens()

    async def find(self, credential: bytes, now_us: int, *, anew: bool = False) -> tuple[bytes, Identity]:
        """The credential's digest, to forget it by, and its identity; its client may be suspended.

        It is as of this call when it is to be found `anew`, else perhaps as of an earlier generation.

        Raises CredentialError: a malformed key is answered like an unknown one, without asking the store.
        Raises StoreUnavailableError.
        """
        digest = keys.digest(credential, self._pepper)
        identity = None if anew else await self._remembered(digest)
        if identity is None:
            identity = await self._loaded(credential, digest, now_us, anew=anew)
        if identity.is_expired(now_us):
            self.forget(digest)
            raise CredentialError("expired_credential")
        return digest, identity

    async def _loaded(self, credential: bytes, digest: bytes, now_us: int, *, anew: bool) -> Identity:
        """Load an identity, or have it from who is loading it, so that many who ask at once are one load.

        A load that was begun before may have read too early to know of a key that is new since. So who comes then takes
        nothing of it but what is remembered when it has ended; and from a load that was begun after it came, anything.
        """
        load = self._loading.get(digest)
        if load is not None:
            await load.ended()
            identity = None if anew else await self._remembered(digest)
            if identity is not None:
                return identity
        while (load := self._loading.get(digest)) is not None:
            await load.ended()
            if isinstance(load.outcome, QuotasError):
                raise load.outcome.with_traceback(None)
            if load.outcome is not None:
                return load.outcome
        load = self._loading[digest] = _Load()
        try:
            load.outcome = await self._load(credential, digest, now_us)
        except QuotasError as error:
            load.outcome = error
            raise
        else:
            return load.outcome
        finally:
            del self._loading[digest]
            load.end()

    def known(self, credential: bytes) -> tuple[bytes, Known] | None:
        """What `find` would return without asking anybody, but that it may be too old; None where it has to ask."""
        digest = keys.digest(credential, self._pepper)
        found = self._keys.look(digest)
        if found is None and self._listener is not None and self._listener.is_current():
            found = self._token(digest)
        return None if found is None else (digest, found)

    def of_address(self, address: str, plan: str) -> Identity:
        """Who asks from this address without a credential; the address itself is not in it. Nothing is remembered."""
        digest = keys.digest(f"address {address}".encode(), self._pepper)
        return Identity.of_nobody(f"ip_{digest.hex()[:_ADDRESS_DIGITS]}", plan)

    def remembered(self, credential: bytes) -> Identity | None:
        """Whom this worker remembers, without asking anybody: for when nobody can be asked. It may have expired."""
        digest = keys.digest(credential, self._pepper)
        identity = self._keys.get(digest) or self._tokens.get(digest)
        return None if identity is None or identity.token_id in self._revoked else identity

    def seen(self, digest: bytes, hour: int) -> None:
        """Remember that a key was seen in an hour since the epoch, if it is remembered."""
        self._keys.change(digest, lambda identity: seen(identity, hour))

    async def _remembered(self, digest: bytes) -> Identity | None:
        identity = self._keys.get(digest)
        if identity is not None or self._tokens.get(digest) is None or self._listener is None:
            return identity
        if not self._listener.is_current():
            await self._listener.catch_up()
        known = self._token(digest)
        return None if known is None else identity_of(known)

    def _token(self, digest: bytes) -> Known | None:
        known = self._tokens.look(digest)
        if known is None or (self._revoked and identity_of(known).token_id in self._revoked):
            return None
        return known

    async def _load(self, credential: bytes, digest: bytes, now_us: int) -> Identity:
        """Load an identity and remember it, or forget it when it is refused."""
        try:
            identity = await self._load_any(credential, digest, now_us)
        except CredentialError:
            self.forget(digest)
            raise
        if identity.client.status is not Status.ACTIVE:
            self.forget(digest)
        return identity

    async def _load_any(self, credential: bytes, digest: bytes, now_us: int) -> Identity:
        identity = None
        if self._subjects is not None and tokens.looks_like_token(credential):
            try:
                return await self._load_token(self._subjects, credential, digest, now_us)
            except CredentialError as refusal:
                # Keys of some makers have dots as tokens have.
                if refusal.reason != "invalid_credential" or not self.foreign:
                    raise
            identity = await self._registry.identity((), imported=self._imported(credential))
        elif keys.is_well_formed(credential, self._brand):
            digests = (digest, *(keys.digest(credential, pepper) for pepper in self._previous_peppers))
            identity = await self._registry.identity(digests, imported=self._imported(credential))
        elif not keys.is_of_brand(credential, self._brand) and self.foreign:
            identity = await self._registry.identity((), imported=self._imported(credential))
        if identity is None:
            raise CredentialError("invalid_credential")
        if identity.client.status is Status.ACTIVE:
            self._keys.keep(digest, identity, now_us)
        return identity

    def _imported(self, credential: bytes) -> bytes | None:
        """What an imported key is under, if there are any. It is plain: who made the file knew no pepper of ours."""
        return keys.digest(credential, None) if self.foreign else None

    async def _load_token(self, subjects: Subjects, credential: bytes, digest: bytes, now_us: int) -> Identity:
        """A token's identity; remembered unless a notice came meanwhile that it may be untrue."""
        verified = await subjects.verified(credential, now_us)
        if self._listener is not None:
            await self._listener.catch_up()
        forgot = self._forgot
        identity = await subjects.identity(verified, now_us)
        if self._listener is not None and self._forgot == forgot and identity.client.status is Status.ACTIVE:
            self._tokens.keep(digest, identity, now_us)
        return identity

    def forget_all(self) -> None:
        """Load everybody anew: the configuration that they were known by is another one."""
        self._keys.clear()
        self._forget_tokens()

    def forget(self, digest: bytes) -> None:
        """Load this identity anew next time."""
        self._keys.forget(digest)
        self._tokens.forget(digest)

    def _forget_tokens(self) -> None:
        self._tokens.clear()
        self._revoked.clear()
        self._forgot += 1


def identity_of(known: Known) -> Identity:
    """The identity of what is known."""
    return unpack(known, False) if isinstance(known, bytes) else known  # noqa: FBT003 # As `Cache` calls it.


@dataclass(eq=False, slots=True)
class _Load:
    """A load that is under way. `outcome` None, once it has ended, is that it was broken off."""

    outcome: Identity | QuotasError | None = None
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    async def ended(self) -> None:
        """Wait for its end. Each who waits has a future of its own: who is cancelled harms no other."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    def end(self) -> None:
        """Tell all who wait."""
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
