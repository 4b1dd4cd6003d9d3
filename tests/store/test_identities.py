"""Many who ask for a credential that a worker does not know are one load, and each is answered as if it were alone."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from quotas import assembly, keys, plan_files
from quotas.clients import Clients
from quotas.errors import CredentialError, StoreUnavailableError
from quotas.holders import HOUR_US, Identity, Status
from quotas.identities import Identities
from quotas.registry import Registry
from quotas.store import Store

from .proxy import Fate, Proxy, proxy

CONFIG = plan_files.parse("plans: {free: {limits: {a: {rate: 5/second}}}}", "test plans")
MANY = 100


class Scene:
    """An operator, and a worker whose store can be held up."""

    def __init__(self, direct: Store, passing: Proxy, store: Store) -> None:
        self.clients = Clients(Registry(direct), config=CONFIG, brand="quotas", pepper=None, clock=assembly.clock)
        self.passing = passing
        self.identities = Identities(Registry(store), brand="quotas", pepper=None, remembered=1000)

    async def key(self) -> bytes:
        await self.clients.create("acme", "free")
        return (await self.clients.issue_key("acme")).secret.encode()

    def asks(self, credential: bytes, *, anew: bool = False) -> asyncio.Task[str]:
        """What one who asks is told: the name of the client, or why there is none."""

        async def ask() -> str:
            try:
                _, identity = await self.identities.find(credential, assembly.clock(), anew=anew)
            except (CredentialError, StoreUnavailableError) as error:
                return str(error)
            return identity.client.name if identity.client.status is Status.ACTIVE else "suspended"

        return asyncio.create_task(ask())

    def loads(self) -> int:
        return self.passing.count(b"HMGET")


def on(redis_url: str, folder: Path, work: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Store(redis_url) as direct, proxy(redis_url, folder) as passing, Store(passing.url) as store:
            await store.call("PING")
            async with asyncio.timeout(30):
                await work(Scene(direct, passing, store))

    asyncio.run(run())


def test_one_key_is_two_round_trips_and_one_load(redis_url: str, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        secret = await scene.key()
        before = len(scene.passing.commands)
        told = await asyncio.gather(*(scene.asks(secret) for _ in range(MANY)))
        assert told == ["acme"] * MANY
        assert [command[0] for command in scene.passing.commands[before:]] == [b"HMGET", b"HGETALL", b"HGET"]
        assert await scene.asks(secret) == "acme"
        assert scene.loads() == 1

    on(redis_url, tmp_path, work)


def test_the_client_and_the_second_look_at_the_key_leave_together(redis_url: str, tmp_path: Path) -> None:
    """The key is looked at after the generation: what one connection is asked runs in order."""

    async def work(scene: Scene) -> None:
        held = asyncio.Event()

        async def hold(command: list[bytes]) -> None:
            """Let no reply pass from that about the client on."""
            if command[0] == b"HGETALL":
                scene.passing.gate.clear()
                held.set()

        secret = await scene.key()
        scene.passing.before = hold
        asked = scene.asks(secret)
        await held.wait()
        await scene.passing.until(b"HGET")
        assert not scene.passing.gate.is_set(), "the client is not known yet"
        assert [command[0] for command in scene.passing.commands[-2:]] == [b"HGETALL", b"HGET"]
        scene.passing.gate.set()
        assert await asked == "acme"

    on(redis_url, tmp_path, work)


@pytest.mark.parametrize("previous", [0, 1])
def test_an_unknown_key_is_never_remembered_and_many_at_once_are_two_loads(
    redis_url: str, tmp_path: Path, previous: int
) -> None:
    async def work(scene: Scene) -> None:
        scene.identities._previous_peppers = (b"the pepper before",) * previous  # noqa: SLF001 # As settings say it.
        scene.identities.foreign = True
        credential = keys.generate("quotas", keys.Environment.LIVE).encode()
        told = await asyncio.gather(*(scene.asks(credential) for _ in range(MANY)))
        assert told == ["invalid_credential"] * MANY
        each = 2 + previous  # Under each pepper and as an imported one, together.
        assert each <= scene.loads() <= 2 * each
        before = scene.loads()
        assert await scene.asks(credential) == "invalid_credential"
        assert scene.loads() == before + each

    on(redis_url, tmp_path, work)


@pytest.mark.parametrize("cancelled", [[0], [1], [0, 1], [0, 1, 2], [3]])
def test_who_is_cancelled_harms_no_other(redis_url: str, tmp_path: Path, cancelled: list[int]) -> None:
    async def work(scene: Scene) -> None:
        secret = await scene.key()
        scene.passing.gate.clear()
        asked = [scene.asks(secret) for _ in range(5)]
        await scene.passing.until(b"HMGET")
        for number in cancelled:
            asked[number].cancel()
        for number in cancelled:
            with suppress(asyncio.CancelledError):
                await asked[number]
        scene.passing.gate.set()
        for number, each in enumerate(asked):
            assert number in cancelled or await each == "acme"
        assert scene.loads() <= 2

    on(redis_url, tmp_path, work)


def held(scene: Scene) -> tuple[asyncio.Event, asyncio.Event]:
    """Have the next load of a key hold when it has read all, until it may go on; says when it holds."""
    registry = scene.identities._registry  # noqa: SLF001 # What is held up lies between the two.
    read, goes_on = asyncio.Event(), asyncio.Event()
    real = registry.identity

    async def slowly(digests: tuple[bytes, ...], *, imported: bytes | None = None) -> Identity | None:
        registry.identity = real  # type: ignore[method-assign] # Only this one.
        found = await real(digests, imported=imported)
        read.set()
        await goes_on.wait()
        return found

    registry.identity = slowly  # type: ignore[assignment, method-assign] # As above.
    return read, goes_on


def test_a_client_that_is_resumed_works_at_once_for_who_comes_then(redis_url: str, tmp_path: Path) -> None:
    """A no that was read before is told to who asked before, and to nobody else."""

    async def work(scene: Scene) -> None:
        secret = await scene.key()
        await scene.clients.suspend("acme")
        read, goes_on = held(scene)
        early = scene.asks(secret)
        await read.wait()
        await scene.clients.resume("acme")
        late = [scene.asks(secret) for _ in range(MANY)]
        await asyncio.sleep(0)
        goes_on.set()
        assert await early == "suspended"
        assert await asyncio.gather(*late) == ["acme"] * MANY
        assert scene.loads() == 2

    on(redis_url, tmp_path, work)


def test_who_needs_it_anew_has_nothing_that_was_read_before(redis_url: str, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        secret = await scene.key()
        read, goes_on = held(scene)
        early = scene.asks(secret)
        await read.wait()
        await scene.clients.suspend("acme")
        late = scene.asks(secret, anew=True)
        await asyncio.sleep(0)
        goes_on.set()
        assert await early == "acme"
        assert await late == "suspended"

    on(redis_url, tmp_path, work)


def test_a_store_that_fails_is_told_to_who_waits_and_not_remembered(redis_url: str, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        secret = await scene.key()
        scene.passing.fate = lambda _: b"-ERR broken\r\n"
        told = await asyncio.gather(*(scene.asks(secret) for _ in range(MANY)))
        assert told == ["reply: ERR broken"] * MANY
        assert scene.loads() <= 2
        scene.passing.fate = lambda _: Fate.PASS
        assert await scene.asks(secret) == "acme"

    on(redis_url, tmp_path, work)


def test_the_hour_of_a_key_is_remembered_with_it(redis_url: str, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        secret = await scene.key()
        digest, identity = await scene.identities.find(secret, assembly.clock())
        assert identity.key is not None
        assert identity.key.used_hour == -1
        hour = assembly.clock() // HOUR_US
        scene.identities.seen(digest, hour)
        _, identity = await scene.identities.find(secret, assembly.clock())
        assert identity.key is not None
        assert identity.key.used_hour == hour
        scene.identities.forget(digest)
        scene.identities.seen(digest, hour)
        assert scene.identities.remembered(secret) is None, "what was forgotten is not made again"

    on(redis_url, tmp_path, work)
