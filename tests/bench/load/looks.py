"""What a look at the socket tap's table costs: with so many flows that live, and once they are over.

    python -m tests.bench.load.looks 1000 10000 100000

Needs root and a kernel that takes the tap. A line of JSON for each number: flows, milliseconds of a look while they live, and
when all have ended and a hundredth as many are there.
"""

from __future__ import annotations

import json
import logging
import os
import sys

import structlog

from proto.columns import Observer, Reason
from services.capture.flows.table import FlowTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.bench.bench_socket_tap import _datagram_socket, _make_flows, _tick
from tests.bench.harness import say


def look(count: int) -> dict[str, float]:
    """Make flows, look, end them, make a few, look again."""
    with _datagram_socket() as receiver:
        port = receiver.getsockname()[1]
        with SocketTap(rules=TapRules(loopback=True, allow_ports=(port,))) as tap:
            table = FlowTable(tap, observer=Observer.SOCKET)
            made = _make_flows(receiver, count // 2)
            for emission in table.drain(monotonic_ns()):
                table.accept(emission)
            _, live = _tick(lambda: list(table.drain(monotonic_ns())))
            for emission in table.drain(monotonic_ns(), Reason.SHUTDOWN):
                table.accept(emission)
            few = _make_flows(receiver, count // 200)
            for emission in table.drain(monotonic_ns()):
                table.accept(emission)
            _, over = _tick(lambda: list(table.drain(monotonic_ns())))
            return {"flows": made, "live_ms": live * 1e3, "left": few, "over_ms": over * 1e3, "high_slot": tap.high_slot}


def main() -> None:
    """Print a line for each number."""
    if os.geteuid() != 0:
        sys.exit("needs root")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for number in sys.argv[1:] or ("1000", "10000", "50000"):
        say(json.dumps(look(int(number))))


if __name__ == "__main__":
    main()
