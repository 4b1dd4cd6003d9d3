"""What is read out of replies, out of what the upstream received, and out of checks that passed."""

import json
import socket

from quotas.gateway import Gateway

from .client import Reply
from .upstream import Received


def is_here(address: str) -> bool:
    """Whether this is an address of this machine: Envoy names another one than the loopback address."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def problem(reply: Reply) -> dict[str, object]:
    """The problem details of a refusal, which is for nobody else."""
    assert reply.one("content-type").split(";")[0] == "application/problem+json"
    assert "no-store" in reply.one("cache-control")
    found: dict[str, object] = json.loads(reply.body)
    assert found["status"] == reply.status
    return found


def identity(received: Received | None) -> dict[str, list[str]]:
    """What the upstream could take for something that the check said, underscores included."""
    assert received is not None
    found: dict[str, list[str]] = {}
    for name, value in received.headers:
        if value and name.replace("_", "-").startswith("x-quotas-"):
            found.setdefault(name.replace("_", "-"), []).append(value)
    return found


def is_unavailable(reply: Reply) -> bool:
    """Whether this is the answer that is documented for a closed gateway, or a plan that denies."""
    assert reply.status == 503, reply
    assert int(reply.one("retry-after")) >= 1
    assert problem(reply)["reason"] == "store_unavailable"
    return reply.all("x-quotas-reason") == ["store_unavailable"]


def carried_target(gateway: Gateway, asked: bytes) -> bytes:
    """The target that a check is about, as the gateway carries it."""
    line, *lines = asked.split(b"\r\n")
    if gateway is Gateway.ENVOY:
        return line.split(b" ")[1].removeprefix(b"/check/envoy")
    name = b"x-original-uri" if gateway is Gateway.NGINX else b"x-forwarded-uri"
    (found,) = (value for each, value in (line.split(b": ", 1) for line in lines) if each.lower() == name)
    return found
