"""Identities as bytes: first what a plain check needs of one, made to be read at once, and then the rest of it.

To make an identity of its bytes costs a tenth of a check, and what a check makes of it again as much: ids to bytes, a
name to a header line. So the bytes hold what goes into the take and into the answer as it goes there, and one instant
until which there is no more to it. Pure.
"""

import marshal
from collections.abc import Callable
from functools import partial
from typing import cast

from quotas import keys, scopes
from quotas.fields import encoded
from quotas.holders import HOUR_US, Client, Held, Identity, Status

NEVER_US = 2**62
"""In the place of an instant that there is none of."""

Short = tuple[str, bytes, bytes, bytes, str | None, bytes, bytes | None, int, bytes]
"""What a plain check needs of an identity, of which the rest is packed at its end:

    kind       see `kind_of`; empty where the client has limits of its own
    client id
    generation
    told       the client's name as a field value
    name       where that is another text, else None
    subject    as a field value
    key id     `subject_id` where that is another text, else None
    until      the instant, in microseconds, at which the credential is too old, or seen in another hour than noted
"""

_LIVE, _TEST = "=", "~"
_ACTIVE = Status.ACTIVE
_ENVIRONMENTS = tuple(keys.Environment)
_NUMBERS = {environment: number for number, environment in enumerate(_ENVIRONMENTS)}

# The constructor of a named tuple is Python, and three of them are felt in a check.
_client: Callable[[tuple[object, ...]], Client] = partial(tuple.__new__, Client)
_held: Callable[[tuple[object, ...]], Held] = partial(tuple.__new__, Held)
_identity: Callable[[tuple[object, ...]], Identity] = partial(tuple.__new__, Identity)


def pack(identity: Identity) -> bytes:
    """An identity that may be remembered, as bytes."""
    client, subject, subject_id, expires_at_us, key, token_id, words, _ = identity
    assert client.status is _ACTIVE, "only a yes is remembered"
    told, told_subject = encoded(client.name), encoded(subject)
    until_us = NEVER_US if expires_at_us is None else expires_at_us
    if key is not None:
        until_us = min(until_us, (key.used_hour + 1) * HOUR_US)
    more = (expires_at_us, token_id, scopes.joined(words), client.overrides, None if key is None else key.record)
    rest = (
        client.plan if client.overrides else None,
        client.created_at_us,
        None if told_subject == subject else subject,
        None if key is None else _NUMBERS[key.environment],
        -1 if key is None else key.used_hour,
        None if more == _NO_MORE else more,
    )
    short = (
        kind_of(identity),
        client.id.encode(),
        b"%d" % client.generation,
        told.encode(),
        None if told == client.name else client.name,
        told_subject.encode(),
        None if subject_id == told_subject else subject_id.encode(),
        until_us,
        marshal.dumps(rest),
    )
    return marshal.dumps(short)


_NO_MORE = (None, None, "", "", b"")

short_of = cast("Callable[[bytes], Short]", marshal.loads)
"""What a plain check needs, of packed bytes, whatever follows them."""


def unpack(packed: bytes, stays: bool) -> Identity:  # noqa: FBT001 # As `caches.Cache` calls it.
    """The identity of packed bytes, whatever follows them."""
    kind, client_id, generation, told, name, told_subject, key_id, _, rest = short_of(packed)
    plan, created_at_us, subject, number, used_hour, more = marshal.loads(rest)  # noqa: S302 # Our own bytes.
    expires_at_us, token_id, words, own, record = _NO_MORE if more is None else more
    named = told.decode() if name is None else name
    plan = kind[1:] if plan is None else plan
    client = _client((client_id.decode(), named, plan, _ACTIVE, int(generation), created_at_us, own))
    subject_id = (told_subject if key_id is None else key_id).decode()
    held = None if number is None else _held((record, _ENVIRONMENTS[number], used_hour))
    granted = scopes.split(words) if words else scopes.NONE
    subject = told_subject.decode() if subject is None else subject
    return _identity((client, subject, subject_id, expires_at_us, held, token_id, granted, stays))


def kind_of(identity: Identity) -> str:
    """What all share whose plain checks come down to the same take but for their ids: plan, and environment.

    It is empty where the client has limits of its own.
    """
    client = identity.client
    if client.overrides:
        return ""
    return (_TEST if identity.environment is keys.Environment.TEST else _LIVE) + client.plan


def seen(identity: Identity, hour: int) -> Identity:
    """The same of a key that was seen in this hour."""
    return identity if identity.key is None else identity._replace(key=identity.key._replace(used_hour=hour))
