"""Scopes: words for what a credential may do (RFC 6749, section 3.3). What each means is for the plans to say.

Pure text. A scope is compared byte for byte; the order of several and repetitions mean nothing. One that a plan or a
key names has at most `MAX_SCOPE` characters; a token may bring what its issuer likes.
"""

import re
from collections.abc import Iterable

MAX_SCOPES = 32
"""How many scopes a key can have, and how many a plan or a limit can ask for."""

MAX_SCOPE = 64
"""Characters of a scope of a key or of a plan."""

NONE: frozenset[str] = frozenset()

_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")


def checked(scopes: Iterable[str]) -> frozenset[str]:
    """Scopes that somebody wrote for a key or a plan. Raises ValueError for what is none, and for too many."""
    found = list(scopes)
    for each in found:
        if len(each) > MAX_SCOPE or not _TOKEN.fullmatch(each):
            raise ValueError(
                f'{each[:MAX_SCOPE]!r} is no scope: 1 to {MAX_SCOPE} visible ASCII characters without " and \\'
            )
    if len(set(found)) > MAX_SCOPES:
        raise ValueError(f"there can be at most {MAX_SCOPES} scopes")
    return frozenset(found)


def claimed(claim: object) -> frozenset[str]:
    """The scopes of a token's claim: text with spaces between them (RFC 9068, section 2.2.3), or a list of texts.

    A word that RFC 6749 does not allow is left out: no plan can ask for it. Raises ValueError for any other type.
    """
    words = claim.split(" ") if isinstance(claim, str) else claim
    if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
        raise ValueError("scopes are text or a list of texts")
    return frozenset(each for each in words if _TOKEN.fullmatch(each))


def joined(scopes: Iterable[str]) -> str:
    """Scopes as one text, sorted, with a space between them; it can stand in a quoted string of a header field."""
    return " ".join(sorted(scopes))


def split(text: str) -> frozenset[str]:
    """The scopes that `joined` made a text of."""
    return frozenset(text.split())
