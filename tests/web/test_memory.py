"""A flood of credentials that nobody knows, each another one, leaves nothing behind in the worker that refuses them.

What a worker remembers is bounded, so the measure starts when everything that may fill up has. A block is one Python
object of up to 512 bytes; whatever is kept for a credential has at least one.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from soak import CREDENTIALS, SOAKS
from unit import signing

from quotas import keys
from quotas.answers import Reason
from quotas.checks import Checks

from .timed import Clock, timed

WARM_UP = 20_000
"""More than any cache of a worker has places for what is refused."""

AT_ONCE = 250
BLOCKS = 1_000
"""Blocks by which a worker may grow, however many credentials came: 1,000,000 that left one block each would be seen
a thousand times over."""

RSS = 8 << 20
"""Bytes by which its memory may grow in a soak: eight for each credential of a million. Linux only."""

BY_SECRET = "https://secret.example.com"
PLANS = f"""
plans: {{free: {{limits: {{a: {{rate: 1/second}}}}}}}}
anonymous: {{plan: free}}
issuers:
  - {{issuer: {signing.ISS}, audience: [api], algorithms: [ES256], jwks_file: jwks.json, default_plan: free}}
  - {{issuer: {BY_SECRET}, audience: [api], algorithms: [HS256], secret_env: MEMORY_SECRET, default_plan: free}}
"""
Field = tuple[bytes, bytes]


def bad_key(number: int) -> tuple[Field, Reason | None]:
    """Of three: malformed, with a wrong checksum, and right but unknown."""
    text = f"quotas_live_{number:030}"
    made = (f"junk-{number}", f"{text}000000", text + keys.checksum(text.encode()))[number % 3]
    return (b"x-api-key", made.encode()), Reason.INVALID_CREDENTIAL


def bad_token(number: int) -> tuple[Field, Reason | None]:
    """Of three: by an unknown key, with a signature that is none, and expired."""
    claims = {**signing.CLAIMS, "sub": f"subject {number}", "jti": f"{number}"}
    if number % 3 == 2:
        token = signing.hmac_signed(
            signing.SECRET, {**claims, "iss": BY_SECRET, "exp": signing.NOW - 1_000}, {"alg": "HS256"}
        )
        return (b"authorization", b"Bearer " + token), Reason.EXPIRED_CREDENTIAL
    header = {"alg": "ES256", "kid": (f"unknown {number}", "p256")[number % 3]}
    parts = (signing.text(header), signing.text(claims), number.to_bytes(64))
    return (b"authorization", b"Bearer " + b".".join(map(signing.b64, parts))), Reason.INVALID_CREDENTIAL


def address(number: int) -> tuple[Field, Reason | None]:
    """A caller without a credential who looks and takes nothing, each from another address."""
    hop = f"{11 + (number >> 24)}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return (b"x-forwarded-for", hop.encode()), None


async def refuse(
    checks: Checks, made: Callable[[int], tuple[Field, Reason | None]], numbers: Iterator[int], many: int
) -> None:
    """Ask with as many new credentials, some of them at once."""
    look = (b"x-quotas-cost", b"0")
    for _ in range(0, many, AT_ONCE):
        asked = [made(next(numbers)) for _ in range(AT_ONCE)]
        answers = [checks.check([field, look], method="GET", peer="127.0.0.1") for field, _ in asked]
        reasons = [answer.reason for answer in await asyncio.gather(*answers)]
        assert reasons == [reason for _, reason in asked]


def held() -> tuple[int, int]:
    """What this process holds: blocks, and bytes of memory (0 where the system does not say)."""
    gc.collect()
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return sys.getallocatedblocks(), pages * 4096


@pytest.mark.parametrize("made", [bad_key, bad_token, address])
def test_a_flood_leaves_nothing(
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[int], tuple[Field, Reason | None]],
) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [signing.public_jwk(signing.P256, kid="p256")]}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMORY_SECRET", signing.SECRET.decode())

    async def work() -> None:
        async with timed(redis_url, PLANS, Clock(signing.NOW * 1_000_000)) as worker:
            checks, numbers = worker.services.checks, count()
            await refuse(checks, made, numbers, WARM_UP)
            blocks, rss = held()
            await refuse(checks, made, numbers, CREDENTIALS)
            blocks_then, rss_then = held()
            grown = f"{CREDENTIALS} of {made.__name__}: {blocks_then - blocks:+} blocks, {rss_then - rss:+} bytes"
            print(grown)  # noqa: T201 # The figures are what a soak is for.
            assert blocks_then - blocks <= BLOCKS
            assert not SOAKS or rss_then - rss <= RSS
            assert await worker.store.call("DBSIZE") == 0

    asyncio.run(work())
