"""What a Redis or Valkey says of itself, judged by what this service needs of it. Pure: who asks is `store_health`.

`info` is the reply of INFO by its fields, `config` that of CONFIG GET, None where the server does not tell it.
A field that a server lacks is never a fault of its own: servers that speak the protocol differ in what they tell.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from quotas.findings import Finding, ok, problem, warning
from quotas.issuers import is_loopback

CONFIG_NAMES = ("appendfsync", "save")
"""What `persistence` reads of CONFIG GET."""

CONNECTIONS_PER_WORKER = 3
"""One for checks, one for operators, one that waits for news."""

_OLDEST_REDIS = (7, 0)
_MUCH, _TOO_MUCH = 0.8, 0.95
_MIB = 1 << 20

Info = Mapping[str, str]
Config = Mapping[str, str] | None


def fields(reply: bytes) -> Info:
    """The reply of INFO by its fields."""
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def version(info: Info) -> Finding:
    """Which server it is, and whether it is one that the scripts are made for."""
    subject = "store version"
    if number := info.get("valkey_version"):
        return ok(subject, f"Valkey {number}")
    if number := info.get("dragonfly_version"):
        told = f"Dragonfly {number}, on which the scripts have not been tried"
        return warning(subject, told, "use Redis 7 or newer, or Valkey, unless your own tests say that this one serves")
    number = info.get("redis_version", "")
    if not (match := re.match(r"([0-9]+)\.([0-9]+)", number)):
        told = "it does not say which server it is"
        return warning(subject, told, "use Redis 7 or newer, or Valkey, unless your own tests say that this one serves")
    if (int(match[1]), int(match[2])) < _OLDEST_REDIS:
        told = f"Redis {number}: before 7.0 there is no EXPIRE with NX, and scripts are treated otherwise"
        return problem(subject, told, "upgrade to Redis 7 or newer, or to Valkey")
    return ok(subject, f"Redis {number}")


def role(info: Info, url: str) -> Finding:
    """Whether it is the server that takes writes, and all of them."""
    subject = "store role"
    if info.get("cluster_enabled") == "1" and "cluster" not in urlsplit(url).scheme:
        told = "it is a node of a cluster, which has only a part of the keys: checks of the other clients fail"
        return problem(subject, told, "write redis+cluster:// in QUOTAS_REDIS_URL")
    if info.get("role") == "slave":
        primary = f"{info.get('master_host', 'unknown')}:{info.get('master_port', 'unknown')}"
        told = f"it is a replica, of {primary}: it takes no writes, so every check fails"
        return problem(subject, told, "have QUOTAS_REDIS_URL name the primary, or fail over to this server")
    if (state := info.get("master_failover_state", "no-failover")) != "no-failover":
        told = f"it is handing over to a replica just now ({state})"
        return warning(subject, told, "wait until that is over and look again")
    replicas = int(info.get("connected_slaves", 0))
    if not replicas:
        return ok(subject, "primary, without replicas")
    of = "one replica" if replicas == 1 else f"{replicas} replicas"
    return ok(subject, f"primary of {of}: what has not reached them when one takes over is lost")


def eviction(info: Info) -> Finding | None:
    """Whether the server forgets what it was told when its memory is full; None when it does not say."""
    policy = info.get("maxmemory_policy")
    if policy is None:
        return None
    if policy == "noeviction":
        return ok("store eviction", "noeviction")
    told = f"maxmemory-policy is {policy}: with full memory it drops what was spent, so limits start anew"
    if policy.startswith("allkeys"):
        told += ", and clients, keys and revocations"
    return problem("store eviction", told, "CONFIG SET maxmemory-policy noeviction, and the same in its configuration")


def memory(info: Info) -> Finding | None:
    """How much memory is used of what there is; None when the server does not say."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not used:
        return None
    bound, of = most or int(info.get("total_system_memory", 0)), "maxmemory" if most else "the machine's memory"
    told = f"{used / _MIB:.1f} MiB used"
    if not bound:
        return ok("store memory", told)
    told += f", {used / bound:.0%} of {of}"
    if used < _MUCH * bound:
        return ok("store memory", told)
    if most and used >= _TOO_MUCH * most:
        return problem("store memory", f"{told}: when it is full every check fails", "raise maxmemory")
    return warning("store memory", told, "raise maxmemory before it is full" if most else "give it more memory")


def persistence(info: Info, config: Config) -> Finding:
    """What a crash of the server loses. Clients, keys and revocations are kept nowhere else."""
    subject = "store persistence"
    if info.get("aof_enabled") == "1":
        return _append_only(subject, info, config)
    advice = "CONFIG SET appendonly yes, and the same in its configuration"
    if config is None:
        told = "it keeps no append-only file; whether it makes snapshots it does not tell"
        return warning(subject, told, "have it keep an append-only file, or know what a crash of it loses")
    if not config.get("save"):
        told = "it keeps nothing on disk: a restart forgets clients, keys, revocations and all that was spent"
        if int(info.get("connected_slaves", 0)):
            return warning(subject, f"{told}, unless a replica takes over", advice)
        return problem(subject, told, advice)
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        told = "its last snapshot failed: by default it refuses writes then, and checks fail"
        return problem(subject, told, "see its log, mend that (often a full disk), then BGSAVE")
    told = f"snapshots only (save {config['save']}): a crash loses what changed since the last one, new keys too"
    return warning(subject, told, advice)


def _append_only(subject: str, info: Info, config: Config) -> Finding:
    if info.get("aof_last_write_status", "ok") != "ok":
        told = "it cannot write its append-only file, so it refuses writes and checks fail"
        return problem(subject, told, "see its log and mend that; often the disk is full")
    match None if config is None else config.get("appendfsync"):
        case "always":
            return ok(subject, "append-only file, written at once: a crash loses nothing that was answered")
        case "everysec":
            return ok(subject, "append-only file, written each second: a power cut loses at most about a second")
        case "no":
            told = "append-only file, written when the system likes: a power cut can lose half a minute"
            advice = "CONFIG SET appendfsync everysec, and the same in its configuration"
            return warning(subject, told, advice)
        case _:
            return ok(subject, "append-only file; how often it is written the server does not tell")


def connections(info: Info, workers: int) -> Finding | None:
    """Whether the server takes as many connections as the workers make; None when it does not say."""
    now, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if not most:
        return None
    needed = workers * CONNECTIONS_PER_WORKER
    told = f"{now} of {most} in use; {workers} {'worker makes' if workers == 1 else 'workers make'} {needed}"
    if now + needed < most:
        return ok("store connections", told)
    return warning("store connections", told, "raise maxclients, or see who else connects (CLIENT LIST)")


def road(url: str) -> Finding:
    """Whether strangers could read or speak on the way to the server, as far as its URL tells."""
    subject, parts = "store encryption", urlsplit(url)
    hosts = [] if parts.scheme == "unix" else _hosts(parts.netloc)
    if not hosts:
        return ok(subject, "not needed: it is a unix socket")
    if all(map(is_loopback, hosts)):
        return ok(subject, "not needed: it is on this machine")
    query = parse_qs(parts.query)
    is_tls = parts.scheme.startswith("rediss")
    if is_tls and query.get("ssl_cert_reqs", ["required"])[0] == "none":
        told = "TLS without a look at the server's certificate, so anybody on the way can be the server"
        return warning(subject, told, "take ssl_cert_reqs=none out of QUOTAS_REDIS_URL; ssl_ca_certs names your own CA")
    advice = "use rediss://, unless nobody else is on the network between"
    if ":" not in parts.netloc.rpartition("@")[0] and "password" not in query and "ssl_certfile" not in query:
        told = "there is no password" if is_tls else "neither encryption nor a password"
        also = "give the server a user for this service" + ("" if is_tls else f"; {advice}")
        return warning(subject, f"{told} on the way to {', '.join(hosts)}", also)
    if not is_tls:
        told = f"none on the way to {', '.join(hosts)}: the password and all clients can be read there"
        return warning(subject, told, advice)
    return ok(subject, "TLS")


def place(url: str) -> str:
    """Where the server is, for messages: never a user, a password or a parameter."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme != "unix" else f"unix://{parts.path}"


def _hosts(netloc: str) -> list[str]:
    each = netloc.rpartition("@")[2].split(",")
    return [re.sub(r"^\[(.*)\](?::[0-9]*)?$|:[0-9]*$", r"\1", host) or "localhost" for host in each]
