"""Records that are held before they are shown: the latest of them, and in the order of their times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
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


def latest(some: Iterator[Held], number: int | None) -> Iterator[Held]:
    """Yield the last `number` records of all, in their order; all of them where it is None."""
    if number is None:
        yield from some
        return
    kept: deque[Held] = deque()
    records = 0
    for held in some:
        kept.append(held)
        records += held.batch.count
        while records - kept[0].batch.count >= number:
            records -= kept.popleft().batch.count
    for place, held in enumerate(kept):
        yield held.take(np.arange(max(records - number, 0), held.batch.count)) if place == 0 else held


def by_time(some: Sequence[Held]) -> Iterator[tuple[Row, Row]]:
    """Yield the records of all as `shown` does, in the order of their last packets."""
    if not some:
        return
    counts = [held.batch.count for held in some]
    order = np.argsort(np.concatenate([held.batch.column("end_unix_ns") for held in some]), kind="stable")
    whose, first = np.repeat(np.arange(len(some)), counts), np.concatenate(([0], np.cumsum(counts)))
    # A batch is taken apart once for many of its records, and only so many records are dictionaries at a time.
    for begin in range(0, len(order), _ROWS_AT_ONCE):
        chunk = order[begin : begin + _ROWS_AT_ONCE]
        of: dict[int, tuple[Row, Row]] = {}
        for number in np.unique(whose[chunk]).tolist():
            mine = chunk[whose[chunk] == number]
            of |= dict(zip(mine.tolist(), some[number].take(mine - first[number]).shown(), strict=True))
        yield from (of[at] for at in chunk.tolist())
