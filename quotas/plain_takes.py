"""The takes of plain checks: kept ready for who asks often, and by a lane for all others of a plan.

Plain is a check that its plan decides by the client alone, see `takings`. No I/O: what a take comes to is `checks`.
"""

from collections import OrderedDict

from quotas.costs import Costs
from quotas.holders import HOUR_US, Identity
from quotas.identities import Known, identity_of
from quotas.packed_identities import kind_of, pack, short_of
from quotas.plain_requests import Plain, PlainRequest
from quotas.planbook import Planbook
from quotas.plans import Config
from quotas.requests import CheckRequest
from quotas.takings import Asked, Asker, AsSent, Decider, Heads, Lane, OfLane, Ready, Taking, new_asked

MAX_READY = 20_000
"""Credentials whose next take a worker keeps packed, of those that ask often; with more the first goes. Each is about
1 kB."""

_PLAIN = CheckRequest(b"")


class PlainTakes:
    """Makes the takes of plain checks, whose replies `decider` is given. Without `heads` all are answered in full.

    `clock_decides` is that a take says when it is; else the store's clock does.
    """

    def __init__(
        self, decider: Decider, costs: Costs, planbook: Planbook, heads: Heads | None, *, clock_decides: bool
    ) -> None:
        self._decider = decider
        self._costs = costs
        self._planbook = planbook
        self._heads = heads
        self._clock_decides = clock_decides
        self._ready: OrderedDict[bytes, Ready] = OrderedDict()  # A dict looks for its first among all that went.
        self._lanes: dict[str, Lane | None] = {}
        self._reader: Plain | None = None
        self._begun_under: Config | None = None

    def request(self, data: bytes) -> PlainRequest | None:
        """The request of which these bytes are the head, if they are one whole request and it is plain.

        Where requests have an id, most are not, so that none is looked at here.
        """
        config = self._planbook.config
        if config is not self._begun_under:
            self._begin_under(config)
        return None if self._reader is None else self._reader.read(data)

    def _begin_under(self, config: Config) -> None:
        """Have what plain checks have in common be that of this configuration."""
        self._begun_under = config
        self._reader = Plain(config.places, None) if config.dedupe is None else None
        self._lanes.clear()

    def taking(
        self, known: tuple[bytes, Known], as_sent: AsSent, now_us: int, begun: float, asker: Asker
    ) -> Taking | None:
        """The take of a plain check, if it is ready, or follows from what all clients of a plan have in common."""
        digest, found = known
        if isinstance(found, bytes):
            return self._of_lane(digest, found, as_sent, now_us, begun, asker)
        ready = self._ready.get(digest)
        if ready is not None:
            asked, loaded, client, packed, head, begin, made_under, from_us, until_us = ready
            if loaded is found and made_under is self._planbook.config and from_us <= now_us < until_us:
                if self._clock_decides:
                    packed = self._packed_at(asked, now_us)
                return Taking(self._decider, as_sent, None, client, asked, packed, head, begin, begun, begun, asker)
        if self._lane(kind_of(found), found.client.name, found, now_us) is None:
            return None  # To pack it would cost a tenth of a check.
        taking = self._of_lane(digest, found, as_sent, now_us, begun, asker)
        if taking is not None and found.stays:
            self._keep_ready(self.whole(taking.asked), taking, now_us)
        return taking

    def of(  # noqa: PLR0913, PLR0917 # What is known of a check by now.
        self,
        asked: Asked,
        request: CheckRequest,
        nobody: Identity | None,
        now_us: int,
        begun: float,
        asker: Asker,
    ) -> Taking:
        """The take of a check that is plain (`Asked.is_of_all`), but had to be worked out from its request."""
        head = self._heads and self._heads(asked.plan.limits, self._planbook.config.headers)
        begin = b"" if head is None else head.begin(asked.identity)
        named, packed = asked.counted_for, self._packed_at(asked, now_us)
        taking = Taking(self._decider, request, nobody, named, asked, packed, head, begin, begun, begun, asker)
        if asked.identity.stays:
            self._keep_ready(asked, taking, now_us)
        return taking

    def _of_lane(  # noqa: PLR0913, PLR0917 # What is known of a check by now.
        self, digest: bytes, known: Known, as_sent: AsSent, now_us: int, begun: float, asker: Asker
    ) -> Taking | None:
        """The take of a plain check, from what it has in common with others; None where there is more to it."""
        short = short_of(known if isinstance(known, bytes) else pack(known))
        kind, client_id, generation, told, name, subject, key_id, until_us, _ = short
        name = told.decode() if name is None else name
        key_id = subject if key_id is None else key_id
        lane = self._lane(kind, name, known, now_us) if now_us < until_us else None
        if lane is None:
            return None
        asked: Asked | OfLane = (digest, known, lane.in_force, now_us)
        packed = None if self._clock_decides else lane.packed(client_id, key_id, generation, now_us)
        if packed is None:
            asked = self.whole(asked)
            packed = self._packed_at(asked, now_us)
            if not self._clock_decides:
                lane.keep(asked.take, asked.plan.takes(asked.take, now_us))
        begin = lane.begin and lane.begin % (told, subject)
        client = (client_id.decode(), name, lane.plan)
        return Taking(self._decider, as_sent, None, client, asked, packed, lane.head, begin, begun, begun, asker)

    def _lane(self, kind: str, name: str, known: Known, now_us: int) -> Lane | None:
        """The lane of a client of this name, known as one of this kind; None where there is more to its checks."""
        config = self._planbook.config
        if name in config.clients:
            return None
        if config is not self._begun_under:
            self._begin_under(config)
        try:
            return self._lanes[kind]
        except KeyError:
            return self._made_lane(kind, identity_of(known), config, now_us)

    def _made_lane(self, kind: str, identity: Identity, config: Config, now_us: int) -> Lane | None:
        """The lane of a kind of identities, of which this is one; None where there is more to their checks."""
        lane = None
        in_force = self._planbook.of_identity(identity, now_us)
        if kind and in_force is not None and in_force.test_of is None:
            plan = in_force.plan
            if not plan.asks_for_paths and not plan.scopes_for(frozenset()):
                lane = Lane(in_force, self._heads and self._heads(in_force.packed.limits, config.headers))
        if identity.client.plan in config.plans:  # A token may claim any.
            self._lanes[kind] = lane
        return lane

    def whole(self, asked: Asked | OfLane) -> Asked:
        """A take with all that is to be known of it."""
        if isinstance(asked, Asked):
            return asked
        digest, known, in_force, now_us = asked
        identity = identity_of(known)
        taken = self._costs.take_of(_PLAIN, identity, in_force, now_us)
        return new_asked((digest, identity, identity, in_force.packed, taken, in_force))

    def _keep_ready(self, asked: Asked, taking: Taking, now_us: int) -> None:
        """Keep a take for the next check of this credential, which will be the same one."""
        # A key is noted once an hour, so nothing is kept over the hour.
        ends = (asked.in_force.until_us, asked.loaded.expires_at_us, now_us // HOUR_US * HOUR_US + HOUR_US)
        until_us = min(asked.plan.until_us(now_us), *(end for end in ends if end is not None))
        if len(self._ready) >= MAX_READY:
            self._ready.popitem(last=False)
        made = (asked, asked.loaded, taking.client, taking.packed, taking.head, taking.begin)
        self._ready[asked.digest] = Ready(*made, self._planbook.config, now_us, until_us)

    def _packed_at(self, asked: Asked, now_us: int) -> bytes:
        """A take of all limits, at this instant."""
        if self._clock_decides:  # Then a take says when it is.
            return asked.packed_at(now_us)
        client_id, generation, key_id, *_ = asked.take
        ids = client_id.encode(), key_id.encode(), b"%d" % generation
        return asked.plan.takes(asked.take, now_us).packed(*ids)
