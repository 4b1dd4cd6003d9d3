"""A check from its headers to its answer. The policy for a store that fails lives here and nowhere else.

Every road ends in an `Answer`: a refusal is a value, and so is an outage.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from quotas import requests
from quotas.addresses import counted
from quotas.answers import Answer, Reason, lacking, outcome_of
from quotas.costs import Costs, required
from quotas.decisions import Decision, Outcome
from quotas.errors import CredentialError, RequestError, StoreUnavailableError
from quotas.faces import DIRECT, NATIVE, Face
from quotas.holders import HOUR_US, Identity, Status
from quotas.identities import Identities, identity_of
from quotas.last_use import LastUse
from quotas.limits import Mode
from quotas.metrics import Metrics
from quotas.pace import Pace
from quotas.plain_requests import PlainRequest
from quotas.plain_takes import PlainTakes
from quotas.planbook import Planbook
from quotas.plans import Config, Preflight, StoreErrorPolicy
from quotas.refusal_memory import RefusalMemory
from quotas.refusals import Refusals
from quotas.requests import CheckRequest
from quotas.scripts import OPEN, STALE, TAKEN, WINDOWS, decision_of, numbers_of, take
from quotas.store import Store, deadline
from quotas.takings import Asked, Asker, Heads, Taking, new_asked

LOG_EVERY_S = 10.0
"""Least time between two log lines about a store that does not answer."""

log = logging.getLogger("quotas.checks")

_NO_DIGEST = bytes(32)
"""In the place of a credential's digest where there is none; nothing is remembered under it."""

_ROUNDS = 3
"""Times a check asks again because the client changed under it; each time needs an operator's change to win."""


class Checks:
    """Answers checks with one worker's knowledge. `clock` gives epoch microseconds, `timer` seconds for durations.

    `timeout_s` bounds each check, and has to be the patience of the store as well. The store's clock decides limits,
    unless `clock_decides`: then `clock` does, for tests. Without `heads`, every asker is told an answer. `plain` reads
    plain requests.
    """

    def __init__(  # noqa: PLR0913 # The composition root names each part once.
        self,
        *,
        store: Store,
        identities: Identities,
        planbook: Planbook,
        metrics: Metrics,
        last_use: LastUse,
        refusals: Refusals,
        memory: RefusalMemory,
        timeout_s: float,
        clock: Callable[[], int],
        timer: Callable[[], float],
        heads: Heads | None = None,
        clock_decides: bool = False,
    ) -> None:
        self._store = store
        self._identities = identities
        self._planbook = planbook
        self._metrics = metrics
        self._last_use = last_use
        self._refusals = refusals
        self._memory = memory
        self._pace = Pace()
        self._timeout_s = timeout_s
        self._clock = clock
        self._timer = timer
        self._clock_decides = clock_decides
        self._costs = Costs(planbook, clock_decides=clock_decides)
        self.plain = PlainTakes(self, self._costs, planbook, heads, clock_decides=clock_decides)
        self._untold = 0
        self._tell_at = -math.inf
        self._going_on: set[asyncio.Task[None]] = set()

    async def check(
        self,
        headers: Collection[tuple[bytes, bytes]],
        face: Face = NATIVE,
        *,
        method: str,
        target: bytes = b"/",
        peer: str | None,
    ) -> Answer:
        """The answer to a check with these headers, within the store's deadline, whatever the store does.

        `method` and `target` are the check request's own, as `requests.read` takes them. `peer` is the address that it
        comes from, None when that is not known: a trusted one may say what the request costs, and whose it is when it
        has no credential.
        """
        begun = self._timer()
        read = self._read(headers, face, method=method, target=target, peer=peer)
        answer = read if isinstance(read, Answer) else await self._answer(*read, begun)
        return self._counted(answer, begun)

    def check_then(  # noqa: PLR0913 # What `check` is given, and who is told.
        self,
        headers: Collection[tuple[bytes, bytes]],
        face: Face = NATIVE,
        *,
        method: str,
        target: bytes = b"/",
        peer: str | None,
        asker: Asker,
    ) -> None:
        """The same check, whose answer the asker is told, perhaps within this call.

        It is without a task where this worker knows everything but what the take will say.
        """
        begun = self._timer()
        now_us = self._clock()
        config = self._planbook.config
        places, id_header = config.places, None if config.dedupe is None else config.dedupe.header
        credential = requests.plain_credential(headers, face, method=method, places=places, id_header=id_header)
        known = self._identities.known(credential) if credential else None
        if known is not None:
            taking = self.plain.taking(known, (headers, face, method, target, places), now_us, begun, asker)
            if taking is not None:
                self._send(taking)
                return
        read = self._read(headers, face, method=method, target=target, peer=peer)
        if isinstance(read, Answer):
            asker.answer(self._counted(read, begun))
            return
        request, nobody = read
        if known is None:
            known = self._identities.known(request.credential) if nobody is None else (_NO_DIGEST, nobody)
        identity = None if known is None else identity_of(known[1])
        if known is None or identity is None or identity.is_expired(now_us):
            self._go_on_alone(request, nobody, begun, asker)
            return
        self._take_then(request, nobody, (known[0], identity), now_us, begun, asker)

    def plain_then(self, request: PlainRequest, data: bytes, asker: Asker) -> bool:
        """`check_then` of a plain request; False is that there is more to its answer, and that nothing has happened."""
        begun = self._timer()
        now_us = self._clock()
        known = self._identities.known(request.credential)
        if known is None:
            return False
        face, method, target, _ = request
        as_sent = (data, face, method, target, self._planbook.config.places)
        taking = self.plain.taking(known, as_sent, now_us, begun, asker)
        if taking is None:
            return False
        self._send(taking)
        return True

    def _take_then(  # noqa: PLR0913, PLR0917 # What is known of a check by now.
        self,
        request: CheckRequest,
        nobody: Identity | None,
        known: tuple[bytes, Identity],
        now_us: int,
        begun: float,
        asker: Asker,
    ) -> None:
        """Go on with a check whose take is not ready."""
        digest, identity = known
        try:
            asked = self._asked(request, digest, identity, now_us, sure=nobody is not None)
        except RequestError as error:
            asked = Answer(Reason(error.reason))
        if asked is None:
            self._go_on_alone(request, nobody, begun, asker)
            return
        if isinstance(asked, Answer):
            asker.answer(self._counted(asked, begun))
            return
        if asked.is_of_all(request):
            taking = self.plain.of(asked, request, nobody, now_us, begun, asker)
        else:
            packed, named = asked.packed_at(now_us), asked.counted_for
            taking = Taking(self, request, nobody, named, asked, packed, None, b"", begun, begun, asker)
        taking.sent = self._timer()
        self._send(taking)

    def _send(self, taking: Taking) -> None:
        """Send a take, unless this worker knows that it is refused."""
        if self._memory.clients and taking.client[0] in self._memory.clients:
            asked = self.plain.whole(taking.asked)
            if self._memory.recall(asked.plan, asked.take) is not None:
                self._pace.then(partial(self._refuse, taking, asked))
                return
        self._give(taking)

    def _refuse(self, taking: Taking, asked: Asked) -> None:
        """Tell who asked that it is refused, unless that is over by now."""
        assert taking.done is not None, "nobody has told it yet"
        try:
            answer = self._recalled(asked)
            if answer is None:
                taking.packed = asked.packed_at(self._clock())
                taking.sent = self._timer()
                self._give(taking)
                return
            taking.done(self._counted(answer, taking.begun))
        except Exception as error:  # noqa: BLE001 # Nobody but the caller can be told.
            taking.done(error)

    def _give(self, taking: Taking) -> None:
        """Give a take to the store; one that cannot be sent is told why at once."""
        try:
            self._store.send(taking)
        except StoreUnavailableError as error:
            taking.tell(error)

    def told(self, taking: Taking, reply: Any, asker: Asker) -> None:
        """Tell who asked what the reply to a take comes down to."""
        try:
            if type(reply) is bytes:
                reply = numbers_of(reply)
                head = taking.head
                if head is not None and reply[0] == TAKEN:
                    lines = taking.begin + head.lines(reply)
                    ended = self._timer()
                    # What has a head costs one unit.
                    self._metrics.taken(taking.client, 1, ended - taking.begun, ended - taking.sent)
                    asker.allowed(lines)
                    return
            answer = self._told(taking, reply)
            if answer is not None:
                self._counted(answer, taking.begun)
        except Exception as error:  # noqa: BLE001 # Nobody but the caller can be told: the store only reads replies.
            asker.answer(error)
            return
        if answer is not None:
            asker.answer(answer)
            return
        self._go_on_alone(taking.request(), taking.nobody, taking.begun, asker)

    def _told(self, taking: Taking, reply: Any) -> Answer | None:
        """What a reply to a take makes of the check; None when it must be asked again by who can wait."""
        asked = self.plain.whole(taking.asked)
        if isinstance(reply, StoreUnavailableError):
            return self._unanswered(taking.request(), reply, asked.loaded)
        ended = self._timer()
        self._metrics.store_seconds("take", ended - taking.sent)
        if reply[0] == STALE:
            self._identities.forget(asked.digest)
            return None
        if reply[0] in {WINDOWS, OPEN}:
            return None
        return self._decided(asked, decision_of(asked.plan, asked.take, reply), (taking.sent, ended))

    def _go_on_alone(self, request: CheckRequest, nobody: Identity | None, begun: float, asker: Asker) -> None:
        """Go on in a task, where somebody has to be waited for."""
        going_on = asyncio.create_task(self._go_on(request, nobody, begun, asker))
        self._going_on.add(going_on)
        going_on.add_done_callback(self._going_on.discard)

    async def _go_on(
        self,
        request: CheckRequest,
        nobody: Identity | None,
        begun: float,
        asker: Asker,
    ) -> None:
        try:
            answer = self._counted(await self._answer(request, nobody, begun), begun)
        except Exception as error:  # noqa: BLE001 # Nobody awaits this task.
            asker.answer(error)
        else:
            asker.answer(answer)

    def _read(
        self, headers: Collection[tuple[bytes, bytes]], face: Face, *, method: str, target: bytes, peer: str | None
    ) -> tuple[CheckRequest, Identity | None] | Answer:
        """What is asked, and who asks if that is nobody with a credential; or the answer, if that follows already."""
        config = self._planbook.config
        if config.preflight is Preflight.FREE and requests.is_preflight(headers, face, method=method):
            return Answer(None)
        try:
            request = requests.read(
                headers,
                face,
                method=method,
                target=target,
                trusted=config.trusted_proxies.trusts(peer),
                places=config.places,
                optional=config.anonymous is not None,
                id_header=None if config.dedupe is None else config.dedupe.header,
            )
            return request, None if request.credential else self._nobody(headers, peer, config)
        except RequestError as error:
            return Answer(Reason(error.reason))

    async def own(
        self, headers: Collection[tuple[bytes, bytes]], *, method: str, target: bytes, scopes: frozenset[str]
    ) -> Answer:
        """The answer to a holder who asks this service itself: a check of this very request, which needs these scopes.

        The credential stands in a header: a cookie comes with what any page asks.
        """
        return await self._own(headers, method, target, lambda request: request._replace(scopes=scopes))

    async def look(self, headers: Collection[tuple[bytes, bytes]], *, method: str) -> Answer:
        """The same for a holder who wants to know what is left, of every limit; nothing is taken."""
        return await self._own(headers, method, b"/", lambda request: request._replace(cost=0, look=True))

    async def _own(
        self,
        headers: Collection[tuple[bytes, bytes]],
        method: str,
        target: bytes,
        meant: Callable[[CheckRequest], CheckRequest],
    ) -> Answer:
        begun = self._timer()
        try:
            places = self._planbook.config.places.without_cookie()
            request = requests.read(headers, DIRECT, method=method, target=target, places=places)
        except RequestError as error:
            answer = Answer(Reason(error.reason))
        else:
            answer = await self._answer(meant(request), None, begun)
        return self._counted(answer, begun)

    def _counted(self, answer: Answer, begun: float) -> Answer:
        client = None if answer.identity is None else answer.identity.client
        self._metrics.check(client, answer.outcome, self._timer() - begun)
        return answer

    def _nobody(self, headers: Collection[tuple[bytes, bytes]], peer: str | None, config: Config) -> Identity:
        """Who asks without a credential: an address. Raises CredentialError when there is none to count by."""
        address = config.trusted_proxies.caller(peer, (value for name, value in headers if name == b"x-forwarded-for"))
        if address is None or config.anonymous is None:
            raise CredentialError("missing_credential")
        return self._identities.of_address(counted(address), config.anonymous)

    async def _answer(self, request: CheckRequest, nobody: Identity | None, begun: float) -> Answer:
        known = [] if nobody is None else [nobody]
        try:
            async with deadline(self._timeout_s - (self._timer() - begun)):
                return await self._decide(request, nobody, known)
        except RequestError as error:
            return Answer(Reason(error.reason))
        except StoreUnavailableError as error:
            return self._unanswered(request, error, known[-1] if known else None)

    def _unanswered(self, request: CheckRequest, error: StoreUnavailableError, known: Identity | None) -> Answer:
        """What a check gets when the store did not answer; `known` None is not known for this check."""
        self._metrics.store_error(error.kind)
        self._tell(error)
        return self._without_store(request, known or self._identities.remembered(request.credential))

    def _without_store(self, request: CheckRequest, identity: Identity | None) -> Answer:
        """The one place that says what a check gets when the store cannot be asked.

        Without an identity there is no plan to ask: who is not known does not pass. An identity that is no longer valid
        is none.
        """
        now_us = self._clock()
        if identity is not None and identity.is_expired(now_us):
            identity = None
        in_force = None if identity is None else self._planbook.of_identity(identity, now_us)
        if identity is not None and in_force is not None:
            identity = identity.on(in_force.plan.name)
            needed = required(request, in_force.plan, self._costs.take_of(request, identity, in_force, now_us).skipped)
            if not needed <= identity.scopes:
                return lacking(identity, needed)
        if in_force is not None and in_force.plan.on_store_error is StoreErrorPolicy.ALLOW:
            self._metrics.degraded(StoreErrorPolicy.ALLOW.value)
            return Answer(None, identity, degraded=True)
        self._metrics.degraded(StoreErrorPolicy.DENY.value)
        return Answer(Reason.STORE_UNAVAILABLE, identity)

    def _tell(self, error: StoreUnavailableError) -> None:
        """Log an outage, at most once in `LOG_EVERY_S`; the metrics count every check."""
        self._untold += 1
        if self._timer() >= self._tell_at:
            log.warning("the store does not answer (%s): %d checks went by their plan's policy", error, self._untold)
            self._untold, self._tell_at = 0, self._timer() + LOG_EVERY_S

    async def _decide(self, request: CheckRequest, nobody: Identity | None, known: list[Identity]) -> Answer:
        """Find the client and take the cost; `known` ends with whom the caller is known to be, if that still holds.

        `nobody` is who asks when there is no credential to find a client by.

        A scope is missed on what was loaded for this check only: no take comes after it that could tell that the
        client is on another plan since.
        """
        anew = False
        for _ in range(_ROUNDS):
            now_us = self._clock()
            if nobody is None:
                digest, identity = await self._identities.find(request.credential, now_us, anew=anew)
            else:
                digest, identity = _NO_DIGEST, nobody
            known.append(identity)
            asked = self._asked(request, digest, identity, now_us, sure=anew or nobody is not None)
            if isinstance(asked, Answer):
                return asked
            if asked is None:
                anew = True
                continue
            if self._memory.clients and self._memory.recall(asked.plan, asked.take) is not None:
                await self._pace.turn()
                answer = self._recalled(asked)
                if answer is not None:
                    return answer
                asked = asked._replace(take=asked.take._replace(now_us=self._clock()))
            begun = self._timer()
            decision = await take(self._store, asked.plan, asked.take)
            ended = self._timer()
            self._metrics.store_seconds("take", ended - begun)
            if decision is not None:
                return self._decided(asked, decision, (begun, ended))
            self._identities.forget(digest)
            known.clear()
            anew = True
        raise StoreUnavailableError("reply", "the client changes faster than it can be loaded")

    def _asked(
        self, request: CheckRequest, digest: bytes, loaded: Identity, now_us: int, *, sure: bool
    ) -> Asked | Answer | None:
        """The take that a check comes down to, or the answer where there is none; raises RequestError.

        None is that it depends on an identity that may be out of date; one that was loaded for this check is `sure`.
        """
        key = loaded.key
        if key is not None and key.used_hour < now_us // HOUR_US:
            hour = now_us // HOUR_US
            if self._last_use.note(key.record or digest, loaded.subject, hour):
                self._identities.seen(digest, hour)
        if loaded.client.status is Status.SUSPENDED:
            return Answer(Reason.SUSPENDED_CLIENT, loaded)
        in_force = self._planbook.of_identity(loaded, now_us)
        if in_force is None:
            self._identities.forget(digest)
            return Answer(Reason.NO_PLAN, loaded)
        identity = loaded.on(in_force.plan.name)
        asked = self._costs.take_of(request, identity, in_force, now_us)
        needed = required(request, in_force.plan, asked.skipped)
        if not needed <= identity.scopes:
            return lacking(identity, needed) if sure else None
        return new_asked((digest, loaded, identity, in_force.packed, asked, in_force))

    def _decided(self, asked: Asked, decision: Decision, asked_s: tuple[float, float]) -> Answer:
        if not decision.repeated:
            self._count(decision, asked)
        if decision.outcome is Outcome.WAIT:
            self._remember(asked, decision, asked_s)
        return Answer(Reason.of(decision), asked.identity, decision, asked_s=asked_s)

    def _remember(self, asked: Asked, decision: Decision, asked_s: tuple[float, float]) -> None:
        """Have the next check of this client know that this one was refused, if that will be the same."""
        if not self._planbook.is_sole(asked.loaded.client):
            return
        sent_us, heard_us = decision.at_us, decision.at_us
        if not self._clock_decides:
            sent_us, heard_us = math.floor(asked_s[0] * 1e6), math.ceil(asked_s[1] * 1e6)
        matches = asked.in_force.plan.matches
        self._memory.remember(asked.plan, matches, asked.take, decision, sent_us=sent_us, heard_us=heard_us)

    def _recalled(self, asked: Asked) -> Answer | None:
        """The answer to a check that this worker knows to be refused; it counts like any refusal."""
        decision = self._memory.recall(asked.plan, asked.take)
        if decision is None:
            return None
        self._metrics.refusal_remembered()
        self._count(decision, asked)
        return Answer(Reason.of(decision), asked.identity, decision)

    def _count(self, decision: Decision, asked: Asked) -> None:
        """Count what an allowed check took, that one was refused, and what limits that do not refuse have seen."""
        client, cost = asked.identity.client, asked.take.cost
        if decision.allowed:
            self._metrics.units(client, cost)
        elif asked.take.keep_s:
            self._refusals.note(client, outcome_of(Reason.of(decision)), decision.at_us, asked.take.keep_s)
        if asked.plan.only_enforces:
            return
        for standing in decision.standings:
            mode = standing.limit.mode
            if mode is Mode.SHADOW and standing.retry_after_us != 0:
                self._metrics.shadow_refused(client.plan, standing.limit.name)
            elif mode is Mode.OVERAGE and decision.allowed and standing.remaining < 0:
                self._metrics.overage(client.plan, standing.limit.name, min(cost, -standing.remaining))
