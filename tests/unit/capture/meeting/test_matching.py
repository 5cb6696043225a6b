"""Which exchanges are whose, where a simulated pool of connections knows the truth (tests/support/meeting/pool.py)."""

from __future__ import annotations

import numpy as np
import pytest

from services.capture.meeting.assignment import NOBODY
from services.capture.meeting.likelihood import Habits
from services.capture.meeting.matching import Met, containing, match, windows
from tests.support.meeting.pool import Pool, Talk, simulate

CALLS = 3_000


def meet(pool: Pool, seed: int = 1) -> tuple[Talk, Met]:
    """Match what a pool did."""
    talk = simulate(pool, CALLS, seed)
    return talk, match(talk.spans, talk.exchanges, talk.connection, Habits())


@pytest.mark.parametrize(
    ("pool", "reach"),
    [
        (Pool(callers=1), 0.999),
        (Pool(callers=5), 0.98),
        (Pool(callers=20), 0.97),
        (Pool(callers=50, service_ms=150), 0.95),
        (Pool(callers=50, service_ms=20), 0.6),
        (Pool(callers=50, service_ms=60, fifo=False), 0.8),
        (Pool(callers=50, service_ms=60, sampled=0.9), 0.75),
        (Pool(callers=3, sampled=0.3), 0.8),
    ],
    ids=lambda value: "" if isinstance(value, float) else f"{value.callers}x{value.service_ms:.0f}ms",
)
def test_what_is_told_is_true(pool: Pool, reach: float) -> None:
    """No exchange is told of another's span, and most are told."""
    talk, met = meet(pool)
    told = met.exchange != NOBODY
    assert not (told & (met.exchange != talk.truth)).any()
    assert told.sum() >= reach * (talk.truth != NOBODY).sum()


def test_a_row_of_exchanges_is_one_spans() -> None:
    """What a connection did within a span before its last exchange is the span's as well, and never another's."""
    talk, met = meet(Pool(callers=3, series=0.5))
    rows = [(span, exchange) for span, row in met.earlier.items() for exchange in row]
    before_last = len(talk.owner) - (talk.truth != NOBODY).sum()
    assert all(talk.owner[exchange] == span for span, exchange in rows)
    assert len(rows) > 0.5 * before_last


def test_strangers_on_the_connections_keep_rows_from_being_told() -> None:
    """Where calls that nobody asks for use the connections too, what came before a span's last exchange may be theirs."""
    _, met = meet(Pool(callers=3, series=0.5, sampled=0.5))
    assert met.earlier == {}


def test_two_that_can_be_swapped_are_not_told() -> None:
    """Two spans that both hold both exchanges, and end as near to one as to the other, have none."""
    second = 1_000_000_000
    spans = windows([second, second], [2 * second, 2 * second + 1_000])
    exchanges = windows([second + 100_000, second + 200_000], [2 * second - 200_000, 2 * second - 200_000])
    met = match(spans, exchanges, np.array([0, 1]), Habits())
    assert met.exchange.tolist() == [NOBODY, NOBODY]
    assert met.candidates.all()


def test_spans_of_a_day_are_no_burden() -> None:
    """A thousand spans that hold a hundred thousand exchanges each: what is looked at is bounded, and nothing is told."""
    second = 1_000_000_000
    begins = second + np.arange(100_000) * 1_000_000
    exchanges = windows(begins, begins + 500_000)
    spans = windows(np.full(1_000, 0), np.full(1_000, 200 * second))
    assert len(containing(spans, exchanges)[0]) < 300_000
    assert (match(spans, exchanges, np.arange(100_000) % 20, Habits()).exchange == NOBODY).all()


def test_nothing_to_match() -> None:
    """Spans without exchanges, and exchanges without spans, are no trouble."""
    nothing = windows([], [])
    one = windows([10**9], [2 * 10**9])
    assert match(one, nothing, np.zeros(0, np.int64), Habits()).exchange.tolist() == [NOBODY]
    assert match(nothing, one, np.zeros(1, np.int64), Habits()).exchange.tolist() == []
