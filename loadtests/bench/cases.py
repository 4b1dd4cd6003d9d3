"""What is measured, as values: which server answers which clients over which plan, in groups that are compared.

The rounds of a group are interleaved, so that a slow moment of the machine is slow for all of them, and each figure is
told as a ratio to the group's first case.
"""

from dataclasses import dataclass, replace
from enum import Enum

MAIN = "main"
"""The plan of the main row: two buckets and a monthly quota."""

THOUSAND, TEN_THOUSAND, HUNDRED_THOUSAND, MILLION = 1_000, 10_000, 100_000, 1_000_000
ZIPF_EXPONENT = 1.1
CONNECTIONS = 128
"""Connections that the load comes over, but where their number is varied."""

FEWER, MORE = (32, 64), (256,)
LIMITS = (1, 2, 4, 8)
"""How many limits the plans have over which their number is varied."""

CLIENTS_FIRST = "clients"
"""The name of the group in which the number of clients is varied."""


class Server(Enum):
    """Who answers; the value is what tables call it."""

    BARE = "bare ASGI app on uvicorn"
    LIMITS = "Starlette + limits"
    LIMITS_TELLING = "Starlette + limits, telling"
    THROTTLED = "Starlette + throttled-py"
    FASTIFY = "Fastify + rate-limiter-flexible"
    QUOTAS = "quotas"


class Credential(Enum):
    """What clients present."""

    KEY = "API key"
    TOKEN = "JWT (RS256)"


class Draw(Enum):
    """How often each client asks: all equally often, or the n-th most in proportion to n to the power of -1.1."""

    UNIFORM = "uniform"
    ZIPF = "Zipf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure. `name` is its own within a group; what only quotas knows is ignored by the others."""

    name: str
    server: Server = Server.QUOTAS
    plan: str = MAIN
    credential: Credential = Credential.KEY
    clients: int = TEN_THOUSAND
    draw: Draw = Draw.UNIFORM
    workers: int = 1
    hot_road: bool = True
    connections: int = CONNECTIONS


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that are measured in turns. Ratios are to the first of them."""

    name: str
    about: str
    cases: tuple[Case, ...]


OURS = Case(name="quotas, hot road")
BASELINES = Group(
    "baselines",
    "one worker, API key, 2 buckets + 1 monthly quota, usage, 10,000 clients; baselines: one fixed window",
    (
        Case(name="bare ASGI app", server=Server.BARE),
        OURS,
        Case(name="quotas, ASGI road", hot_road=False),
        Case(name="Starlette + limits", server=Server.LIMITS),
        Case(name="Starlette + limits, telling", server=Server.LIMITS_TELLING),
        Case(name="Starlette + throttled-py", server=Server.THROTTLED),
        Case(name="Fastify + rate-limiter-flexible", server=Server.FASTIFY),
    ),
)
CONNECTED = tuple(
    Group(
        f"{connections} connections",
        f"the same load over {connections} connections: takes that come together are cheaper for both",
        (
            Case(name="bare ASGI app", server=Server.BARE, connections=connections),
            replace(OURS, connections=connections),
        ),
    )
    for connections in (*FEWER, *MORE)
)
WORKERS = Group(
    "workers",
    "workers, which share two cores with Redis and the load generator",
    (
        replace(OURS, name="1 worker"),
        replace(OURS, name="2 workers", workers=2),
        Case(name="bare ASGI app, 2 workers", server=Server.BARE, workers=2),
    ),
)
CREDENTIALS = Group(
    "credentials",
    "what clients present, warm",
    (replace(OURS, name="API key"), replace(OURS, name="JWT (RS256)", credential=Credential.TOKEN)),
)
NUMBER_OF_LIMITS = Group(
    "limits",
    "limits of the plan, buckets and monthly quotas by turns",
    tuple(
        replace(OURS, name=f"{number} limit{'s' if number > 1 else ''}", plan=f"limits-{number}") for number in LIMITS
    ),
)
CLIENTS = Group(
    CLIENTS_FIRST,
    "clients, all equally often",
    tuple(replace(OURS, name=f"{clients:,} clients", clients=clients) for clients in (THOUSAND, HUNDRED_THOUSAND)),
)
MILLIONS = Group(
    "million",
    "a million clients, every one known to the worker",
    (
        replace(OURS, name=f"{THOUSAND:,} clients", clients=THOUSAND),
        replace(OURS, name=f"{MILLION:,} clients, uniform", clients=MILLION),
        replace(OURS, name=f"{MILLION:,} clients, Zipf", clients=MILLION, draw=Draw.ZIPF),
    ),
)


def names() -> list[str]:
    """The names of all groups."""
    return [group.name for group in groups(quick=False, million=True, node=True)]


def groups(*, quick: bool, million: bool, node: bool) -> tuple[Group, ...]:
    """The groups of one run: `quick` has a tenth of the clients, `node` says that Fastify can run."""
    chosen = (BASELINES, *CONNECTED, WORKERS, CREDENTIALS, NUMBER_OF_LIMITS, CLIENTS, *((MILLIONS,) if million else ()))
    found = tuple(
        replace(group, cases=tuple(case for case in group.cases if node or case.server is not Server.FASTIFY))
        for group in chosen
    )
    return tuple(map(_smaller, found)) if quick else found


def _smaller(group: Group) -> Group:
    """The same with at most a thousand clients, but where their number is what is varied."""
    if group.name in {CLIENTS_FIRST, MILLIONS.name}:
        largest = TEN_THOUSAND if group.name == CLIENTS_FIRST else MILLION
        cases = tuple(
            case
            if case.clients <= largest
            else replace(case, clients=largest, name=case.name.replace(f"{case.clients:,}", f"{largest:,}"))
            for case in group.cases
        )
        return replace(group, cases=cases)
    return replace(group, cases=tuple(replace(case, clients=THOUSAND) for case in group.cases))


def plan_file(issuer: str = "") -> str:
    """The plan file of every service here; with an `issuer`, tokens signed by the key in `jwks.json` are believed."""
    lines = [
        "plans:",
        f"  {MAIN}:",
        "    limits:",
        "      per-second: {rate: 1000000/second, burst: 1000000}",
        "      per-minute: {rate: 50000000/minute}",
        "      monthly: {quota: 900000000000/month}",
    ]
    for number in LIMITS:
        lines += [f"  limits-{number}:", "    limits:"]
        rules = ("{rate: 1000000/second, burst: 1000000}", "{quota: 900000000000/month}")
        lines += [f"      limit-{index}: {rules[index % 2]}" for index in range(number)]
    if issuer:
        lines += [
            "issuers:",
            f"  - issuer: {issuer}",
            "    audience: [api]",
            "    algorithms: [RS256]",
            "    jwks_file: jwks.json",
            f"    default_plan: {MAIN}",
        ]
    return "\n".join([*lines, "trusted_proxies: [127.0.0.0/8]", ""])
