"""How long a record waits from its batch's storing on the bus to its span's arrival at the backend.

    python -m tests.bench.exporter.bench_export_latency

A real nats-server, the exporter as a process of its own and a backend in a
third that reads what it gets. Batches are published at a steady rate; each record ends at the moment its batch is published, so
that the backend can say how old its span is. All processes share one clock.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.flow_batch import encode
from proto.subjects import ENRICHED_STREAM, enriched_subject
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from tests.bench.exporter.bench_export import EXPORT, kinds_of_batch
from tests.bench.harness import ROOT, environment, quiet_logs
from tests.support.pipeline.nats_server import NatsServer

ROWS = 50


def reading_backend(pipe: Connection) -> None:
    """Take requests; told to end, say how old each span was when it came, in milliseconds."""
    ages: list[float] = []

    def accept(body: bytes, _context: grpc.ServicerContext) -> bytes:
        arrived = time.time_ns()
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            ages.extend((arrived - span.end_time_unix_nano) / 1e6 for span in group.scope_spans[0].spans)
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(accept)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXPORT.split("/")[1], handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(port)
    pipe.recv()
    pipe.send(ages)


async def publish(nats_url: str, rate: int, seconds: float) -> None:
    """Publish batches at a steady rate of records until the time is over; return when all are acknowledged."""
    kinds = kinds_of_batch(2 * ROWS)
    async with connect(NatsSettings(url=nats_url), name="bench") as bus:
        await bus.ensure_streams()
        began, number, records = time.monotonic(), 0, 0
        while (elapsed := time.monotonic() - began) < seconds:
            if records > elapsed * rate:
                await asyncio.sleep(0.002)
                continue
            batch = kinds[number % len(kinds)]
            number, records = number + 1, records + batch.count
            ended = np.full(batch.count, time.time_ns(), "<u8")
            message = encode(replace(batch, sequence=number, columns={**batch.columns, "end_unix_ns": ended}))
            await bus.publish(enriched_subject(batch.node), message, message_id=f"{began}/{number}")
        while (await bus.stream_state(ENRICHED_STREAM)).messages:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


def measure(rate: int, seconds: float) -> list[float]:
    """Ages of all spans at one rate."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=reading_backend, args=(there,))
    process.start()
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder)) as server:
        endpoint = f"http://127.0.0.1:{here.recv()}"
        environ = environment(WIRESPAN_NATS_URL=server.url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        exporter = subprocess.Popen([sys.executable, "-m", "services.exporter"], cwd=ROOT, env=environ)
        try:
            asyncio.run(publish(server.url, ROWS, 3))  # until all three are warm
            asyncio.run(publish(server.url, rate, seconds))
        finally:
            exporter.terminate()
            exporter.wait()
    here.send(None)
    ages: list[float] = here.recv()
    process.join()
    return ages[-int(rate * seconds * 0.9) :]


def main() -> None:
    """Measure and print."""
    quiet_logs()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    for rate in (500, 5_000, 20_000):
        ages = measure(rate, arguments.seconds)
        middle, late = np.percentile(ages, (50, 99))
        sys.stdout.write(f"{rate:,} records/s: p50 {middle:.0f} ms, p99 {late:.0f} ms of {len(ages):,} spans\n")


if __name__ == "__main__":
    main()
