"""What is settled is counted once, and what a backend did not take it is told with the next reading."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from proto.subjects import batch_id, part_id
from services.exporter.delivery.sink import Accepted, Outcome, Retry
from services.exporter.metrics import flow_metrics
from services.exporter.metrics.exemplars import Exemplars
from services.exporter.metrics.flow_metrics import FlowMetrics
from services.exporter.metrics.sums import FlowSums, Reading
from services.runtime.telemetry import Telemetry
from tests.support.pipeline.enriched_batches import enriched_batch

RECORDS = 5
ACCEPTED = Accepted()
ID, NEXT_ID = (part_id(batch_id("node-a", "0123456789abcdef", number), 0, RECORDS) for number in (1, 2))


class Backend:
    """Answers as it is told, and keeps what it was sent."""

    def __init__(self, answer: Outcome | Exception = ACCEPTED) -> None:
        self._answer = answer
        self.bodies: list[bytes] = []
        self.asked = asyncio.Semaphore(0)

    async def send(self, body: bytes) -> Outcome:
        """One attempt."""
        self.bodies.append(body)
        self.asked.release()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

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


@pytest.mark.parametrize("answer", [Retry("unavailable", "down"), RuntimeError("unheard of")], ids=["down", "broken"])
async def test_a_reading_that_is_not_taken_is_in_the_next(telemetry: Telemetry, answer: Outcome | Exception) -> None:
    """Readings are cumulative; what failed is counted, and neither the next one nor the end depends on it."""
    backend = Backend(answer)
    metrics = FlowMetrics(FlowSums(10, exemplars=Exemplars("c")), telemetry)
    async with metrics.running(backend, 0.01, {"service.name": "t"}, "1"):
        metrics.settled(enriched_batch(RECORDS), 1, ID)
        async with asyncio.timeout(60):
            for _ in range(2):
                await backend.asked.acquire()
        metrics.settled(enriched_batch(RECORDS, sequence=1), 2, NEXT_ID)
    assert records_in(backend.bodies[0]) == records_in(backend.bodies[1]) == RECORDS
    assert records_in(backend.bodies[-1]) == 2 * RECORDS
    assert f'readings_total{{outcome="failed"}} {len(backend.bodies)}.0'.encode() in telemetry.prometheus()


async def test_what_waits_behind_a_reading_at_the_end_is_counted(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is busy with a reading when the exporter stops: the batch that it has not come to is in the last one."""
    monkeypatch.setattr(flow_metrics, "TOGETHER_ROWS", RECORDS)
    monkeypatch.setattr(flow_metrics, "_LAST_SECONDS", 60)
    began, go_on = threading.Event(), threading.Event()

    class Slow(FlowSums):
        """Reads when it may."""

        def read(self, *, take_exemplars: bool = True) -> Reading:
            began.set()
            assert go_on.wait(60)
            return super().read(take_exemplars=take_exemplars)

    backend = Backend()
    metrics = FlowMetrics(Slow(10, exemplars=Exemplars("c")), telemetry)
    async with metrics.running(backend, 0.01, {"service.name": "t"}, "1"):
        assert await asyncio.to_thread(began.wait, 60)
        metrics.settled(enriched_batch(RECORDS), 1, ID)
        while metrics._waiting:  # noqa: ASYNC110 - nobody tells that the thread has it
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.1, go_on.set)
    assert records_in(backend.bodies[-1]) == RECORDS


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
