"""How fast flow batches become OTLP bytes, against the OpenTelemetry SDK's `encode_spans` for the same spans in the same run.

    python -m tests.bench.exporter.bench_encoder

Figures are the least of many repeats, in processor time; on a busy machine only
the ratio means something.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from proto.columns import NO_INDEX, End, Observer, Outcome, Reason, Resolution, Role
from proto.flow_batch import Array, Entity, FlowBatch, decode, encode, encode_parts
from services.exporter.encoder import SpanEncoder
from services.exporter.spans.bundle import bundle
from services.exporter.spans.profiles import PROFILES

ROWS, TOGETHER, REPEATS = 1250, 16, 40
LOCAL_PODS, REMOTE_PODS, SERVICES = 30, 400, 40


def pod(number: int) -> Entity:
    """A pod of a Deployment."""
    app = f"app-{number % SERVICES}"
    attributes = {
        "k8s.pod.name": f"{app}-6c8f9d7b5-{number:05x}",
        "k8s.pod.uid": f"7d0c7e9a-5b1f-4c62-9b7e-{number:012x}",
        "k8s.namespace.name": f"team-{number % 7}",
        "k8s.deployment.name": app,
        "k8s.replicaset.name": f"{app}-6c8f9d7b5",
        "k8s.node.name": f"node-{number % 9}.internal",
        "service.name": app,
        "service.namespace": f"team-{number % 7}",
    }
    return Entity("k8s.pod", attributes)


def node_batch(rows: int = ROWS, seed: int = 1) -> FlowBatch:
    """One node's records as they come: TCP mostly, half clients, a fifth of them outside the cluster, few failures."""
    draw = np.random.default_rng(seed)
    entities = [pod(number) for number in range(LOCAL_PODS + REMOTE_PODS)]
    entities += [Entity("k8s.service", {"k8s.service.name": f"app-{number}"}) for number in range(SERVICES)]
    local = draw.integers(0, LOCAL_PODS, rows)
    remote = draw.integers(LOCAL_PODS, LOCAL_PODS + REMOTE_PODS, rows)
    external = draw.random(rows) < 0.2
    tcp = draw.random(rows) < 0.8
    client = draw.random(rows) < 0.5
    start = 1_700_000_000_000_000_000 + draw.integers(0, 10**10, rows).astype("<u8")
    responses = draw.integers(0, 4, rows)
    response_time = draw.integers(10**5, 10**8, rows)
    histogram = np.zeros((rows, 20), "<u4")
    histogram[:, 6] = responses
    outcome = np.where(tcp, draw.choice([Outcome.CLOSED, Outcome.ESTABLISHED, Outcome.REFUSED], rows, p=[0.8, 0.17, 0.03]), 0)
    syn = np.where(tcp, start, 0)
    columns: dict[str, Array] = {
        "flow_id": np.arange(rows),
        "record": np.where(draw.random(rows) < 0.1, 3, 0),
        "reason": draw.choice([Reason.END_OF_FLOW, Reason.ACTIVE_TIMEOUT], rows, p=[0.9, 0.1]),
        "observer": np.full(rows, Observer.SOCKET),
        "role": np.where(client, Role.CLIENT, Role.SERVER),
        "transport": np.where(tcp, 6, 17),
        "local_port": np.where(client, draw.integers(32768, 61000, rows), 8080),
        "remote_port": np.where(client, 8080, draw.integers(32768, 61000, rows)),
        "start_unix_ns": start,
        "end_unix_ns": start + response_time * 3,
        "flow_start_unix_ns": start,
        "syn_unix_ns": syn,
        "syn_ack_unix_ns": np.where(tcp, syn + 300_000, 0),
        "handshake_ack_unix_ns": np.where(tcp, syn + 350_000, 0),
        "isn_seen": np.where(tcp, 3, 0),
        "local_isn": draw.integers(0, 2**32, rows),
        "remote_isn": draw.integers(0, 2**32, rows),
        "outcome": outcome,
        "closed_by": np.where(outcome == Outcome.CLOSED, End.LOCAL, End.NONE),
        "tx_tcp_flags": np.where(tcp, 0x1B, 0),
        "rx_tcp_flags": np.where(tcp, 0x1B, 0),
        "tx_retransmits": draw.random(rows) < 0.05,
        "responses": responses,
        "response_time_sum_ns": responses * response_time,
        "response_time_max_ns": response_time * (responses > 0),
        "response_time_histogram": histogram,
        "local_entity": local,
        "remote_entity": np.where(external, NO_INDEX, remote),
        "local_service": np.where(client, NO_INDEX, LOCAL_PODS + REMOTE_PODS + local % SERVICES),
        "remote_service": np.where(client & ~external, LOCAL_PODS + REMOTE_PODS + remote % SERVICES, NO_INDEX),
        "local_resolution": np.full(rows, Resolution.RESOLVED),
        "remote_resolution": np.where(external, Resolution.EXTERNAL, Resolution.RESOLVED),
        "local_container": local,
        "local_address": addresses(local),
        "remote_address": addresses(np.where(external, draw.integers(2**20, 2**24, rows), remote)),
    }
    for way in ("tx", "rx"):
        columns[f"{way}_bytes"] = draw.lognormal(8, 2, rows)
        columns[f"{way}_packets"] = draw.integers(1, 100, rows)
        columns[f"{way}_payload_bytes"] = columns[f"{way}_bytes"] // 2
        columns[f"{way}_bytes_total"], columns[f"{way}_packets_total"] = columns[f"{way}_bytes"], columns[f"{way}_packets"]
    batch = FlowBatch(
        node="node-3.internal",
        epoch="0123456789abcdef",
        sequence=seed,
        count=rows,
        interval=(1_700_000_000_000_000_000, 1_700_000_010_000_000_000),
        columns=typed(columns),
        containers=[
            {"pod_uid": entities[at].attributes["k8s.pod.uid"], "container_id": f"{at:064x}"} for at in range(LOCAL_PODS)
        ],
        entities=entities,
    )
    return decode(encode(batch))


def addresses(numbers: Array) -> Array:
    """Mapped IPv4 addresses 10.x.y.z."""
    octets = np.zeros((len(numbers), 16), np.uint8)
    octets[:, 10:12] = 0xFF
    octets[:, 12:] = (numbers.astype(">u4") | np.uint32(10 << 24)).astype(">u4").view(np.uint8).reshape(-1, 4)
    return octets.view("V16").ravel()


def typed(columns: dict[str, Array]) -> dict[str, Array]:
    """The columns in the schema's types."""
    from proto.columns import COLUMNS

    return {
        name: array if array.dtype.kind == "V" else array.astype(COLUMNS[name].numpy_dtype.base)
        for name, array in columns.items()
    }


def readable_spans(body: bytes) -> list[ReadableSpan]:
    """The spans of a request as the SDK holds them."""
    kinds = {1: SpanKind.INTERNAL, 2: SpanKind.SERVER, 3: SpanKind.CLIENT}
    spans = []
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = Resource({pair.key: value(pair.value) for pair in group.resource.attributes}, group.schema_url)
        for scope_spans in group.scope_spans:
            scope = InstrumentationScope(scope_spans.scope.name, scope_spans.scope.version, scope_spans.schema_url)
            for span in scope_spans.spans:
                trace_id = int.from_bytes(span.trace_id)
                context = SpanContext(trace_id, int.from_bytes(span.span_id), is_remote=False, trace_flags=TraceFlags(1))
                parent = (
                    SpanContext(trace_id, int.from_bytes(span.parent_span_id), is_remote=False) if span.parent_span_id else None
                )
                spans.append(
                    ReadableSpan(
                        name=span.name,
                        context=context,
                        parent=parent,
                        resource=resource,
                        attributes={pair.key: value(pair.value) for pair in span.attributes},
                        kind=kinds[span.kind],
                        instrumentation_scope=scope,
                        status=Status(StatusCode(span.status.code), span.status.message or None),
                        start_time=span.start_time_unix_nano,
                        end_time=span.end_time_unix_nano,
                    )
                )
    return spans


def value(any_value: AnyValue) -> Any:
    """What an AnyValue holds."""
    kind = any_value.WhichOneof("value")
    return tuple(map(value, any_value.array_value.values)) if kind == "array_value" else getattr(any_value, kind)


def seconds(calls: Sequence[Callable[[], object]], repeats: int) -> float:
    """Sum over the calls of the least processor time that each takes: what else runs on the machine can only add to it."""
    least = [float("inf")] * len(calls)
    for _ in range(repeats):
        for at, call in enumerate(calls):
            began = time.thread_time_ns()
            call()
            least[at] = min(least[at], (time.thread_time_ns() - began) / 1e9)
    return sum(least)


def encoding(encoder: SpanEncoder, batches: Sequence[FlowBatch]) -> float:
    """Seconds a span, each batch by itself."""
    return seconds([partial(encoder.encode, batch) for batch in batches], REPEATS) / sum(batch.count for batch in batches)


def main() -> None:
    """Measure and print."""
    known: dict[bytes, Entity] = {}  # as the exporter decodes: an entity is read once, whatever batch it comes with
    batches = [decode(encode(node_batch(seed=seed)), known) for seed in range(10)]
    encoder = SpanEncoder(cluster_name="bench")
    bodies = [encoder.encode(batch) for batch in batches]
    spans = readable_spans(bodies[0])
    attributes = statistics.mean(len(span.attributes or ()) for span in spans)
    small = [decode(part.message, known) for batch in batches for part in encode_parts(batch.take(slice(0, 100)), 60_000)]
    together = bundle(small[:TOGETHER] * 2)
    sdk = seconds([lambda: encode_spans(spans).SerializeToString()], 5) / len(spans)
    large = [decode(encode(node_batch(4 * ROWS, seed)), known) for seed in range(4)]
    bundled = seconds([lambda: encoder.encode_bundle(bundle(together.sources), 10**7)], REPEATS) / together.batch.count
    lines = [f"spans: {attributes:.1f} attributes, {len(bodies[0]) / ROWS:.0f} bytes each"]
    for name, ours in (
        (f"batches of {4 * ROWS}", encoding(encoder, large)),
        (f"batches of {ROWS}", encoding(encoder, batches)),
        (f"batches of {small[0].count}", encoding(encoder, small)),
        (f"the same, {2 * TOGETHER} of them together", bundled),
        ("SDK encode_spans", sdk),
    ):
        lines.append(f"{name}: {ours * 1e6:.2f} us a span, {1 / ours:,.0f} spans/s, {sdk / ours:.0f}x")
    sizes = {profile: len(SpanEncoder(cluster_name="bench", profile=profile).encode(batches[0])) / ROWS for profile in PROFILES}
    lines.append("bytes a span: " + ", ".join(f"{profile} {size:.0f}" for profile, size in sizes.items()))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
