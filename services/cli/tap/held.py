"""Records that are held before they are shown: the latest of them, and in the order of their times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from proto.flow_batch import Array, FlowBatch
from proto.rows import rows
from services.cli.tap.filters import FlowFilter

_ROWS_AT_ONCE: Final = 2000

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """A batch, and its records as they were given, where that was not as a batch: with no more than is known of each."""

    batch: FlowBatch
    given: Sequence[Row] | None = None

    def take(self, which: Array) -> Held:
        """Return some of the records, by their indexes."""
        given = None if self.given is None else [self.given[at] for at in which.tolist()]
        return Held(self.batch.take(which), given)

    def only(self, wanted: FlowFilter) -> Held:
        """Return the records that are wanted."""
        mask = wanted.mask(self.batch)
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def shown(self) -> Iterator[tuple[Row, Row]]:
        """Yield each record twice: as it was given, and with every column."""
        for at, row in enumerate(rows(self.batch)):
            yield row if self.given is None else self.given[at], row


def latest(some: Iterable[Held], number: int | None) -> list[Held]:
    """Return the `number` records of all whose last packets came last, as they were given; all of them where it is None.

    A flow is told when it is over, long after its last packet or at once: what was given last need not be the latest.
    """
    kept: list[Held] = []
    records = 0
    for held in some:
        kept.append(held)
        records += held.batch.count
        if number is not None and records >= 2 * number + _ROWS_AT_ONCE:
            kept, records = _cut(kept, number), number
    return kept if number is None else _cut(kept, number)


def _cut(some: Sequence[Held], number: int) -> list[Held]:
    ends = np.cumsum([held.batch.count for held in some], dtype=np.int64)
    wanted = np.zeros(ends[-1] if some else 0, np.bool_)
    wanted[_order(some)[-number:]] = True
    masks = np.split(wanted, ends)
    found = ((held, mask) for held, mask in zip(some, masks, strict=False) if mask.any())
    return [held if mask.all() else held.take(np.flatnonzero(mask)) for held, mask in found]


def _order(some: Sequence[Held]) -> Array:
    """The places of all records, one batch behind the other, in the order of their last packets."""
    ends = [held.batch.column("end_unix_ns") for held in some]
    return np.argsort(np.concatenate(ends), kind="stable") if ends else np.arange(0)


def by_time(some: Sequence[Held]) -> Iterator[tuple[Row, Row]]:
    """Yield the records of all as `shown` does, in the order of their last packets."""
    if not some:
        return
    counts = [held.batch.count for held in some]
    order = _order(some)
    whose, first = np.repeat(np.arange(len(some)), counts), np.concatenate(([0], np.cumsum(counts)))
    # A batch is taken apart once for many of its records, and only so many records are dictionaries at a time.
    for begin in range(0, len(order), _ROWS_AT_ONCE):
        chunk = order[begin : begin + _ROWS_AT_ONCE]
        of: dict[int, tuple[Row, Row]] = {}
        for number in np.unique(whose[chunk]).tolist():
            mine = chunk[whose[chunk] == number]
            of |= dict(zip(mine.tolist(), some[number].take(mine - first[number]).shown(), strict=True))
        yield from (of[at] for at in chunk.tolist())
