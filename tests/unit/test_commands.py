"""Which key a command is about."""

import pytest

from quotas.commands import Script, Word, key_of, key_of_packed, pack

SCRIPT = Script("one", "return 1")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("GET", "q1:clients"), b"q1:clients"),
        (("HSET", b"q1:{a}:keys", "key_1", "digest"), b"q1:{a}:keys"),
        (("XREAD", "COUNT", 1, "BLOCK", 300, "STREAMS", "q1:{news}", "0-0"), b"q1:{news}"),
        (("XADD", "q1:audit", "MAXLEN", "~", 1, "*", "a", "b"), b"q1:audit"),
        (("EVALSHA", SCRIPT.digest, 2, "q1:{a}:state", "q1:{a}:client"), b"q1:{a}:state"),
        (("EVALSHA", SCRIPT.digest, "0"), None),
        (("PING",), None),
        (("TIME",), None),
        (("SCRIPT", "LOAD", "return 1"), None),
        (("DBSIZE",), None),
    ],
)
def test_of_words(words: tuple[Word, ...], key: bytes | None) -> None:
    assert key_of(words) == key


@pytest.mark.parametrize("keys", [("q1:{a}:state",), ("q1:{ü}:state", "q1:{ü}:client"), ("k" * 1_000, *"abcdefghijk")])
def test_of_bytes(keys: tuple[str, ...]) -> None:
    packed = SCRIPT.packed(keys, (1, b"\r\n$5\r\n", "x"))
    assert key_of_packed(packed) == keys[0].encode()
    assert packed == pack(("EVALSHA", SCRIPT.digest, len(keys), *keys, 1, b"\r\n$5\r\n", "x"))
