"""A read-only table from (address, port, transport) and time to a number, asked for a whole batch at once.

Keys are kept as two 64-bit halves of the address and one word of port and transport, sorted by a 64-bit hash of the three. A
directory over the hash's leading bits says where to begin, so a lookup is a handful of numpy operations on the batch whatever
the size of the table. Two keys never share a hash: a table in which they would is built again with another seed.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint64]
Numbers: TypeAlias = npt.NDArray[np.int32]
Bits: TypeAlias = npt.NDArray[np.bool_]

NOBODY: Final = -1
"""Answer for a key or a time that the table does not hold."""

_DIRECTORY_SLOTS_PER_KEY: Final = 4
_FIRST_MULTIPLIER: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_SECOND_MULTIPLIER: Final = np.uint64(0xC2B2_AE3D_27D4_EB4F)
_THIRD_MULTIPLIER: Final = np.uint64(0x1656_67B1_9E37_79F9)
_FOLD: Final = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of a batch, an element each: halves of the address, and `port_word`."""

    high: Words
    low: Words
    port: Words

    def take(self, rows: npt.NDArray[np.intp]) -> Keys:
        """Return the keys of some rows."""
        return Keys(self.high[rows], self.low[rows], self.port[rows])

    def hashes(self, seed: int) -> Words:
        """Return a 64-bit hash of each key, whose leading bits are as good as any."""
        mixed: Words = (self.high ^ np.uint64(seed)) * _FIRST_MULTIPLIER
        mixed ^= mixed >> _FOLD
        mixed = (mixed ^ self.low) * _SECOND_MULTIPLIER
        mixed ^= mixed >> _FOLD
        mixed = (mixed ^ self.port) * _THIRD_MULTIPLIER
        mixed ^= mixed >> _FOLD
        mixed *= _FIRST_MULTIPLIER
        return mixed


def address_words(addresses: npt.NDArray[np.void]) -> tuple[Words, Words]:
    """Return the two halves of 16-byte addresses."""
    words = np.ascontiguousarray(addresses).view("<u8").reshape(-1, 2)
    return words[:, 0], words[:, 1]


def port_words(ports: npt.NDArray[Any], transports: npt.NDArray[Any]) -> Words:
    """Return port and transport as one word each."""
    words: Words = (ports.astype(np.uint64) << np.uint64(8)) | transports
    return words


class IntervalRows:
    """Intervals by key, on their way into a table; flat, because there are as many as a cluster has addresses and ports."""

    def __init__(self) -> None:
        self.addresses = bytearray()
        """16 bytes a key."""
        self.ports = array("Q")
        self.counts = array("i")
        """How many of the intervals are each key's."""
        self.starts, self.ends, self.numbers = array("Q"), array("Q"), array("i")

    @classmethod
    def of(cls, by_key: Mapping[tuple[bytes, int, int], Sequence[tuple[int, int, int]]]) -> IntervalRows:
        """Return the rows of a mapping from (16 bytes of address, port, transport) to intervals as `add` takes them."""
        rows = cls()
        for key, intervals in by_key.items():
            rows.add(*key, intervals)
        return rows

    def add(self, address: bytes, port: int, transport: int, intervals: Sequence[tuple[int, int, int]]) -> None:
        """Add a key with its intervals as (start, end, number), in order and apart."""
        self.addresses += address
        self.ports.append(port << 8 | transport)
        self.counts.append(len(intervals))
        for start, end, number in intervals:
            self.starts.append(start)
            self.ends.append(end)
            self.numbers.append(number)

    def addresses_of(self, numbers: Bits) -> npt.NDArray[np.void]:
        """Return the addresses of the keys that ever belong to some of the numbers; `numbers` has a truth for each."""
        keys = np.repeat(np.arange(len(self.counts)), np.array(self.counts, np.int32))
        chosen = np.unique(keys[numbers[np.array(self.numbers, np.int32)]])
        return np.frombuffer(bytes(self.addresses), "V16")[chosen]


class IntervalTable:
    """Who holds a key at a time."""

    def __init__(self, rows: IntervalRows) -> None:
        """Take the intervals of every key."""
        words = np.frombuffer(rows.addresses, "<u8").reshape(-1, 2)
        keys = Keys(words[:, 0], words[:, 1], np.array(rows.ports, np.uint64))
        self._seed, hashes = _without_collision(keys)
        order = np.argsort(hashes)
        self._keys = keys.take(order)
        self._hashes = np.append(hashes[order], np.uint64(2**64 - 1))
        bits = max(1, (len(order) * _DIRECTORY_SLOTS_PER_KEY).bit_length())
        self._shift = np.uint64(64 - bits)
        starts = np.arange(2**bits, dtype=np.uint64) << self._shift
        self._directory = np.searchsorted(hashes[order], starts).astype(np.int32)

        counts = np.array(rows.counts, np.int32)
        first = np.cumsum(counts, dtype=np.int32) - counts
        counts, first = counts[order], first[order]
        self._first = np.append(np.int32(0), np.cumsum(counts, dtype=np.int32))
        places = np.repeat(first - self._first[:-1], counts) + np.arange(len(rows.starts), dtype=np.int32)
        self._starts = np.append(np.array(rows.starts, np.uint64)[places], np.uint64(0))
        self._ends = np.array(rows.ends, np.uint64)[places]
        self._numbers = np.array(rows.numbers, np.int32)[places]
        self._most_intervals = int(counts.max(initial=0))

    def __len__(self) -> int:
        """How many keys it holds."""
        return len(self._keys.high)

    def find(self, keys: Keys, times_unix_ns: Words) -> Numbers:
        """Return the number that holds each key at its time, or NOBODY."""
        if not len(self) or not len(times_unix_ns):
            return np.full(len(times_unix_ns), NOBODY, np.int32)
        hashes = keys.hashes(self._seed)
        rows = self._directory[hashes >> self._shift]
        behind = self._hashes[rows] < hashes
        while behind.any():
            rows += behind
            behind = self._hashes[rows] < hashes
        np.minimum(rows, len(self) - 1, out=rows)
        found = self._keys.high[rows] == keys.high
        found &= self._keys.low[rows] == keys.low
        found &= self._keys.port[rows] == keys.port
        interval = self._first[rows]
        for _ in range(self._most_intervals - 1):
            following = interval + 1
            interval += (following < self._first[rows + 1]) & (self._starts[following] <= times_unix_ns)
        found &= self._starts[interval] <= times_unix_ns
        found &= times_unix_ns < self._ends[interval]
        return np.where(found, self._numbers[interval], np.int32(NOBODY))


def _without_collision(keys: Keys) -> tuple[int, Words]:
    """Return the first seed that gives every key a hash of its own, and the hashes."""
    seed = 0
    while True:
        hashes = keys.hashes(seed)
        if len(np.unique(hashes)) == len(hashes):
            return seed, hashes
        seed += 1
