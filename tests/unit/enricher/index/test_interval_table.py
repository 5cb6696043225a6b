"""Looking up a batch of keys at their times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.enricher.index.interval_table import NOBODY, IntervalRows, IntervalTable, Keys, address_words, port_words

addresses = st.sampled_from([bytes(16), bytes(15) + b"\x01", b"\x01" + bytes(15), b"\xff" * 16]) | st.binary(
    min_size=16, max_size=16
)
keys = st.tuples(addresses, st.integers(0, 65535) | st.sampled_from([0, 80]), st.sampled_from([0, 6, 17]))


@st.composite
def intervals(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Intervals in order and apart, some touching."""
    cuts = sorted(draw(st.sets(st.integers(0, 50) | st.just(2**64 - 1), min_size=2, max_size=7)))
    spans = list(pairwise(cuts))
    chosen = draw(st.lists(st.sampled_from(spans), min_size=1, unique=True))
    return [(start, end, draw(st.integers(0, 99))) for start, end in sorted(chosen)]


@given(st.dictionaries(keys, intervals(), max_size=40), st.lists(st.tuples(keys, st.integers(0, 60)), max_size=20), st.data())
def test_it_answers_as_a_search_through_all_rows(
    rows: dict[tuple[bytes, int, int], list[tuple[int, int, int]]],
    asked: list[tuple[tuple[bytes, int, int], int]],
    data: st.DataObject,
) -> None:
    """Every key of the table and any other, at any time, gives what a plain look through the rows gives."""
    asked += [(key, data.draw(st.integers(0, 60))) for key in rows]
    expected = [
        next((number for start, end, number in rows.get(key, ()) if start <= time < end), NOBODY) for key, time in asked
    ]
    high, low = address_words(np.array([key[0] for key, _ in asked], "V16"))
    ports = port_words(np.array([key[1] for key, _ in asked], "<u2"), np.array([key[2] for key, _ in asked], "u1"))
    found = IntervalTable(IntervalRows.of(rows)).find(Keys(high, low, ports), np.array([time for _, time in asked], np.uint64))
    assert found.tolist() == expected


def test_a_large_table_finds_every_key_and_no_other() -> None:
    """Tens of thousands of keys find themselves; as many others find nobody."""
    count = 30_000
    numbers = np.arange(2 * count, dtype=np.uint64)
    keys = {(number.to_bytes(16, "big"), number % 7, 6): [(0, 2**64 - 1, number)] for number in range(count)}
    table = IntervalTable(IntervalRows.of(keys))
    addresses = np.frombuffer(b"".join(int(number).to_bytes(16, "big") for number in numbers), "V16")
    high, low = address_words(addresses)
    ports = port_words((numbers % 7).astype("<u2"), np.full(2 * count, 6, "u1"))
    found = table.find(Keys(high, low, ports), np.ones(2 * count, np.uint64))
    assert found[:count].tolist() == list(range(count))
    assert (found[count:] == NOBODY).all()
