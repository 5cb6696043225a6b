"""Bytes by key, found for all rows of a batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from proto.flow_batch import Array

CACHE_LIMIT: Final = 1 << 16
"""Entries that a table may hold when a batch begins; beyond that it starts anew."""
CACHE_BYTES: Final = 32 << 20
"""Bytes of entries, likewise."""

_SLOT_BITS: Final = 16
_FIRST_SIZE: Final = 1024
_NO_KEY: Final = np.uint64(2**64 - 1)
_SPREADING: Final = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: the high bits of multiples lie far apart."""
_HALF: Final = np.uint64(32)
_SLOT_SHIFT: Final = np.uint64(64 - _SLOT_BITS)


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A piece of every row: entry `numbers[row]` of `pieces`."""

    pieces: Array
    numbers: Array
    lengths: Array
    """Bytes of each row's piece."""

    def take(self, rows: Array) -> Array:
        """Return the pieces of some rows (an index array), as objects."""
        return self.pieces[self.numbers[rows]]

    def part(self, rows: slice) -> Column:
        """Return the column of a run of rows."""
        return Column(self.pieces, self.numbers[rows], self.lengths[rows])


class Table:
    """Bytes by key, made when first asked for. A key is a few words, each below 2**64 and the last below 2**64 - 1.

    Rows find their entry by columns: each key has one slot that may remember its entry's number. A row whose key is not in its
    slot, because it is new or because another key has the same slot, is looked up by itself.
    """

    def __init__(self, make: Callable[[tuple[int, ...]], bytes], words: int = 1) -> None:
        self._make = make
        self._words = words
        self.clear()

    def __len__(self) -> int:
        return len(self._numbers)

    def clear(self) -> None:
        """Start anew."""
        self._numbers: dict[tuple[int, ...], int] = {}
        self._pieces = np.empty(_FIRST_SIZE, object)
        self._lengths = np.zeros(_FIRST_SIZE, np.int64)
        self._bytes = 0
        # A slot's key and, behind it, its number stand together: one place in memory is visited for each row.
        self._slots = np.full((1 << _SLOT_BITS, self._words + 1), _NO_KEY, np.uint64)

    @property
    def full(self) -> bool:
        """Whether it should start anew before the next batch."""
        return len(self._numbers) > CACHE_LIMIT or self._bytes > CACHE_BYTES

    def column(self, *key: Array) -> Column:
        """Return the bytes of each row's key, given as one uint64 array per word."""
        mixed = key[0]
        for word in key[1:]:
            mixed = (mixed ^ mixed >> _HALF) * _SPREADING ^ word
        slots = (mixed * _SPREADING >> _SLOT_SHIFT).view(np.int64)
        found = self._slots.take(slots, axis=0)
        strange = found[:, 0] != key[0]
        for at, word in enumerate(key[1:], start=1):
            strange |= found[:, at] != word
        numbers = found[:, -1].view(np.int64)
        missed = strange.nonzero()[0]
        if len(missed):
            wanted = [word[missed] for word in key]
            numbers[missed] = [self._number(one) for one in zip(*(word.tolist() for word in wanted), strict=True)]
            self._slots[slots[missed]] = np.stack([*wanted, numbers[missed].view(np.uint64)], axis=1)
        return Column(self._pieces, numbers, self._lengths.take(numbers))

    def _number(self, key: tuple[int, ...]) -> int:
        number = self._numbers.get(key)
        if number is None:
            piece = self._make(key)
            number = len(self._numbers)
            if number == len(self._pieces):
                self._pieces = np.concatenate([self._pieces, np.empty(number, object)])
                self._lengths = np.concatenate([self._lengths, np.zeros(number, np.int64)])
            self._pieces[number], self._lengths[number] = piece, len(piece)
            self._bytes += len(piece)
            self._numbers[key] = number
        return number
