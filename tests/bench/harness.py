"""What all benchmarks share: where things run, what a process used, and how figures of a noisy machine are taken.

A figure is processor time wherever it can be, never the clock's: whatever else the machine does would be in it. It is compared
with a baseline of the same run, in turns with it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

ROOT = Path(__file__).parents[2]
_PACKAGES = ("numpy", "msgpack", "grpcio", "protobuf", "opentelemetry-sdk", "nats-py")


def processor_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def environment(**variables: str) -> dict[str, str]:
    """The environment of a service: this one's without the settings of others, and these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    return kept | {"WIRESPAN_LOG_LEVEL": "error", "PYTHONPATH": str(ROOT)} | variables


def quiet_logs() -> None:
    """What this process itself logs is not of the figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def least(run: Callable[[], object], rounds: int) -> float:
    """The least processor seconds of so many calls: whatever else the machine does only adds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best


def in_turns(kinds: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The values of several measurements, each once a round, in an order that is another every round."""
    names, values = list(kinds), {name: [] for name in kinds}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            values[name].append(kinds[name]())
    return values


def ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """The median of each round's ratio: what drifts between rounds is in both."""
    return statistics.median(one / other for one, other in zip(values, baseline, strict=True) if other)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown, which reads well on a terminal too."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines)


def machine() -> list[str]:
    """What a figure depends on: the machine, the kernel, the versions, what else runs, and which state of the sources it is."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    processors = [line.partition(":")[2].strip() for line in told if "model name" in line]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    model, load = (processors or [platform.machine()])[0], os.getloadavg()[0]
    kernel = platform.release().partition("-")[0]  # without who built it
    return [
        f"{os.cpu_count()} processors ({model}), {memory:.1f} GiB, Linux {kernel}; load average {load:.1f} before",
        f"Python {platform.python_version()}, {versions}",
        f"Sources {commit or 'without git'}, {time.strftime('%Y-%m-%d')}",
    ]


def say(line: str) -> None:
    """Print a line at once: whoever reads may be a program."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
