"""What a start of capture takes until it counts packets, and until it looks into them; and what compiling its programs takes.

    python -m tests.bench.bench_start [--rounds 3] [--compile]

Each start is a process of its own, with what is configured by default, and with meeting. Needs root.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from services.runtime.host.programs import building

START = """
import resource, time
began = time.monotonic()
from services.capture.live.tap.socket_tap import SocketTap
from services.capture.names.pieces import PieceKind

def told(what):
    used, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    processor, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"    {what} after {wall:.2f} s, {processor:.2f} s of processor time; peak {peak:.0f} MiB", flush=True)

class Told(SocketTap):
    def _attach(self):
        super()._attach()
        told("attached")

print(f"meeting={WITH_MEETING}")
told("imported")
with Told(trace_context=True, pieces=tuple(PieceKind), meeting=WITH_MEETING) as tap:
    told("whole")
    print(f"    origin={tap.loaded.origin}", flush=True)
"""


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description="cost of a start")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compile the programs too, for nobody")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    building.find()
    for _ in range(arguments.rounds):
        for meeting in (False, True):
            subprocess.run([sys.executable, "-c", START.replace("WITH_MEETING", str(meeting))], check=True)
    if arguments.compile:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            building.compile_source(building.SOURCE, Path(folder) / "tap.bpf")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        seconds = time.monotonic() - began
        sys.stdout.write(
            f"compiled in {seconds:.1f} s; processor of all children {processor:.1f} s, peak of one {peak:.0f} MiB\n"
        )


if __name__ == "__main__":
    main()
