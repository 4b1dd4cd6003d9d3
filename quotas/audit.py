"""Who changed what, and when: an append-only log in the store, the newest 100,000 entries or a few more.

It is the Redis stream `q1:audit`. An entry's id is the stream's, `<milliseconds>-<number>`, given by the server:
ids only rise, also when its clock steps back, so a page that was read once reads the same again, whatever is
written meanwhile. Worked example: `XADD q1:audit MAXLEN ~ 100000 * actor ci action key.revoke target key_3kTMd9xQz0aB1c
details {"client":"acme"}` is answered with `1763999999123-0`, which is shown as 2025-11-24T15:59:59.123Z.

An entry never holds a credential or its digest: it names keys by id. Nothing here changes or removes an entry.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import orjson

from quotas import instants
from quotas.errors import StoreUnavailableError
from quotas.store import Store, deadline

STREAM = "q1:audit"
MAX_ENTRIES = 100_000
"""What the stream is cut to; the server cuts whole nodes, so that up to a hundred more may stay."""

MAX_DETAILS = 8192
"""Bytes of an entry's details as JSON. Callers bound what they tell; a larger one is a broken invariant."""

RECORD_TIMEOUT_S = 1.0
"""How long the entry of one change may take to be written."""

_log = logging.getLogger(__name__)
_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)
_END = 1 << 64

Details = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Change:
    """One change that was made: `action`, such as `key.revoke`, to `target`."""

    action: str
    target: str
    details: Details


Told = Callable[[Change], None]
"""Who hears of changes as they are made."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: `actor` did `action`, such as `key.revoke`, to `target`. `at` is RFC 3339, the server's clock."""

    id: str
    at: str
    actor: str
    action: str
    target: str
    details: Details


class Audit:
    """The log. Every method can raise StoreUnavailableError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(self, actor: str, action: str, target: str, details: Details) -> None:
        """Append what was done. It is written once or, when the store does not answer, perhaps."""
        told = orjson.dumps(details)
        assert len(told) <= MAX_DETAILS, "details are a few short words"
        words = ("actor", actor, "action", action, "target", target, "details", told)
        await self._store.call("XADD", STREAM, "MAXLEN", "~", MAX_ENTRIES, "*", *words)

    async def record_all(self, actor: str, changes: Iterable[Change]) -> None:
        """Append changes that stand, whether or not they can be recorded: a log line says what the log lacks."""
        for change in changes:
            try:
                async with deadline(RECORD_TIMEOUT_S):
                    await self.record(actor, change.action, change.target, change.details)
            except StoreUnavailableError as error:
                lacking = "%s of %r by %s was done; the audit log may not say so: %s"
                _log.warning(lacking, change.action, change.target, actor, error.kind)

    async def entries(self, before: str | None = None, limit: int = 100) -> list[Entry]:
        """The newest entries first, at most `limit`; only those older than the entry `before`, an `is_id`."""
        assert limit >= 1, "a page has room"
        assert before is None or is_id(before), "the caller has looked at the id"
        if before is not None and set(before) <= set("0-"):
            return []  # Nothing is older, and the server would refuse to look.
        newest = "+" if before is None else f"({before}"
        found = await self._store.call("XREVRANGE", STREAM, newest, "-", "COUNT", limit)
        return [_entry(entry_id.decode(), words) for entry_id, words in found]


def is_id(text: str) -> bool:
    """Whether an entry could have this id: two numbers of 64 bits."""
    match = _ID.fullmatch(text)
    return match is not None and all(int(number) < _END for number in match.groups())


def _entry(entry_id: str, words: list[bytes]) -> Entry:
    fields = dict(zip(words[::2], words[1::2], strict=True))
    actor, action, target = (fields[name].decode() for name in (b"actor", b"action", b"target"))
    return Entry(entry_id, _instant(int(entry_id.partition("-")[0])), actor, action, target, _details(fields))


def _details(fields: Mapping[bytes, bytes]) -> Details:
    details: Details = orjson.loads(fields[b"details"])
    return details


def _instant(at_ms: int) -> str:
    return f"{instants.show(at_ms * 1000).removesuffix('Z')}.{at_ms % 1000:03}Z"
