"""Metrics of flows say what the spans say, summed up; their histograms are those of the OpenTelemetry SDK."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

from proto.columns import NO_INDEX, Outcome, Reason, Resolution
from proto.flow_batch import Entity, FlowBatch
from proto.verdicts.names import Verdict
from services.exporter.encoder import SpanEncoder
from services.exporter.metrics import instruments, otlp
from services.exporter.metrics.exemplars import Exemplars
from services.exporter.metrics.instruments import Timed
from services.exporter.metrics.sums import FlowSums
from services.exporter.presets import PRESETS
from services.exporter.spans.bundle import bundle
from services.exporter.spans.summary import Thinning
from tests.support.pipeline.enriched_batches import enriched_batch

US, SECOND = 1_000, 1_000_000_000
NAMES = ("web", "redis", "db")


class Points:
    """What a reading says, by metric and the attributes that are asked for."""

    def __init__(self, sums: FlowSums) -> None:
        self.requests = [
            ExportMetricsServiceRequest.FromString(body) for body in otlp.requests(sums.read(), {"service.name": "t"}, "1")
        ]
        self.found = {}
        for request in self.requests:
            for metric in request.resource_metrics[0].scope_metrics[0].metrics:
                points = metric.sum.data_points or metric.exponential_histogram.data_points
                self.found.setdefault(metric.name, []).extend((attributes(point), point) for point in points)

    def sums(self, name: str, *by: str) -> Counter:
        """The sums of one metric by some of its attributes."""
        total = Counter()
        for said, point in self.found.get(name, ()):
            total[tuple(said.get(each) for each in by)] += point.as_int
        return total


def attributes(message) -> dict:
    """The attributes of a span or a data point."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in message.attributes}


def flow_sums(most_pairs: int = 100, thinning: Thinning | None = None, **more) -> FlowSums:
    """Sums of nothing yet."""
    return FlowSums(most_pairs, exemplars=Exemplars("c", thinning=thinning), **more)


def drawn_batch(seed: int, count: int = 60) -> FlowBatch:
    """Finished and failed connections, datagrams and exchanges between three workloads in two zones and the outside."""
    draw = np.random.default_rng(seed)
    plain = enriched_batch(count, sequence=seed)
    entities = [
        Entity("k8s.pod", {"service.name": name, "service.namespace": "shop", "cloud.availability_zone": f"z{number % 2}"})
        for number, name in enumerate(NAMES)
    ]
    remote = draw.choice([0, 1, 2, NO_INDEX], count)
    start = plain.column("start_unix_ns")
    responses = draw.integers(0, 3, count)
    waited = draw.integers(1, 3_000_000_000, count)
    columns = {
        "role": draw.integers(0, 3, count),
        "observer": draw.integers(1, 3, count),
        "transport": draw.choice([6, 6, 17], count),
        "reason": draw.choice([Reason.END_OF_FLOW, Reason.ACTIVE_TIMEOUT], count),
        "outcome": draw.choice([Outcome.CLOSED, Outcome.REFUSED, Outcome.TIMEOUT], count),
        "verdict": draw.choice([Verdict.OK, Verdict.REFUSED, Verdict.SERVER_SLOW], count),
        "local_entity": draw.integers(0, 3, count),
        "remote_entity": remote,
        "local_resolution": np.full(count, Resolution.RESOLVED),
        "remote_resolution": np.where(remote == NO_INDEX, Resolution.EXTERNAL, Resolution.RESOLVED),
        "syn_unix_ns": start,
        "handshake_ack_unix_ns": start + draw.integers(1, 2_000_000_000, count).astype("<u8"),
        "responses": responses,
        "response_time_sum_ns": responses * waited,
        "response_time_max_ns": (responses > 0) * waited,
        "response_time_histogram": (np.arange(20) == 9) * responses[:, None],
        "dns_codes": draw.integers(0, 2, (count, 8)) * (draw.random((count, 1)) < 0.2),
    }
    for way in ("tx", "rx"):
        columns[f"{way}_bytes"] = draw.integers(40, 1 << 40, count)
        columns[f"{way}_packets"] = draw.integers(1, 1000, count)
        columns[f"{way}_retransmits"] = draw.integers(0, 3, count) * (draw.random(count) < 0.1)
    types = {"reason": "|u1", "responses": "<u4", "response_time_histogram": "<u4", "dns_codes": "<u4"}
    small = {"role", "observer", "transport", "outcome", "verdict", "local_resolution", "remote_resolution"}
    typed = {
        name: np.asarray(values).astype(types.get(name, "|u1" if name in small else "<u4" if "entity" in name else "<u8"))
        for name, values in columns.items()
    }
    return replace(plain, columns={**plain.columns, **typed}, entities=entities)


SAME = {
    "flow.bytes": "flow.bytes.delta",
    "flow.reverse.bytes": "flow.reverse.bytes.delta",
    "flow.packets": "flow.packets.delta",
    "flow.reverse.packets": "flow.reverse.packets.delta",
    "flow.tcp.retransmits": "flow.tcp.retransmits",
    "flow.reverse.tcp.retransmits": "flow.reverse.tcp.retransmits",
}
PAIR = ("source.service.name", "destination.service.name", "network.transport", "flow.observer")


@pytest.mark.parametrize("preset", ["everything", "troubles", "map"])
def test_sums_are_those_of_the_spans(preset: str) -> None:
    """To the byte, for every pair, whichever flows have spans of their own."""
    choice = PRESETS[preset]
    thinning = None if preset == "everything" else Thinning(choice.keep_ratio, SECOND, keep_troubles=choice.keep_troubles)
    batches = [drawn_batch(seed) for seed in range(4)]
    sums = flow_sums(thinning=thinning)
    for batch in batches[:2]:
        sums.add([batch])
    sums.add(batches[2:])
    points = Points(sums)
    told = {metric: Counter() for metric in SAME}
    encoder = SpanEncoder(cluster_name="c", thinning=thinning)
    for request in encoder.encode_bundle(bundle(batches), 1 << 22):
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            for span in resource.scope_spans[0].spans:
                said = attributes(span)
                # Whoever is outside the cluster has no name in a span.
                pair = tuple(said.get(name, "external") for name in PAIR)
                for metric, name in SAME.items():
                    told[metric][pair] += said.get(name, 0)
    for metric in SAME:
        assert points.sums(metric, *PAIR) == +told[metric]


def test_what_is_counted_of_each_record() -> None:
    """Connections when they are over, verdicts always, DNS by code, bytes that leave the cluster or their zone."""
    batch = drawn_batch(7, count=400)
    sums = flow_sums()
    sums.add([batch])
    points, column = Points(sums), batch.column
    over = (column("transport") == 6) & (column("reason") == Reason.END_OF_FLOW)
    outcomes = Counter((Outcome(outcome).name.lower(),) for outcome in column("outcome")[over])
    assert points.sums("flow.connections", "flow.connection.outcome") == outcomes
    verdicts = Counter((Verdict(verdict).name.lower(),) for verdict in column("verdict"))
    assert points.sums("flow.records", "flow.verdict") == verdicts
    codes = column("dns_codes").sum(axis=0).tolist()
    dns = points.sums("flow.dns.questions", "dns.response_code")
    assert (dns[("NOERROR",)], dns[("SERVFAIL",)], dns[("other",)], dns[("none",)]) == (codes[0], codes[2], codes[6], codes[7])
    outside = column("remote_resolution") == Resolution.EXTERNAL
    assert points.sums("flow.egress.bytes")[()] == column("tx_bytes")[outside].sum()
    crosses = ~outside & ((column("local_entity") % 2) != (column("remote_entity") % 2))
    assert points.sums("flow.cross_zone.bytes")[()] == (column("tx_bytes") + column("rx_bytes"))[crosses].sum()


@pytest.mark.parametrize(
    ("outcome", "reasons"),
    [
        (Outcome.ESTABLISHED, {Reason.END_OF_FLOW, Reason.IDLE_TIMEOUT}),
        (Outcome.HALF_OPEN, {Reason.END_OF_FLOW, Reason.IDLE_TIMEOUT}),
        (Outcome.CLOSED, set(Reason) - {Reason.ACTIVE_TIMEOUT, Reason.EXCHANGE}),
        (Outcome.TIMEOUT, set(Reason) - {Reason.ACTIVE_TIMEOUT, Reason.EXCHANGE}),
    ],
)
def test_a_connection_that_capture_leaves_open_is_not_over(outcome: Outcome, reasons: set[Reason]) -> None:
    """Whoever captures it next tells of it again: a rollout of captures adds nothing, but what had ended by itself."""
    batch = enriched_batch(len(Reason))
    same = {"transport": np.full(len(Reason), 6, "|u1"), "outcome": np.full(len(Reason), outcome, "|u1")}
    sums = flow_sums()
    sums.add([replace(batch, columns={**batch.columns, **same, "reason": np.array(Reason, "|u1")})])
    assert Points(sums).sums("flow.connections").total() == len(reasons)


def test_pairs_beyond_the_bound_are_counted_as_one() -> None:
    """Nothing is left out: what has no series of its own is in the one that OpenTelemetry's name for it marks."""
    batches = [drawn_batch(seed) for seed in range(3)]
    some, all_of_them = flow_sums(most_pairs=4), flow_sums()
    for sums in (some, all_of_them):
        sums.add(batches)
    assert some.pairs == 4
    found = Points(some)
    series = {tuple(sorted(said.items())) for said, _ in found.found["flow.bytes"]}
    assert len(series) == 5
    overflow = found.sums("flow.records", "otel.metric.overflow")[(True,)]
    assert overflow == some.overflowed > 0
    assert found.sums("flow.bytes") == Points(all_of_them).sums("flow.bytes")


def test_a_pair_that_is_gone_makes_room() -> None:
    """After an hour of silence its row is another's, from 0, and counts from then on."""
    now = [1000.0]
    sums = flow_sums(most_pairs=1, monotonic=lambda: now[0])
    web = enriched_batch(2)
    other = replace(web, entities=[Entity("k8s.pod", {"service.name": name}) for name in ("a", "b")])
    sums.add([web])
    sums.add([other])
    assert Points(sums).sums("flow.records", "source.service.name") == {("web",): 2, (None,): 2}
    now[0] += 4000
    sums.add([other])
    found = Points(sums)
    assert found.sums("flow.records", "source.service.name") == {("a",): 2, (None,): 2}
    (_, point), *_ = [item for item in found.found["flow.bytes"] if item[0].get("source.service.name") == "a"]
    assert point.as_int == 200
    assert point.start_time_unix_nano > found.found["flow.bytes"][0][1].start_time_unix_nano


def sdk_histogram(seconds: list[float], scale: int):
    """The data point of the SDK's own exponential histogram."""
    reader = InMemoryMetricReader()
    aggregation = ExponentialBucketHistogramAggregation(max_size=160, max_scale=scale)
    provider = MeterProvider([reader], views=[View(instrument_name="h", aggregation=aggregation)], shutdown_on_exit=False)
    histogram = provider.get_meter("m").create_histogram("h")
    for value in seconds:
        histogram.record(value)
    (point,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    return point


def buckets(metric: Timed, point) -> dict[int, int]:
    """The filled buckets by their index; of the SDK's point too, at the scale that it arrived at."""
    assert point.scale == metric.scale
    counts = enumerate(point.positive.bucket_counts, point.positive.offset)
    return {index: count for index, count in counts if count}


@given(st.lists(st.integers(US, 255 * SECOND) | st.sampled_from([SECOND, SECOND // 2, 2 * SECOND]), min_size=1, max_size=40))
def test_connect_times_are_the_sdks_histogram(times: list[int]) -> None:
    """Bucket for bucket, at the scale of four buckets for each doubling."""
    batch = enriched_batch(len(times))
    start = batch.column("start_unix_ns")
    columns = {**batch.columns, "syn_unix_ns": start, "handshake_ack_unix_ns": start + np.array(times, "<u8")}
    sums = flow_sums()
    sums.add([replace(batch, columns=columns)])
    ((_, point),) = Points(sums).found["flow.tcp.connect.time"]
    expected = sdk_histogram([time / SECOND for time in times], instruments.CONNECT_SCALE)
    if expected.scale == instruments.CONNECT_SCALE:
        assert buckets(instruments.CONNECT_TIME, point) == buckets(instruments.CONNECT_TIME, expected)
    assert (point.count, point.sum) == (len(times), pytest.approx(expected.sum))
    assert point.exemplars[0].as_double == pytest.approx(max(times) / SECOND)


@given(st.lists(st.integers(17 * US, 8 * SECOND), min_size=1, max_size=40))
def test_response_times_are_the_sdks_histogram_of_times_4_6_percent_shorter(times: list[int]) -> None:
    """A record's buckets begin at 16 us, those of OTLP at a power of two of a second: 15.26 us."""
    bucket = [int(np.log2(time // (16 * US))) for time in times]
    ours = [int(time * 2**-16 / 16e-6) / SECOND for time in times]
    batch = enriched_batch(len(times))
    columns = {
        **batch.columns,
        "responses": np.ones(len(times), "<u4"),
        "response_time_sum_ns": np.array(times, "<u8"),
        "response_time_max_ns": np.array(times, "<u8"),
        "response_time_histogram": (np.arange(20) == np.array(bucket)[:, None]).astype("<u4"),
    }
    sums = flow_sums()
    sums.add([replace(batch, columns=columns)])
    ((_, point),) = Points(sums).found["flow.response.time"]
    # On a bound the record's bucket is the upper one, OTLP's the lower: one nanosecond more is in both's upper.
    expected = sdk_histogram([value + 2e-9 for value in ours], instruments.RESPONSE_SCALE)
    assert buckets(instruments.RESPONSE_TIME, point) == buckets(instruments.RESPONSE_TIME, expected)
    assert (point.count, point.sum) == (len(times), pytest.approx(sum(times) / SECOND))


@pytest.mark.parametrize("preset", ["everything", "troubles"])
def test_exemplars_name_spans_that_are_sent(preset: str) -> None:
    """Each is a span of the pair with that response time as its longest, and each pair's slowest is there."""
    thinning = None if preset == "everything" else Thinning(0.0, SECOND)
    batches = [drawn_batch(seed) for seed in range(3)]
    sums = flow_sums(thinning=thinning)
    sums.add(batches)
    spans = {}
    for request in SpanEncoder(cluster_name="c", thinning=thinning).encode_bundle(bundle(batches), 1 << 22):
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            for span in resource.scope_spans[0].spans:
                spans[span.trace_id, span.span_id] = attributes(span)
    found = Points(sums).found["flow.response.time"]
    named = [(said, exemplar) for said, point in found for exemplar in point.exemplars]
    assert named
    for said, exemplar in named:
        span = spans[exemplar.trace_id, exemplar.span_id]
        assert span.get("source.service.name", "external") == said["source.service.name"]
        assert span["flow.response.time_max"] == round(exemplar.as_double * SECOND)
    assert not Points(sums).found["flow.response.time"][0][1].exemplars  # taken once


def test_exchanges_are_not_counted() -> None:
    """They tell of what the flow's own records have in their sums already."""
    batch = enriched_batch(3)
    exchanges = {**batch.columns, "reason": np.full(3, Reason.EXCHANGE, "|u1")}
    sums = flow_sums()
    sums.add([replace(batch, columns=exchanges)])
    assert not Points(sums).found


def test_a_looked_up_name_is_who_nobody_else_knows() -> None:
    """Where the setting says so, as for peers of spans."""
    batch = enriched_batch(2)
    unknown = {
        **batch.columns,
        "remote_entity": np.full(2, NO_INDEX, "<u4"),
        "remote_resolution": np.full(2, Resolution.EXTERNAL, "|u1"),
        "remote_name": np.array([0, NO_INDEX], "<u4"),
    }
    outside = replace(batch, columns=unknown, names=("api.example.com",))
    for looked_up, names in ((True, {"api.example.com", "external"}), (False, {"external"})):
        sums = flow_sums(looked_up=looked_up)
        sums.add([outside])
        assert {name for (name,) in Points(sums).sums("flow.bytes", "destination.service.name")} == names
