"""A read-only table from (address, port, transport) and time to a number, asked for a whole batch at once.

Keys are kept as two 64-bit halves of the address and one word of port and transport, sorted by a 64-bit hash of the three. A
directory over the hash's leading bits says where to begin, so a lookup is a handful of numpy operations on the batch whatever
the size of the table. Two keys never share a hash: a table in which they would is built again with another seed.
"""

from __future__ import annotations

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


class IntervalTable:
    """Who holds a key at a time."""

    def __init__(self, rows: Mapping[tuple[bytes, int, int], Sequence[tuple[int, int, int]]]) -> None:
        """Take, by (16 bytes of address, port, transport), its intervals as (start, end, number), in order and apart."""
        words = np.frombuffer(b"".join(address for address, _, _ in rows), "<u8").reshape(-1, 2)
        ports = np.fromiter((port << 8 | transport for _, port, transport in rows), np.uint64, len(rows))
        keys = Keys(words[:, 0], words[:, 1], ports)
        self._seed, hashes = _without_collision(keys)
        order = np.argsort(hashes)
        self._keys = keys.take(order)
        self._hashes = np.append(hashes[order], np.uint64(2**64 - 1))
        bits = max(1, (len(rows) * _DIRECTORY_SLOTS_PER_KEY).bit_length())
        self._shift = np.uint64(64 - bits)
        starts = np.arange(2**bits, dtype=np.uint64) << self._shift
        self._directory = np.searchsorted(hashes[order], starts).astype(np.int32)

        by_key = list(rows.values())
        counts = np.fromiter((len(intervals) for intervals in by_key), np.int32, len(by_key))[order]
        self._first = np.append(np.int32(0), np.cumsum(counts, dtype=np.int32))
        flat = [interval for position in order.tolist() for interval in by_key[position]]
        self._starts = np.fromiter((start for start, _, _ in (*flat, (0, 0, 0))), np.uint64, len(flat) + 1)
        self._ends = np.fromiter((end for _, end, _ in flat), np.uint64, len(flat))
        self._numbers = np.fromiter((number for _, _, number in flat), np.int32, len(flat))
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
