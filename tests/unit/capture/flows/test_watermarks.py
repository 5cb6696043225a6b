"""Watermarks: whatever a flow has counted, deltas are what was added since the last advance."""

from __future__ import annotations

import numpy as np
import pytest

from services.capture.flows.layout import FLOW
from services.capture.flows.watermarks import DELTAS, Watermarks

CAPACITY = 40
BUSY = {"tx_bytes": 1 << 31, "rx_packets": 3}
ASKING = {"tx_bytes": 100, "responses": 5, "response_time_sum_ns": 10**6}
ASKING_MUCH = {"tx_bytes": 100, "responses": 20_000, "response_time_sum_ns": 10**12}
LOSING = {"tx_bytes": 100, "tx_retransmits": 1, "rx_zero_windows": 40_000, "responses": 1}
KINDS = (BUSY, ASKING, ASKING_MUCH, LOSING, {})


def grow(rows, slots, random) -> None:
    """Add to some of the flows what one of the kinds adds, each response in one bucket."""
    for slot in slots:
        for name, amount in KINDS[random.integers(len(KINDS))].items():
            rows[name][slot] += np.array(amount).astype(rows.dtype[name])
            if name == "responses":
                rows["response_time_histogram"][slot, random.integers(20)] += amount


@pytest.mark.parametrize("seed", range(5))
def test_deltas_are_what_was_added_since(seed) -> None:
    """Flows that come, count more than 32 bits, lose packets and go, in any order: never a delta too much or too little."""
    random = np.random.default_rng(seed)
    watermarks = Watermarks(CAPACITY)
    rows, before = np.zeros(CAPACITY, FLOW), np.zeros(CAPACITY, FLOW)
    for _ in range(60):
        slots = random.permutation(CAPACITY)[: random.integers(1, CAPACITY)].astype(np.uint32)
        grow(rows, slots, random)
        deltas = watermarks.deltas(slots, rows[slots])
        assert list(deltas) == list(DELTAS)
        for name in DELTAS:
            assert np.array_equal(deltas[name], rows[name][slots] - before[name][slots]), name
        if random.random() < 0.7:
            watermarks.advance(slots, {name: delta.astype("<u8") for name, delta in deltas.items()})
            before[slots] = rows[slots]
        gone = random.permutation(CAPACITY)[:4].astype(np.uint32)
        watermarks.forget(gone)
        rows[gone] = before[gone] = np.zeros(1, FLOW)
