"""In which order clients ask: a file of credential lines, all equally wide, that every load generator walks round.

Both generators read the same file, so that who asks is the same whoever generates the load, and choosing costs them
next to nothing.
"""

import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import RSAKey

from loadtests.bench import population
from loadtests.bench.cases import MILLION, ZIPF_EXPONENT, Case, Credential, Draw

ISSUER = "https://bench.example"
SEED = 4711
_TOKEN_LIFE_S = 86_400


@dataclass(frozen=True, slots=True)
class Walk:
    """A file of credential lines: `width` bytes each, `length` of them, of which a walk asks one after the other."""

    path: Path
    width: int
    length: int

    def requests(self, start: int) -> Iterator[bytes]:
        """The requests from this line on, round and round."""
        lines = self.path.read_bytes()
        for index in itertools.count(start):
            at = index % self.length * self.width
            yield request(lines[at : at + self.width])

    def once(self) -> Iterator[bytes]:
        """A request of each credential that is in it, once."""
        lines = self.path.read_bytes()
        seen = dict.fromkeys(lines[at : at + self.width] for at in range(0, len(lines), self.width))
        return map(request, seen)


def request(line: bytes) -> bytes:
    """A check with this line; `walk.lua` writes the same one."""
    return b"GET /check HTTP/1.1\r\nHost: bench\r\n%b\r\n\r\n" % line


def write(folder: Path, case: Case) -> Walk:
    """A walk over all clients of a case. For tokens, the issuer's key set comes into the folder beside it."""
    if case.credential is Credential.TOKEN:
        lines = _token_lines(folder, case.clients)
    else:
        lines = [b"X-API-Key: " + population.secret(number).encode() for number in range(case.clients)]
    return write_lines(folder / "walk", lines, Draw.UNIFORM)


def drawn(walk: Walk, draw: Draw) -> Walk:
    """A walk over the clients of a uniform one, who ask as often as is drawn."""
    if draw is Draw.UNIFORM:
        return walk
    text = walk.path.read_bytes()
    lines = [text[at : at + walk.width] for at in range(0, len(text), walk.width)]
    return write_lines(walk.path.with_name(draw.name), lines, draw)


def write_lines(path: Path, lines: Sequence[bytes], draw: Draw) -> Walk:
    """A walk over these lines, which must be equally wide: each once in random order, or a million draws by Zipf."""
    width = len(lines[0])
    assert all(len(line) == width for line in lines), "lines are found by their number"
    chance = random.Random(SEED)
    if draw is Draw.UNIFORM:
        order = chance.sample(range(len(lines)), len(lines))
    else:
        weights = list(itertools.accumulate(rank**-ZIPF_EXPONENT for rank in range(1, len(lines) + 1)))
        order = chance.choices(range(len(lines)), cum_weights=weights, k=MILLION)
    path.write_bytes(b"".join([lines[number] for number in order]))
    return Walk(path, width, len(order))


def _token_lines(folder: Path, clients: int) -> list[bytes]:
    key = RSAKey.generate_key(2048, {"kid": "bench", "alg": "RS256", "use": "sig"})
    (folder / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}), "utf-8")
    now_s = int(time.time())
    claims = {"iss": ISSUER, "aud": "api", "iat": now_s, "exp": now_s + _TOKEN_LIFE_S}
    header = {"alg": "RS256", "kid": "bench", "typ": "at+jwt"}
    tokens = (jwt.encode(header, {**claims, "sub": f"bench-{number:07d}"}, key) for number in range(clients))
    return [b"Authorization: Bearer " + token.encode() for token in tokens]
