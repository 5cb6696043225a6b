"""The metrics of flows while the exporter runs: what is settled is counted, and a reading is sent now and then.

A batch is counted once it is acknowledged. One that comes again because it was not, after a kill or from another exporter, was
not counted by whoever had it. One that was, and comes again all the same, is known by its message id; so is a dead letter of
spans that is replayed. A reading is cumulative: one that is not taken is replaced by the next.

Nothing here holds up spans: counting is done in a thread of its own, for many batches at a time; what waits for it is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from proto.flow_batch import AttributeValue, FlowBatch
from services.exporter.delivery.rare_log import RareLog
from services.exporter.delivery.sink import Accepted, Sink
from services.exporter.metrics import otlp
from services.exporter.metrics.sums import FlowSums
from services.runtime.telemetry import Telemetry, by_reason

logger = structlog.get_logger()

TOGETHER_ROWS: Final = 16_384
"""So many records are counted at once, or what there is when a reading is due."""
MOST_WAITING_ROWS: Final = 1 << 20
_LONGEST_WAIT_SECONDS: Final = 5.0
"""How long a batch waits for others to be counted with."""
_LAST_SECONDS: Final = 3.0
"""How long the last reading may take, once the exporter has done with spans."""
_REMEMBERED: Final = 1 << 16
"""Batches that were counted last."""
_REPLAYED_SPANS: Final = re.compile(r"/[0-9a-f]{16}/replay-\d+\Z")
"""End of the message id of a dead letter of refused spans that is replayed: its records were counted when it was made."""


class FlowMetrics:
    """Counts batches and sends readings. To be used in one event loop, inside `running`."""

    def __init__(self, sums: FlowSums, telemetry: Telemetry) -> None:
        self._sums = sums
        self._waiting: list[FlowBatch] = []
        self._rows = 0
        self._due = asyncio.Event()
        self._counted: OrderedDict[int, None] = OrderedDict()
        self._log = RareLog()
        self._readings = telemetry.counter(
            "wirespan.exporter.flow_metrics.readings",
            "Requests with metrics of flows, by what became of them",
            "{request}",
            series=[{"outcome": outcome} for outcome in ("accepted", "failed")],
        )
        self._uncounted = telemetry.counter(
            "wirespan.exporter.flow_metrics.uncounted",
            "Records missing in the metrics of flows: they could not be counted, or waited with too many others",
            "{record}",
            series=by_reason("failed", "too_many"),
        )
        telemetry.gauge(
            "wirespan.exporter.flow_metrics.pairs", "Workload pairs with series of their own", "{pair}", lambda: sums.pairs
        )
        telemetry.cumulative(
            "wirespan.exporter.flow_metrics.overflowed",
            "Records counted in the series of all pairs beyond the bound",
            "{record}",
            lambda: sums.overflowed,
        )

    def settled(self, batch: FlowBatch, stream_sequence: int, message_id: str) -> None:
        """Count a batch that was acknowledged."""
        # Not by its place in the stream, where it has an id: one made anew counts from 1 again, and beyond its duplicate window
        # it has the same batch twice. The hash is small, however long the id.
        known_by = hash(message_id or stream_sequence)
        if known_by in self._counted or _REPLAYED_SPANS.search(message_id):
            return
        self._counted[known_by] = None
        if len(self._counted) > _REMEMBERED:
            self._counted.popitem(last=False)
        if self._rows + batch.count > MOST_WAITING_ROWS:
            self._uncounted.add(batch.count, {"reason": "too_many"})
            return
        self._waiting.append(batch)
        self._rows += batch.count
        if self._rows >= TOGETHER_ROWS:
            self._due.set()

    @contextlib.asynccontextmanager
    async def running(
        self, sink: Sink | None, interval_seconds: float, resource: Mapping[str, AttributeValue], version: str
    ) -> AsyncIterator[None]:
        """Count while the block runs, and send a reading every so often; a last one when it ends. Without a sink, none."""
        with ThreadPoolExecutor(1, "flow-metrics") as thread:
            counting = asyncio.create_task(self._count_when_due(thread))
            sending = asyncio.create_task(self._send_now_and_then(thread, sink, interval_seconds, resource, version))
            try:
                yield
            finally:
                for task in (counting, sending):
                    task.cancel()
                await asyncio.wait({counting, sending})
                await self._count(thread)
                if sink is not None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LAST_SECONDS):
                            await self._send(thread, sink, resource, version)

    async def _count_when_due(self, thread: ThreadPoolExecutor) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                    await self._due.wait()
            self._due.clear()
            await self._count(thread)

    async def _count(self, thread: ThreadPoolExecutor) -> None:
        """Count what waits. Once begun it ends, whoever gives up waiting for it: even what the thread has not come to."""
        waiting, rows = self._waiting, self._rows
        self._waiting, self._rows = [], 0
        if not waiting:
            return
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(thread, self._add, waiting, rows))

    def _add(self, batches: list[FlowBatch], rows: int) -> None:
        try:
            self._sums.add(batches)
        except Exception as error:  # noqa: BLE001 - these are metrics: spans go on
            self._uncounted.add(rows, {"reason": "failed"})
            self._log.error("flow_metrics.not_counted", records=rows, exc_info=error)

    async def _send_now_and_then(
        self,
        thread: ThreadPoolExecutor,
        sink: Sink | None,
        interval_seconds: float,
        resource: Mapping[str, AttributeValue],
        version: str,
    ) -> None:
        while True:
            await asyncio.sleep(interval_seconds)
            await self._count(thread)
            if sink is not None:
                await self._send(thread, sink, resource, version)

    async def _send(self, thread: ThreadPoolExecutor, sink: Sink, resource: Mapping[str, AttributeValue], version: str) -> None:
        """Send one reading. Whatever comes of it, the next one says all of it again."""
        try:
            await self._send_reading(thread, sink, resource, version)
        except Exception as error:  # noqa: BLE001 - neither the readings to come nor the exporter's end hang on this one
            self._readings.add(1, {"outcome": "failed"})
            self._log.error("flow_metrics.not_sent", exc_info=error)

    async def _send_reading(
        self, thread: ThreadPoolExecutor, sink: Sink, resource: Mapping[str, AttributeValue], version: str
    ) -> None:
        bodies = await asyncio.get_running_loop().run_in_executor(
            thread, lambda: list(otlp.requests(self._sums.read(), resource, version))
        )
        for body in bodies:
            outcome = await sink.send(body)
            if isinstance(outcome, Accepted) and not outcome.rejected_spans:
                self._readings.add(1, {"outcome": "accepted"})
                continue
            self._readings.add(1, {"outcome": "failed"})
            detail = outcome.message if isinstance(outcome, Accepted) else outcome.detail
            self._log.warning("flow_metrics.not_taken", detail=detail)
            if not isinstance(outcome, Accepted):
                return
