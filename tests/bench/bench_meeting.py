"""What the meeting costs capture: processor time of a remembered exchange, of an asked span by how many are under way, of a
server's span by which its sender's clock is judged, and of a packet.

    python -m tests.bench.bench_meeting [--packets]

Packets need root: two taps see each of them, with and without MEETING, one behind the other and then the other way round; the
kernel measures both (kernel.bpf_stats_enabled). Each figure is the least of the rounds, since whatever else the machine does
only adds, and holds the clock readings of the measure itself.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from proto.columns import Role
from services.capture.flows.layout import Slots
from services.capture.live.tap.slot_layout import SLOT
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.meeting.clocks import ByConnection, Clocks
from services.capture.meeting.memory import Memory
from services.capture.meeting.questions import QUESTION
from services.capture.meeting.ring import EXCHANGE_ROW, FACTS
from services.capture.meeting.turns import TURN, TurnFlag, Turns
from services.capture.names.pieces import PieceKind
from tests.bench.bench_socket_tap import LOADS, statistics
from tests.support.meeting.curve import measure
from tests.support.meeting.pool import Pool
from tests.support.node import bpf_info

CONNECTIONS, TURNS, ROUNDS = 2_000, 10_000, 30
SERVED = 500
ROUNDS_OF_PACKETS = 5
LABELS = ("UDP 64 B, connected", "TCP 64 B, request/response", "TCP 64 B, one way", "HTTP, without trace context", "TCP bulk")
DIRECTIONS = {"tap_ingress": "received", "tap_egress": "sent"}


def remembering() -> float:
    """Microseconds to remember an exchange: 10,000 a look, of 2,000 connections."""
    slots = np.zeros(CONNECTIONS, SLOT)
    slots["id"] = np.arange(CONNECTIONS)
    turns = np.zeros(TURNS, TURN)
    turns["flow_id"] = np.random.default_rng(1).integers(0, CONNECTIONS, TURNS)
    memory = Memory(16 << 20, lambda _: False)
    return min(_added(memory, turns, slots) for _ in range(ROUNDS))


def remembering_lookups() -> float:
    """The same of questions over UDP, each from a socket of its own."""
    slots, turns = np.zeros(TURNS, SLOT), np.zeros(TURNS, TURN)
    turns["flags"], slots["transport"] = TurnFlag.DATAGRAM, 17
    memory = Memory(16 << 20, lambda _: False)
    best = float("inf")
    for generation in range(1, ROUNDS + 1):
        turns["flow_id"] = slots["id"] = np.arange(TURNS) | generation << 32
        best = min(best, _added(memory, turns, slots))
    return best


def _added(memory: Memory, turns: Turns, slots: Slots) -> float:
    begun = time.process_time()
    memory.add(turns, lambda which: slots[which])
    return 1e6 * (time.process_time() - begun) / len(turns)


def judging() -> float:
    """Microseconds of a server's span: of 500 that a pod sends within 8 s, over 2,000 connections that it has."""
    draw = np.random.default_rng(1)
    facts, asked = np.zeros(CONNECTIONS, FACTS), np.zeros(SERVED, QUESTION)
    remembered = np.zeros(16 * SERVED, EXCHANGE_ROW)
    facts["role"], facts["remote_port"] = Role.SERVER, 20_000 + np.arange(CONNECTIONS)
    remembered["connection"] = draw.integers(0, CONNECTIONS, len(remembered))
    remembered["request_first_ns"] = draw.integers(10**9, 9 * 10**9, len(remembered))
    remembered["response_last_ns"] = remembered["request_first_ns"] + draw.integers(10**6, 10**8, len(remembered)).astype(
        np.uint64
    )
    own = remembered[:SERVED]
    asked["server"], asked["peer_port"] = True, 20_000 + own["connection"]
    asked["begin"], asked["end"] = own["request_first_ns"], own["response_last_ns"]
    clocks = Clocks()
    best = float("inf")
    for turn in range(ROUNDS):
        asked["number"] = turn * SERVED + np.arange(SERVED)
        begun = time.process_time()
        clocks.is_apart("pod", asked, (np.arange(CONNECTIONS), facts), ByConnection(remembered))
        best = min(best, time.process_time() - begun)
    return 1e6 * best / SERVED


def packets() -> None:
    """Nanoseconds of a packet, received and sent."""
    best: dict[tuple[str, str, bool], float] = {}
    for order in ((False, True), (True, False)):
        rules = TapRules(loopback=True)
        first, second = (
            SocketTap(capacity=8192, rules=rules, trace_context=True, pieces=tuple(PieceKind), meeting=meeting)
            for meeting in order
        )
        with first, second, statistics():
            for _ in range(ROUNDS_OF_PACKETS):
                for label in LABELS:
                    runs = [(name, on, tap) for on, tap in zip(order, (first, second), strict=True) for name in DIRECTIONS]
                    before = [bpf_info.program_statistics(tap.loaded.programs[name]) for name, _, tap in runs]
                    LOADS[label]()
                    for (name, on, tap), earlier in zip(runs, before, strict=True):
                        later = bpf_info.program_statistics(tap.loaded.programs[name])
                        spent = (later.run_time_ns - earlier.run_time_ns) / (later.run_count - earlier.run_count)
                        best[label, name, on] = min(best.get((label, name, on), np.inf), spent)
    for label in LABELS:
        told = [
            f"{word} {best[label, name, False]:.0f} -> {best[label, name, True]:.0f} ns" for name, word in DIRECTIONS.items()
        ]
        sys.stdout.write(f"{label}: {', '.join(told)}\n")


def main() -> None:
    """Measure."""
    if "--packets" in sys.argv:
        packets()
        return
    sys.stdout.write(f"remembering an exchange: {remembering():.2f} us, {EXCHANGE_ROW.itemsize} bytes\n")
    each = FACTS.itemsize + EXCHANGE_ROW.itemsize
    sys.stdout.write(f"remembering a lookup over UDP: {remembering_lookups():.2f} us, {each} bytes\n")
    sys.stdout.write(f"judging a sender's clock by a server's span: {judging():.1f} us\n")
    for callers in (1, 20, 50):
        sys.stdout.write(f"matching a span, {callers} callers: {measure(Pool(callers=callers)).microseconds:.0f} us\n")


if __name__ == "__main__":
    main()
