"""Real servers in processes of their own: a master with its replica and sentinels, and a cluster."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from quotas.valkey import find_binary

PATIENCE_S = 60
"""A bound for what should take a moment, never an expectation."""
POLL_S = 0.01
LOCAL = "127.0.0.1"
USER, PASSWORD = "quotas", "p@ss/w:rd"
WITHOUT_ROLE = "plain"
"""A user that may not ask for a server's role."""
QUOTED = "p%40ss%2Fw%3Ard"
SENTINEL_PASSWORD = "for the sentinels"
SERVICE = "main"
SLOTS = 16_384


def until(condition: Callable[[], object]) -> None:
    """Wait for the condition; a server that does not answer has not come so far."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(POLL_S)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind((LOCAL, 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(slots=True)
class Valkey:
    """One server. It is asked by `ask`, and ended with the context that started it."""

    port: int
    process: "subprocess.Popen[bytes]"
    password: str | None = None

    def ask(self, *words: object) -> Any:
        with Redis(host=LOCAL, port=self.port, password=self.password, socket_timeout=PATIENCE_S) as client:
            return client.execute_command(*words)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@dataclass(slots=True)
class Servers:
    """Starts servers below a folder, and ends them all."""

    folder: Path
    stack: ExitStack

    def start(self, port: int, *options: str, password: str | None = None) -> Valkey:
        folder = self.folder / str(port)
        folder.mkdir()
        command = [str(find_binary()), *options, "--port", str(port), "--bind", LOCAL, "--dir", str(folder)]
        command += ["--loglevel", "warning", "--logfile", str(folder / "log")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.stack.callback(_end, process)
        server = Valkey(port, process, password)
        until(lambda: server.ask("PING"))
        return server


@contextmanager
def alone(folder: Path) -> Iterator[Valkey]:
    """One server."""
    with ExitStack() as stack:
        yield Servers(folder, stack).start(free_ports(1)[0], "--save", "")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Watched:
    """A master with a replica, and the sentinels that watch them."""

    servers: list[Valkey]
    sentinels: list[Valkey]

    def url(self, *, user: str = USER, service: str = SERVICE, more: str = "") -> str:
        hosts = ",".join(f"{LOCAL}:{each.port}" for each in self.sentinels)
        asked = f"sentinel_password={SENTINEL_PASSWORD.replace(' ', '%20')}{more}"
        return f"redis+sentinel://{user}:{QUOTED}@{hosts}/{service}/0?{asked}"

    def master(self) -> Valkey:
        """Whatever the first sentinel names now."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(each for each in self.servers if each.port == int(port))

    def settle(self) -> None:
        """Wait until every sentinel knows all others and the replica, and the replica has all."""
        until(lambda: all(self._knows(each) for each in self.sentinels))
        master = self.master()
        master.ask("SET", "settled", 1)
        until(lambda: master.ask("WAIT", 1, PATIENCE_S * 1_000) == 1)

    def _knows(self, sentinel: Valkey) -> bool:
        words = sentinel.ask("SENTINEL", "MASTER", SERVICE)
        state = words if isinstance(words, dict) else dict(zip(words[::2], words[1::2], strict=True))
        told = {_text(name): _text(value) for name, value in state.items()}
        return (told["num-other-sentinels"], told["num-slaves"]) == (str(len(self.sentinels) - 1), "1")


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


@contextmanager
def watched(folder: Path, *, sentinels: int = 3, down_after_ms: int = 500) -> Iterator[Watched]:
    """A master, its replica and sentinels, all with passwords, that know each other."""
    with ExitStack() as stack:
        starter = Servers(folder, stack)
        ports = free_ports(2 + sentinels)
        rights = ["on", f">{PASSWORD}", "~q1:*", "+@all", "-@dangerous"]
        user = ["--user", USER, *rights, "+role", "--user", WITHOUT_ROLE, *rights]
        common = ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--save", "", "--repl-diskless-sync-delay", "0"]
        common += user
        master = starter.start(ports[0], *common, password=PASSWORD)
        replica = starter.start(ports[1], *common, "--replicaof", LOCAL, str(ports[0]), password=PASSWORD)
        watchers = []
        for port in ports[2:]:
            file = folder / f"sentinel-{port}.conf"
            lines = [
                f"sentinel monitor {SERVICE} {LOCAL} {ports[0]} {sentinels // 2 + 1}",
                f"sentinel auth-pass {SERVICE} {PASSWORD}",
                f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
                f"sentinel failover-timeout {SERVICE} 5000",
                f'sentinel sentinel-pass "{SENTINEL_PASSWORD}"',
                f'requirepass "{SENTINEL_PASSWORD}"',
            ]
            file.write_text("\n".join(lines) + "\n", "utf-8")
            watchers.append(starter.start(port, str(file), "--sentinel", password=SENTINEL_PASSWORD))
        made = Watched([master, replica], watchers)
        made.settle()
        yield made


@dataclass(frozen=True, slots=True)
class Clustered:
    """The masters of a cluster, each with an equal share of the slots, and replicas of the first of them."""

    masters: list[Valkey]
    replicas: list[Valkey]

    @property
    def nodes(self) -> list[Valkey]:
        return self.masters + self.replicas

    def url(self, more: str = "") -> str:
        return "redis+cluster://" + ",".join(f"{LOCAL}:{each.port}" for each in self.masters) + more

    def empty(self) -> None:
        for each in self.masters:
            each.ask("FLUSHALL")
            each.ask("SCRIPT", "FLUSH")

    def owner(self, slot: int) -> Valkey:
        """Which master says that it has this slot."""
        return next(each for each in self.masters if _shares(each).get(slot) == _id(each))

    def migrate(self, slot: int, there: Valkey, *, between: Callable[[], None] = lambda: None) -> None:
        """Move a slot key by key, as `--cluster reshard` does; `between` is called before each and at the end."""
        here = self.owner(slot)
        with self.moving(slot, there):
            while keys := here.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
                between()
                here.ask("MIGRATE", LOCAL, there.port, "", 0, PATIENCE_S * 1_000, "KEYS", *keys)
            between()

    def migrate_at_once(self, slot: int, there: Valkey) -> None:
        """Move a slot in one step, as Valkey can from 9 on."""
        here = self.owner(slot)
        here.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", _id(there))
        until(lambda: all(_shares(each).get(slot) == _id(there) for each in self.masters))

    @contextmanager
    def moving(self, slot: int, there: Valkey) -> Iterator[None]:
        """A slot is on its way; at the end all of it is there."""
        here = self.owner(slot)
        there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(here))
        here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(there))
        yield
        if keys := here.ask("CLUSTER", "GETKEYSINSLOT", slot, 1_000):
            here.ask("MIGRATE", LOCAL, there.port, "", 0, PATIENCE_S * 1_000, "KEYS", *keys)
        for each in (there, here, *self.masters):
            each.ask("CLUSTER", "SETSLOT", slot, "NODE", _id(there))

    def settle(self) -> None:
        """Wait until all nodes agree on who has what, and serve."""
        until(lambda: all(_is_ok(each) for each in self.nodes))
        until(lambda: len({frozenset(_shares(each).items()) for each in self.nodes}) == 1)


def _id(server: Valkey) -> str:
    return _text(server.ask("CLUSTER", "MYID"))


def _is_ok(server: Valkey) -> bool:
    return "cluster_state:ok" in _text(server.ask("CLUSTER", "INFO"))


def _shares(server: Valkey) -> dict[int, str]:
    """Which master has each slot, as this server sees it."""
    found: dict[int, str] = {}
    for first, last, master, *_ in server.ask("CLUSTER", "SLOTS"):
        found |= dict.fromkeys(range(int(first), int(last) + 1), _text(master[2]))
    return found


@contextmanager
def clustered(folder: Path, *, masters: int = 3, replicas: int = 0) -> Iterator[Clustered]:
    """A cluster that serves."""
    with ExitStack() as stack:
        starter = Servers(folder, stack)
        ports = free_ports(2 * (masters + replicas))
        common = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--save", ""]
        common += ["--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"]
        nodes = [
            starter.start(port, *common, "--cluster-port", str(bus))
            for port, bus in zip(ports[::2], ports[1::2], strict=True)
        ]
        edges = [SLOTS * number // masters for number in range(masters + 1)]
        for number, node in enumerate(nodes[:masters]):
            node.ask("CLUSTER", "ADDSLOTSRANGE", edges[number], edges[number + 1] - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port, bus in zip(ports[2::2], ports[3::2], strict=True):
            nodes[0].ask("CLUSTER", "MEET", LOCAL, port, bus)
        made = Clustered(nodes[:masters], nodes[masters:])
        first = _id(nodes[0])
        for replica in made.replicas:
            _replicate(replica, first)
        made.settle()
        yield made


def _replicate(replica: Valkey, master_id: str) -> None:
    until(lambda: master_id in _text(replica.ask("CLUSTER", "NODES")))
    until(lambda: replica.ask("CLUSTER", "REPLICATE", master_id))
