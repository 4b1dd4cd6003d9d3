"""The script that adds refusals to a history: once, and to nobody who is gone."""

import pytest
from takes import with_store

from quotas.errors import StoreUnavailableError
from quotas.scripts import TALLY, record_key, refused_key, tallied_key
from quotas.store import Store

RECORD, REFUSED, MARK = record_key("cl_test"), refused_key("cl_test", 20_522), tallied_key("cl_test", "w_1")
KEEP_S, MARK_S = 400 * 86_400, 3600


async def tally(store: Store, number: int, *pairs: str | int, mark: str = MARK, created: int = 7) -> int:
    reply = await store.run(TALLY, (RECORD, REFUSED, mark), (created, number, KEEP_S, MARK_S, *pairs))
    return int(reply)


async def counted(store: Store) -> dict[str, int]:
    words = [word.decode() for word in await store.call("HGETALL", REFUSED)]
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def test_refusals_add_up_and_each_call_counts_once(redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", RECORD, "created_at_us", 7)
        assert await tally(store, 3, "53:rate_limited", 12, "54:never", 1) == 1
        assert await tally(store, 3, "53:rate_limited", 12, "54:never", 1) == 0
        assert await tally(store, 2, "53:rate_limited", 99) == 0
        assert await tally(store, 4, "53:rate_limited", 5) == 1
        assert await tally(store, 1, "53:rate_limited", 2, mark=tallied_key("cl_test", "w_2")) == 1
        assert await counted(store) == {"53:rate_limited": 19, "54:never": 1}

    with_store(redis_url, work)


def test_keys_are_these_and_end(redis_url: str) -> None:
    assert (REFUSED, MARK) == ("q1:{cl_test}:refused:20522", "q1:{cl_test}:tallied:w_1")

    async def work(store: Store) -> None:
        await store.call("HSET", RECORD, "created_at_us", 7)
        await tally(store, 1, "53:never", 12)
        assert KEEP_S - 60 < await store.call("TTL", REFUSED) <= KEEP_S
        assert MARK_S - 60 < await store.call("TTL", MARK) <= MARK_S
        await store.call("EXPIRE", REFUSED, 5_000)
        await tally(store, 2, "53:never", 12)
        assert await store.call("TTL", REFUSED) <= 5_000

    with_store(redis_url, work)


@pytest.mark.parametrize("record", [(), ("name", "acme"), ("created_at_us", "8")])
def test_a_client_that_is_gone_or_made_anew_is_not_written_to(redis_url: str, record: tuple[str, ...]) -> None:
    async def work(store: Store) -> None:
        if record:
            await store.call("HSET", RECORD, *record)
        assert await tally(store, 1, "53:never", 12) == 0
        assert await store.call("KEYS", "*") == ([RECORD.encode()] if record else [])

    with_store(redis_url, work)


def test_a_whole_day_of_every_outcome_is_one_call(redis_url: str) -> None:
    outcomes = ("rate_limited", "quota_exceeded", "never")
    pairs = [word for quarter in range(96) for outcome in outcomes for word in (f"{quarter}:{outcome}", 1)]

    async def work(store: Store) -> None:
        await store.call("HSET", RECORD, "created_at_us", 7)
        assert await tally(store, 1, *pairs) == 1
        assert sum((await counted(store)).values()) == 288

    with_store(redis_url, work)


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        ((RECORD, REFUSED), (7, 1, 1, 1, "0:never", 1)),
        ((RECORD, REFUSED, MARK), (7, 1, 1, 1)),
        ((RECORD, REFUSED, MARK), (7, 1, 1, 1, "0:never")),
        ((RECORD, REFUSED, MARK), (7, "x", 1, 1, "0:never", 1)),
        ((RECORD, REFUSED, MARK), (7, "1.5", 1, 1, "0:never", 1)),
    ],
)
def test_wrong_arguments_are_refused(redis_url: str, keys: tuple[str, ...], arguments: tuple[int | str, ...]) -> None:
    async def work(store: Store) -> None:
        await store.call("HSET", RECORD, "created_at_us", 7)
        with pytest.raises(StoreUnavailableError, match="tally:"):
            await store.run(TALLY, keys, arguments)
        assert await store.call("DBSIZE") == 1

    with_store(redis_url, work)
