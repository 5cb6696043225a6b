"""How fast enriched batches leave NATS for an OTLP/gRPC backend, against the SDK's OTLPSpanExporter to the same backend, and
against a Collector (tests.support.tools) that passes the same spans on to it.

    python -m tests.bench.exporter.bench_export

A real nats-server, the exporter as a process of its own, and a backend in a third
process that counts bytes and answers. On a machine of few cores the three share them: the processor time of the exporter is
what says how much one core of it does. The Collector is given the exporter's spans as requests, one for each batch, and makes
nothing anew of them; it has no queue, so that it answers when the backend has, and does not compress.
"""

from __future__ import annotations

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
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from proto.flow_batch import FlowBatch, decode, encode, encode_parts
from proto.subjects import ENRICHED_STREAM, enriched_subject
from services.exporter.encoder import SpanEncoder
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings
from tests.bench.exporter.bench_encoder import node_batch, readable_spans
from tests.bench.harness import ROOT, environment, processor_seconds, quiet_logs
from tests.e2e.backends.collector import Collector
from tests.support.pipeline.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.tools import ToolUnavailableError, tool

RECORDS, STOCK_SPANS, PASSED_ON = 600_000, 10_240, 200_000
SENDERS = 4
SIZES = (625, 50)
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def backend(pipe: Connection, port: int = 0) -> None:
    """Take requests without reading them until told to end; say the port."""

    def accept(_body: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(accept)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXPORT.split("/")[1], handlers),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    pipe.send(port)
    pipe.recv()


def kinds_of_batch(rows: int) -> list[FlowBatch]:
    """Batches of so many rows as an enricher writes them: with the entities that they name and no others."""
    many = max(1, 600 // rows)  # cut out of larger ones, so that workloads come again in other batches
    wholes = (node_batch(many * rows, seed) for seed in range(8))
    parts = (whole.take(slice(first, first + rows)) for whole in wholes for first in range(0, many * rows, rows))
    return [decode(part.message) for batch in parts for part in encode_parts(batch, len(encode(batch)) - 1)]


async def fill(bus: Bus, rows: int) -> int:
    """Put records into the stream in batches of so many rows; return how many."""
    kinds = kinds_of_batch(2 * rows)
    stored = number = 0
    while stored < RECORDS:
        messages = []
        for _ in range(50):
            batch = kinds[number % len(kinds)]
            message = encode(replace(batch, sequence=number))
            messages.append(bus.publish(enriched_subject(batch.node), message, message_id=str(number)))
            stored += batch.count
            number += 1
        await asyncio.gather(*messages)
    return stored


async def ours(nats_url: str, port: int, rows: int) -> tuple[float, float, int]:
    """Wall-clock seconds and processor seconds of the exporter, and the spans it sent."""
    async with connect(NatsSettings(url=nats_url), name="bench") as bus:
        await bus.ensure_streams()
        spans = await fill(bus, rows)
        environ = environment(
            WIRESPAN_NATS_URL=nats_url,
            WIRESPAN_EXPORTER_ATTRIBUTES="full",  # as the others have them: by default there are fewer
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        )
        before = (await bus.stream_state(ENRICHED_STREAM)).messages
        exporter = subprocess.Popen([sys.executable, "-m", "services.exporter"], cwd=ROOT, env=environ)  # noqa: ASYNC220 - begins at once
        try:
            while (await bus.stream_state(ENRICHED_STREAM)).messages == before:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.005)
            began, used, left = time.monotonic(), processor_seconds(exporter.pid), before
            while left:
                await asyncio.sleep(0.02)
                left = (await bus.stream_state(ENRICHED_STREAM)).messages
            return time.monotonic() - began, processor_seconds(exporter.pid) - used, spans
        finally:
            exporter.terminate()
            exporter.wait()


def stock(port: int) -> tuple[float, float]:
    """Wall-clock and processor seconds a span of the SDK's exporter, in its usual batches of 512."""
    spans = readable_spans(SpanEncoder(cluster_name="bench").encode(node_batch(2048)))
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}", insecure=True)
    began, used = time.monotonic(), time.process_time()
    for first in range(0, STOCK_SPANS, 512):
        assert exporter.export(spans[first % 2048 : first % 2048 + 512]) is SpanExportResult.SUCCESS
    took = (time.monotonic() - began) / STOCK_SPANS, (time.process_time() - used) / STOCK_SPANS
    exporter.shutdown()
    return took


def passed_on(executable: Path, port: int, rows: int) -> tuple[float, float]:
    """Wall-clock and processor seconds a span of a Collector, OTLP in to OTLP out, in requests of so many."""
    encoder = SpanEncoder(cluster_name="bench")
    bodies = [encoder.encode(batch) for batch in kinds_of_batch(2 * rows)]
    requests = [bodies[number % len(bodies)] for number in range(PASSED_ON // rows)]
    receiving = free_port()
    receivers = {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{receiving}"}}}}
    out = {
        "endpoint": f"127.0.0.1:{port}",
        "tls": {"insecure": True},
        "compression": "none",
        "sending_queue": {"enabled": False},
    }
    more = {"exporters": {"otlp": out}, "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp"]}}}
    with (
        tempfile.TemporaryDirectory() as folder,
        Collector(executable, Path(folder), receivers, more) as collector,
        grpc.insecure_channel(f"127.0.0.1:{receiving}") as channel,
        futures.ThreadPoolExecutor(SENDERS) as senders,
    ):
        export = channel.unary_unary(EXPORT)
        list(senders.map(export, bodies))  # until it is warm
        began, used = time.monotonic(), processor_seconds(collector.pid)
        list(senders.map(export, requests))
        spans = len(requests) * rows
        return (time.monotonic() - began) / spans, (processor_seconds(collector.pid) - used) / spans


def main() -> None:
    """Measure and print."""
    quiet_logs()
    try:
        collector, without = tool("otelcol-copy"), ""
    except ToolUnavailableError as error:
        collector, without = None, str(error)
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=backend, args=(there,))
    process.start()
    try:
        port = here.recv()
        wall_stock, processor_stock = stock(port)
        sys.stdout.write(f"OTLPSpanExporter: {1 / wall_stock:,.0f} spans/s, {1 / processor_stock:,.0f} a processor second\n")
        for rows in SIZES:
            with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder)) as server:
                wall, processor, spans = asyncio.run(ours(server.url, port, rows))
            line = f"{spans / wall:,.0f} spans/s, {spans / processor:,.0f} a processor second"
            ratio = f"{spans / wall * wall_stock:.0f}x, {spans / processor * processor_stock:.0f}x"
            sys.stdout.write(f"exporter, batches of {rows}: {line} ({ratio})\n")
            if collector:
                wall_passed, passed = passed_on(collector, port, rows)
                line = f"{1 / wall_passed:,.0f} spans/s, {1 / passed:,.0f} a processor second"
                line += f" (the exporter {spans / processor * passed:.2f}x of that)"
                sys.stdout.write(f"Collector, requests of {rows}: {line}\n")
        if without:
            sys.stdout.write(f"Collector: left out, {without}\n")
    finally:
        here.send(None)
        process.join()


if __name__ == "__main__":
    main()
