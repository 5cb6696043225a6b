"""What capture files shown at once are read by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
LOADED = """
import sys
from services.capture.replay.export import main
sys.argv[1:] = ["tests/data/cluster.pcapng"]
status = main()
live = [name for name in sys.modules if name.startswith("services.capture.live.")]
sys.exit(f"status {status}, loaded {live}" if status or live else 0)
"""


def test_reading_files_loads_nothing_that_captures() -> None:
    """Somebody waits for it: what taps sockets, looks through control groups and compiles programs is not imported."""
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout
