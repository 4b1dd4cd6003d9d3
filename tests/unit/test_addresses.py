"""Whose word is taken, and whom a request comes from, whatever stands in `X-Forwarded-For`."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.addresses import MAX_HOP, Network, Proxies, counted, parse
from quotas.plans import LOOPBACK

PROXIES = Proxies(tuple(map(ip_network, ("127.0.0.0/8", "10.0.0.0/8", "10.1.0.0/16", "::1/128", "fd00::/8"))))
PEER = "127.0.0.1"


def caller(*lines: bytes, peer: str | None = PEER) -> str | None:
    address = PROXIES.caller(peer, lines)
    return None if address is None else str(address)


class TestTrust:
    @pytest.mark.parametrize(
        ("peer", "expected"),
        [
            ("127.0.0.1", True),
            ("127.255.255.255", True),
            ("128.0.0.0", False),
            ("126.255.255.255", False),
            ("10.1.2.3", True),
            ("11.0.0.0", False),
            ("::1", True),
            ("::2", False),
            ("::ffff:127.0.0.1", True),
            ("::ffff:8.8.8.8", False),
            ("fd12::1%eth0", True),
            ("fe80::1%eth0", False),
            ("127.0.0.1%eth0", False),
            ("testclient", False),
            ("", False),
            ("127.0.0.1:80", False),
            (None, False),
        ],
    )
    def test_a_peer_is_trusted_in_one_of_the_networks(self, peer: str | None, expected: bool) -> None:  # noqa: FBT001 # A table's column.
        assert [PROXIES.trusts(peer) for _ in range(2)] == [expected] * 2

    def test_without_networks_nobody_is(self) -> None:
        assert not Proxies().trusts("127.0.0.1")
        assert LOOPBACK.trusts("127.0.0.1")

    def test_equal_networks_are_equal_proxies(self) -> None:
        PROXIES.trusts("1.2.3.4")
        assert Proxies(PROXIES.networks) == PROXIES
        assert PROXIES != LOOPBACK

    def test_many_peers_are_not_remembered_for_ever(self) -> None:
        proxies = Proxies(LOOPBACK.networks)
        for number in range(3_000):
            proxies.trusts(f"203.0.{number >> 8}.{number & 255}")
        assert len(proxies._peers) <= 1024  # noqa: SLF001 # Memory is what this is about.
        assert proxies.trusts("127.0.0.1")

    @given(
        st.lists(
            st.builds(
                lambda number, bits: ip_network((number, bits), strict=False),
                st.integers(0, 2**32 - 1),
                st.integers(0, 32),
            ),
            max_size=5,
        ),
        st.integers(0, 2**32 - 1),
    )
    def test_spans_are_the_networks(self, networks: list[IPv4Network], number: int) -> None:
        address = IPv4Address(number)
        assert Proxies(tuple(networks)).trusts(str(address)) == any(address in network for network in networks)


class TestCaller:
    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            pytest.param((), "127.0.0.1", id="nothing forwarded"),
            pytest.param((b"203.0.113.9",), "203.0.113.9", id="one hop"),
            pytest.param((b"198.51.100.1, 203.0.113.9",), "203.0.113.9", id="the right-most"),
            pytest.param((b"198.51.100.1, 203.0.113.9, 10.0.0.1, 10.9.9.9",), "203.0.113.9", id="that is not trusted"),
            pytest.param((b"198.51.100.1,203.0.113.9,10.0.0.1",), "203.0.113.9", id="no spaces"),
            pytest.param((b" 203.0.113.9\t,\t10.0.0.1 ",), "203.0.113.9", id="much space"),
            pytest.param((b"198.51.100.1", b"203.0.113.9, 10.0.0.1"), "203.0.113.9", id="several lines"),
            pytest.param((b"203.0.113.9, 10.0.0.2", b"10.0.0.1"), "203.0.113.9", id="on into the line before"),
            pytest.param((b"10.0.0.3, 10.0.0.2, 10.0.0.1",), "10.0.0.3", id="all trusted: the left-most"),
            pytest.param((b"203.0.113.9:567",), "203.0.113.9", id="with a port"),
            pytest.param((b"203.0.113.9, 10.0.0.1:80",), "203.0.113.9", id="a proxy's port"),
            pytest.param((b"[2001:db8::1]:443",), "2001:db8::1", id="IPv6 with a port"),
            pytest.param((b"[2001:db8::1]",), "2001:db8::1", id="in brackets"),
            pytest.param((b"2001:DB8:0::1",), "2001:db8::1", id="written otherwise"),
            pytest.param((b"fe80::1%eth0",), "fe80::1", id="with a zone"),
            pytest.param((b"[fe80::1%25eth0]:80",), "fe80::1", id="with a zone and a port"),
            pytest.param((b"::ffff:203.0.113.9",), "203.0.113.9", id="IPv4 in IPv6"),
            pytest.param((b"203.0.113.9, ::ffff:10.0.0.1",), "203.0.113.9", id="a proxy's IPv4 in IPv6"),
            pytest.param((b"unknown",), "127.0.0.1", id="no address"),
            pytest.param((b"203.0.113.9, unknown",), "127.0.0.1", id="garbage is not skipped"),
            pytest.param((b"203.0.113.9, unknown, 10.0.0.1",), "10.0.0.1", id="the last good one counts"),
            pytest.param((b"203.0.113.9, , 10.0.0.1",), "10.0.0.1", id="an empty hop"),
            pytest.param((b"203.0.113.9,",), "127.0.0.1", id="an empty end"),
            pytest.param((b"",), "127.0.0.1", id="empty"),
            pytest.param((b"203.0.113.9", b""), "127.0.0.1", id="an empty line"),
            pytest.param((b"203.0.113.09",), "127.0.0.1", id="a leading zero"),
            pytest.param((b"203.0.113.9:",), "127.0.0.1", id="no port"),
            pytest.param((b"203.0.113.9:123456",), "127.0.0.1", id="no such port"),
            pytest.param((b"203.0.113",), "127.0.0.1", id="three numbers"),
            pytest.param((b"3405803785",), "127.0.0.1", id="a number"),
            pytest.param((b"[2001:db8::1",), "127.0.0.1", id="an open bracket"),
            pytest.param((b"[2001:db8::1]x",), "127.0.0.1", id="something behind"),
            pytest.param((b"203.0.113.9%eth0",), "127.0.0.1", id="IPv4 has no zones"),
            pytest.param((b"\xb2.0.0.1, \xff",), "127.0.0.1", id="no ASCII"),
            pytest.param((b"x" * 100_000,), "127.0.0.1", id="long"),
        ],
    )
    def test_behind_a_trusted_peer(self, lines: tuple[bytes, ...], expected: str) -> None:
        assert caller(*lines) == expected

    def test_a_stranger_s_word_is_not_taken(self) -> None:
        assert caller(b"198.51.100.1", peer="203.0.113.9") == "203.0.113.9"
        assert caller(b"198.51.100.1", peer="::ffff:203.0.113.9") == "203.0.113.9"

    @pytest.mark.parametrize("peer", [None, "", "testclient", "/run/quotas.sock"])
    def test_a_peer_without_an_address_is_nobody(self, peer: str | None) -> None:
        assert caller(b"203.0.113.9", peer=peer) is None

    def test_what_lies_left_of_the_answer_is_not_read(self) -> None:
        """A header of 8 kB and more costs what its last hops cost."""
        hops = [b"a" * 8_000, b"203.0.113.9", b"10.0.0.1"]
        begun = parse.cache_info().misses
        assert caller(b",".join(hops)) == "203.0.113.9"
        assert caller(b"1.2.3.4," * 10_000 + b"203.0.113.9, 10.0.0.1") == "203.0.113.9"
        assert parse.cache_info().misses - begun <= 3

    def test_nothing_long_is_remembered(self) -> None:
        known = parse.cache_info().misses
        caller(b"1" * (MAX_HOP + 1))
        assert parse.cache_info().misses == known


trusted = st.sampled_from([b"10.0.0.1", b"127.0.0.9:80", b"[fd00::7]:443", b"::1", b"::ffff:10.2.3.4"])
strangers = st.one_of(
    st.integers(0x0B000000, 0x7EFFFFFF).map(IPv4Address), st.integers(0x2000 << 112, 0x3FFF << 112).map(IPv6Address)
)
garbage = st.binary(max_size=30) | st.lists(trusted | strangers.map(lambda one: str(one).encode()), max_size=4).map(
    b",".join
)


@given(st.lists(garbage, max_size=4), garbage, strangers, st.lists(trusted, max_size=4))
def test_nothing_left_of_the_right_most_stranger_changes_the_answer(
    lines: list[bytes], left: bytes, stranger: IPv4Address | IPv6Address, right: list[bytes]
) -> None:
    forwarded = b", ".join([left, str(stranger).encode(), *right])
    assert PROXIES.caller(PEER, [*lines, forwarded]) == (getattr(stranger, "ipv4_mapped", None) or stranger)


@given(st.none() | st.text(max_size=20) | st.sampled_from([PEER, "::1", "203.0.113.9"]), st.lists(garbage, max_size=4))
def test_whatever_is_forwarded_gives_an_address_if_the_peer_has_one(peer: str | None, lines: list[bytes]) -> None:
    address = PROXIES.caller(peer, lines)
    assert (address is None) == (peer is None or parse(peer) is None)
    if address is not None:
        network: Network = IPv6Network(counted(address)) if address.version == 6 else IPv4Network(counted(address))
        assert address in network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
    ],
)
def test_ipv6_counts_by_64_bits(text: str, expected: str) -> None:
    assert counted(ip_address(text)) == expected
