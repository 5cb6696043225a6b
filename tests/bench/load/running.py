"""A pipeline under load: a real nats-server, enrichers, exporters, a backend that reads what it gets, an open-loop publisher.

The publisher has a timetable. Each record ends at the moment for which its batch is planned, whether or not the batch is late:
so a wait before the first byte is sent is part of what the backend finds, and there is no coordinated omission.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.flow_batch import FlowBatch, encode
from proto.subjects import ENRICHED_STREAM, RAW_STREAM, partition_streams, raw_subject
from services.runtime.nats.bus import Bus, BusError, StreamFullError, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.bench.bench_bus import live_batch
from tests.bench.enricher.bench_join import objects
from tests.bench.exporter.bench_export import EXPORT
from tests.bench.harness import ROOT, environment, processor_seconds
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import nobody_failed, watched

PODS = 10_000
STREAMS = StreamSettings(raw_bytes=1 << 30, raw_node_share=1, enriched_bytes=1 << 30)
_STARTING_SECONDS, _DRAINING_SECONDS = 60.0, 20.0


def reading_backend(pipe: Connection) -> None:
    """Take spans; asked, say when each came and how old it was then, in nanoseconds, since the last time."""
    arrivals: list[tuple[int, list[int]]] = []

    def accept(body: bytes, _context: grpc.ServicerContext) -> bytes:
        now = time.time_ns()
        groups = ExportTraceServiceRequest.FromString(body).resource_spans
        ages = [now - span.end_time_unix_nano for group in groups for scope in group.scope_spans for span in scope.spans]
        arrivals.append((now, ages))
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(accept)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXPORT.split("/")[1], handlers),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    while pipe.recv() == "tell":
        taken, arrivals[:] = list(arrivals), []
        counts = np.array([len(ages) for _, ages in taken], np.int64)
        when = np.repeat(np.array([now for now, _ in taken], np.int64), counts)
        pipe.send((when, np.array([age for _, ages in taken for age in ages], np.int64)))


@contextmanager
def backend() -> Iterator[Connection]:
    """Run the backend as a process; what it sends first is its port."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=reading_backend, args=(there,))
    process.start()
    there.close()  # the process alone has it: what is asked of one that has failed ends, instead of waiting
    try:
        yield here
    finally:
        with suppress(OSError):
            here.send("end")
        process.join()


@dataclass(frozen=True)
class Found:
    """What came of one rate."""

    offered: float
    """Records a second, by the timetable."""
    accepted: float
    """Records a second that the backend took while the timetable ran."""
    ages_ms: tuple[float, float, float]
    """50th, 99th and 99.9th percentile from a record's end to its arrival, of all that were offered and came in time."""
    missing: int
    """Records that had not come when the wait for them was over."""
    refused: int
    """Records of batches that the full stream refused: capture merges such."""
    cores: dict[str, float]
    """Used by each kind of process while the timetable ran."""
    memory_mib: dict[str, float]
    """Resident, at its end."""


class Running:
    """The processes of one pipeline."""

    def __init__(self, pids: dict[str, list[int]], bus: Bus, pipe: Connection) -> None:
        self._pids, self.bus, self._pipe = pids, bus, pipe
        draw = random.Random(16)
        self._kinds: dict[int, list[FlowBatch]] = {}
        self._draw = draw
        self._number = 0

    def seconds(self) -> dict[str, float]:
        """Processor seconds of each kind of process so far."""
        return {name: sum(map(processor_seconds, pids)) for name, pids in self._pids.items()}

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of each kind of process now."""
        return {name: sum(map(_resident, pids)) / 2**20 for name, pids in self._pids.items()}

    def arrivals(self) -> tuple[np.ndarray, np.ndarray]:
        """When the spans since the last time came, and how old they were; both in nanoseconds."""
        self._pipe.send("tell")
        found: tuple[np.ndarray, np.ndarray] = self._pipe.recv()
        return found

    async def offer(self, rate: float, seconds: float, *, rows: int, nodes: int = 1) -> Found:
        """Publish so many records a second in batches of `rows`, in turn of so many nodes, and see what comes of them."""
        async with asyncio.timeout(_STARTING_SECONDS):
            await self.empty()
        self.arrivals()
        interval, refused = rows / rate, 0
        batches = max(1, round(seconds / interval))
        used, began, began_ns = self.seconds(), time.monotonic(), time.time_ns()
        tasks: set[asyncio.Task[int]] = set()
        for number in range(batches):
            due = began + number * interval
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._publish(rows, nodes, began_ns + round(number * interval * 1e9)))
            tasks.add(task)
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        elapsed = time.monotonic() - began
        cores = {name: (after - used[name]) / elapsed for name, after in self.seconds().items()}
        memory = self.memory_mib()
        over_ns = time.time_ns()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAINING_SECONDS):
                refused = sum(await asyncio.gather(*tasks))
                await self.empty()
        for task in tasks:
            task.cancel()
        when, ages = self.arrivals()
        percentiles = tuple(float(each) / 1e6 for each in np.percentile(ages, (50, 99, 99.9))) if len(ages) else (0.0, 0.0, 0.0)
        in_time = int(np.count_nonzero(when <= over_ns))
        missing = batches * rows - len(ages) - refused
        return Found(rate, in_time / elapsed, percentiles, max(0, missing), refused, cores, memory)

    async def _publish(self, rows: int, nodes: int, ended_ns: int) -> int:
        """Publish one batch that ended then; return how many of its records were refused."""
        self._number += 1
        number = self._number
        kinds = self._kinds.setdefault(rows, [])
        if len(kinds) < 8:
            kinds.append(live_batch(rows, self._draw))
        batch = kinds[number % len(kinds)]
        columns = {**batch.columns, "end_unix_ns": np.full(rows, ended_ns, "<u8")}
        columns["start_unix_ns"] = columns["end_unix_ns"] - np.uint64(1_000_000)
        node = f"node-{number % nodes}"
        message = encode(replace(batch, node=node, sequence=number, columns=columns))
        try:
            await self.bus.publish(raw_subject(node, STREAMS.partitions), message, message_id=f"{node}/bench/{number}")
        except StreamFullError:
            return rows
        return 0

    async def empty(self) -> None:
        """Return once nothing is under way."""
        for stream in (RAW_STREAM, ENRICHED_STREAM):
            for each in partition_streams(stream, STREAMS.partitions):
                while (await self.bus.stream_state(each)).messages:
                    nobody_failed()
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def running(folder: Path, *, enrichers: int = 1, exporters: int = 1, pods: int = PODS) -> AsyncIterator[Running]:
    """Start a pipeline, warm it up, and end it with the block."""
    snapshot = folder / "cluster.json"
    snapshot.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects(pods)}))
    with ExitStack() as stack:
        server = stack.enter_context(NatsServer(folder / f"nats-{time.monotonic_ns()}"))
        pipe = stack.enter_context(backend())
        port = await asyncio.to_thread(pipe.recv)
        environ = environment(
            WIRESPAN_NATS_URL=server.url,
            WIRESPAN_ENRICHER_KUBE_SNAPSHOT=str(snapshot),
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
            **{f"WIRESPAN_STREAMS_{name.upper()}": str(getattr(STREAMS, name)) for name in STREAMS.__struct_fields__},
        )
        pids: dict[str, list[int]] = {"nats": [server.pid]}
        async with connect(NatsSettings(url=server.url, unsynced_seconds=0), name="bench") as bus:
            await bus.ensure_streams(STREAMS)
            for service, replicas in (("enricher", enrichers), ("exporter", exporters)):
                started = [
                    stack.enter_context(_service(service, environ, folder / f"{service}-{at}.log")) for at in range(replicas)
                ]
                pids[service] = [process.pid for process in started]
            pipeline = Running(pids, bus, pipe)
            async with asyncio.timeout(_STARTING_SECONDS):
                await _consumed(bus)
                await pipeline.offer(500, 2, rows=20)
            yield pipeline


async def _consumed(bus: Bus) -> None:
    """Return once both streams are consumed."""
    for stream, durable in ((RAW_STREAM, "enricher"), (ENRICHED_STREAM, "exporter")):
        while True:
            with suppress(BusError):
                if (await bus.consumer_state(stream, durable)).asking:
                    break
            nobody_failed()
            await asyncio.sleep(0.1)


@contextmanager
def _service(name: str, environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", f"services.{name}"]
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=said, stderr=said)
    try:
        with watched(process, log):
            yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
