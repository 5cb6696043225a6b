"""A client with a pool of TLS connections, instrumented with the OpenTelemetry SDK.

    python -m tests.support.meeting.tls_client <authority> <port> <callers> <connections> <calls>

Prints one line of JSON when it is done: a list of [call's id, span's begin, span's end, span's id], Unix nanoseconds. Where
OTEL_EXPORTER_OTLP_ENDPOINT is set the spans go there too.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind


async def main() -> None:
    """Call, and say what the SDK made of it."""
    authority, port, callers, connections, calls = sys.argv[1], *(int(each) for each in sys.argv[2:6])
    context = ssl.create_default_context(cafile=authority)
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("calls")
    pool: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(connections):
        pool.put_nowait(await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost"))
    left = iter(range(calls))

    async def caller() -> None:
        for number in left:
            attributes = {"call": str(number), "server.address": "localhost", "server.port": port}
            with tracer.start_as_current_span("call", kind=SpanKind.CLIENT, attributes=attributes):
                reader, writer = await pool.get()
                writer.write(f"{number}\n".encode())
                await reader.readline()
                pool.put_nowait((reader, writer))

    await asyncio.gather(*(caller() for _ in range(callers)))
    spans = exported.get_finished_spans()
    provider.shutdown()
    said = [[(each.attributes or {})["call"], each.start_time, each.end_time, each.context.span_id] for each in spans]
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
