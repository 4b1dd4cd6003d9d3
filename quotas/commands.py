"""A command to Redis as words and as bytes, and which key it is about: in a cluster that says which node has it."""

from dataclasses import dataclass, field
from hashlib import sha1

from hiredis import pack_command

Word = bytes | str | int

_KEYLESS = frozenset({"CLIENT", "CONFIG", "ECHO", "INFO", "PING", "SCRIPT", "TIME"})
"""Commands that any node answers."""

_BEFORE_KEY = 8
"""Words and lengths of a packed EVALSHA before its first key: `*n $7 EVALSHA $40 digest $k number $k`."""


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script: its name for messages and metrics, its text, and the SHA-1 that EVALSHA knows it by."""

    name: str
    source: str = field(repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha1(self.source.encode(), usedforsecurity=False).hexdigest())

    def packed(self, keys: tuple[str, ...], arguments: tuple[Word, ...]) -> bytes:
        """The command that runs it."""
        return pack(("EVALSHA", self.digest, len(keys), *keys, *arguments))


def pack(words: tuple[Word, ...]) -> bytes:
    """A command as it is sent. A word that cannot be written, such as text that is no Unicode, is a ValueError."""
    packed: bytes = pack_command(words)  # type: ignore[arg-type] # Typed for one word.
    return packed


def key_of(words: tuple[Word, ...]) -> bytes | None:
    """The first key of a command, None when it has none; all keys of a command are in one slot."""
    name = words[0]
    if name in _KEYLESS:
        return None
    position = 1
    if name == "XREAD":
        position = words.index("STREAMS") + 1
    elif name in {"EVAL", "EVALSHA"}:
        position = 3 if int(words[2]) else len(words)
    if position >= len(words):
        return None
    key = words[position]
    return key if isinstance(key, bytes) else str(key).encode()


def key_of_packed(packed: bytes) -> bytes:
    """The first key of what `Script.packed` made; keys are ours, so no line ends inside one."""
    return packed.split(b"\r\n", _BEFORE_KEY + 1)[_BEFORE_KEY]
