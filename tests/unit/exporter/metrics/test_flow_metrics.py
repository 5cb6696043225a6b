"""What is settled is counted once, and what a backend did not take it is told with the next reading."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from proto.subjects import batch_id, part_id
from services.exporter.delivery.sink import Accepted, Outcome, Retry
from services.exporter.metrics import flow_metrics
from services.exporter.metrics.exemplars import Exemplars
from services.exporter.metrics.flow_metrics import FlowMetrics
from services.exporter.metrics.sums import FlowSums
from services.runtime.telemetry import Telemetry
from tests.support.pipeline.enriched_batches import enriched_batch

RECORDS = 5
ID, NEXT_ID = (part_id(batch_id("node-a", "0123456789abcdef", number), 0, RECORDS) for number in (1, 2))


class Backend:
    """Answers as it is told, and keeps what it was sent."""

    def __init__(self, *answers: Outcome) -> None:
        self._answers = list(answers)
        self.bodies: list[bytes] = []
        self.asked = asyncio.Semaphore(0)

    async def send(self, body: bytes) -> Outcome:
        """One attempt."""
        self.bodies.append(body)
        self.asked.release()
        return self._answers.pop(0) if self._answers else Accepted()

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Instruments of a test."""
    with Telemetry("exporter") as found:
        yield found


def records_in(body: bytes) -> int:
    """How many records a request tells of."""
    request = ExportMetricsServiceRequest.FromString(body)
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    return sum(point.as_int for metric in metrics if metric.name == "flow.records" for point in metric.sum.data_points)


async def test_a_batch_is_counted_once(telemetry: Telemetry) -> None:
    """By its id, wherever in whichever stream it is; by its place where it has none. A dead letter of spans was counted when it
    was made; one of a whole message was not.
    """
    backend = Backend()
    metrics = FlowMetrics(FlowSums(10, exemplars=Exemplars("c")), telemetry)
    async with metrics.running(backend, 3600, {"service.name": "t"}, "1"):
        for sequence, message_id in (
            (1, ID),
            (9, ID),
            (1, NEXT_ID),
            (5, ""),
            (5, ""),
            (2, f"{ID}/0123456789abcdef/replay-1764374400000000"),
            (3, f"{ID}/replay-1764374400000000"),
        ):
            metrics.settled(enriched_batch(RECORDS), sequence, message_id)
    assert [records_in(body) for body in backend.bodies] == [4 * RECORDS]  # the last reading, at the end


async def test_a_reading_that_is_not_taken_is_in_the_next(telemetry: Telemetry) -> None:
    """Readings are cumulative; what failed is counted."""
    backend = Backend(Retry("unavailable", "down"))
    metrics = FlowMetrics(FlowSums(10, exemplars=Exemplars("c")), telemetry)
    async with metrics.running(backend, 0.01, {"service.name": "t"}, "1"):
        metrics.settled(enriched_batch(RECORDS), 1, ID)
        async with asyncio.timeout(60):
            for _ in range(2):
                await backend.asked.acquire()
        metrics.settled(enriched_batch(RECORDS, sequence=1), 2, NEXT_ID)
    assert records_in(backend.bodies[0]) == records_in(backend.bodies[1]) == RECORDS
    assert records_in(backend.bodies[-1]) == 2 * RECORDS
    assert b'readings_total{outcome="failed"} 1.0' in telemetry.prometheus()


async def test_what_waits_is_bounded(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it records are missing in the metrics, and counted as such; nobody waits."""
    monkeypatch.setattr(flow_metrics, "MOST_WAITING_ROWS", RECORDS)
    backend = Backend()
    metrics = FlowMetrics(FlowSums(10, exemplars=Exemplars("c")), telemetry)
    async with metrics.running(backend, 3600, {"service.name": "t"}, "1"):
        for sequence, message_id in enumerate((ID, NEXT_ID), 1):
            metrics.settled(enriched_batch(RECORDS, sequence=sequence), sequence, message_id)
    assert [records_in(body) for body in backend.bodies] == [RECORDS]
    assert f'uncounted_total{{reason="too_many"}} {RECORDS}.0'.encode() in telemetry.prometheus()
