"""The take that a check comes down to: whose it is, how it was worked out, and how its reply finds who asked.

A check is told an answer in three ways. One of a client that asks often has its take `Ready`, with what its head begins
with. One of another client goes by a `Lane`: all clients of a plan differ in their ids, names and generations only, so
nothing but these is put into the take and the head, from the packed bytes that are known of the client. The rest, its
identity too, is made when a reply has more to it than that it was taken. Any other is worked out from its request, as
`Asked`.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from quotas import plain_requests, requests
from quotas.answers import Answer
from quotas.faces import Face
from quotas.holders import Identity
from quotas.limits import Limit
from quotas.pipe import Call
from quotas.places import Places
from quotas.planbook import PlanInForce
from quotas.plans import Config, HeaderStyle
from quotas.requests import CheckRequest
from quotas.rows import Key
from quotas.scripts import TAKE, PackedPlan, PackedTakes, Take, take_words


class Asker(Protocol):
    """Who waits for the answer to a check, and is told it once."""

    def answer(self, answer: Answer | Exception) -> None:
        """The answer, or what went wrong in here."""

    def allowed(self, head: bytes) -> None:
        """That it is allowed and there is nothing else to it; `head` is from the `Head` of whoever asks."""


class Head(Protocol):
    """What is told of allowed checks that are about all limits of a plan."""

    def begin(self, identity: Identity) -> bytes:
        """Of whose check it was."""

    def begin_on(self, plan: str) -> bytes:
        """The same of whoever is on a plan, as a format for the field values of client and subject."""

    def lines(self, reply: Sequence[int]) -> bytes:
        """Of the limits, after a reply of `lua/take.lua` that has taken."""


Heads = Callable[[tuple[Limit, ...], HeaderStyle], Head | None]
"""Where heads come from; None where an allowed answer has more to it."""


class Asked(NamedTuple):
    """A take, and whom it is for: as `loaded`, under `digest`, and with the plan that is in force."""

    digest: bytes
    loaded: Identity
    identity: Identity
    plan: PackedPlan
    take: Take
    in_force: PlanInForce

    def is_of_all(self, request: CheckRequest) -> bool:
        """Whether every plain check of its client comes down to this take."""
        return request.is_plain and not self.in_force.plan.asks_for_paths

    @property
    def counted_for(self) -> Key:
        """Whom it is counted for, see `Taking`."""
        client = self.identity.client
        return client.id, client.name, client.plan

    def packed_at(self, now_us: int) -> bytes:
        """The command that asks for it, as it would be at this instant."""
        return TAKE.packed(*take_words(self.plan, self.take._replace(now_us=now_us), now_us))


OfLane = tuple[bytes, Identity | bytes, PlanInForce, int]
"""A take as far as it is known of a check that goes by a lane: the credential's digest, its identity as it was found,
the plan in force, and the instant in microseconds. All else follows when it is needed. It has no names, because each
check makes one, and a constructor would be felt."""


class Ready(NamedTuple):
    """The take that every plain check of one credential comes down to, from `from_us` on and before `until_us`.

    Plain is what the plan decides by the client alone: no cost is said, and no limit or cost is about a path. It was
    made for the identity `loaded` under `config`; another of either has another take. It is counted for `client`, and
    its head begins with `begin`; without a `head` that is empty.
    """

    asked: Asked
    loaded: Identity
    client: Key
    packed: bytes
    head: Head | None
    begin: bytes
    config: Config
    from_us: int
    until_us: int


class Lane:
    """What the plain checks of all clients have in common who are on one plan, with keys of one environment.

    `head` None is that their answers have to be told in full; then `begin` is empty.
    """

    __slots__ = ("_takes", "begin", "head", "in_force", "plan")

    def __init__(self, in_force: PlanInForce, head: Head | None) -> None:
        self.in_force = in_force
        self.plan = in_force.plan.name
        self.head = head
        self.begin = b"" if head is None else head.begin_on(self.plan)
        self._takes: dict[tuple[int, int], PackedTakes] = {}

    def packed(self, client_id: bytes, key_id: bytes, generation: bytes, now_us: int) -> bytes | None:
        """The take of a check, now; None when it has to be asked of the plan, and given to `keep`."""
        takes = self._takes.get((len(client_id), len(key_id)))
        if takes is None or not takes.from_us <= now_us < takes.until_us:
            return None
        return takes.packed(client_id, key_id, generation)

    def keep(self, asked: Take, takes: PackedTakes) -> None:
        """Have these for all takes with ids of the same lengths."""
        self._takes[len(asked.client_id), len(asked.key_id)] = takes


AsSent = tuple[bytes | Collection[tuple[bytes, bytes]], Face, str, bytes, Places]


# The constructor of a named tuple is Python, and felt in a check.
new_asked: Callable[[tuple[object, ...]], Asked] = partial(tuple.__new__, Asked)


class Decider(Protocol):
    """Who knows what a reply comes down to: `checks.Checks`."""

    def told(self, taking: "Taking", reply: Any, asker: Asker) -> None:
        """Tell who asked."""


class Taking(Call):
    """A take on its way, and what its reply has to find again. `head` None is to be answered in full.

    `client` is whom it is counted for, and `begin` what the head begins with for it, empty without one. It may
    be `sent` when the check has `begun`, where nothing had to be worked out before. A request that was not read in full
    is there as it was sent: headers, or the bytes of a plain one, face, method, target, and where the configuration has
    credentials.
    """

    __slots__ = ("_asked_for", "_asker", "_checks", "asked", "begin", "begun", "client", "head", "nobody", "sent")

    def __init__(  # noqa: PLR0913, PLR0917 # One is made for each check, where names and a constructor below cost.
        self,
        checks: Decider,
        asked_for: CheckRequest | AsSent,
        nobody: Identity | None,
        client: Key,
        asked: Asked | OfLane,
        packed: bytes,
        head: Head | None,
        begin: bytes,
        begun: float,
        sent: float,
        asker: Asker,
    ) -> None:
        self.packed = packed
        self.done = asker.answer
        self.future = None
        self.script = TAKE.source
        self.expected = 1
        self.found = None
        self._checks = checks
        self._asker = asker
        self._asked_for = asked_for
        self.nobody = nobody
        self.client = client
        self.asked = asked
        self.head = head
        self.begin = begin
        self.begun = begun
        self.sent = sent

    def request(self) -> CheckRequest:
        """What is asked."""
        if isinstance(self._asked_for, CheckRequest):
            return self._asked_for
        headers, face, method, target, places = self._asked_for
        if isinstance(headers, bytes):
            headers = plain_requests.fields(headers)
        return requests.read(headers, face, method=method, target=target, places=places)

    def tell(self, reply: Any) -> None:
        """Give whoever asked the answer, unless it has been told."""
        if self.done is not None:
            self.done = None
            self._checks.told(self, reply, self._asker)
