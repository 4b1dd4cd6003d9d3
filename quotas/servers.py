"""Where the store is, as `QUOTAS_REDIS_URL` says it: one server, one that sentinels name, or the nodes of a cluster.

    redis://user:password@host:6379/0                               one server
    redis+sentinel://user:password@host:26379,host:26379/service/0  the master of a service
    redis+cluster://user:password@host:6379,host:6379               a cluster

`rediss` in place of `redis` is TLS. What stands behind `?` are options of redis-py's connections, for every server
alike, and for sentinels `sentinel_username`, `sentinel_password` and `sentinel_tls` (1 or 0; without it as the
server). Set-up (TLS, authentication, database, sockets) and discovery are redis-py's, its retries are off. No fault
quotes what was written: any part of it can be of a password.
"""

import random
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

import redis.asyncio
from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

from quotas.errors import ConfigError, Fault

CONNECT_TIMEOUT_S = 1.0
ASK_TIMEOUT_S = 0.5
"""How long a sentinel, or a node that is asked where slots are, may take before the next one is asked."""

_OURS: Mapping[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "retry": Retry(NoBackoff(), 0),
    "retry_on_timeout": False,
    "socket_timeout": None,
    "socket_connect_timeout": CONNECT_TIMEOUT_S,
    "health_check_interval": 0,
    "client_name": "quotas",
}
_ASKING: Mapping[str, Any] = {
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": ASK_TIMEOUT_S,
    "socket_connect_timeout": ASK_TIMEOUT_S,
    "client_name": "quotas",
}

_MANY = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>sentinel|cluster)://(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#@]+)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_ADVICE = "cannot be read; write it as %s, with what is special percent-encoded"
_FORMS = {
    "sentinel": "redis+sentinel://user:password@host:26379,host:26379/service/0",
    "cluster": "redis+cluster://user:password@host:6379,host:6379",
}
_FORM = "redis://user:password@host:6379/0"

Address = tuple[str, int]


class Place(Protocol):
    """Something that a connection can be made to."""

    async def connect(self) -> AbstractConnection:
        """A connection that is set up. Raises RedisError or OSError."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server. `options` are those of redis-py's `ConnectionPool`."""

    options: Mapping[str, Any] = field(repr=False)

    async def connect(self) -> AbstractConnection:
        """A connection to it."""
        pool = redis.asyncio.ConnectionPool(**self.options)
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call] # As it ships.
        try:
            await connection.connect()  # type: ignore[no-untyped-call] # As it ships.
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def at(self, address: Address) -> "Server":
        """A server with the same options elsewhere."""
        return Server({**self.options, "host": address[0], "port": address[1]})


@dataclass(frozen=True, slots=True)
class Sentinels:
    """The master of a service, which the sentinels at these addresses name; they are asked with options of their own.

    `server` has the options of the master.
    """

    addresses: tuple[Address, ...]
    service: str
    server: Server
    asking: Mapping[str, Any] = field(repr=False)

    async def connect(self) -> AbstractConnection:
        """A connection to whatever is the master now, by the first sentinel that knows, in random order."""
        addresses = random.sample(self.addresses, len(self.addresses))
        async with Sentinel(addresses, sentinel_kwargs=dict(self.asking)) as sentinel:  # type: ignore[no-untyped-call] # As it ships.
            try:
                host, port = await sentinel.discover_master(self.service)
            except MasterNotFoundError as error:
                told = f"no sentinel that answers knows a master of {self.service!r} that is up"
                raise NotConnectedError(told) from error
        connection = await self.server.at((host, int(port))).connect()
        # Sentinels may not have heard yet, and a replica would answer from what it has, for as long as nobody writes.
        role = await _asked(connection, "ROLE")
        if role is not None and role[0] != b"master":
            await connection.disconnect(nowait=True)
            raise NotConnectedError("what the sentinels name is no master any more, or not yet")
        return connection


@dataclass(frozen=True, slots=True)
class Nodes:
    """A cluster, by the addresses of some nodes; `server` has the options of each of them."""

    addresses: tuple[Address, ...]
    server: Server

    async def connect(self) -> AbstractConnection:
        """A connection to any node that answers, in random order; what it has not, it says where that is."""
        *others, last = random.sample(self.addresses, len(self.addresses))
        for address in others:
            try:
                return await self._connect(address)
            except (RedisError, OSError):
                continue
        return await self._connect(last)

    async def _connect(self, address: Address) -> AbstractConnection:
        connection = await self.server.at(address).connect()
        try:
            await _asked(connection, "CLUSTER", "MYID")
        except ResponseError as error:
            told = "this server is no node of a cluster; write its URL with redis:// in place of redis+cluster://"
            raise NotConnectedError(told) from error
        return connection

    async def owners(self, known: Collection[Address]) -> dict[int, Address]:
        """Which master has each slot, as one of these or of the `known` nodes sees it; nobody's slots are left out.

        Raises RedisError or OSError.
        """
        options = {**self.server.options, **_ASKING}
        nodes = [ClusterNode(*address, **options) for address in {*self.addresses, *known}]
        manager = NodesManager(nodes, False, options, dynamic_startup_nodes=False)  # noqa: FBT003 # As it ships.
        try:
            await manager.initialize()
        except RedisClusterException as error:
            raise NotConnectedError(str(error)) from error
        except IndexError:  # It takes for granted that there is one slot at least.
            return {}
        finally:
            # The nodes' own way waits for each, and who is cancelled meanwhile would leave the rest open.
            for connection in [each for node in nodes for each in node._connections]:  # noqa: SLF001 # See above.
                await connection.disconnect(nowait=True)
        # A node that says no host of its own is where the others are, at another port.
        host = self.addresses[0][0]
        return {slot: (owners[0].host or host, int(owners[0].port)) for slot, owners in manager.slots_cache.items()}


async def _asked(connection: AbstractConnection, *words: str) -> Any:
    """The reply to one command of the set-up; None when this user may not ask it."""
    try:
        await connection.send_command(*words)
        return await connection.read_response()
    except NoPermissionError:
        return None
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


def read(url: str) -> Server | Sentinels | Nodes:
    """What a URL says. Raises ConfigError when it cannot be read, or has an option that redis-py does not know."""
    kind = re.match(r"rediss?\+(sentinel|cluster):", url)
    try:
        return _checked(parse_url(url)) if kind is None else _many(url)
    except (ValueError, TypeError):
        # What redis-py says can quote a part of the password.
        told = _ADVICE % (_FORM if kind is None else _FORMS[kind[1]])
        raise ConfigError("store", [Fault("QUOTAS_REDIS_URL", told)]) from None


def _many(url: str) -> Sentinels | Nodes:
    found = _MANY.fullmatch(url)
    if found is None:
        raise ValueError
    return _sentinels(found) if found["kind"] == "sentinel" else _nodes(found)


def _sentinels(found: re.Match[str]) -> Sentinels:
    service, _, database = (found["path"] or "").removeprefix("/").partition("/")
    if not service or not re.fullmatch(r"[0-9]{0,5}", database):
        raise ValueError
    options = _options(found) | {"db": int(database or 0)}
    asking = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    tls = options.pop("sentinel_tls", "1" if found["scheme"] == "rediss" else "0")
    if tls not in {"0", "1"}:
        raise ValueError
    if tls == "1":
        asking |= {name: value for name, value in options.items() if name.startswith("ssl_")} | {"ssl": True}
        if found["scheme"] == "redis":
            options = {name: value for name, value in options.items() if not name.startswith("ssl_")}
    server = _checked(options)
    return Sentinels(_addresses(found, 26_379), unquote(service), server, {**asking, **_ASKING})


def _nodes(found: re.Match[str]) -> Nodes:
    if (found["path"] or "/") not in {"/", "/0"}:
        raise ValueError  # A cluster has only this database.
    options = _options(found)
    if options.get("db"):
        raise ValueError
    return Nodes(_addresses(found, 6_379), _checked(options))


def _options(found: re.Match[str]) -> dict[str, Any]:
    """What redis-py makes of all but the hosts and the path."""
    user = "" if found["user"] is None else found["user"] + "@"
    return {**parse_url(f"{found['scheme']}://{user}?{found['query'] or ''}")}


def _addresses(found: re.Match[str], port: int) -> tuple[Address, ...]:
    addresses = []
    for host in found["hosts"].split(","):
        read = parse_url(f"redis://{host}")
        if "host" not in read:
            raise ValueError
        addresses.append((read["host"], read.get("port", port)))
    return tuple(addresses)


def _checked(options: Mapping[str, Any]) -> Server:
    """A server with these options, under ours. Raises ValueError or TypeError for what redis-py does not take."""
    server = Server({**options, **_OURS})
    redis.asyncio.ConnectionPool(**server.options).make_connection()  # type: ignore[no-untyped-call] # As it ships.
    return server
