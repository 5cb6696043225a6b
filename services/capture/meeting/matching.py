"""Which exchanges are a span's, of one application and peer: all of a window together.

First each span is given its last exchange, by the assignment in which all of them fit best; told is what every other assignment
is evidently worse than. Then what its connection did before, within the span, is the same span's where nobody else's: several
exchanges in a row are a transaction, or a request that was tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.capture.meeting.assignment import NOBODY, Assignment, Indexes, Numbers
from services.capture.meeting.likelihood import Habits, Pairs, Times, as_times

TOLERANCE_NS: Final = 2_000_000
"""Clocks of one host are read at different moments, and the kernel's is converted."""
MARGIN: Final = 7.0
"""An assignment is certain when every other is e to this times less likely."""
_ROUNDS: Final = 3
_MOST_AT_AN_END: Final = 96
"""Of a span that holds thousands, before it is known of each whether it began within the span."""
MOST_IN_A_ROW: Final = 16
"""Exchanges of one span on one connection that are told: the last ones. The others are counted."""
_MOST_COUNTED: Final = 10_000
_STRANGERS: Final = 0.005
"""Where more of the exchanges than this lie in no span at all, others use the connections that nobody asks for."""
_NEAREST: Final = 32
"""Exchanges of a span that are looked at, from its end and from its begin: the others of a long span fit less."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """From when to when, nanoseconds of one clock; sorted by nothing."""

    begin: Times
    end: Times

    def __len__(self) -> int:
        return len(self.begin)


def containing(
    spans: Windows, exchanges: Windows, may_be: Callable[[Indexes, Indexes], npt.NDArray[np.bool_]] | None = None
) -> tuple[Indexes, Indexes]:
    """Return the pairs, span and exchange, of which the exchange lies within the span; sorted by spans."""
    by_end = np.argsort(exchanges.end, kind="stable")
    ends = exchanges.end[by_end]
    first = np.searchsorted(ends, spans.begin - TOLERANCE_NS)
    behind = np.searchsorted(ends, spans.end + TOLERANCE_NS, "right")
    which, at = _ranges(first, behind)
    found = by_end[at]
    fits = exchanges.begin[found] >= spans.begin[which] - TOLERANCE_NS
    which, found = which[fits], found[fits]
    if may_be is not None:
        fits = may_be(which, found)
        which, found = which[fits], found[fits]
    counts = np.bincount(which, minlength=len(spans))
    if len(counts) and counts.max() > 2 * _NEAREST:
        place = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        near = (place < _NEAREST) | (place >= np.repeat(counts, counts) - _NEAREST)
        which, found = which[near], found[near]
    return which, found


def _ranges(first: Indexes, behind: Indexes) -> tuple[Indexes, Indexes]:
    """Return the number of each range for each of its places, and the places; of a long one those at its ends."""
    long = behind - first > 2 * _MOST_AT_AN_END
    starts = np.concatenate([first, np.where(long, behind - _MOST_AT_AN_END, behind)])
    lengths = np.concatenate([np.where(long, first + _MOST_AT_AN_END, behind), behind]) - starts
    number = np.tile(np.arange(len(first)), 2)
    order = np.argsort(number, kind="stable")
    starts, lengths, number = starts[order], np.maximum(lengths[order], 0), number[order]
    which = np.repeat(number, lengths)
    within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return which, np.repeat(starts, lengths) + within


@dataclass(frozen=True, slots=True, eq=False)
class Met:
    """What came of the spans of a window."""

    exchange: Indexes
    """Of each span the last exchange that is certainly its, or NOBODY."""
    earlier: dict[int, list[int]]
    """Of a span, what its connection did for it before that, all of it, latest first."""
    candidates: npt.NDArray[np.bool_]
    """Whether any exchange lay within the span."""


def nexts_of(exchanges: Windows, connections: Indexes) -> Windows:
    """Return the exchange of each one's connection that is over next; 0: there is none."""
    order = np.lexsort((exchanges.end, connections))
    same = connections[order[1:]] == connections[order[:-1]]
    own, after = order[:-1][same], order[1:][same]
    found = Windows(np.zeros(len(exchanges), np.int64), np.zeros(len(exchanges), np.int64))
    found.begin[own], found.end[own] = exchanges.begin[after], exchanges.end[after]
    return found


def match(
    spans: Windows,
    exchanges: Windows,
    connections: Indexes,
    habits: Habits,
    may_be: Callable[[Indexes, Indexes], npt.NDArray[np.bool_]] | None = None,
) -> Met:
    """Give each span its exchange where that is certain, and learn from how they fit.

    `connections`: of each exchange. `may_be`: of pairs, whether they may belong together by anything but their times.
    """
    of_span, of_exchange = containing(spans, exchanges, may_be)
    candidates = np.bincount(of_span, minlength=len(spans)) > 0
    of_span, of_exchange = _of_one(of_span, of_exchange, exchanges, connections)
    nexts = nexts_of(exchanges, connections)
    goes_on = (nexts.begin[of_exchange] != 0) & (nexts.end[of_exchange] <= spans.end[of_span])
    may_go_on = np.bincount(of_exchange[goes_on], minlength=len(exchanges)) > 0

    def pairs(which: Indexes, found: Indexes) -> Pairs:
        return Pairs(
            leads=exchanges.begin[found] - spans.begin[which],
            lags=spans.end[which] - exchanges.end[found],
            lengths=spans.end[which] - spans.begin[which],
            passing_on=nexts.begin[found] - spans.end[which],
            idle=nexts.begin[found] - exchanges.end[found],
            has_next=nexts.begin[found] != 0,
            goes_on=(nexts.begin[found] != 0) & (nexts.end[found] <= spans.end[which]),
            may_go_on=may_go_on[found],
        )

    habits.length.learn(spans.end - spans.begin)
    window_s = max(int(spans.end.max(initial=0)) - int(spans.begin.min(initial=1 << 62)), 1_000_000_000) / 1e9
    possible, rate = pairs(of_span, of_exchange), max(len(spans), 1) / window_s
    known = habits
    for _ in range(_ROUNDS):
        solved = Assignment(len(spans), len(exchanges), (of_span, of_exchange, known.costs(possible, rate)))
        paired = np.flatnonzero(solved.exchange_of != NOBODY)
        known = habits.copy()
        known.learn(
            pairs(paired, solved.exchange_of[paired]),
            _shares_without(solved.exchange_of[paired], may_go_on),
            1 - len(paired) / max(int(candidates.sum()), 1),
        )
    exchange = np.where(solved.margins(MARGIN) >= MARGIN, solved.exchange_of, NOBODY)
    habits.take(known)
    earlier = in_a_row(spans, exchanges, connections, exchange, (of_span, of_exchange))
    return Met(exchange, earlier, candidates)


def _shares_without(taken: Indexes, may_go_on: npt.NDArray[np.bool_]) -> Numbers:
    """Return which share of exchanges nobody took: of those that no span may have gone on after, and of those that one may."""
    classes = np.bincount(may_go_on.astype(np.int64), minlength=2)
    found: Numbers = 1 - np.bincount(may_go_on[taken].astype(np.int64), minlength=2) / np.maximum(classes, 1)
    return found


def strangers(spans: Windows, exchanges: Windows, of_exchange: Indexes) -> float:
    """Return the share of exchanges that lie in no span, of those whose span would have been asked for by now."""
    settled = exchanges.end <= spans.end.max() - (spans.end - spans.begin).max()
    settled &= exchanges.begin >= spans.begin.min()
    alone = np.bincount(of_exchange, minlength=len(exchanges)) == 0
    return float((alone & settled).sum() / max(settled.sum(), 1))


def _of_one(of_span: Indexes, of_exchange: Indexes, exchanges: Windows, connections: Indexes) -> tuple[Indexes, Indexes]:
    """Return the pairs without those of which nobody knows who asked: over a connection on which exchanges overlap.

    But where a span holds all that the connection did, as a lookup all its questions: they are one's.
    """
    order = np.lexsort((exchanges.end, connections))
    overlaps = connections[order[1:]] == connections[order[:-1]]
    overlaps &= exchanges.begin[order[1:]] < exchanges.end[order[:-1]]
    if not overlaps.any():
        return of_span, of_exchange
    overlapping = np.isin(connections, connections[order[1:][overlaps]])
    held, which, count = np.unique(
        np.stack([of_span, connections[of_exchange]]), axis=1, return_inverse=True, return_counts=True
    )
    whole = (count == np.bincount(connections)[held[1]])[which.reshape(-1)]
    kept = whole | ~overlapping[of_exchange]
    return of_span[kept], of_exchange[kept]


def in_a_row(
    spans: Windows, exchanges: Windows, connections: Indexes, exchange: Indexes, pairs: tuple[Indexes, Indexes]
) -> dict[int, list[int]]:
    """Return what else each span's connection did for it: exchanges before its last, which can be nobody else's."""
    sure = exchange != NOBODY
    if not sure.any() or strangers(spans, exchanges, pairs[1]) > _STRANGERS:
        return {}
    # Whose else may an exchange be? A span whose own exchange is certain has no other connection's.
    open_spans = ~sure[pairs[0]]
    contested = np.bincount(pairs[1][open_spans], minlength=len(exchanges)) > 0
    contested[exchange[sure]] = True
    order = np.lexsort((exchanges.end, connections))
    # Of a span that holds very many not all were looked at: what it may have as well is not known then.
    crowded = (np.bincount(pairs[0][open_spans], minlength=len(spans)) >= 2 * _NEAREST).any()
    most = MOST_IN_A_ROW if crowded else _MOST_COUNTED
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    found: dict[int, list[int]] = {}
    for span in np.flatnonzero(sure).tolist():
        last = int(exchange[span])
        row: list[int] = []
        for at in range(int(place[last]) - 1, max(int(place[last]) - most, -1), -1):
            before = int(order[at])
            if connections[before] != connections[last] or contested[before]:
                break
            if exchanges.begin[before] < spans.begin[span] - TOLERANCE_NS:
                break
            row.append(before)
        if row:
            found[span] = row
    return found


def windows(begin: Any, end: Any) -> Windows:
    """Return them with signed times."""
    return Windows(as_times(begin), as_times(end))
