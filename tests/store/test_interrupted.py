"""An operator's change that broke off after any of its commands can be asked again and then holds.

The n-th command is carried out and its reply lost, or it is not carried out, for every n.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from takes import keys_left

from quotas import assembly, importing, plan_files
from quotas.clients import Clients
from quotas.errors import ConflictError, NotFoundError, RequestError, StoreUnavailableError
from quotas.holders import Alias, subject_client_id
from quotas.identities import Identities
from quotas.importing import Importer
from quotas.plans import Config
from quotas.registry import Registry
from quotas.revocations import Revocation, Revocations
from quotas.scripts import PackedPlan, Take, take
from quotas.store import Store
from quotas.tokens import Verified

from .proxy import Command, Fate, Proxy, proxy

MOST_COMMANDS = 20
FATES = [Fate.CUT, Fate.CUT_BEFORE]
CONFIG: Config = plan_files.parse("plans: {free: {limits: {once: {rate: 0/second, burst: 10}}}}", "test plans")


def clients_on(store: Store) -> Clients:
    return Clients(Registry(store), config=CONFIG, brand="quotas", pepper=None, clock=assembly.clock)


class WarmWorker:
    """What a worker knows of credentials, and whether it would let one pass now."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._identities = Identities(Registry(store), brand="quotas", pepper=None, remembered=100)
        self._identities.foreign = True
        self._plan = PackedPlan(CONFIG.plans["free"].limits)

    async def passes(self, secret: str) -> bool:
        while True:
            try:
                digest, identity = await self._identities.find(secret.encode(), assembly.clock())
            except RequestError:
                return False
            client = identity.client
            asked = Take(
                client_id=client.id,
                generation=client.generation,
                key_id=identity.subject_id,
                cost=0,
                now_us=assembly.clock(),
            )
            if await take(self._store, self._plan, asked) is not None:
                return True
            self._identities.forget(digest)


@dataclass(frozen=True, slots=True)
class Scene:
    """A client `acme` with one key, a worker that knows it, and an operator whose connection breaks."""

    operator: Clients
    breaking: Clients
    worker: WarmWorker
    secret: str
    key_id: str
    store: Store
    broken: Store


@asynccontextmanager
async def scene(redis_url: str, passing: Proxy) -> AsyncIterator[Scene]:
    async with Store(redis_url) as store, Store(passing.url) as broken:
        await store.call("FLUSHALL")
        operator = clients_on(store)
        await operator.create("acme", "free")
        issued = await operator.issue_key("acme")
        worker = WarmWorker(store)
        assert await worker.passes(issued.secret)
        yield Scene(operator, clients_on(broken), worker, issued.secret, issued.key.id, store, broken)


def breaking_off(redis_url: str, folder: Path, fate: Fate, work: Callable[[Scene], Awaitable[None]]) -> None:
    """Do the work with its n-th command broken off, for every n, until one ends before."""

    async def run() -> None:
        for last in range(MOST_COMMANDS):
            async with proxy(redis_url, folder) as passing:
                done = 0
                broke = False

                def count(_: Command, last: int = last) -> Fate:
                    nonlocal done, broke
                    done += 1
                    broke = broke or done > last
                    return fate if done == last + 1 else Fate.PASS

                passing.fate = count
                async with scene(redis_url, passing) as on:
                    await work(on)
                if not broke:
                    assert last > 0
                    return
        raise AssertionError("the change never came to its end")

    asyncio.run(run())


async def broken_off(change: Awaitable[object]) -> None:
    with suppress(StoreUnavailableError):
        await change


@pytest.mark.parametrize("fate", FATES)
def test_a_revocation_can_be_asked_again_and_then_holds(redis_url: str, tmp_path: Path, fate: Fate) -> None:
    async def work(on: Scene) -> None:
        await broken_off(on.breaking.revoke_key(on.key_id))
        with suppress(NotFoundError):  # It says that the key is gone: then it has to be.
            await on.operator.revoke_key(on.key_id)
        assert not await on.worker.passes(on.secret)
        assert await on.operator.keys_of("acme") == []

    breaking_off(redis_url, tmp_path, fate, work)


@pytest.mark.parametrize("fate", FATES)
def test_a_deletion_can_be_asked_again_and_frees_the_name(redis_url: str, tmp_path: Path, fate: Fate) -> None:
    async def work(on: Scene) -> None:
        await broken_off(on.breaking.delete("acme"))
        with suppress(NotFoundError):  # It says that the client is gone: then its name is free.
            await on.operator.delete("acme")
        assert not await on.worker.passes(on.secret)
        await on.operator.create("acme", "free")
        assert await on.operator.keys_of("acme") == []
        await on.operator.delete("acme")
        assert await keys_left(on.store) == []

    breaking_off(redis_url, tmp_path, fate, work)


@pytest.mark.parametrize("fate", FATES)
def test_a_creation_can_be_asked_again(redis_url: str, tmp_path: Path, fate: Fate) -> None:
    async def work(on: Scene) -> None:
        await broken_off(on.breaking.create("new", "free"))
        with suppress(ConflictError):  # It says that the client exists: then it has to.
            await on.operator.create("new", "free")
        assert (await on.operator.get("new")).plan == "free"
        await on.operator.delete("new")
        await on.operator.delete("acme")
        assert await keys_left(on.store) == []

    breaking_off(redis_url, tmp_path, fate, work)


@pytest.mark.parametrize("fate", FATES)
def test_a_key_that_was_not_handed_out_can_be_found_and_removed(redis_url: str, tmp_path: Path, fate: Fate) -> None:
    async def work(on: Scene) -> None:
        await broken_off(on.breaking.issue_key("acme", name="new"))
        for key in await on.operator.keys_of("acme"):
            await on.operator.revoke_key(key.id)
        await on.operator.delete("acme")
        assert await keys_left(on.store) == []

    breaking_off(redis_url, tmp_path, fate, work)


@pytest.mark.parametrize("fate", FATES)
def test_an_import_can_be_asked_again_and_brings_in_what_is_missing(
    redis_url: str, tmp_path: Path, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH", 2)
    foreign = [f"foreign-{number}" for number in range(3)]
    digests = [sha256(secret.encode()).hexdigest() for secret in foreign]
    lines = "\n".join(["client,name,sha256", *(f"acme,key-{n},{digest}" for n, digest in enumerate(digests))])

    async def work(on: Scene) -> None:
        for store in (on.broken, on.store):
            found = Importer(Registry(store), clock=assembly.clock).run(io.StringIO(lines), "keys.csv")
            await broken_off(found)
        for secret in foreign:
            assert await on.worker.passes(secret)
        names = [key.name for key in await on.operator.keys_of("acme") if key.imported]
        assert sorted(names) == ["key-0", "key-1", "key-2"]
        await on.operator.delete("acme")
        assert await keys_left(on.store) == [b"q1:foreign"]

    breaking_off(redis_url, tmp_path, fate, work)


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("change", ["suspend", "resume"])
def test_a_suspension_can_be_asked_again(redis_url: str, tmp_path: Path, fate: Fate, change: str) -> None:
    async def work(on: Scene) -> None:
        await broken_off(getattr(on.breaking, change)("acme"))
        client = await getattr(on.operator, change)("acme")
        assert client.status.value == ("suspended" if change == "suspend" else "active")

    breaking_off(redis_url, tmp_path, fate, work)


ADA = Alias("https://id.example.com", "ada")


@pytest.mark.parametrize("fate", FATES)
def test_an_alias_can_be_made_and_taken_away_again(redis_url: str, tmp_path: Path, fate: Fate) -> None:
    """Whatever broke off, no generation stays as it was while a worker could know better or worse."""

    async def work(on: Scene) -> None:
        registry = Registry(on.store)
        own = await registry.subject_client(subject_client_id(ADA.digest), ("ada", "ada2"), "free", 1)
        assert own is not None
        await broken_off(on.breaking.add_alias("acme", ADA))
        await on.operator.add_alias("acme", ADA)
        assert await registry.alias(ADA.digest) == (await on.operator.get("acme")).id
        raised = await registry.client_of_id(own.id)
        assert raised is not None
        assert raised.generation > own.generation
        before = (await on.operator.get("acme")).generation
        await broken_off(on.breaking.remove_alias("acme", ADA.digest))
        with suppress(NotFoundError):  # It says that there is no alias: then it has to be gone.
            await on.operator.remove_alias("acme", ADA.digest)
        assert await registry.alias_holder(ADA.digest) is None
        assert await on.operator.aliases_of("acme") == []
        assert (await on.operator.get("acme")).generation > before

    breaking_off(redis_url, tmp_path, fate, work)


@pytest.mark.parametrize("fate", FATES)
def test_a_deleted_client_leaves_no_alias(redis_url: str, tmp_path: Path, fate: Fate) -> None:
    async def work(on: Scene) -> None:
        await on.operator.add_alias("acme", ADA)
        await broken_off(on.breaking.delete("acme"))
        with suppress(NotFoundError):
            await on.operator.delete("acme")
        assert await keys_left(on.store) == []

    breaking_off(redis_url, tmp_path, fate, work)


@pytest.mark.parametrize("fate", FATES)
def test_a_subjects_revocation_can_be_asked_again_and_then_holds(redis_url: str, tmp_path: Path, fate: Fate) -> None:
    """Both clients that its tokens may count against are raised, also when its alias is taken away meanwhile."""

    async def work(on: Scene) -> None:
        registry = Registry(on.store)
        own = await registry.subject_client(subject_client_id(ADA.digest), ("ada", "ada2"), "free", 1)
        assert own is not None
        await on.operator.add_alias("acme", ADA)
        acme = await on.operator.get("acme")
        await on.store.call("HSET", "q1:aliases", ADA.digest, f"-{acme.id}")  # Its removal broke off here.
        token = Verified(ADA.issuer, ADA.subject, "ada", 10**15, 10**15)
        revocations = Revocations(on.store, registry)
        revocation = Revocation(ADA.issuer, subject=ADA.subject)
        await broken_off(Revocations(on.broken, Registry(on.broken)).revoke(revocation, 0))
        await revocations.revoke(revocation, 0)
        assert await revocations.is_revoked(token)
        raised = await registry.client_of_id(own.id)
        assert raised is not None
        assert raised.generation > own.generation
        assert (await on.operator.get("acme")).generation > acme.generation
        assert await revocations.all(0) == [revocation]
        await broken_off(Revocations(on.broken, Registry(on.broken)).restore(revocation.id))
        await revocations.restore(revocation.id)
        assert not await revocations.is_revoked(token)
        assert await revocations.all(0) == []

    breaking_off(redis_url, tmp_path, fate, work)


def test_who_finishes_a_removal_late_takes_no_newer_client_along(redis_url: str) -> None:
    """Two delete the same client; before the slower one ends, another client has its name."""

    async def work() -> None:
        async with Store(redis_url) as store, Store(redis_url) as slow:
            await store.call("FLUSHALL")
            operator = clients_on(store)
            for stops_at in range(2, MOST_COMMANDS):  # After it has looked up whom the name belongs to.
                await operator.create("acme", "free")
                await operator.add_alias("acme", ADA)
                go_on, asked = asyncio.Event(), 0
                run, call = slow.run, slow.call

                async def held(*words: Any, real: Any, at: int = stops_at, until: asyncio.Event = go_on) -> Any:
                    nonlocal asked
                    asked += 1
                    if asked == at:
                        await until.wait()
                    return await real(*words)

                slow.run = partial(held, real=run)  # type: ignore[method-assign] # Each command waits for the test.
                slow.call = partial(held, real=call)  # type: ignore[method-assign] # As above.
                late = asyncio.create_task(clients_on(slow).delete("acme"))
                while asked < stops_at and not late.done():
                    await asyncio.sleep(0)
                if late.done():
                    assert stops_at > 5, "it was held before each of its commands"
                    return
                with suppress(NotFoundError):
                    await operator.delete("acme")
                new = await operator.create("acme", "free")
                await operator.add_alias("acme", ADA)
                go_on.set()
                with suppress(NotFoundError):
                    await late
                slow.run, slow.call = run, call  # type: ignore[method-assign] # As they were.
                assert (await operator.get("acme")).id == new.id, f"held before command {stops_at}"
                assert await operator.aliases_of("acme") == [ADA]
                await operator.delete("acme")
            raise AssertionError("the removal never came to its end")

    asyncio.run(work())
