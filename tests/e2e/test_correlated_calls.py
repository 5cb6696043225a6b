"""Calls that an OpenTelemetry SDK traces, and what became of each on the network: under the right caller's span, every one.

How many there are is WIRESPAN_CORRELATED_CALLS; docs/correlation.md has the shares of longer runs.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.e2e.backends.test_jaeger import asked, running_jaeger
from tests.e2e.conftest import ROOT, WIRESPAN
from tests.support.calls.pairs import STEP, Call, grpc_calls, grpc_server, tracer
from tests.support.packets.pcap import START, Frame, write
from tests.support.packets.relay import relay

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
