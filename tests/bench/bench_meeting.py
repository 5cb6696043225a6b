"""What the meeting costs capture: processor time of a remembered exchange, and of an asked span by how many are under way.

python -m tests.bench.bench_meeting
"""

from __future__ import annotations

import sys
import time

import numpy as np

from services.capture.live.tap.slot_layout import SLOT
from services.capture.meeting.ring import EXCHANGE_ROW, Ring
from services.capture.meeting.turns import TURN
from tests.support.meeting.curve import measure
from tests.support.meeting.pool import Pool

CONNECTIONS, TURNS, ROUNDS = 2_000, 10_000, 30


def remembering() -> float:
    """Microseconds to remember an exchange: 10,000 a look, of 2,000 connections."""
    slots = np.zeros(CONNECTIONS, SLOT)
    slots["id"] = np.arange(CONNECTIONS)
    turns = np.zeros(TURNS, TURN)
    turns["flow_id"] = np.random.default_rng(1).integers(0, CONNECTIONS, TURNS)
    ring = Ring(16 << 20, lambda _: False)
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        ring.add(turns, lambda which: slots[which])
        best = min(best, time.process_time() - begun)
    return 1e6 * best / TURNS


def main() -> None:
    """Measure both."""
    sys.stdout.write(f"remembering an exchange: {remembering():.2f} us, {EXCHANGE_ROW.itemsize} bytes\n")
    for callers in (1, 20, 50):
        sys.stdout.write(f"matching a span, {callers} callers: {measure(Pool(callers=callers)).microseconds:.0f} us\n")


if __name__ == "__main__":
    main()
