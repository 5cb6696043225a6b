"""Where somebody of the cluster may be though no object says so: the addresses of which nobody can know that they are outside.

Nodes have addresses that the API does not tell (tunnels, bridges, secondary interfaces), pods may have further networks, and
what has just ended or not yet begun belongs to nobody. Such an address is either one that only has a meaning inside some
network (private, shared, link-local, loopback, multicast ...), or lies among the public addresses that this cluster uses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from services.enricher.index.interval_table import Bits, Words, address_words
from services.enricher.kubernetes.node_annotations import Network

_MAPPED_MASK: Final = np.uint64(0xFFFF_FFFF)
_MAPPED_WORD: Final = np.uint64(0xFFFF_0000)
"""Bytes 8 to 11 of ::ffff:0:0/96, the first the least."""
_LOW_BITS: Final = np.uint64(32)

_NOT_GLOBAL: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",  # multicast, and what some clouds give to pods (240.0.0.0/4)
)
_NAT64: Final = 0x0064_FF9B << 32
"""High half of 64:ff9b::/96, through which IPv6 reaches all of IPv4."""
_GLOBAL_UNICAST: Final = range(1 << 61, 2 << 61)
"""High halves of 2000::/3."""
_IPV4_AROUND: Final = np.uint64((1 << 56) - 1)
"""All but the last byte of an address's lower half, the first the least."""


class PossibleNetworks:
    """Ranges of addresses, asked for a whole batch at once.

    An address is one word: IPv4 its 32 bits, IPv6 its upper half. What IPv6 has below that (loopback, unspecified) is never
    global, and in IPv4 the first network is not either.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        """Take the networks that the cluster uses for itself."""
        ranges = [_words(ipaddress.ip_network(each)) for each in _NOT_GLOBAL] + [_words(each) for each in networks]
        ranges += [(1 << 32, _NAT64 - 1), (_NAT64 + 1, _GLOBAL_UNICAST.start - 1), (_GLOBAL_UNICAST.stop, (1 << 64) - 1)]
        ranges.sort()
        self._starts = np.array([start for start, _ in ranges], np.uint64)
        # A range may hold those that follow it.
        self._ends = np.maximum.accumulate(np.array([end for _, end in ranges], np.uint64))

    def hold(self, high: Words, low: Words) -> Bits:
        """Return which addresses, given in halves, are in one of them."""
        is_ipv4 = (high == 0) & ((low & _MAPPED_MASK) == _MAPPED_WORD)
        upper, rest = high.byteswap(), low.byteswap() & _MAPPED_MASK
        words = np.where(is_ipv4, rest, np.where(upper >> _LOW_BITS, upper, np.uint64(0)))
        found: Bits = words <= self._ends[np.searchsorted(self._starts, words, "right") - 1]
        return found


def around(addresses: npt.NDArray[np.void]) -> list[Network]:
    """Return the networks around addresses that a cluster uses for itself, as far as they have a meaning everywhere: no object
    says how large they are.
    """
    high, low = address_words(addresses)
    rows = np.flatnonzero(~PossibleNetworks().hold(high, low))
    high, low = high[rows], low[rows]
    pairs = np.stack((high, np.where(high == 0, low & _IPV4_AROUND, np.uint64(0)))).T
    packed = (pair.tobytes() for pair in np.unique(pairs, axis=0))
    found = (ipaddress.IPv6Address(each) for each in packed)
    return [ipaddress.ip_network((each.ipv4_mapped, 24) if each.ipv4_mapped else (each, 64)) for each in found]


def _words(network: Network) -> tuple[int, int]:
    """The first and the last word of a network."""
    first, last = int(network[0]), int(network[-1])
    return (first, last) if network.version == 4 else (first >> 64, last >> 64)
