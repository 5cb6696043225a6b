"""Calls that an OpenTelemetry SDK traces, and what became of each on the network: under the right caller's span, every one.

How many there are is WIRESPAN_CORRELATED_CALLS; docs/correlation.md has the shares of longer runs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proto.columns import Reason
from proto.flow_batch import decode
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.exporter.encoder import SpanEncoder
from tests.e2e.backends.test_jaeger import asked, running_jaeger
from tests.e2e.conftest import ROOT, WIRESPAN
from tests.support.calls.pairs import STEP, Call, grpc_calls, grpc_server, http_calls, http_server, tracer
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.lossy_path import SERVER, routed_path
from tests.support.packets.pcap import START, Frame, write
from tests.support.packets.talks.relay import relay

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

CALLS = int(os.environ.get("WIRESPAN_CORRELATED_CALLS", "1000"))
AT_ONCE = 16
READING_SECONDS = 0.002
"""Two clocks are read one after the other."""


def test_each_call_of_grpc_has_its_exchange_under_its_callers_span(
    jaeger: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Captured, replayed into Jaeger beside what both SDKs sent there: no parent is wrong, none is missing, and each exchange
    lies within its caller's span; the set-up stands beside the first call alone.
    """
    with running_jaeger(jaeger, tmp_path) as (otlp, query):
        (caller, client), (answering, server) = (
            tracer(name, BatchSpanProcessor(OTLPSpanExporter(otlp, insecure=True), max_queue_size=100_000))
            for name in ("frontend", "cart")
        )
        with grpc_server(answering) as port, relay(port) as between:
            calls = grpc_calls(caller, between.port, CALLS, AT_ONCE)
        client.shutdown()
        server.shutdown()
        frames = [Frame(frame.time_ns - START + between.began_unix_ns, frame.data) for frame in between.frames]
        path = write(tmp_path / "calls.pcap", frames)
        command = [*WIRESPAN, "replay", path, "--otlp-endpoint", otlp]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=600)
        exchanges, steps = [], []
        for call in calls:
            trace = asked(query, f"/api/traces/{call.trace_id:032x}")["data"][0]["spans"]
            names = sorted(span["operationName"] for span in trace)
            assert {"answer", f"call {call.number}", "exchange at capture"} <= set(names), names
            exchanges += [(call, span) for span in trace if span["operationName"] == "exchange at capture"]
            steps += [call for span in trace if span["operationName"] == "connect"]
    assert len(exchanges) == len(calls) == CALLS
    for call, span in exchanges:
        check_in_jaeger(call, span)
    assert len(steps) == 1


def check_in_jaeger(call: Call, span: dict[str, Any]) -> None:
    """An exchange is the one of the call whose trace it stands in."""
    (parent,) = [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
    tags = {tag["key"]: tag["value"] for tag in span["tags"]}
    assert parent == f"{call.span_id:016x}"
    assert (tags["flow.request.bytes"] // STEP, tags["flow.response.bytes"] // STEP) == call.sizes
    check_times(call, span["startTime"] * 1000, (span["startTime"] + span["duration"]) * 1000)


def check_times(call: Call, begun_ns: int, ended_ns: int) -> None:
    """It lies within the caller's span."""
    tolerance = round(READING_SECONDS * 1e9)
    assert call.begun_ns - tolerance <= begun_ns <= ended_ns <= call.ended_ns + tolerance


@pytest.mark.skipif(bool(reason_to_skip()), reason=str(reason_to_skip()))
def test_each_call_of_http_has_its_exchanges_live() -> None:
    """At both ends of real connections: no parent is wrong and none is missing; both ends' exchanges lie within the caller's
    span, and a connection's set-up stands beside its first call alone.
    """
    told = InMemorySpanExporter()
    caller, answering = (tracer(name, SimpleSpanProcessor(told))[0] for name in ("frontend", "cart"))
    options = LiveOptions(capacity=4096, rules=TapRules(allow_networks=("10.71.0.0/16",)), trace_context=True)
    with LiveReader(node="n", epoch="e", options=options) as reader, routed_path() as (client, _, server):
        with http_server(server.socket, SERVER, answering) as where:
            calls = http_calls(client.socket, where, caller, CALLS, AT_ONCE)
        spans = list(spans_of(reader))
        assert reader.counters["requests_sampled"] == 2 * CALLS
    by_trace = {call.trace_id.to_bytes(16): call for call in calls}
    for end in ("client", "server"):
        exchanges = [span for span in spans if span.name == f"exchange at {end}"]
        assert len(exchanges) == len({span.trace_id for span in exchanges}) == CALLS
        for span in exchanges:
            call = by_trace[span.trace_id]
            attributes = {item.key: item.value.int_value for item in span.attributes}
            assert span.parent_span_id == call.span_id.to_bytes(8)
            assert (attributes["flow.request.bytes"] // STEP, attributes["flow.response.bytes"] // STEP) == call.sizes
            check_times(call, span.start_time_unix_nano, span.end_time_unix_nano)
    connects = [by_trace[span.trace_id].number for span in spans if span.name == "connect"]
    assert sorted(connects) == list(range(AT_ONCE))


def spans_of(reader: LiveReader) -> Iterator[Any]:
    """All that capture tells, as spans."""
    encoder = SpanEncoder(cluster_name="c")
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            sent = ExportTraceServiceRequest.FromString(encoder.encode(decode(message.message)))
            yield from (span for each in sent.resource_spans for scope in each.scope_spans for span in scope.spans)
        reader.accept(batch)
