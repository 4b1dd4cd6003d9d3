"""Clients with a key each, up to a million, written in bulk in the format of `quotas.registry`.

The registry makes one client at a time, in four round trips, with random ids: a million would take minutes. Here names,
ids and keys follow from a number, and what is written is what the registry would write, which a test compares field by
field. It is for throwaway stores only: whoever knows the number knows the key.
"""

import socket
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from hiredis import Reader, ReplyError, pack_command

from quotas import keys
from quotas.holders import Client, Key, Status
from quotas.scripts import record_key

BRAND = "quotas"
BATCH = 500
"""Clients that are written at a time; a tenth of a megabyte."""

_CHUNK = 1 << 16
Command = tuple[str | int, ...]


def secret(number: int) -> str:
    """The key of a client: well-formed, and made of its number."""
    text = f"{BRAND}_{keys.Environment.LIVE.value}_{number:0{keys.BODY_LENGTH}d}"
    return text + keys.checksum(text.encode())


def client(number: int, plan: str, now_us: int) -> Client:
    """A client's record."""
    return Client(f"cl_{number:014d}", f"bench-{number}", plan, Status.ACTIVE, 1, now_us)


def key(number: int, owner: Client) -> Key:
    """The record of the one key of a client."""
    made = f"{keys.KEY_KIND}_{number:014d}"
    return Key(made, owner.id, "bench", keys.shown(secret(number)), keys.Environment.LIVE, owner.created_at_us)


def digest(number: int) -> str:
    """Under which the key of a client is kept."""
    return keys.digest(secret(number).encode(), None).hex()


def settle(url: str, plan: str, clients: int, now_us: int) -> None:
    """Write so many clients on this plan, and their keys, to the store at `url`, unix://. Raises ReplyError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(unquote(urlsplit(url).path))
        for first in range(0, clients, BATCH):
            numbers = range(first, min(first + BATCH, clients))
            _send(connection, list(_commands(numbers, plan, now_us)))


def _commands(numbers: range, plan: str, now_us: int) -> Iterator[Command]:
    names: list[str] = []
    owners: list[str] = []
    for number in numbers:
        owner = client(number, plan, now_us)
        made, found = key(number, owner), digest(number)
        names += (owner.name, owner.id)
        owners += (made.id, owner.id)
        words = ("name", owner.name, "plan", plan, "status", owner.status.value)
        yield "HSET", record_key(owner.id), *words, "created_at_us", now_us, "generation", owner.generation
        yield "HSET", f"q1:{{{owner.id}}}:keys", made.id, found
        about = ("id", made.id, "client_id", owner.id, "name", made.name, "shown", made.shown)
        yield "HSET", f"q1:key:{found}", *about, "environment", made.environment.value, "created_at_us", now_us
    yield "HSET", "q1:clients", *names
    yield "HSET", "q1:keys", *owners


def _send(connection: socket.socket, commands: list[Command]) -> None:
    """Send all at once and read every reply; the first error is raised."""
    connection.sendall(b"".join([pack_command(command) for command in commands]))  # type: ignore[arg-type] # Typed for one word.
    reader = Reader()
    left = len(commands)
    while left:
        reply = reader.gets()
        if reply is False:
            reader.feed(connection.recv(_CHUNK))
            continue
        if isinstance(reply, ReplyError):
            raise reply
        left -= 1
