"""No credential is in a log: of a gateway as its printed configuration has it, or of the service."""

from pathlib import Path

import pytest

from quotas.gateway import Gateway

from .conftest import Service, Stand, Stands
from .programs import CLOSED, OPEN, running
from .road import road


@pytest.mark.parametrize("variant", [CLOSED, OPEN], ids=["closed", "open"])
def test_no_credential_is_in_any_log(
    gateway: Gateway, variant: tuple[str, ...], service: Service, stands: Stands
) -> None:
    _, key = service.client("three")
    folder = stands.new_folder()
    with road(stands.loop, service.port) as way:
        made = running(gateway, folder, *variant, upstream=stands.upstream.port, check=way.port)
        with made as started:
            show(Stand(started, way, stands.upstream), key)
    # The gateway has ended, and so has written all that it will.
    assert b"/told" in started.log.read_bytes(), "a log of nothing proves nothing"
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert [file for file in [*files, service.serving.err_file] if holds(file, key)] == []


def show(stand: Stand, key: str) -> None:
    """Present a key in every way that there is, to a gateway that can ask and to one that cannot."""
    for _ in range(4):  # Allowed and refused.
        stand.ask("/told", ("X-API-Key", key))
    stand.ask("/told", ("Authorization", f"Bearer {key}"))
    stand.ask("/told", ("X-API-Key", key), ("X-API-Key", key))
    stand.ask("/told", ("Authorization", f"Bearer {key}"), ("Authorization", f"Basic {key}"))
    stand.ask("/told", ("X-Acme-Key", key))
    stand.ask("/told", ("Cookie", f"acme_session={key}"))
    stand.ask(f"/told?api_key={key}", ("X-API-Key", key))
    with stand.road.closed():
        stand.ask("/told", ("X-API-Key", key), ("Authorization", f"Bearer {key}"), ("Cookie", f"key={key}"))


def holds(file: Path, secret: str) -> bool:
    return secret.encode() in file.read_bytes()
