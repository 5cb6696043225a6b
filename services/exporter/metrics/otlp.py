"""A reading as OTLP: `ExportMetricsServiceRequest`s. Series are few, so the library's classes are quick enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Exemplar,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from proto.flow_batch import Array, AttributeValue
from services.exporter.encoder import SCHEMA_URL, SCOPE_NAME
from services.exporter.metrics.instruments import COUNTED, OVERFLOW, PAIR_LABELS, TIMED, Counted, Timed
from services.exporter.metrics.pairs import Pair
from services.exporter.metrics.sums import Reading

MOST_POINTS: Final = 8000
"""In one request: about 2 MiB of them, of the 4 that servers take."""
_CUMULATIVE: Final = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def requests(reading: Reading, resource: Mapping[str, AttributeValue], version: str) -> Iterator[bytes]:
    """Yield the requests that say a whole reading, none for one without a number in it."""
    labels = {row: pair_labels(reading.pairs[row]) for row in reading.live}
    filled: list[Metric] = []
    points = 0
    for metric in _metrics(reading, labels):
        count = len(metric.sum.data_points) or len(metric.exponential_histogram.data_points)
        if filled and points + count > MOST_POINTS:
            yield _request(filled, resource, version)
            filled, points = [], 0
        filled.append(metric)
        points += count
    if filled:
        yield _request(filled, resource, version)


def pair_labels(pair: Pair | None) -> list[KeyValue]:
    """Return the attributes of a pair's series; those that say nothing are left out."""
    if pair is None:
        return [KeyValue(key=OVERFLOW, value=AnyValue(bool_value=True))]
    return [_label(name, value) for name, value in zip(PAIR_LABELS, pair, strict=True) if value]


def _label(name: str, value: str) -> KeyValue:
    return KeyValue(key=name, value=AnyValue(string_value=value))


def _metrics(reading: Reading, labels: Mapping[int, list[KeyValue]]) -> Iterator[Metric]:
    """Each metric, in parts of at most `MOST_POINTS`."""
    for counted in COUNTED:
        numbers = list(_number_points(reading, counted, labels))
        for first in range(0, len(numbers), MOST_POINTS):
            data = Sum(data_points=numbers[first : first + MOST_POINTS], aggregation_temporality=_CUMULATIVE, is_monotonic=True)
            yield Metric(name=counted.name, description=counted.meaning, unit=counted.unit, sum=data)
    for timed in TIMED:
        histograms = list(_histogram_points(reading, timed, labels))
        for first in range(0, len(histograms), MOST_POINTS):
            histogram = ExponentialHistogram(
                data_points=histograms[first : first + MOST_POINTS], aggregation_temporality=_CUMULATIVE
            )
            yield Metric(name=timed.name, description=timed.meaning, unit="s", exponential_histogram=histogram)


def _number_points(reading: Reading, metric: Counted, labels: Mapping[int, list[KeyValue]]) -> Iterator[NumberDataPoint]:
    cells = reading.cells[metric.name]
    own = {cell: [_label(*item) for item in said.items()] for cell, said in metric.labels.items()}
    for row, cell in zip(*(place.tolist() for place in cells.nonzero()), strict=True):
        yield NumberDataPoint(
            attributes=[*labels[row], *own[cell]],
            start_time_unix_nano=int(reading.start_unix_ns[row]),
            time_unix_nano=reading.at_unix_ns,
            as_int=int(cells[row, cell]),
        )


def _histogram_points(
    reading: Reading, metric: Timed, labels: Mapping[int, list[KeyValue]]
) -> Iterator[ExponentialHistogramDataPoint]:
    cells, sums, exemplars = reading.cells[metric.name], reading.sums_ns[metric.name], reading.exemplars[metric.name]
    for row in np.flatnonzero(cells.any(axis=1)).tolist():
        filled = cells[row].nonzero()[0]
        first, last = int(filled[0]), int(filled[-1])
        buckets = ExponentialHistogramDataPoint.Buckets(
            offset=metric.first + first, bucket_counts=cells[row, first : last + 1].tolist()
        )
        yield ExponentialHistogramDataPoint(
            attributes=labels[row],
            start_time_unix_nano=int(reading.start_unix_ns[row]),
            time_unix_nano=reading.at_unix_ns,
            count=int(cells[row].sum()),
            sum=int(sums[row]) / 1e9,
            scale=metric.scale,
            positive=buckets,
            exemplars=_exemplars(exemplars[row]),
        )


def _exemplars(kept: Array) -> list[Exemplar]:
    value_ns, unix_ns, *ids = kept.tolist()
    if not value_ns:
        return []
    trace_high, trace_low, span_id = (word.to_bytes(8, "big") for word in ids)
    return [Exemplar(time_unix_nano=unix_ns, as_double=value_ns / 1e9, trace_id=trace_high + trace_low, span_id=span_id)]


def _request(metrics: list[Metric], resource: Mapping[str, AttributeValue], version: str) -> bytes:
    attributes = [_label(name, str(value)) for name, value in resource.items()]
    scope = ScopeMetrics(scope=InstrumentationScope(name=SCOPE_NAME, version=version), metrics=metrics, schema_url=SCHEMA_URL)
    whole = ResourceMetrics(resource=Resource(attributes=attributes), scope_metrics=[scope])
    return ExportMetricsServiceRequest(resource_metrics=[whole]).SerializeToString()
