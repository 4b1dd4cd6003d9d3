"""Whether a store can serve: asked of the server itself, as a worker would, and judged in `store_facts`.

Nothing that belongs to anybody is changed. What is written is the state of one client that does not exist, under a name
that nobody has; it is removed at the end, and expires by itself within a day.

Permissions are found without carrying anything out: inside MULTI a server says at once whether a command exists and may
be run by this user, and DISCARD drops them all. They leave in one write on one connection, so none of them can be
carried out by a server that has not heard the MULTI.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from statistics import median
from typing import Any

from quotas import store_facts
from quotas.errors import StoreUnavailableError
from quotas.findings import Finding, ok, problem, warning
from quotas.limits import Bucket, Limit
from quotas.scripts import TAKE, PackedPlan, Take, state_key, take, used_key
from quotas.store import Store, Word
from quotas.tallies import DAY_US

ROUNDS = 11
"""How many PINGs and takes the medians are of."""

CLOCK_WARNING_US = 1_000_000
CLOCK_PROBLEM_US = 30_000_000

_KEEP_S = 60
_NEAR = 0.25
"""Part of the deadline that a take may last before that is worth a warning."""

_TAGGED = "q1:{doctor}:"
_HASH, _SORTED, _STREAM, _TEXT = (_TAGGED + kind for kind in ("hash", "sorted", "stream", "text"))
COMMANDS: tuple[tuple[Word, ...], ...] = (
    ("DEL", _TEXT),
    ("EVALSHA", "0" * 40, 1, _TEXT),
    ("EXISTS", _TEXT),
    ("EXPIRE", _TEXT, 1, "NX"),
    ("GET", _TEXT),
    ("HDEL", _HASH, "f"),
    ("HGET", _HASH, "f"),
    ("HGETALL", _HASH),
    ("HINCRBY", _HASH, "f", 1),
    ("HLEN", _HASH),
    ("HMGET", _HASH, "f"),
    ("HSCAN", _HASH, 0, "COUNT", 1),
    ("HSET", _HASH, "f", 1),
    ("HSETNX", _HASH, "f", 1),
    ("PING",),
    ("PTTL", _TEXT),
    ("SCRIPT", "LOAD", "return 1"),
    ("SET", _TEXT, 1, "PX", 1),
    ("SETRANGE", _TEXT, 0, "1"),
    ("TIME",),
    ("UNLINK", _TEXT),
    ("XADD", _STREAM, "*", "f", 1),
    ("XRANGE", _STREAM, "-", "+", "COUNT", 1),
    ("XREAD", "COUNT", 1, "STREAMS", _STREAM, 0),
    ("XREVRANGE", _STREAM, "+", "-", "COUNT", 1),
    ("ZADD", _SORTED, 1, "m"),
    ("ZMSCORE", _SORTED, "m"),
    ("ZRANGE", _SORTED, "-inf", 0, "BYSCORE", "LIMIT", 0, 1),
    ("ZREM", _SORTED, "m"),
)
"""Every command that this service gives a store, by itself or in a script, as it could be asked."""

_ADVICE = (
    ("NOAUTH", "put the user and the password into QUOTAS_REDIS_URL: redis://user:password@host:6379/0"),
    ("WRONGPASS", "mend the user or the password in QUOTAS_REDIS_URL; what is special in them is percent-encoded"),
    ("invalid username-password", "mend the user or the password in QUOTAS_REDIS_URL"),
    ("NOPERM", "give the user of QUOTAS_REDIS_URL that permission: ACL SETUSER"),
    ("No permissions", "give the user of QUOTAS_REDIS_URL that permission: ACL SETUSER"),
    ("ACL failure", "give the user of QUOTAS_REDIS_URL the permission for that command, also inside scripts"),
    ("LOADING", "wait until the server has read its data"),
    ("MASTERDOWN", "have QUOTAS_REDIS_URL name the primary"),
    ("MOVED", "write redis+cluster:// in QUOTAS_REDIS_URL"),
    ("CLUSTERDOWN", "see CLUSTER INFO of the server: some of its slots have no node"),
    ("READONLY", "have QUOTAS_REDIS_URL name the primary"),
    ("OOM", "raise maxmemory of the server"),
    ("MISCONF", "see the server's log and mend what keeps it from writing to its disk"),
    ("NOREPLICAS", "bring its replicas back, or lower min-replicas-to-write"),
    ("CERTIFICATE", "mend the certificate, or name its CA with ssl_ca_certs in QUOTAS_REDIS_URL"),
    ("protected mode", "set a password for the server's users, or bind it to addresses that only this service reaches"),
    ("max number of clients", "raise maxclients of the server"),
)


async def examine(  # noqa: PLR0913 # What it is told is what the findings compare with.
    open_store: Callable[[], Store],
    url: str,
    *,
    timeout_ms: int,
    workers: int,
    clock: Callable[[], int],
    timer: Callable[[], float],
) -> AsyncIterator[Finding]:
    """What there is to say of the store at `url`, as it is found; ends early when it does not answer.

    `timeout_ms` is the deadline of a check, `clock` this machine's in microseconds, `timer` counts seconds. Each step
    is bounded by the store's own deadlines.
    """
    async with open_store() as store:
        try:
            await store.call("PING")
        except StoreUnavailableError as error:
            yield problem("store", f"{store_facts.place(url)} does not serve: {error}", _advice(str(error)))
            return
        yield ok("store", f"{store_facts.place(url)} answers")
        yield store_facts.road(url)
        try:
            info = await _info(store)
            if info is None:
                told = "INFO is not permitted: version, role, memory and persistence cannot be looked at"
                yield warning("store permissions", told, "give the user of QUOTAS_REDIS_URL +info, or look yourself")
                info = {}
            else:
                for finding in await _facts(store, info, url, workers):
                    yield finding
            yield await _clock(store, clock)
            if info.get("role") != "slave":
                yield await _takes(store, timeout_ms=timeout_ms, clock=clock, timer=timer)
                async with open_store() as another:
                    yield await _permissions(another, is_cluster=info.get("cluster_enabled") == "1")
        except StoreUnavailableError as error:
            yield problem("store", f"it stopped answering: {error}", _advice(str(error)))


async def _info(store: Store) -> store_facts.Info | None:
    return None if (reply := await _unless_refused(store.call("INFO"))) is None else store_facts.fields(reply)


async def _unless_refused(asked: Any) -> Any:
    """The reply; None for an error reply, such as of a user who may not ask or a server that has no such command."""
    try:
        return await asked
    except StoreUnavailableError as error:
        if error.kind != "reply":
            raise
        return None


async def _facts(store: Store, info: store_facts.Info, url: str, workers: int) -> list[Finding]:
    words = await _unless_refused(store.call("CONFIG", "GET", *store_facts.CONFIG_NAMES))
    texts = [word.decode("utf-8", "replace") for word in words or ()]
    config = None if words is None else dict(zip(texts[::2], texts[1::2], strict=True))
    found = (
        store_facts.version(info),
        store_facts.role(info, url),
        store_facts.eviction(info),
        store_facts.memory(info),
        store_facts.persistence(info, config),
        store_facts.connections(info, workers),
    )
    return [finding for finding in found if finding is not None]


async def _clock(store: Store, clock: Callable[[], int]) -> Finding:
    """How far the server's clock is from ours, by the reply that took the least time."""
    looks = []
    for _ in range(3):
        begun_us = clock()
        seconds, microseconds = await store.call("TIME")
        took_us = clock() - begun_us
        at_us = int(seconds) * 1_000_000 + int(microseconds)
        looks.append((took_us, at_us - begun_us - took_us // 2))
    took_us, ahead_us = min(looks)
    told = f"{abs(ahead_us) / 1e6:.3f} s {'ahead of' if ahead_us >= 0 else 'behind'} this machine's"
    apart_us = abs(ahead_us) - took_us // 2
    if apart_us < CLOCK_WARNING_US:
        return ok("store clock", told)
    told += ": limits go by the store's clock, the expiry of keys and tokens by this machine's"
    advice = "have both machines keep time (NTP)"
    return (warning if apart_us < CLOCK_PROBLEM_US else problem)("store clock", told, advice)


async def _takes(store: Store, *, timeout_ms: int, clock: Callable[[], int], timer: Callable[[], float]) -> Finding:
    """Whether the script answers what it should, and how long it and a PING take."""
    client = f"doctor_{secrets.token_hex(8)}"
    plan = PackedPlan([Limit("doctor", Bucket(count=1, period_us=1_000_000, burst=2 * ROUNDS))])
    now_us = clock()
    asked = Take(client_id=client, generation=0, key_id="", cost=1, now_us=now_us, keep_s=_KEEP_S)
    pings, takes = [], []
    try:
        await store.load(TAKE)
        for number in range(ROUNDS):
            begun = timer()
            await store.call("PING")
            pings.append(timer() - begun)
            begun = timer()
            decision = await take(store, plan, asked)
            takes.append(timer() - begun)
            left = None if decision is None or not decision.allowed else decision.standings[0].remaining
            if left is None or (number == 0 and left != 2 * ROUNDS - 1):
                return problem("store take", "the script does not answer what it should", "use Redis 7 or Valkey")
    except StoreUnavailableError as error:
        return problem("store take", f"a check would fail: {error}", _advice(str(error)))
    finally:
        day = now_us // DAY_US
        with suppress(StoreUnavailableError):  # What is left then expires.
            await store.call("DEL", state_key(client), *(used_key(client, each) for each in (day - 1, day, day + 1)))
    return pace(median(pings), median(takes), timeout_ms=timeout_ms)


def pace(ping_s: float, take_s: float, *, timeout_ms: int) -> Finding:
    """The verdict on how long a PING and a take last, by the deadline of a check."""
    told = f"a PING takes {ping_s * 1000:.2f} ms, a take {take_s * 1000:.2f} ms; a check waits {timeout_ms} ms for it"
    if take_s * 1000 >= timeout_ms:
        return problem("store take", told, "bring the store nearer, or raise QUOTAS_STORE_TIMEOUT_MS")
    if take_s * 1000 >= _NEAR * timeout_ms:
        advice = "bring the store nearer, see what else it does (SLOWLOG GET), or raise QUOTAS_STORE_TIMEOUT_MS"
        return warning("store take", told, advice)
    return ok("store take", told)


async def _permissions(store: Store, *, is_cluster: bool) -> Finding:
    """Whether every command exists and may be run by this user."""
    subject = "store permissions"
    if is_cluster:
        return ok(subject, "not looked at on a cluster, but for those of the take")
    if None in [await _unless_refused(store.call(word)) for word in ("MULTI", "DISCARD")]:
        told = "cannot be looked at: MULTI is not permitted"
        return ok(subject, f"{told}; those of the take are there")
    calls = [("MULTI",), *COMMANDS, ("DISCARD",)]
    replies = await asyncio.gather(*(store.call(*words) for words in calls), return_exceptions=True)
    refused: list[str] = []
    for words, reply in zip(calls, replies, strict=True):
        if isinstance(reply, StoreUnavailableError) and reply.kind != "reply":
            raise reply
        if isinstance(reply, BaseException):
            refused.append(f"{str(words[0]).lower()} ({str(reply).removeprefix('reply: ').split(' ', 1)[0]})")
    if not refused:
        return ok(subject, f"all {len(COMMANDS)} commands that are used may be run")
    told = f"these commands cannot be run: {', '.join(refused)}"
    advice = "ERR: the server lacks it, use Redis 7 or Valkey; NOPERM: ACL SETUSER, with +@all -@admin and ~q1:* enough"
    return problem(subject, told, advice)


def _advice(detail: str) -> str:
    found = (advice for mark, advice in _ADVICE if mark in detail)
    return next(found, "see that the server runs, that QUOTAS_REDIS_URL names it, and that no firewall is between")
