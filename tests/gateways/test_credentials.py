"""Credentials through each gateway: to the check always, to the upstream unless they are hidden."""

import pytest

from quotas.places import MAX_CREDENTIAL

from .conftest import Service, Stand


def test_the_upstream_gets_credentials_by_default(service: Service, stand: Stand) -> None:
    _, key = service.client("wide")
    for header in (("X-API-Key", key), ("Authorization", f"Bearer {key}")):
        _, received = stand.ask("/", header)
        assert received is not None
        assert received.all(header[0].lower()) == [header[1]]


def test_the_upstream_does_not_get_hidden_ones(service: Service, open_stand: Stand) -> None:
    name, key = service.client("wide")
    for header in (("X-API-Key", key), ("Authorization", f"Bearer {key}")):
        reply, received = open_stand.ask("/", header)
        assert reply.status == 200
        assert received is not None
        assert received.all("x-quotas-client") == [name]
        assert not [value for _, value in received.headers if key in value]


def test_the_further_places_of_the_plan_file_are_handed_on(service: Service, open_stand: Stand) -> None:
    """With --credential-header and --credential-cookie."""
    name, key = service.client("wide")
    for header in (("X-Acme-Key", key), ("Cookie", f"a=b; acme_session={key}; c=d")):
        reply, received = open_stand.ask("/", header)
        assert reply.status == 200
        assert received is not None
        assert received.all("x-quotas-client") == [name]
        assert received.all("x-acme-key") == []


def test_other_places_are_not_handed_on_by_default(service: Service, stand: Stand) -> None:
    _, key = service.client("wide")
    assert stand.ask("/", ("Cookie", f"acme_session={key}"))[0].status == 401


def test_two_credentials_are_none(service: Service, stand: Stand) -> None:
    """Refused by the gateway or by the service, and never the first one or the last one wins."""
    keys = [service.client("wide")[1] for _ in range(2)]
    for header in ("X-API-Key", "Authorization"):
        lines = [(header, key if header == "X-API-Key" else f"Bearer {key}") for key in keys]
        reply, received = stand.ask("/", *lines)
        assert received is None
        assert reply.status in {400, 401}


@pytest.mark.parametrize("length", [7_000, MAX_CREDENTIAL])
def test_a_long_credential_arrives_whole(stand: Stand, length: int) -> None:
    """A JWT of 7 kB, and the longest that the service looks at."""
    mark = f"{stand.running.port}-{length}-"
    reply, _ = stand.ask("/", ("Authorization", f"Bearer {mark}{'e' * (length - len(mark))}"))
    assert reply.status == 401
    (asked,) = stand.road.requests(mark)
    assert f"{mark}{'e' * (length - len(mark))}\r\n".encode() in asked + b"\r\n"
