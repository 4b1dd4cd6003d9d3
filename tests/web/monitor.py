"""What a server is asked, and what it holds, seen from beside the service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from quotas.news import STREAM
from quotas.store import Store

_LINE = 1 << 20
_END = b"the end of the watch"


@asynccontextmanager
async def watched(redis_url: str) -> AsyncIterator[list[str]]:
    """The commands that clients send meanwhile, as MONITOR writes them; those of scripts are left out.

    The list is filled when the context ends.
    """
    path = unquote(urlsplit(redis_url).path)
    reader, writer = await asyncio.open_unix_connection(path, limit=_LINE)
    try:
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        commands: list[str] = []
        yield commands
        async with Store(redis_url) as store:
            await store.call("ECHO", _END)
        while _END not in (line := await reader.readline()):
            if b"[0 lua]" not in line and b"CLIENT" not in line:
                commands.append(line.decode("latin-1"))
    finally:
        writer.close()
        await writer.wait_closed()


async def holdings(store: Store) -> dict[bytes, bytes]:
    """Every key of the server but the notices with its value; a hash as its fields and values in a row."""
    found: dict[bytes, bytes] = {}
    for key in await store.call("KEYS", "*"):
        if key == STREAM.encode():
            continue
        if await store.call("TYPE", key) == b"string":
            found[key] = await store.call("GET", key)
        else:
            found[key] = b" ".join(await store.call("HGETALL", key))
    return found
