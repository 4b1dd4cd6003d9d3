"""Whom a credential speaks for, remembered by each worker and never on its own authority.

A remembered identity carries the generation of its client; the take is refused as stale when that has risen,
and the identity is forgotten and loaded anew. Only a yes is remembered: unknown keys, suspended clients and
whatever else is refused are looked up each time, so that a new key or a resumed client works at once.
"""

from collections import OrderedDict

from quotas import keys, tokens
from quotas.errors import CredentialError
from quotas.registry import Identity, Registry, Status
from quotas.subjects import Subjects

MAX_REMEMBERED = 100_000
"""Identities one worker remembers, about 1 kB each; the least recently used goes first."""


class Identities:
    """A worker's knowledge of credentials. Brand and peppers are those of the settings.

    A key that is not found under the pepper is looked for under the previous ones (None is plain SHA-256), so that a
    pepper can be set or changed without ending the keys that were digested before.
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
        self._known: OrderedDict[str, Identity] = OrderedDict()

    async def find(self, credential: bytes, now_us: int) -> tuple[str, Identity]:
        """The credential's digest, to forget it by, and its identity; its client may be suspended.

        Raises CredentialError: a malformed key is answered like an unknown one, without asking the store.
        Raises StoreUnavailableError.
        """
        digest = keys.digest(credential, self._pepper)
        identity = self._known.get(digest)
        if identity is not None:
            self._known.move_to_end(digest)
        else:
            identity = await self._load(credential, now_us)
            if identity.client.status is Status.ACTIVE:
                self._remember(digest, identity)
        if identity.is_expired(now_us):
            self.forget(digest)
            raise CredentialError("expired_credential")
        return digest, identity

    async def _load(self, credential: bytes, now_us: int) -> Identity:
        if self._subjects is not None and tokens.looks_like_token(credential):
            return await self._subjects.identity(credential, now_us)
        if not keys.is_well_formed(credential, self._brand):
            raise CredentialError("invalid_credential")
        for pepper in (self._pepper, *self._previous_peppers):
            identity = await self._registry.identity(keys.digest(credential, pepper))
            if identity is not None:
                return identity
        raise CredentialError("invalid_credential")

    def forget_all(self) -> None:
        """Load everybody anew: the configuration that they were known by is another one."""
        self._known.clear()

    def forget(self, digest: str) -> None:
        """Load this identity anew next time."""
        self._known.pop(digest, None)

    def _remember(self, digest: str, identity: Identity) -> None:
        self._known[digest] = identity
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
