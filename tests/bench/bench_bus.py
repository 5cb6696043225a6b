"""What a batch and a record cost on the way from capture to the backend: bytes, and processor time of each process.

    python -m tests.bench.bench_bus

A real nats-server, the enricher over a snapshot of 10,000 pods and the exporter to an OTLP backend that reads nothing, each a
process of its own and one after the other, so that what a process used is what its stage cost. Each stage is measured with
large and with small batches; the two give a cost of a batch and a cost of a record, which `wirespan plan` computes with.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from proto.columns import RAW, SOCKET
from proto.flow_batch import FlowBatch, encode
from proto.subjects import ENRICHED_STREAM, RAW_STREAM, raw_subject
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.bench.enricher.bench_join import make_batch, objects
from tests.bench.exporter.bench_encoder import node_batch
from tests.bench.exporter.bench_export import backend
from tests.bench.harness import processor_seconds, quiet_logs
from tests.support.pipeline.nats_server import NatsServer

ROOT = Path(__file__).parents[2]
LARGE, SMALL = 500, 20
BATCHES = {LARGE: 1000, SMALL: 4000}
PEERS = 300
STREAMS = StreamSettings(raw_bytes=4 << 30, raw_node_share=1, enriched_bytes=4 << 30)
NAMES = ("enricher", "exporter", "nats", "publisher")


@dataclass(frozen=True)
class Cost:
    """Of one size of batch: bytes of a batch, and microseconds of a batch in each process."""

    raw_bytes: float
    enriched_bytes: float
    microseconds: dict[str, float]
    peak_bytes: dict[str, int]
    """Most resident memory of each process."""


def live_batch(rows: int, draw: random.Random) -> FlowBatch:
    """A node's batch with every column that a live capture sends: ends as in the snapshot, measures as they come."""
    measures = node_batch(rows, draw.randrange(1 << 30)).columns
    joined = make_batch(rows, draw, PEERS)
    columns = {column.name: np.zeros(rows, column.numpy_dtype) for column in RAW + SOCKET}
    columns |= {name: measures[name] for name in columns if name in measures}
    return replace(joined, columns=columns | joined.columns)


async def fill(bus: Bus, rows: int) -> float:
    """Publish the batches; return the mean size of a message."""
    draw = random.Random(rows)
    kinds = [live_batch(rows, draw) for _ in range(8)]
    sent = 0
    for first in range(0, BATCHES[rows], 50):
        messages = [encode(replace(kinds[number % 8], sequence=number)) for number in range(first, first + 50)]
        sent += sum(map(len, messages))
        await asyncio.gather(
            *(bus.publish(raw_subject("node-0"), message, message_id=str(first + at)) for at, message in enumerate(messages))
        )
    return sent / BATCHES[rows]


async def stage(
    command: str, environ: dict[str, str], over: Callable[[], Awaitable[bool]], idle_seconds: float
) -> tuple[float, int]:
    """Run a service until `over`; return its processor seconds, without those of a start that finds nothing to do, and its
    peak of resident memory.
    """
    process = subprocess.Popen([sys.executable, "-m", f"services.{command}"], cwd=ROOT, env=environ)  # noqa: ASYNC220
    try:
        while not await over():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)
        return processor_seconds(process.pid) - idle_seconds, peak_bytes(process.pid)
    finally:
        process.terminate()
        process.wait()


async def measure(server: NatsServer, rows: int, snapshot: Path, port: int, idle: dict[str, float]) -> Cost:
    """Send one size of batches through every stage."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    environ |= {
        "WIRESPAN_NATS_URL": server.url,
        "WIRESPAN_LOG_LEVEL": "error",
        "WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(snapshot),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        **{f"WIRESPAN_STREAMS_{name.upper()}": str(getattr(STREAMS, name)) for name in STREAMS.__struct_fields__},
    }
    async with connect(NatsSettings(url=server.url), name="bench") as bus:
        await bus.ensure_streams(STREAMS)
        began, own = processor_seconds(server.pid), processor_seconds(os.getpid())
        raw_bytes = await fill(bus, rows)
        publisher = processor_seconds(os.getpid()) - own

        async def enriched() -> bool:
            return not (await bus.stream_state(RAW_STREAM)).messages

        async def exported() -> bool:
            return not (await bus.stream_state(ENRICHED_STREAM)).messages

        seconds, peaks = {}, {}
        seconds["enricher"], peaks["enricher"] = await stage("enricher", environ, enriched, idle["enricher"])
        enriched_bytes = (await bus.stream_state(ENRICHED_STREAM)).bytes / BATCHES[rows]
        seconds["exporter"], peaks["exporter"] = await stage("exporter", environ, exported, idle["exporter"])
        seconds |= {"nats": processor_seconds(server.pid) - began, "publisher": publisher}
    each = {name: seconds[name] / BATCHES[rows] * 1e6 for name in NAMES}
    return Cost(raw_bytes, enriched_bytes, each, peaks | {"nats": peak_bytes(server.pid)})


def peak_bytes(pid: int) -> int:
    """Most resident memory that a process has had."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


async def starts(server: NatsServer, snapshot: Path) -> dict[str, float]:
    """Return the processor seconds that each service uses to start and find nothing."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    environ |= {"WIRESPAN_NATS_URL": server.url, "WIRESPAN_LOG_LEVEL": "error"}
    environ |= {"WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(snapshot), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    used = {}
    for service in ("enricher", "exporter"):
        looks = iter(range(60))

        async def over(looks: Iterator[int] = looks) -> bool:
            return next(looks, None) is None

        used[service], _ = await stage(service, environ, over, 0.0)
    return used


def main() -> None:
    """Measure and print."""
    quiet_logs()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=backend, args=(there,))
    process.start()
    try:
        port = here.recv()
        costs = {}
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            snapshot = folder / "cluster.json"
            snapshot.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects()}))
            with NatsServer(folder / "nats") as server:
                idle = asyncio.run(starts(server, snapshot))
            for rows in (LARGE, SMALL):
                with NatsServer(folder / f"nats-{rows}") as server:
                    costs[rows] = asyncio.run(measure(server, rows, snapshot, port, idle))
        show(costs)
    finally:
        here.send(None)
        process.join()


def show(costs: dict[int, Cost]) -> None:
    """Print the cost of a batch and of a record."""
    large, small = costs[LARGE], costs[SMALL]
    rows = [("raw bytes", large.raw_bytes, small.raw_bytes), ("enriched bytes", large.enriched_bytes, small.enriched_bytes)]
    rows += [(f"{name}, microseconds", large.microseconds[name], small.microseconds[name]) for name in NAMES]
    sys.stdout.write(f"{'':26}{LARGE:>10} rows{SMALL:>10} rows{'of a batch':>14}{'of a record':>14}\n")
    for name, most, least in rows:
        record = (most - least) / (LARGE - SMALL)
        sys.stdout.write(f"{name:26}{most:15,.0f}{least:15,.0f}{least - record * SMALL:14,.1f}{record:14,.2f}\n")
    for name, peak in large.peak_bytes.items():
        sys.stdout.write(f"{name:26}{peak / 2**20:12,.0f} MiB at its peak, of {BATCHES[LARGE]:,} batches of {LARGE}\n")


if __name__ == "__main__":
    main()
