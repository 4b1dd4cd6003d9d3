"""Notices to all workers: who gives one returns when no worker can decide without it, whatever a worker does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quotas import news
from quotas.errors import StoreUnavailableError
from quotas.news import (
    LEASE_S,
    LISTENERS,
    MARGIN_S,
    MAX_NAMED,
    MAX_NOTICES,
    STREAM,
    Listener,
    Teller,
    about_clients,
    announce,
    clients_in,
)
from quotas.store import Store

from .proxy import Fate, proxy

PATIENCE_S = 30


@dataclass(slots=True)
class Clock:
    """Seconds, whatever the test says; each look lets some pass."""

    now_s: float = 1000.0
    step_s: float = 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@dataclass(slots=True)
class Ear:
    """A listener, and what it has heard."""

    listener: Listener
    clock: Clock
    heard: list[str | None] = field(default_factory=list)

    async def hears(self, notice: str | None) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while notice not in self.heard:
                await asyncio.sleep(0.002)


@asynccontextmanager
async def ear(url: str) -> AsyncIterator[Ear]:
    heard: list[str | None] = []
    clock = Clock()
    async with Store(url) as store, Store(url) as own, Listener(store, own, heard.append, clock=clock) as listener:
        yield Ear(listener, clock, heard)


async def entries(store: Store) -> int:
    return int(await store.call("HLEN", LISTENERS))


def test_everybody_has_heard_a_notice_when_it_has_been_given(redis_url: str) -> None:
    async def work() -> None:
        async with ear(redis_url) as one, ear(redis_url) as two, ear(redis_url) as asleep, Store(redis_url) as store:
            await one.listener.catch_up()
            await two.listener.catch_up()
            for number in range(100):
                await announce(store, f"notice {number}")
                assert one.heard[-1] == two.heard[-1] == f"notice {number}"
            assert one.heard == two.heard == [None, *(f"notice {number}" for number in range(100))]
            assert asleep.heard == []
            assert not asleep.listener.is_current()
        async with Store(redis_url) as store:
            assert await entries(store) == 0

    asyncio.run(work())


def test_nobody_listens_and_nothing_is_waited_for(redis_url: str) -> None:
    async def work() -> None:
        async with Store(redis_url) as store:
            await announce(store, "x", clock=Clock(step_s=100))
            assert await store.call("XLEN", STREAM) == 1

    asyncio.run(work())


def test_a_lease_ends_by_itself_and_is_counted_from_before_it_was_asked_for(redis_url: str) -> None:
    async def work() -> None:
        async with ear(redis_url) as one:
            assert not one.listener.is_current()
            await one.listener.catch_up()
            assert one.listener.is_current()
            one.clock.now_s += LEASE_S - 0.001
            assert one.listener.is_current()
            one.clock.now_s += 0.001
            assert not one.listener.is_current()
            await one.listener.catch_up()
            assert one.listener.is_current()

    asyncio.run(work())


def test_a_worker_that_is_stopped_holds_nobody_up_for_longer_than_its_lease(redis_url: str, tmp_path: Path) -> None:
    """Its connection stands still; the giver's clock passes the lease and the margin, and takes it off the list."""

    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, ear(passing.url) as stopped, Store(redis_url) as store:
            await stopped.listener.catch_up()
            await passing.until(b"XREAD")
            goes_on = asyncio.Event()
            passing.before = lambda _: _wait(goes_on)
            clock = Clock(step_s=0.2)
            begun_s = clock.now_s
            await announce(store, "revoked", clock=clock)
            assert clock.now_s - begun_s >= LEASE_S + MARGIN_S
            assert "revoked" not in stopped.heard
            assert await entries(store) == 0
            # It goes on: its lease is over, and it hears what it missed before it decides.
            stopped.clock.now_s += LEASE_S
            assert not stopped.listener.is_current()
            goes_on.set()
            await stopped.listener.catch_up()
            await stopped.hears("revoked")
            assert await entries(store) == 1

    asyncio.run(work())


def test_a_worker_that_has_beaten_meanwhile_is_not_taken_off_the_list(redis_url: str) -> None:
    """It has read the notice without having said so: the next giver has to wait for it as well."""

    async def work() -> None:
        async with Store(redis_url) as store:
            await store.call("HSET", LISTENERS, "w_slow", "0-0 1")
            looks = 0

            def clock() -> float:
                nonlocal looks
                looks += 1
                return 0.0 if looks == 1 else (LEASE_S + MARGIN_S) * (looks > 3)

            giving = asyncio.create_task(announce(store, "x", clock=clock))
            while looks < 2:
                await asyncio.sleep(0)
            await store.call("HSET", LISTENERS, "w_slow", "0-0 2")
            await giving
            assert await store.call("HGET", LISTENERS, "w_slow") == b"0-0 2"
            await announce(store, "y", clock=Clock(step_s=1.0))
            assert await entries(store) == 0

    asyncio.run(work())


def test_who_missed_more_than_is_kept_forgets_everything(redis_url: str) -> None:
    async def work() -> None:
        async with Store(redis_url) as store:
            own, heard, clock = Store(redis_url), list[str | None](), Clock()
            # Its own connection never answers: it hears only what it asks for.
            async with Listener(store, own, heard.append, clock=clock) as listener:
                await listener.catch_up()
                heard.clear()
                await _silence(listener)
                for number in range(MAX_NOTICES - 1):
                    await store.call("XADD", STREAM, "*", "notice", f"{number}")
                clock.now_s += LEASE_S
                await listener.catch_up()
                assert heard == [f"{number}" for number in range(MAX_NOTICES - 1)]
                heard.clear()
                for number in range(MAX_NOTICES + 1):
                    await store.call("XADD", STREAM, "MAXLEN", "~", MAX_NOTICES, "*", "notice", f"{number}")
                clock.now_s += LEASE_S
                await listener.catch_up()
                assert heard == [None]
                await store.call("XADD", STREAM, "*", "notice", "next")
                clock.now_s += LEASE_S
                await listener.catch_up()
                assert heard == [None, "next"]

    asyncio.run(work())


def test_a_stream_that_was_lost_makes_everybody_forget(redis_url: str) -> None:
    async def work() -> None:
        async with Store(redis_url) as store, Store(redis_url) as own:
            heard, clock = list[str | None](), Clock()
            async with Listener(store, own, heard.append, clock=clock) as listener:
                await store.call("XADD", STREAM, "9999999999999-0", "notice", "late")
                await listener.catch_up()
                await _silence(listener)
                heard.clear()
                await store.call("DEL", STREAM)
                await store.call("XADD", STREAM, "5-0", "notice", "early")
                clock.now_s += LEASE_S
                await listener.catch_up()
                assert heard == [None]
                await store.call("XADD", STREAM, "6-0", "notice", "later")
                clock.now_s += LEASE_S
                await listener.catch_up()
                assert heard == [None, "later"]

    asyncio.run(work())


async def _silence(listener: Listener) -> None:
    """End its background task, so that the test alone decides when it asks."""
    assert listener._listening is not None  # noqa: SLF001 # Whether anything comes by itself is another test's.
    listener._listening.cancel()  # noqa: SLF001 # As above.
    await asyncio.wait([listener._listening])  # noqa: SLF001 # As above.


def test_without_a_store_nobody_is_current_and_the_next_answer_heals_it(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, ear(passing.url) as one, Store(redis_url) as store:
            await one.listener.catch_up()
            passing.gate.clear()
            one.clock.now_s += LEASE_S
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await one.listener.catch_up()
            assert not one.listener.is_current()
            await store.call("XADD", STREAM, "*", "notice", "meanwhile")
            passing.gate.set()
            await one.hears("meanwhile")

    asyncio.run(work())


def test_a_giver_that_cannot_reach_the_store_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        async with Store(f"unix://{tmp_path}/nobody.sock") as store:
            with pytest.raises(StoreUnavailableError):
                await announce(store, "x")

    asyncio.run(work())


def test_lengths_are_measured_by_a_clock_that_never_goes_back() -> None:
    looks = [news.length_clock() for _ in range(100)]
    assert looks == sorted(looks)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def test_who_begins_to_listen_is_current_after_a_beat_and_begins_once(redis_url: str) -> None:
    async def work() -> None:
        async with ear(redis_url) as one, Store(redis_url) as store:
            one.listener.begin()
            one.listener.begin()
            assert not one.listener.is_current()
            await one.hears(None)
            assert one.listener.is_current()
            assert await entries(store) == 1
            await announce(store, "x")
            assert one.heard == [None, "x"]

    asyncio.run(work())


async def told(store: Store) -> list[str]:
    """The notices in the stream, oldest first."""
    return [words[1].decode() for _, words in await store.call("XRANGE", STREAM, "-", "+")]


def test_what_nobody_waits_for_comes_at_once_and_what_follows_closely_comes_together(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "TELL_PAUSE_S", 3600.0)

    async def work() -> None:
        async with Store(redis_url) as store:
            async with ear(redis_url) as one, Teller(store) as teller:
                one.listener.begin()
                await one.hears(None)
                teller.tell("cl_a")
                teller.tell("cl_b")
                await one.hears("clients cl_a cl_b")
                for number in range(20):
                    teller.tell(f"cl_{number % 10}")
                    await asyncio.sleep(0)
            assert len(await told(store)) == 2
            assert (await told(store))[1] == "clients " + " ".join(f"cl_{number}" for number in range(10))

    asyncio.run(work())


def test_the_second_in_a_row_waits_for_a_pause_and_the_end_does_not(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "TELL_PAUSE_S", 3600.0)

    async def work() -> None:
        async with Store(redis_url) as store, asyncio.timeout(PATIENCE_S):
            async with Teller(store) as teller:
                teller.tell("cl_a")
                while await told(store) != ["clients cl_a"]:
                    await asyncio.sleep(0)
                teller.tell("cl_b")
                teller.tell("cl_c")
                for _ in range(10):
                    await store.call("PING")
                assert len(await told(store)) == 1
            assert await told(store) == ["clients cl_a", "clients cl_b cl_c"]

    asyncio.run(work())


def test_a_teller_goes_on_after_a_store_that_does_not_answer(redis_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with proxy(redis_url, tmp_path) as passing, Store(passing.url) as store, Store(redis_url) as direct:
            passing.fate = lambda _: Fate.CUT_BEFORE
            async with asyncio.timeout(PATIENCE_S), Teller(store) as teller:
                teller.tell("cl_lost")
                await passing.until(b"XADD")
                passing.fate = lambda _: Fate.PASS
                while "clients cl_a" not in await told(direct):
                    teller.tell("cl_a")
                    await asyncio.sleep(0.002)

    asyncio.run(work())


def test_a_notice_about_clients_names_them_or_is_about_all() -> None:
    for named in ([], ["cl_a"], [f"cl_{number}" for number in range(MAX_NAMED)]):
        assert clients_in(about_clients(named)) == sorted(named)
    assert clients_in(about_clients(f"cl_{number}" for number in range(MAX_NAMED + 1))) == []
    assert clients_in("tokens") is clients_in("jti:clients") is None
