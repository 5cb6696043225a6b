"""Calls that an OpenTelemetry SDK traces, and what became of each on the network: under the right caller's span, every one.

How many there are is WIRESPAN_CORRELATED_CALLS; docs/correlation.md has the shares of longer runs. With `pytest -s` tests say
what was found.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from proto.columns import Reason
from proto.flow_batch import decode
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.exporter.encoder import SpanEncoder
from tests.bench.harness import say
from tests.e2e.backends.jaeger import asked, running_jaeger
from tests.e2e.conftest import ROOT, WIRESPAN
from tests.support.calls import grpc_pair
from tests.support.calls.pairs import CHANNELS, STEP, Call, grpc_calls, grpc_server, http_calls, http_server, tracer
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.lossy_path import SERVER, routed_path
from tests.support.node.namespaces import Namespace
from tests.support.packets.pcap import START, Frame, write
from tests.support.packets.talks.relay import relay

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

CALLS = int(os.environ.get("WIRESPAN_CORRELATED_CALLS", "1000"))
AT_ONCE = 32
NOT_TOLD = (
    "requests_unpaired", "requests_unknown", "requests_overtaken", "pieces_frames_missing", "pieces_lost_http2",
    "exchanges_lost", "connections_other",
)  # fmt: skip
"""What is counted where calls are not told."""
MOST_MISSING = 0.05
"""Live: of HTTP/1, whose calls keep the process that makes them from reading in time what capture tells (exchanges_lost)."""
READING_SECONDS = 0.002
"""Two clocks are read one after the other."""


def test_each_call_of_grpc_has_its_exchange_under_its_callers_span(
    jaeger: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Captured, replayed into Jaeger beside what both SDKs sent there: no parent is wrong, none is missing, and each exchange
    lies within its caller's span; the set-up stands beside the first call alone.
    """
    with running_jaeger(jaeger, tmp_path, 2 * CALLS) as (otlp, query):
        (caller, client), (answering, server) = (
            tracer(name, BatchSpanProcessor(OTLPSpanExporter(otlp, insecure=True), max_queue_size=100_000))
            for name in ("frontend", "cart")
        )
        with grpc_server(answering) as port, relay(port) as between:
            calls = grpc_calls(caller, f"127.0.0.1:{between.port}", CALLS, AT_ONCE)
        client.shutdown()
        server.shutdown()
        frames = [Frame(frame.time_ns - START + between.began_unix_ns, frame.data) for frame in between.frames]
        path = write(tmp_path / "calls.pcap", frames)
        command = [*WIRESPAN, "replay", path, "--otlp-endpoint", otlp]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=1200)
        exchanges, steps = [], []
        for call in calls:
            trace = asked(query, f"/api/traces/{call.trace_id:032x}")["data"][0]["spans"]
            names = sorted(span["operationName"] for span in trace)
            assert {"answer", f"call {call.number}"} <= set(names), names
            exchanges += [in_jaeger(span) for span in trace if span["operationName"] == "exchange at capture"]
            steps += [call for span in trace if span["operationName"] == "connect"]
    check("gRPC, replayed", calls, exchanges, {})
    assert CHANNELS <= len({call.number for call in steps}) == len(steps)


class Exchange(NamedTuple):
    """What a span says of an exchange."""

    trace_id: int
    parent: int
    begun_ns: int
    ended_ns: int
    sizes: tuple[int, int]
    """In steps; no response is 0."""


def in_jaeger(span: dict[str, Any]) -> Exchange:
    """As Jaeger tells it."""
    (parent,) = [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
    tags = {tag["key"]: tag["value"] for tag in span["tags"]}
    begun_ns, ended_ns = span["startTime"] * 1000, (span["startTime"] + span["duration"]) * 1000
    sizes = tags["flow.request.bytes"] // STEP, tags["flow.response.bytes"] // STEP
    return Exchange(int(span["traceID"], 16), int(parent, 16), begun_ns, ended_ns, sizes)


def in_otlp(span: Any) -> Exchange:
    """As it is sent."""
    attributes = {item.key: item.value.int_value for item in span.attributes}
    sizes = attributes.get("flow.request.bytes", 0) // STEP, attributes.get("flow.response.bytes", 0) // STEP
    ids = int.from_bytes(span.trace_id), int.from_bytes(span.parent_span_id)
    return Exchange(*ids, span.start_time_unix_nano, span.end_time_unix_nano, sizes)


def check(where: str, calls: list[Call], exchanges: Iterable[Exchange], counters: dict[str, int]) -> None:
    """Each call has one exchange that was answered, of its own sizes, under its span and within it. What was asked on a
    connection that its server was just ending, and is asked again on the next one, is an exchange as well. None is missing
    without a word.
    """
    by_trace = {call.trace_id: call for call in calls}
    assert len(by_trace) == CALLS
    found, again, wrong = [], [], []
    for each in exchanges:
        call = by_trace[each.trace_id]
        (found if each.sizes[1] else again).append(each)
        if each.parent != call.span_id or each.sizes not in {call.sizes, (call.sizes[0], 0)} or not is_within(call, each):
            wrong.append((call, each))
    missing = by_trace.keys() - {each.trace_id for each in found}
    counted = {name: counters[name] for name in NOT_TOLD if counters.get(name)}
    say(
        f"{where}: of {CALLS} calls {CALLS - len(missing)} found, wrong {len(wrong)}, asked again {len(again)}; lost: {counted}"
    )
    assert (wrong[:9], len(found)) == ([], CALLS - len(missing)), counters
    assert not missing or (counted and len(missing) < MOST_MISSING * CALLS), (sorted(missing)[:9], counters)


def is_within(call: Call, exchange: Exchange) -> bool:
    """Whether it lies within the caller's span."""
    tolerance = round(READING_SECONDS * 1e9)
    ended_ns = exchange.ended_ns if exchange.sizes[1] else exchange.begun_ns  # unanswered, with its connection
    return call.begun_ns - tolerance <= exchange.begun_ns <= ended_ns <= call.ended_ns + tolerance


@pytest.mark.skipif(bool(reason_to_skip()), reason=str(reason_to_skip()))
def test_each_call_has_its_exchanges_live(tmp_path: Path) -> None:
    """At both ends of real connections, of gRPC and of HTTP/1: no parent is wrong, and none is missing that is not counted;
    exchanges lie within the caller's span, and a connection's set-up stands beside its first call alone.
    """
    caller, answering = (tracer(name, SpanProcessor())[0] for name in ("frontend", "cart"))
    rules = TapRules(allow_networks=("10.71.0.0/16",))
    options = LiveOptions(capacity=16_384, rules=rules, trace_context=True)
    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
        with reading(reader) as messages, routed_path() as (client, _, server):
            of_grpc = calls_of_grpc(server, tmp_path / "calls")
            with http_server(server.socket, SERVER, answering) as where:
                of_http = http_calls(client.socket, where, caller, CALLS, AT_ONCE)
        counters = reader.counters
    told: dict[str, list[Exchange]] = {"exchange at client": [], "exchange at server": [], "connect": []}
    for span in spans_of(messages):
        if span.name in told:
            told[span.name].append(in_otlp(span))
    for protocol, connections, calls in (("gRPC", CHANNELS, of_grpc), ("HTTP/1", AT_ONCE, of_http)):
        ours = {call.trace_id for call in calls}
        of = {name: [each for each in spans if each.trace_id in ours] for name, spans in told.items()}
        for end in ("client", "server"):
            check(f"{protocol}, live at the {end}", calls, of[f"exchange at {end}"], counters)
        first = [each.trace_id for each in of["connect"]]
        say(f"{protocol}: {len(first)} connections")
        assert len(set(first)) == len(first) >= connections
    assert counters["requests_sampled"] >= len(told["exchange at client"]) + len(told["exchange at server"])


def calls_of_grpc(alone: Namespace, path: Path) -> list[Call]:
    """Calls of a client and a server in a process of their own, over the loopback of a namespace."""
    module = [sys.executable, "-m", "tests.support.calls.grpc_pair", SERVER, str(CALLS), str(AT_ONCE), str(path)]
    process = alone.spawn(module, cwd=ROOT, stderr=subprocess.PIPE)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return grpc_pair.read(path)


@contextmanager
def reading(reader: LiveReader) -> Iterator[list[bytes]]:
    """What capture tells meanwhile, looking for what is due as often as the service does; at the context's end all of it."""
    messages: list[bytes] = []
    over = threading.Event()

    def take(final: Reason | None = None) -> None:
        for batch in reader.read(final):
            messages.extend(each.message for each in batch.messages)
            reader.accept(batch)

    def read() -> None:
        while not over.wait(LiveOptions().drain_interval_seconds):
            take()

    with futures.ThreadPoolExecutor(1) as pool:
        keeping = pool.submit(read)
        try:
            yield messages
        finally:
            over.set()
        keeping.result()
    take(Reason.SHUTDOWN)


def spans_of(messages: Iterable[bytes]) -> Iterator[Any]:
    """The spans of batches."""
    encoder = SpanEncoder(cluster_name="c")
    for message in messages:
        sent = ExportTraceServiceRequest.FromString(encoder.encode(decode(message)))
        yield from (span for each in sent.resource_spans for scope in each.scope_spans for span in scope.spans)
