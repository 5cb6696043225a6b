"""The assignment of least cost, against one that tries everything."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.capture.meeting.assignment import NOBODY, Assignment

MOST = 50.0
Costs = dict[tuple[int, int], float]


@st.composite
def costs(draw: st.DrawFn) -> tuple[int, int, Costs]:
    """A few spans and exchanges, and what pairs of them cost."""
    spans, exchanges = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pairs = st.tuples(st.integers(0, spans - 1), st.integers(0, exchanges - 1))
    return spans, exchanges, draw(st.dictionaries(pairs, st.integers(-20, -1).map(float)))


def every_assignment(spans: int, exchanges: int, prices: Costs) -> list[tuple[tuple[int, ...], float]]:
    """All that are possible, with their costs."""
    found = []
    for taken in product(range(-1, exchanges), repeat=spans):
        pairs = [(span, exchange) for span, exchange in enumerate(taken) if exchange != NOBODY]
        if len({exchange for _, exchange in pairs}) == len(pairs) and all(pair in prices for pair in pairs):
            found.append((taken, sum(prices[pair] for pair in pairs)))
    return found


def solve(spans: int, exchanges: int, prices: Costs) -> Assignment:
    """Solve it."""
    pairs = sorted(prices)
    of_span = np.array([span for span, _ in pairs], np.int64)
    of_exchange = np.array([exchange for _, exchange in pairs], np.int64)
    return Assignment(spans, exchanges, (of_span, of_exchange, np.array([prices[pair] for pair in pairs], np.float64)))


@given(costs())
def test_it_costs_the_least(problem: tuple[int, int, Costs]) -> None:
    """No assignment costs less, and no exchange is given twice."""
    spans, exchanges, prices = problem
    taken = solve(spans, exchanges, prices).exchange_of.tolist()
    given_away = [exchange for exchange in taken if exchange != NOBODY]
    assert len(set(given_away)) == len(given_away)
    cost = sum(prices[span, exchange] for span, exchange in enumerate(taken) if exchange != NOBODY)
    assert cost == min(cost for _, cost in every_assignment(spans, exchanges, prices))


@given(costs())
def test_no_other_is_nearer_than_the_margin(problem: tuple[int, int, Costs]) -> None:
    """Every assignment that gives a span another exchange, or none, is worse by at least the span's margin."""
    spans, exchanges, prices = problem
    solved = solve(spans, exchanges, prices)
    margins = solved.margins(MOST)
    everything = every_assignment(spans, exchanges, prices)
    least = min(cost for _, cost in everything)
    for span, exchange in enumerate(solved.exchange_of.tolist()):
        if exchange != NOBODY:
            other = min(cost for taken, cost in everything if taken[span] != exchange)
            assert margins[span] <= other - least + 1e-9


def test_what_is_alone_is_certain() -> None:
    """A span with one exchange that fits no other has the whole of its cost as margin, and two that can be swapped none."""
    assert solve(1, 1, {(0, 0): -7.0}).margins(MOST).tolist() == [7.0]
    both = {(0, 0): -9.0, (0, 1): -8.0, (1, 0): -8.0, (1, 1): -7.0}
    assert solve(2, 2, both).margins(MOST).tolist() == [0.0, 0.0]
