"""A packed identity is the same identity, and what a plain check reads of it is what the long way makes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import caches
from quotas.caches import Cache
from quotas.holders import HOUR_US, Client, Held, Identity, Status
from quotas.keys import Environment
from quotas.packed_identities import NEVER_US, kind_of, pack, short_of, unpack
from quotas.rendering import head_of, head_on

INSTANTS = st.integers(0, 10**6 * HOUR_US)
CLIENTS = st.builds(
    Client,
    st.text(),
    st.text(),
    st.text(),
    st.just(Status.ACTIVE),
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.text(),
)
IDENTITIES = st.builds(
    Identity,
    CLIENTS,
    st.text(),
    st.text(),
    st.none() | INSTANTS,
    st.none() | st.builds(Held, st.binary(max_size=32), st.sampled_from(Environment), st.integers(-1, 2**31)),
    st.none() | st.text(),
    st.frozensets(st.from_regex(r"[a-z:.]{1,9}", fullmatch=True)),
)
KEYS = st.builds(
    lambda identity, text, hour: identity._replace(
        subject=text,
        subject_id=text,
        key=Held(b"", Environment.LIVE, hour),
        client=identity.client._replace(overrides=""),
    ),
    IDENTITIES,
    st.text(),
    st.integers(-1, 10**6),
)


@given(IDENTITIES | KEYS)
def test_an_identity_is_found_as_it_was(identity: Identity) -> None:
    cache = Cache(10, 10**6, pack, unpack)
    digest = bytes(32)
    cache.keep(digest, identity, 0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(caches, "MAX_AT_HAND", 0)
        assert cache.get(digest) == identity._replace(stays=False), "packed"
    assert cache.get(digest) == identity._replace(stays=True), "at hand"


@given(IDENTITIES | KEYS)
def test_what_a_check_reads_is_what_the_identity_says(identity: Identity) -> None:
    kind, client_id, generation, told, name, subject, key_id, _, _ = short_of(pack(identity) + b"\1")
    client = identity.client
    assert kind == ("" if client.overrides else kind_of(identity))
    assert (client_id.decode(), int(generation)) == (client.id, client.generation)
    assert (told.decode() if name is None else name) == client.name
    assert (subject if key_id is None else key_id).decode() == identity.subject_id
    assert head_on(client.plan) % (told, subject) == head_of(identity)


@given(IDENTITIES | KEYS, INSTANTS)
def test_there_is_more_to_a_check_from_the_instant_that_is_read(identity: Identity, now_us: int) -> None:
    """Its key is too old, or was last seen in another hour."""
    until_us = short_of(pack(identity))[7]
    for at_us in (now_us, until_us - 1, min(until_us, NEVER_US - 1)):
        is_seen = identity.key is None or identity.key.used_hour >= at_us // HOUR_US
        assert (at_us < until_us) == (is_seen and not identity.is_expired(at_us))


@pytest.mark.parametrize("plan", ["", "a", "=a", "~a"])
def test_test_keys_are_of_another_kind_than_all_others(plan: str) -> None:
    """Whatever a plan is called: a token may claim any."""
    kinds = set()
    for name in ("", "a", "=a", "~a", plan):
        client = Client("cl_1", "acme", name, Status.ACTIVE, 1, 1)
        for environment in Environment:
            kinds.add((name, environment, kind_of(Identity(client, "k", "k", key=Held(b"", environment)))))
    assert len({kind for _, _, kind in kinds}) == len(kinds)
