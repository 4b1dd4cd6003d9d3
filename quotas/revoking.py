"""What operators do with tokens: revoke them, take a revocation back, see what is revoked."""

from collections.abc import Callable, Container

from quotas import instants
from quotas.audit import Change, Told
from quotas.errors import ConflictError, NotFoundError
from quotas.revocations import Revocation, Revocations


class Revoking:
    """Revokes tokens. Every method can raise StoreUnavailableError.

    `issuers` are those of the configuration, None when it is not known: a revocation for an issuer that nobody knows
    would refuse nothing. `heard` is told of every change once it has been made.
    """

    def __init__(
        self,
        revocations: Revocations,
        *,
        issuers: Container[str] | None,
        clock: Callable[[], int],
        heard: Told = lambda _: None,
    ) -> None:
        self._revocations = revocations
        self._issuers = issuers
        self._clock = clock
        self._heard = heard

    async def revoke(self, revocation: Revocation) -> None:
        """Refuse tokens from now on: when this returns, no check that starts afterwards passes with one of them.

        It can be asked again. Raises ConflictError for an issuer that is not in the configuration.
        """
        issuer = revocation.issuer
        if issuer is not None and self._issuers is not None and issuer not in self._issuers:
            raise ConflictError(f"there is no issuer {issuer!r} in the configuration; it is compared exactly")
        await self._revocations.revoke(revocation, self._clock())
        self._heard(Change("token.revoke", revocation.id, fields(revocation)))

    async def restore(self, revocation_id: str) -> Revocation:
        """Take a revocation back. Raises NotFoundError when there is none of this id."""
        revocation = await self._revocations.restore(revocation_id) if revocation_id.isascii() else None
        if revocation is None:
            raise NotFoundError(f"there is no revocation {revocation_id!r}; `quotas tokens list` shows all")
        self._heard(Change("token.restore", revocation_id, fields(revocation)))
        return revocation

    async def all(self) -> list[Revocation]:
        """What is revoked, by issuer and id."""
        found = await self._revocations.all(self._clock())
        return sorted(found, key=lambda each: (each.issuer or "", each.id))


def fields(revocation: Revocation) -> dict[str, str | int | None]:
    """A revocation with the names that requests use; what is not part of it is left out."""
    told: dict[str, str | int | None] = {}
    for name in ("issuer", "jti", "subject"):
        if (text := getattr(revocation, name)) is not None:
            told[name] = text
    for name, instant_us in (
        ("issued_before", revocation.issued_before_us),
        ("expires_at", revocation.expires_at_us),
    ):
        if instant_us is not None:
            told[name] = instants.show(instant_us)
    return told
