"""What a start of capture takes until its programs are loaded, and what compiling them takes, which is done once for a source.

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
from services.capture.live.tap.loader import load_tap
from services.capture.live.tap.socket_tap import SocketTap, tick_ns
from services.capture.names.pieces import PieceKind
imported = time.monotonic()
tap = SocketTap(trace_context=True, pieces=tuple(PieceKind), meeting=WITH_MEETING)
loaded = load_tap(tap.constants(tick_ns()))
ended = time.monotonic()
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"meeting={WITH_MEETING} origin={loaded.origin}: imported in {imported - began:.2f} s, loaded {ended - imported:.2f} s")
print(f"    later; processor {used.ru_utime + used.ru_stime:.2f} s in all, peak {used.ru_maxrss / 1024:.0f} MiB", flush=True)
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
