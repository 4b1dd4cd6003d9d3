"""No credential is in a log: of a gateway as its printed configuration has it, or of the service."""

from pathlib import Path

from .conftest import Service, Stand, Stands
from .programs import CLOSED, OPEN
from .test_outage import cut


def test_no_credential_is_in_any_log(service: Service, stands: Stands, stand: Stand) -> None:
    _, key = service.client("three")
    gateway = stand.running.gateway
    for each in (stand, stands.get(gateway, OPEN)):
        for _ in range(4):  # Allowed and refused.
            each.ask("/", ("X-API-Key", key))
        each.ask("/", ("Authorization", f"Bearer {key}"))
        each.ask("/", ("X-API-Key", key), ("X-API-Key", key))
        each.ask("/", ("Authorization", f"Bearer {key}"), ("Authorization", f"Basic {key}"))
        each.ask(f"/?api_key={key}", ("X-API-Key", key))
        each.ask("/", ("X-Acme-Key", key))
        each.ask("/", ("Cookie", f"acme_session={key}"))
        with cut(each):
            each.ask("/", ("X-API-Key", key), ("Authorization", f"Bearer {key}"), ("Cookie", f"key={key}"))
    folders = [stands.get(gateway, variant).running.log.parent for variant in (CLOSED, OPEN)]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert stand.running.log in files
    assert [file for file in [*files, service.serving.err_file] if holds(file, key)] == []


def holds(file: Path, secret: str) -> bool:
    return secret.encode() in file.read_bytes()
