"""Load and growth as curves: drawn into docs/images, and their figures into docs/performance.md.

    make curves                                            # ten minutes at the most
    python -m tests.bench.load.curves [--minutes 10] [--only load,soak,nodes,replicas,pods,table,partitions] [--dry]

Each curve has its part of the time and says what it left out. What is past saturation is shown too: that is what it is for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import structlog

from tests.bench.harness import ROOT, machine, say, table
from tests.bench.load import bench_partitions
from tests.bench.load.document import written
from tests.bench.load.drawing import Line, draw
from tests.bench.load.running import Found, Running, running

IMAGES = ROOT / "docs" / "images"
DOCUMENT = ROOT / "docs" / "performance.md"
RATES = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
ROWS = 100
SERVICES = ("nats", "enricher", "exporter")


@dataclass
class Curve:
    """What one part of the run gave."""

    text: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    folder: ClassVar[Path] = IMAGES

    def add(self, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Append a table."""
        self.text.append(table(head, rows))

    def image(self, name: str, title: str, x: str, y: str, lines: list[Line], *, log_x: bool = False) -> None:
        """Draw and name a picture, where there is anything to draw."""
        if not lines[0].x:
            return
        draw(self.folder / f"{name}.svg", title, x, y, lines, log_x=log_x)
        self.images.append(f"![{title}](images/{name}.svg)")


def load(seconds: float) -> Curve:
    """Records a second to saturation and past it, with what each service used, and how old records were at the backend."""
    found = asyncio.run(_rates(seconds))
    curve = Curve()
    rows = []
    for each in found:
        ages = (f"{age:,.0f}" for age in each.ages_ms)
        cores = (f"{each.cores[name]:.2f}" for name in SERVICES)
        rows.append((f"{each.offered:,.0f}", f"{each.accepted:,.0f}", *ages, *cores, f"{each.missing + each.refused:,}"))
    curve.add(
        ("offered/s", "accepted/s", "p50 ms", "p99 ms", "p99.9 ms", *(f"{name} cores" for name in SERVICES), "not in time"),
        rows,
    )
    curve.text.append(f"Not in time: {_LATE}")
    if len(found) < len(RATES):
        left = ", ".join(f"{rate:,}" for rate in RATES[len(found) :])
        curve.text.append(f"Left out, as it was past saturation or the time was over: {left}.")
    most = max(found, key=lambda each: each.accepted)
    per_core = {name: most.accepted / most.cores[name] for name in SERVICES if most.cores[name] > 0.01}
    said = ", ".join(f"{name} {rate:,.0f}" for name, rate in per_core.items())
    curve.text.append(f"Records a second for each core that it used, at the most that was accepted: {said}.")
    offered = [each.offered for each in found]
    curve.image(
        "curve-load",
        "Offered and accepted",
        "records offered a second",
        "records accepted a second",
        [
            Line("accepted", offered, [each.accepted for each in found]),
            Line("as much as offered", offered, offered, "--"),
        ],
        log_x=True,
    )
    curve.image(
        "curve-cores",
        "What each service uses",
        "records offered a second",
        "cores",
        [Line(name, offered, [each.cores[name] for each in found]) for name in SERVICES],
        log_x=True,
    )
    curve.image(
        "curve-latency",
        "From a record's end to the backend",
        "records offered a second",
        "milliseconds",
        [Line(name, offered, [each.ages_ms[at] for each in found]) for at, name in enumerate(("p50", "p99", "p99.9"))],
        log_x=True,
    )
    return curve


_LATE = "records that had not come 20 s after the timetable was over, and those of batches that the full stream refused."


async def _rates(seconds: float) -> list[Found]:
    found: list[Found] = []
    over = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder)) as pipeline:
            for rate in RATES:
                if found and (time.monotonic() > over - 10 or found[-1].accepted < 0.7 * found[-1].offered):
                    break
                found.append(await pipeline.offer(rate, max(4.0, seconds / len(RATES) / 3), rows=min(ROWS, rate // 10)))
                if found[-1].missing:
                    break
    return found


def soak(seconds: float) -> Curve:
    """Resident memory at a constant rate."""
    samples: list[tuple[float, dict[str, float]]] = []

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with running(Path(folder)) as pipeline:
                watching = asyncio.create_task(watch(pipeline))
                await pipeline.offer(2_000, max(5.0, seconds - 30), rows=ROWS)
                watching.cancel()

    async def watch(pipeline: Running) -> None:
        began = time.monotonic()
        while True:
            samples.append((time.monotonic() - began, pipeline.memory_mib()))
            await asyncio.sleep(2)

    asyncio.run(run())
    curve = Curve()
    (_, first), (lasted, last) = samples[len(samples) // 3], samples[-1]
    curve.text.append(
        f"2,000 records a second for {lasted:.0f} s, a third of it to warm up in. Half an hour: `--only soak --minutes 30`."
    )
    curve.add(("service", "MiB after a third", "MiB at the end"), [(n, f"{first[n]:.0f}", f"{last[n]:.0f}") for n in SERVICES])
    times = [at for at, _ in samples]
    curve.image(
        "curve-soak",
        "Resident memory",
        "seconds",
        "MiB",
        [Line(name, times, [memory[name] for _, memory in samples]) for name in SERVICES],
    )
    return curve


def nodes(seconds: float) -> Curve:
    """The same records a second of more and more nodes: what a batch costs, which each sends one of a second."""
    numbers, found = (10, 30, 100, 300, 1_000), []

    async def run() -> None:
        over = time.monotonic() + seconds
        with tempfile.TemporaryDirectory() as folder:
            async with running(Path(folder)) as pipeline:
                for number in numbers:
                    if found and (time.monotonic() > over - 10 or found[-1].missing):
                        break
                    rows = max(1, 2_000 // number)
                    found.append(await pipeline.offer(number * rows, max(4.0, seconds / 12), rows=rows, nodes=number))

    asyncio.run(run())
    curve = Curve()
    rows = [
        (
            f"{number:,}",
            f"{each.offered:,.0f}",
            f"{each.accepted:,.0f}",
            f"{each.ages_ms[1]:,.0f}",
            *(f"{each.cores[name]:.2f}" for name in SERVICES),
        )
        for number, each in zip(numbers, found, strict=False)
    ]
    curve.text.append(
        "About 2,000 records a second, in one batch a second of each node, over one connection (connections: docs/scale.md)."
    )
    curve.add(("nodes", "offered/s", "accepted/s", "p99 ms", *(f"{name} cores" for name in SERVICES)), rows)
    _say_left_out(curve, numbers, len(found))
    curve.image(
        "curve-nodes",
        "Nodes, each with a batch a second",
        "nodes",
        "cores",
        [Line(name, list(numbers[: len(found)]), [each.cores[name] for each in found]) for name in SERVICES],
        log_x=True,
    )
    return curve


def replicas(seconds: float) -> Curve:
    """What one, two and four enrichers and exporters take of more than they can: through one NATS."""
    numbers, found = (1, 2, 4), []
    for number in numbers:
        began = time.monotonic()

        async def run(number: int = number) -> None:
            with tempfile.TemporaryDirectory() as folder:
                async with running(Path(folder), enrichers=number, exporters=number) as pipeline:
                    found.append(await pipeline.offer(20_000, 6, rows=ROWS))

        asyncio.run(run())
        seconds -= time.monotonic() - began
        if seconds < time.monotonic() - began:
            break
    curve = Curve()
    curve.text.append(
        f"20,000 records a second offered; {os.cpu_count()} processors, with publisher, backend and NATS on them too."
    )
    curve.add(
        ("replicas", "accepted/s", *(f"{name} cores" for name in SERVICES)),
        [
            (str(n), f"{each.accepted:,.0f}", *(f"{each.cores[name]:.2f}" for name in SERVICES))
            for n, each in zip(numbers, found, strict=False)
        ],
    )
    _say_left_out(curve, numbers, len(found))
    curve.image(
        "curve-replicas",
        "Enrichers and exporters",
        "replicas of each",
        "records accepted a second",
        [Line("accepted", list(numbers[: len(found)]), [each.accepted for each in found])],
    )
    return curve


def pods(seconds: float) -> Curve:
    """Memory of the index, and processor time to make it, by the pods of the cluster; each in a process of its own."""
    numbers, found = (1_000, 3_000, 10_000, 30_000, 100_000), []
    over = time.monotonic() + seconds
    for number in numbers:
        if (left := over - time.monotonic()) < 5:
            break
        command = [sys.executable, "-m", "tests.bench.load.index", str(number)]
        try:
            said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=left).stdout
        except subprocess.TimeoutExpired:
            break
        found.append(json.loads(said))
    curve = Curve()
    curve.add(
        ("pods", "index MiB", "seconds of a core"),
        [(f"{n:,}", f"{each[0]:.0f}", f"{each[1]:.2f}") for n, each in zip(numbers, found, strict=False)],
    )
    _say_left_out(curve, numbers, len(found))
    x = list(numbers[: len(found)])
    curve.image(
        "curve-pods", "The enricher's index", "pods", "MiB", [Line("memory", x, [each[0] for each in found])], log_x=True
    )
    return curve


def flow_table(seconds: float) -> Curve:
    """A look at the socket tap's table, of flows that live and of flows that are over."""
    curve = Curve()
    if os.geteuid() != 0:
        curve.text.append("Left out: it needs root.")
        return curve
    numbers, found = (1_000, 3_000, 10_000, 30_000, 100_000), []
    over = time.monotonic() + seconds
    for number in numbers:
        command = [sys.executable, "-m", "tests.bench.load.looks", str(number)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(1.0, over - time.monotonic())
            )
        except subprocess.TimeoutExpired:
            break
        if done.returncode:
            curve.text.append(f"Left out: {(done.stderr.strip().splitlines() or ['the tap did not start'])[-1]}")
            return curve
        found.append(json.loads(done.stdout))
    curve.add(
        ("flows", "ms while they live", "flows left", "ms once they are over"),
        [(f"{each['flows']:,}", f"{each['live_ms']:.2f}", f"{each['left']:,}", f"{each['over_ms']:.2f}") for each in found],
    )
    _say_left_out(curve, numbers, len(found))
    x = [each["flows"] for each in found]
    curve.image(
        "curve-table",
        "A look at the flow table",
        "flows that live, or lived",
        "milliseconds of a core",
        [
            Line("they live", x, [each["live_ms"] for each in found]),
            Line("a hundredth is left", x, [each["over_ms"] for each in found]),
        ],
        log_x=True,
    )
    return curve


def partitions(seconds: float) -> Curve:
    """What one NATS server takes of batches as its stream is one, two or four."""
    numbers, found = (1, 2, 4), []
    over = time.monotonic() + seconds
    for number in numbers:
        if time.monotonic() > over:
            break
        found.append(bench_partitions.measure(number, 16_000))
    curve = Curve()
    curve.add(
        ("partitions", "batches/s", "cores of the server", "µs of it a batch"),
        [
            (str(n), f"{rate:,.0f}", f"{cores:.2f}", f"{cost:.0f}")
            for n, (rate, cores, _, cost) in zip(numbers, found, strict=False)
        ],
    )
    curve.text.append("Publishers and server share the machine. Beyond four nothing was measured: `wirespan plan` computes.")
    _say_left_out(curve, numbers, len(found))
    curve.image(
        "curve-partitions",
        "Batches into one server",
        "partitions",
        "batches a second",
        [Line("stored", list(numbers[: len(found)]), [each[0] for each in found])],
    )
    return curve


def _say_left_out(curve: Curve, numbers: tuple[int, ...], done: int) -> None:
    if done < len(numbers):
        curve.text.append(f"Left out, the time being over: {', '.join(f'{number:,}' for number in numbers[done:])}.")


CURVES: dict[str, tuple[str, Callable[[float], Curve], float]] = {
    "load": ("Records a second, to saturation and past it", load, 0.28),
    "soak": ("Memory over time", soak, 0.22),
    "nodes": ("Nodes", nodes, 0.14),
    "replicas": ("Replicas", replicas, 0.14),
    "pods": ("Pods", pods, 0.08),
    "table": ("Flows that live, and flows that ever did", flow_table, 0.08),
    "partitions": ("Partitions", partitions, 0.06),
}
"""Heading, measurement, and its share of the time."""


def main() -> None:
    """Run what is asked for, and write it down."""
    parser = argparse.ArgumentParser(description="load and growth as curves")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", default="", help=f"of {', '.join(CURVES)}, separated by commas")
    parser.add_argument("--dry", action="store_true", help="print only; the pictures are drawn into a folder of their own")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(CURVES)
    if unknown := [name for name in chosen if name not in CURVES]:
        parser.error(f"--only: there is no {', '.join(unknown)}, but {', '.join(CURVES)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if arguments.dry:
        Curve.folder = Path(tempfile.mkdtemp(prefix="wirespan-curves-"))
        say(f"pictures: {Curve.folder}")
    whole = sum(CURVES[name][2] for name in chosen)
    about, began, sections = machine(), time.monotonic(), {}
    for name in chosen:
        title, measurement, share = CURVES[name]
        say(f"### {title}")
        try:
            curve = measurement(arguments.minutes * 60 * share / whole)
        except Exception as error:  # noqa: BLE001 - the others are still worth their time
            curve = Curve([f"Left out: {type(error).__name__}: {error}"])
        if len(chosen) < len(CURVES):
            curve.text.insert(0, f"In a run of its own, on {'; '.join(about)}.")
        sections[title] = "\n\n".join([*curve.text, *curve.images])
        say(sections[title])
    if not arguments.dry:
        said = [*about, f"in all {time.monotonic() - began:.0f} s"]
        head = "\n".join(["## Curves", "", *(f"- {line}" for line in said)])
        order = [title for title, _, _ in CURVES.values()]
        DOCUMENT.write_text(written(DOCUMENT.read_text(), head, sections, order))


if __name__ == "__main__":
    main()
