"""The assignment of least cost of exchanges to spans, and by how much every other one is worse that gives a span another one.

Each span takes one exchange or none, each exchange belongs to one span or none. Pairs have costs; what stays alone has none.
Shortest augmenting paths (Jonker and Volgenant, 1987) over the few pairs that are possible; afterwards the duals tell, for each
span, the least that has to be paid for any assignment in which it has not its exchange: a lower bound where it is not exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

Indexes = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

NOBODY: Final = -1
_MOST_STEPS: Final = 2_000
"""Of a search for a way round: what takes longer is as good as found, so the pair is not certain."""


class Assignment:
    """Solved when it is made."""

    def __init__(self, spans: int, exchanges: int, pairs: tuple[Indexes, Indexes, Numbers]) -> None:
        """`pairs`: span, exchange and cost of each that is possible, sorted by spans; what costs 0 or more does not matter."""
        of_span, of_exchange, costs = (each[pairs[2] < 0] for each in pairs)
        bounds = np.searchsorted(of_span, np.arange(spans + 1)).tolist()
        ends, weights = of_exchange.tolist(), costs.tolist()
        # Behind the exchanges each span has a column of its own: to stay alone.
        self._rows: list[list[tuple[int, float]]] = [
            [*zip(ends[begin:end], weights[begin:end], strict=True), (exchanges + span, 0.0)]
            for span, (begin, end) in enumerate(pairwise(bounds))
        ]
        self._exchanges = exchanges
        self._price = [0.0] * (exchanges + spans)
        self._owner = [NOBODY] * (exchanges + spans)
        self._taken = [NOBODY] * spans
        self._paid = [0.0] * spans
        for span in range(spans):
            self._augment(span)
        self.exchange_of: Indexes = np.array(self._taken, np.int64)
        """The exchange of each span, or NOBODY."""
        self.exchange_of[self.exchange_of >= exchanges] = NOBODY

    def _augment(self, span: int) -> None:
        """Find the span an exchange, moving others where all are better off."""
        rows, price, owner, taken = self._rows, self._price, self._owner, self._taken
        distance: dict[int, float] = {}
        came_from: dict[int, int] = {}
        heap: list[tuple[float, int]] = []
        done: dict[int, float] = {}
        row, base = span, 0.0
        while True:
            for column, cost in rows[row]:
                length = base + cost - price[column]
                if column not in done and length < distance.get(column, np.inf):
                    distance[column] = length
                    came_from[column] = row
                    heappush(heap, (length, column))
            reached, column = heappop(heap)
            while column in done:
                reached, column = heappop(heap)
            if owner[column] == NOBODY:
                break
            done[column] = reached
            row = owner[column]
            base = reached - self._paid[row]
        for passed, length in done.items():
            price[passed] += length - reached
        moved = {span, *(owner[passed] for passed in done)}
        while True:
            row = came_from[column]
            owner[column] = row
            taken[row], column = column, taken[row]
            if row == span:
                break
        for each in moved:
            self._paid[each] = next(cost for place, cost in rows[each] if place == taken[each]) - price[taken[each]]

    def margins(self, most: float) -> Numbers:
        """Return by how much at least every assignment is worse in which a span has not its exchange, `most` at the most.

        0 for those that have none.
        """
        spans = len(self._rows)
        margins = np.zeros(spans)
        reduced = [
            [(column, max(cost - self._price[column] - self._paid[span], 0.0)) for column, cost in row]
            for span, row in enumerate(self._rows)
        ]
        leaving = self._leaving(reduced, most)
        joining = self._joining(reduced, most)
        for span in np.flatnonzero(self.exchange_of != NOBODY).tolist():
            apart = min(leaving[span] + joining[span], most)
            margins[span] = apart and self._way_round(reduced, span, apart)
        return margins

    def _leaving(self, reduced: Sequence[Sequence[tuple[int, float]]], most: float) -> Sequence[float]:
        """What it costs to take a span's exchange away and do the best for it, whoever has to move."""
        costs = [most] * len(reduced)
        movers: dict[int, list[tuple[int, float]]] = {}
        heap: list[tuple[float, int]] = []
        for span, row in enumerate(reduced):
            for column, cost in row:
                owner = self._owner[column]
                if owner == NOBODY:
                    costs[span] = min(costs[span], cost)
                elif owner != span:
                    movers.setdefault(owner, []).append((span, cost))
            if costs[span] < most:
                heap.append((costs[span], span))
        return _spread(costs, movers, heap)

    def _joining(self, reduced: Sequence[Sequence[tuple[int, float]]], most: float) -> Sequence[float]:
        """What it costs to do the best for the exchange that a span gives up: nobody takes it, or another, and so on."""
        costs = [most] * len(reduced)
        movers: dict[int, list[tuple[int, float]]] = {}
        heap: list[tuple[float, int]] = []
        for span, row in enumerate(reduced):
            costs[span] = min(-self._price[self._taken[span]], most)
            if costs[span] < most:
                heap.append((costs[span], span))
            for column, cost in row:
                owner = self._owner[column]
                if owner not in (NOBODY, span):
                    movers.setdefault(span, []).append((owner, cost))
        return _spread(costs, movers, heap)

    def _way_round(self, reduced: Sequence[Sequence[tuple[int, float]]], span: int, most: float) -> float:
        """What it costs at least to pass exchanges round in a circle so that the span has another."""
        goal = self._taken[span]
        best: dict[int, float] = {span: 0.0}
        heap = [(0.0, span)]
        steps = 0
        while heap:
            length, row = heappop(heap)
            if length > best[row]:
                continue
            for column, cost in reduced[row]:
                owner = self._owner[column]
                reached = length + cost
                if reached >= most or owner in {NOBODY, row}:
                    continue
                if column == goal:
                    most = reached
                elif reached < best.get(owner, most):
                    best[owner] = reached
                    heappush(heap, (reached, owner))
                    steps += 1
            if steps > _MOST_STEPS:
                return 0.0
        return most


def _spread(costs: list[float], movers: dict[int, list[tuple[int, float]]], heap: list[tuple[float, int]]) -> Sequence[float]:
    """Lower costs by what it costs to pass them on."""
    heap.sort()
    while heap:
        cost, at = heappop(heap)
        if cost > costs[at]:
            continue
        for other, step in movers.get(at, ()):
            if cost + step < costs[other]:
                costs[other] = cost + step
                heappush(heap, (cost + step, other))
    return costs
