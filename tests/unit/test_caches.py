"""The cache remembers no more than it may, forgets who is not asked for first, and never gives what was not kept."""

import gc
import tracemalloc
from dataclasses import dataclass
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import caches
from quotas.caches import ENTRY_BYTES, SAMPLE, Cache
from quotas.holders import Client, Held, Identity, Status
from quotas.identities import BYTES_EACH, Identities
from quotas.keys import Environment
from quotas.registry import Registry
from quotas.store import Store

PLENTY = 1 << 40


@dataclass(frozen=True, slots=True)
class Value:
    """A text, and when it is over."""

    text: str
    until_us: int = PLENTY
    stays: bool = False

    def is_expired(self, now_us: int) -> bool:
        return now_us >= self.until_us


def pack(value: Value) -> bytes:
    return f"{value.until_us} {value.text}".encode()


def unpack(packed: bytes, stays: bool) -> Value:  # noqa: FBT001 # As a cache calls it.
    until_us, _, text = packed[:-1].decode().partition(" ")
    return Value(text, int(until_us), stays)


def cache_of(max_entries: int = 1000, max_bytes: int = PLENTY) -> Cache[Value]:
    return Cache(max_entries, max_bytes, pack, unpack)


def digest(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def text(cache: Cache[Value], number: int) -> str | None:
    value = cache.get(digest(number))
    return None if value is None else value.text


NUMBERS = st.integers(0, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), NUMBERS, st.text(max_size=5)),
        st.tuples(st.just("change"), NUMBERS, st.text(max_size=5)),
        st.tuples(st.sampled_from(["get", "forget"]), NUMBERS, st.just("")),
        st.tuples(st.just("clear"), st.just(0), st.just("")),
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 12), st.integers(1, 3))
def test_what_is_found_is_what_was_kept_last(steps: list[tuple[str, int, str]], most: int, at_hand: int) -> None:
    """Whatever was evicted is not found; and with room for all, all is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(caches, "MAX_AT_HAND", at_hand)
        patched.setattr(caches, "SAMPLE", 2)
        cache, kept = cache_of(most), dict[int, str]()
        for what, number, words in steps:
            if what == "keep":
                cache.keep(digest(number), Value(words), 0)
                kept[number] = words
            elif what == "change":
                remembered = cache.get(digest(number)) is not None
                cache.change(digest(number), lambda value, words=words: Value(words, value.until_us))  # type: ignore[misc] # Bound now.
                if remembered:
                    kept[number] = words
            elif what == "forget":
                cache.forget(digest(number))
                kept.pop(number, None)
            elif what == "clear":
                cache.clear()
                kept.clear()
            for each in range(10):
                found = text(cache, each)
                assert found == kept.get(each) or (found is None and most < 10)
            assert len(cache) <= most
            assert most < 10 or len(cache) == len(kept)


def test_it_is_bounded_in_entries_and_in_bytes() -> None:
    by_entries, by_bytes = cache_of(100), cache_of(max_bytes=100 * (ENTRY_BYTES + 70))
    for number in range(1000):
        for cache in (by_entries, by_bytes):
            cache.keep(digest(number), Value("x" * 50), 0)
    assert len(by_entries) == 100
    assert 95 <= len(by_bytes) <= 102
    by_bytes.keep(digest(0), Value("x" * 100 * (ENTRY_BYTES + 70)), 0)
    assert text(by_bytes, 0) is None, "what has no room alone is not kept"
    assert len(by_bytes) < 100


def test_who_is_asked_for_outlives_who_is_not() -> None:
    cache = cache_of(10_000)
    for number in range(50_000):
        cache.keep(digest(number), Value("v"), 0)
        if number >= 1000:
            assert text(cache, number % 1000) == "v"
    assert len(cache) == 10_000
    assert all(text(cache, number) for number in range(1000))


def test_all_that_have_a_mark_do_not_keep_a_new_one_out() -> None:
    """Nor does it look at all of them: an eviction spares a few, and then one goes all the same."""
    cache = cache_of(5000)
    for number in range(5000):
        cache.keep(digest(number), Value("v"), 0)
    assert all(text(cache, number) for number in range(5000))
    cache.keep(digest(5000), Value("new"), 0)
    assert text(cache, 5000) == "new"
    assert len(cache) == 5000


def test_who_asks_often_is_at_hand_as_the_same_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MAX_AT_HAND", 2)
    cache = cache_of()
    for number in range(3):
        cache.keep(digest(number), Value(f"{number}"), 0)
    first, second = cache.get(digest(0)), cache.get(digest(1))
    assert [each is not None and each.stays for each in (first, second)] == [True, True], "there is room"
    assert cache.get(digest(0)) is first
    found = [cache.get(digest(2)) for _ in range(SAMPLE)]
    stays = [each is not None and each.stays for each in found]
    assert not stays[0], "there is no room for who asks once"
    assert stays[-1], "who asks often is there soon"
    assert cache.get(digest(1)) is second
    again = cache.get(digest(0))
    assert again is not first, "the first that was at hand is packed again"
    assert again == Value("0")
    cache.keep(digest(2), Value("other"), 0)
    assert text(cache, 2) == "other"


def test_what_has_expired_goes_as_others_come() -> None:
    """Tokens that live for minutes would fill the cache, and it would be as large as it may for nothing."""
    cache = cache_of(100_000)
    for number in range(30_000):
        cache.keep(digest(number), Value("short", until_us=number + 1000), number)
    assert len(cache) < 10_000
    assert text(cache, 29_999) == "short"


def test_a_cleared_cache_is_empty_and_lets_go_bit_by_bit() -> None:
    cache = cache_of(100_000)
    for number in range(20_000):
        cache.keep(digest(number), Value("v"), 0)
    cache.clear()
    assert len(cache) == 0
    assert not any(text(cache, number) for number in range(20_000))
    for number in range(3_000):
        cache.keep(digest(number), Value("w"), 0)
    assert cache._leaving == []  # noqa: SLF001 # Only its memory shows it.
    assert len(cache) == 3_000


def identities(number: int) -> list[Identity]:
    """As a registry makes them."""
    return [
        Identity(
            Client(f"cl_{each:014}", f"client-{each}", "standard", Status.ACTIVE, 1, 1_795_000_000_000_000),
            f"key_{each:014}",
            f"key_{each:014}",
            key=Held(b"", Environment.LIVE, 498_611),
        )
        for each in range(number)
    ]


def remembering(most: int) -> Cache[Identity]:
    """The cache of keys of a worker."""
    return Identities(Registry(Store("unix:///nowhere")), brand="quotas", pepper=None, remembered=most)._keys  # noqa: SLF001 # As above.


def test_an_identity_takes_what_is_said_and_less_than_half_a_kilobyte() -> None:
    cache, most = remembering(100_000), 20_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number, identity in enumerate(identities(most)):
            cache.keep(digest(number), identity, 0)
        gc.collect()
        taken = (tracemalloc.get_traced_memory()[0] - before) / most
    finally:
        tracemalloc.stop()
    assert taken <= BYTES_EACH
    assert 0.75 <= cache._bytes / most / taken <= 1.25  # noqa: SLF001 # What it holds itself to.


def test_the_collector_does_not_look_at_what_is_packed() -> None:
    cache = remembering(100_000)
    tracked = len(gc.get_objects())
    for number, identity in enumerate(identities(2000)):
        cache.keep(digest(number), identity, 0)
    del identity
    assert len(gc.get_objects()) - tracked < 200
