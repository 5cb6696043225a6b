"""Whether this machine can tap its sockets, and all that a tap's table holds, for tests that need it."""

from __future__ import annotations

import os
import subprocess

from services.capture.cgroups import NoCgroup2Error, find_root
from services.capture.flow_layout import Slots
from services.capture.slot_windows import map_slots
from services.capture.socket_tap import SocketTap
from services.capture.tap_loader import SYSTEM_PYTHON


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
