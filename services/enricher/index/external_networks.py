"""Names that users give to networks outside the cluster: of the networks that hold an address, the one with the longest prefix
names it.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import numpy as np

from proto.flow_batch import Entity
from services.enricher.index.claims import FOREVER
from services.enricher.index.interval_table import NOBODY, IntervalRows, IntervalTable, Keys, Numbers, Words

_MAPPED: Final = bytes(10) + b"\xff\xff"
_MAPPED_MASK: Final = np.uint64(0xFFFF_FFFF)
_MAPPED_WORD: Final = np.uint64(0xFFFF_0000)
"""Bytes 8 to 11 of ::ffff:0:0/96, the first the least."""
_IPV4_PREFIX: Final = 96
_BITS: Final = 128


class ExternalNetworks:
    """Networks by prefix, asked for a whole batch at once."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        """Take `name=network` each, the network in CIDR form. Raises ValueError for what is none, or a network of two names."""
        self.entities: Final[list[Entity]] = []
        """What the numbers mean."""
        numbers: dict[str, int] = {}
        rows: dict[int, dict[tuple[bytes, int, int], list[tuple[int, int, int]]]] = defaultdict(dict)
        for text in named:
            name, prefix, address = _parsed(text)
            number = numbers.setdefault(name, len(numbers))
            if number == len(self.entities):
                self.entities.append(Entity("external", {"external.name": name}))
            held = rows[prefix].setdefault((address, 0, 0), [(0, FOREVER, number)])
            if held[0][2] != number:
                raise ValueError(f"{text!r} has a second name")
        self._tables = [
            (prefix, *_mask(prefix), IntervalTable(IntervalRows.of(rows[prefix]))) for prefix in sorted(rows, reverse=True)
        ]

    def __len__(self) -> int:
        """How many names there are."""
        return len(self.entities)

    def find(self, high: Words, low: Words) -> Numbers:
        """Return the name of each address, given in halves, as its place in `entities`, or NOBODY."""
        found = np.full(len(high), NOBODY, np.int32)
        is_ipv4 = (high == 0) & ((low & _MAPPED_MASK) == _MAPPED_WORD)
        for prefix, mask_high, mask_low, table in self._tables:
            # No network of IPv6 holds addresses of IPv4, though they are mapped into its space here.
            rows = np.flatnonzero((found == NOBODY) & (~is_ipv4 | (prefix >= _IPV4_PREFIX)))
            nothing = np.zeros(len(rows), np.uint64)
            found[rows] = table.find(Keys(high[rows] & mask_high, low[rows] & mask_low, nothing), nothing)
        return found


def _parsed(text: str) -> tuple[str, int, bytes]:
    """Name, prefix in the space of all addresses, and the network's first address as 16 bytes."""
    name, equals, cidr = (part.strip() for part in text.rpartition("="))
    if not name or not equals:
        raise ValueError(f"{text!r} is not name=network")
    try:
        network = ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        raise ValueError(f"{text!r}: {cidr!r} is no network in CIDR form") from None
    packed = network.network_address.packed
    return (
        (name, network.prefixlen, packed)
        if network.version == 6
        else (name, network.prefixlen + _IPV4_PREFIX, _MAPPED + packed)
    )


def _mask(prefix: int) -> tuple[np.uint64, np.uint64]:
    """The bits of a prefix, as `address_words` gives the halves of addresses."""
    mask = ((1 << prefix) - 1 << (_BITS - prefix)).to_bytes(16, "big")
    high, low = np.frombuffer(mask, "<u8")
    return high, low
