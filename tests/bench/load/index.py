"""What the enricher's index of so many pods takes, in a process of its own: MiB, and seconds of a core to make it.

python -m tests.bench.load.index 10000
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.bench.enricher.bench_join import make_cluster
from tests.bench.harness import processor_seconds, say


def index_of(count: int) -> tuple[float, float]:
    """MiB that the index of so many pods takes, and seconds of a core to make it."""
    before = _resident_mib()
    cluster = make_cluster(count)
    cluster.compile()
    return _resident_mib() - before, processor_seconds(os.getpid())


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    say(json.dumps(index_of(int(sys.argv[1]))))
