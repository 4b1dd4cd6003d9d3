"""What a server says of itself, and what is made of it. Replies of real servers are judged in tests/store."""

import pytest

from quotas import store_facts
from quotas.findings import Verdict

OK, WARNING, PROBLEM = Verdict


def test_fields_are_read_and_headlines_are_not() -> None:
    reply = b"# Server\r\nredis_version:7.4.1\r\nexecutable:/usr/bin/a:b\r\n\r\n# Memory\r\nused_memory:1\r\n"
    assert store_facts.fields(reply) == {"redis_version": "7.4.1", "executable": "/usr/bin/a:b", "used_memory": "1"}


@pytest.mark.parametrize(
    ("info", "verdict", "told"),
    [
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, OK, "Valkey 9.1.0"),
        ({"redis_version": "7.0.0"}, OK, "Redis 7.0.0"),
        ({"redis_version": "10.0.1"}, OK, "Redis 10.0.1"),
        ({"redis_version": "6.2.14"}, PROBLEM, "Redis 6.2.14: before 7.0"),
        ({"redis_version": "7.2.0", "dragonfly_version": "df-v1.20.0"}, WARNING, "Dragonfly df-v1.20.0"),
        ({"redis_version": "new"}, WARNING, "does not say"),
        ({}, WARNING, "does not say"),
    ],
)
def test_version(info: dict[str, str], verdict: Verdict, told: str) -> None:
    finding = store_facts.version(info)
    assert finding.verdict is verdict
    assert told in finding.message


def test_a_primary_that_hands_over_is_not_the_primary_for_long() -> None:
    info = {"role": "master", "connected_slaves": "2", "master_failover_state": "waiting-for-sync"}
    assert store_facts.role(info, "redis://cache").verdict is WARNING
    finding = store_facts.role(info | {"master_failover_state": "no-failover"}, "redis://cache")
    assert (finding.verdict, "2 replicas" in finding.message) == (OK, True)


def test_a_node_of_a_cluster_is_not_the_cluster() -> None:
    info = {"role": "master", "cluster_enabled": "1"}
    assert store_facts.role(info, "redis://cache").verdict is PROBLEM
    assert store_facts.role(info, "redis+cluster://cache").verdict is OK


@pytest.mark.parametrize(
    ("used", "most", "machine", "verdict", "told"),
    [
        (79, 100, 1000, OK, "79% of maxmemory"),
        (80, 100, 1000, WARNING, "80% of maxmemory"),
        (94, 100, 1000, WARNING, "94% of maxmemory"),
        (95, 100, 1000, PROBLEM, "95% of maxmemory"),
        (79, 0, 100, OK, "79% of the machine's memory"),
        (99, 0, 100, WARNING, "99% of the machine's memory"),
        (99, 0, 0, OK, "99.0 MiB used"),
    ],
)
def test_memory(used: int, most: int, machine: int, verdict: Verdict, told: str) -> None:
    names = ("used_memory", "maxmemory", "total_system_memory")
    info = {name: str(number << 20) for name, number in zip(names, (used, most, machine), strict=True)}
    finding = store_facts.memory(info)
    assert finding is not None
    assert finding.verdict is verdict
    assert told in finding.message


def test_what_a_server_does_not_tell_is_no_finding() -> None:
    assert store_facts.memory({}) is None
    assert store_facts.eviction({}) is None
    assert store_facts.connections({}, 1) is None


AOF = {"aof_enabled": "1", "aof_last_write_status": "ok"}
RDB = {"aof_enabled": "0", "rdb_last_bgsave_status": "ok"}


@pytest.mark.parametrize(
    ("info", "config", "verdict", "told"),
    [
        (AOF, {"appendfsync": "always"}, OK, "loses nothing"),
        (AOF, {"appendfsync": "everysec"}, OK, "about a second"),
        (AOF, {"appendfsync": "no"}, WARNING, "half a minute"),
        (AOF, None, OK, "does not tell"),
        (AOF | {"aof_last_write_status": "err"}, {"appendfsync": "always"}, PROBLEM, "cannot write"),
        (RDB, {"save": "3600 1"}, WARNING, "snapshots only (save 3600 1)"),
        (RDB | {"rdb_last_bgsave_status": "err"}, {"save": "3600 1"}, PROBLEM, "last snapshot failed"),
        (RDB, {"save": ""}, PROBLEM, "keeps nothing on disk"),
        (RDB | {"connected_slaves": "1"}, {"save": ""}, WARNING, "unless a replica takes over"),
        (RDB, None, WARNING, "does not tell"),
    ],
)
def test_persistence(info: dict[str, str], config: dict[str, str] | None, verdict: Verdict, told: str) -> None:
    finding = store_facts.persistence(info, config)
    assert finding.verdict is verdict
    assert told in finding.message


@pytest.mark.parametrize(("now", "workers", "verdict"), [(84, 5, OK), (85, 5, WARNING), (0, 33, OK), (0, 34, WARNING)])
def test_connections(now: int, workers: int, verdict: Verdict) -> None:
    finding = store_facts.connections({"connected_clients": str(now), "maxclients": "100"}, workers)
    assert finding is not None
    assert finding.verdict is verdict


@pytest.mark.parametrize(
    ("url", "verdict", "told"),
    [
        ("unix:///run/valkey.sock", OK, "a unix socket"),
        ("unix://user:secret@/run/valkey.sock?db=1", OK, "a unix socket"),
        ("redis://localhost", OK, "on this machine"),
        ("redis://:secret@127.0.0.9:6379/0", OK, "on this machine"),
        ("redis://[::1]:6379", OK, "on this machine"),
        ("redis://cache:6379", WARNING, "neither encryption nor a password on the way to cache"),
        ("redis://u:secret@10.0.0.1", WARNING, "none on the way to 10.0.0.1"),
        ("redis://cache?password=secret", WARNING, "none on the way to cache"),
        ("redis://[fd00::1]:6379", WARNING, "on the way to fd00::1"),
        ("redis://localhost:1,cache:2", WARNING, "on the way to localhost, cache"),
        ("rediss://cache", WARNING, "there is no password"),
        ("rediss://u:secret@cache", OK, "TLS"),
        ("rediss://cache?ssl_certfile=/c.pem", OK, "TLS"),
        ("rediss://u:secret@cache?ssl_cert_reqs=none", WARNING, "anybody on the way"),
    ],
)
def test_the_way_to_the_server(url: str, verdict: Verdict, told: str) -> None:
    finding = store_facts.road(url)
    assert finding.verdict is verdict
    assert told in finding.message
    assert "secret" not in finding.message + finding.advice


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://user:secret@cache:6379/0?password=secret", "redis://cache:6379"),
        ("unix://user:secret@/run/valkey.sock?db=1", "unix:///run/valkey.sock"),
        ("rediss://[fd00::1]:6380/0", "rediss://[fd00::1]:6380"),
    ],
)
def test_a_place_is_told_without_a_secret(url: str, place: str) -> None:
    assert store_facts.place(url) == place
