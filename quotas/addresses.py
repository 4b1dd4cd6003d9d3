"""Network addresses: whose word is taken, and whom a request comes from. Pure text work.

A proxy appends to `X-Forwarded-For` whom it heard from, so its last hops were written by trusted proxies and everything
left of the right-most hop that is not one was written by whoever liked to.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOP = 100
"""Bytes of one hop: the longest address in brackets with a zone and a port is shorter."""

_MAX_PEERS = 1024
"""Peers whose trust is remembered; the same few gateways ask all the time."""

_HOP = re.compile(rb"\[([^\]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}|(.*)", re.DOTALL)
"""In brackets with or without a port, IPv4 with a port, or an address alone."""

_Spans = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Proxies:
    """Networks whose word on what a request costs and whom it comes from is taken."""

    networks: tuple[Network, ...] = ()
    _spans: dict[int, _Spans] = field(init=False, repr=False, compare=False)
    _peers: dict[str, bool] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        four = [network for network in self.networks if isinstance(network, IPv4Network)]
        six = [network for network in self.networks if isinstance(network, IPv6Network)]
        object.__setattr__(self, "_spans", {4: _spans(collapse_addresses(four)), 6: _spans(collapse_addresses(six))})

    def trusts(self, peer: str | None) -> bool:
        """Whether a peer's address is in one of the networks; what is no address is not. None is not known."""
        if peer is None:
            return False
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= _MAX_PEERS:
                self._peers.clear()
            address = parse(peer)
            known = self._peers[peer] = address is not None and self._holds(address)
        return known

    def caller(self, peer: str | None, forwarded: Iterable[bytes]) -> Address | None:
        """Whose request it is that `peer` brings, after the lines of its `X-Forwarded-For`, which are one list.

        The right-most address that is not trusted, the peer's own first; if all are, the left-most. A hop that is
        no address ends the walk, because what is left of it may be forged: then it is the last address before.
        None when the peer has no address.
        """
        address = None if peer is None else parse(peer)
        if address is None:
            return None
        if self._holds(address):
            for hop in _from_the_right(tuple(forwarded)):
                said = _hop(hop) if len(hop) <= MAX_HOP else None
                if said is None:
                    break
                address = said
                if not self._holds(address):
                    break
        return address

    def _holds(self, address: Address) -> bool:
        first, last = self._spans[address.version]
        number = int(address)
        at = bisect_right(first, number) - 1
        return at >= 0 and number <= last[at]


def counted(address: Address) -> str:
    """What a caller is counted by: an IPv4 address, or the /64 of an IPv6 one, which one host has whole."""
    if address.version == 4:  # noqa: PLR2004 # IPv4.
        return str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


@lru_cache(4096)
def parse(text: str) -> Address | None:
    """An address, without its zone; IPv4 in IPv6 clothes (RFC 4291, section 2.5.5.2) is IPv4. None for no address."""
    try:
        address = ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(4096)
def _hop(hop: bytes) -> Address | None:
    match = _HOP.fullmatch(hop)
    assert match is not None, "the last way to write a hop is any"
    return parse(match[match.lastindex or 0].decode("latin-1"))


def _from_the_right(lines: tuple[bytes, ...]) -> Iterator[bytes]:
    """The hops of a list in reverse order, each looked for when it is asked for."""
    for line in reversed(lines):
        end = len(line)
        while end >= 0:
            begin = line.rfind(b",", 0, end)
            yield line[begin + 1 : end].strip(b" \t")
            end = begin


def _spans(networks: Iterable[Network]) -> _Spans:
    """First and last numbers of networks that are in order and apart."""
    pairs = [(int(network[0]), int(network[-1])) for network in networks]
    return [first for first, _ in pairs], [last for _, last in pairs]
