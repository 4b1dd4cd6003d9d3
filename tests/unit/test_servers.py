"""What a URL of the store says."""

import pytest
from redis.asyncio.connection import SSLConnection

from quotas import servers
from quotas.errors import ConfigError
from quotas.servers import Nodes, Sentinels, Server

AUTHORITY = {"ssl_ca_certs": "/ca.pem"}


def sentinels(url: str) -> Sentinels:
    found = servers.read(url)
    assert isinstance(found, Sentinels)
    return found


def nodes(url: str) -> Nodes:
    found = servers.read(url)
    assert isinstance(found, Nodes)
    return found


def told(options: object, *names: str) -> dict[str, object]:
    assert isinstance(options, dict)
    return {name: options[name] for name in names if name in options}


def test_one_server() -> None:
    found = servers.read("redis://ann:p%40s@host:6380/3?socket_keepalive=yes")
    assert isinstance(found, Server)
    names = ("host", "port", "db", "username", "password", "socket_keepalive", "protocol")
    assert list(told(found.options, *names).values()) == ["host", 6380, 3, "ann", "p@s", True, 2]


def test_what_a_url_says_is_under_what_the_line_needs() -> None:
    found = servers.read("redis://host?protocol=3&socket_timeout=9&retry_on_timeout=yes")
    assert isinstance(found, Server)
    assert told(found.options, "protocol", "socket_timeout", "retry_on_timeout") == {
        "protocol": 2,
        "socket_timeout": None,
        "retry_on_timeout": False,
    }


class TestSentinels:
    def test_hosts_and_service(self) -> None:
        found = sentinels("redis+sentinel://one,two:1,[::1]:2/the%20main/4")
        assert found.addresses == (("one", 26379), ("two", 1), ("::1", 2))
        assert found.service == "the main"
        assert found.server.options["db"] == 4
        assert sentinels("redis+sentinel://one/main").server.options["db"] == 0

    def test_servers_and_sentinels_have_passwords_of_their_own(self) -> None:
        url = "redis+sentinel://ann:a%2Cb@one/main?sentinel_username=sue&sentinel_password=s%26t"
        found = sentinels(url)
        assert told(found.server.options, "username", "password") == {"username": "ann", "password": "a,b"}
        assert told(found.asking, "username", "password") == {"username": "sue", "password": "s&t"}
        assert told(sentinels("redis+sentinel://:pw@one/main").asking, "password") == {"password": None}

    @pytest.mark.parametrize(
        ("scheme", "more", "server", "sentinel"),
        [
            ("redis", "", False, False),
            ("rediss", "", True, True),
            ("rediss", "&sentinel_tls=0", True, False),
            ("redis", "&sentinel_tls=1", False, True),
        ],
    )
    def test_tls(self, scheme: str, more: str, server: bool, sentinel: bool) -> None:  # noqa: FBT001 # A table.
        authority = "ssl_ca_certs=/ca.pem" if server or sentinel else ""
        found = sentinels(f"{scheme}+sentinel://one/main?{authority}{more}")
        assert (found.server.options.get("connection_class") is SSLConnection) == server
        assert told(found.server.options, "ssl_ca_certs") == (AUTHORITY if server else {})
        assert told(found.asking, "ssl", "ssl_ca_certs") == ({"ssl": True, **AUTHORITY} if sentinel else {})


class TestNodes:
    def test_hosts(self) -> None:
        assert nodes("redis+cluster://one,two:7001").addresses == (("one", 6379), ("two", 7001))
        assert nodes("redis+cluster://one/0?db=0").addresses == (("one", 6379),)

    def test_every_node_has_the_same_options(self) -> None:
        found = nodes("rediss+cluster://ann:pw@one?ssl_ca_certs=/ca.pem")
        there = found.server.at(("three", 7003)).options
        names = ("host", "port", "username", "password", "connection_class", "ssl_ca_certs")
        assert list(told(there, *names).values()) == ["three", 7003, "ann", "pw", SSLConnection, "/ca.pem"]


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("redis://host:hunter22", "redis://user:password@host:6379/0"),
        ("redis://host?hunter22=1", "redis://user:password@host:6379/0"),
        ("redis+sentinel://hunter22", "redis+sentinel://user:password@host:26379,host:26379/service/0"),
        ("redis+sentinel://host/main/hunter22", "redis+sentinel://"),
        ("redis+sentinel://host:hunter22/main", "redis+sentinel://"),
        ("redis+sentinel://host,/main?hunter22", "redis+sentinel://"),
        ("redis+sentinel://a:b/hunter22@host/main", "redis+sentinel://"),
        ("redis+sentinel://a:hunter22@b@host/main#x", "redis+sentinel://"),
        ("redis+sentinel://host/main?sentinel_tls=hunter22", "redis+sentinel://"),
        ("redis+sentinel://host/main?hunter22=1", "redis+sentinel://"),
        ("redis+cluster://host/1", "redis+cluster://user:password@host:6379,host:6379"),
        ("redis+cluster://host?db=1", "redis+cluster://"),
        ("redis+cluster://:hunter22@", "redis+cluster://"),
        ("rediss+cluster://host:0x,hunter22", "redis+cluster://"),
        ("redis+cluster://host?hunter22=1", "redis+cluster://"),
    ],
)
def test_what_cannot_be_read_is_said_without_a_word_of_it(url: str, form: str) -> None:
    with pytest.raises(ConfigError, match="QUOTAS_REDIS_URL: cannot be read; write it as") as caught:
        servers.read(url)
    assert form in str(caught.value)
    assert "hunter22" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_no_repr_has_a_password() -> None:
    for kind in (
        "redis://:hunter22@h",
        "redis+sentinel://:hunter22@h/main?sentinel_password=hunter22",
        "redis+cluster://:hunter22@h",
    ):
        assert "hunter22" not in repr(servers.read(kind))
