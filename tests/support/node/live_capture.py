"""Whether this machine can tap its sockets, and a tap whose table tests can look at."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import numpy as np

from proto.columns import Observer, Reason, Role
from services.capture.flows.layout import Slots, State
from services.capture.flows.table import FlowTable
from services.capture.live.owners.cgroups import NoCgroup2Error, find_root
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.loader import SYSTEM_PYTHON
from services.capture.live.tap.slot_windows import map_slots
from services.capture.live.tap.socket_tap import SocketTap

WAIT_SECONDS = 120


def reason_to_skip() -> str | None:
    """Why the socket tap cannot be loaded here; None where it can."""
    if os.geteuid() != 0:
        return "loading programs needs root"
    if subprocess.run([SYSTEM_PYTHON, "-Ic", "from bcc import BPF"], check=False, capture_output=True).returncode:
        return "the system's Python has no bcc (apt-get install python3-bpfcc)"
    try:
        find_root()
    except NoCgroup2Error as error:
        return str(error)
    return None


def slots_of(tap: SocketTap) -> Slots:
    """Every slot that was ever used, as one view of the kernel's memory."""
    return map_slots(tap.loaded.maps["slots"], 0, tap.capacity)[: tap.high_slot]


class Live:
    """A tap and its table."""

    def __init__(self, tap: SocketTap) -> None:
        self.tap = tap
        self.table = FlowTable(tap, observer=Observer.SOCKET)

    def rows(self, port: int):
        """Return the live slots of flows with this port, as a copy."""
        rows = slots_of(self.tap)
        return rows[(rows["state"] == State.LIVE) & ((rows["local_port"] == port) | (rows["remote_port"] == port))]

    def side(self, role: Role, port: int):
        """Return the one live slot of this role with this port."""
        (row,) = [row for row in self.rows(port) if row["role"] == role]
        return row

    def finish(self, port: int) -> dict[str, np.ndarray]:
        """End every flow now; return the records of those with this port."""
        found = []
        for emission in self.table.drain(monotonic_ns(), Reason.SHUTDOWN):
            found.append(emission.columns)
            self.table.accept(emission)
        if not found:
            return {}
        columns = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
        mine = (columns["local_port"] == port) | (columns["remote_port"] == port)
        return {name: column[mine] for name, column in columns.items()}


def payload_once(flows, way: str):
    """Payload of a slot, or of records, that was sent (`tx`) or received (`rx`), without what came again: a busy machine sends
    again what was not lost.
    """
    return flows[f"{way}_payload_bytes"] - flows[f"{way}_retransmit_bytes"]


def wait_until(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)
