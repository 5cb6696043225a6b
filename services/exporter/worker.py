"""From the bus to the backend, one batch at a time, many side by side.

A batch is acknowledged when each of its spans is accounted for: the backend has it, or it is in a dead letter that says why.
Until then it stays in the stream, and every way to fail ends there: a stop gives it back, a crash lets the bus deliver it
again. Span ids are derived from the records, so a span that is sent twice is the same span.

Batches that wait while others are encoded are encoded together (`encoding_queue`): their spans share requests.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import Executor
from typing import Final

import numpy as np

from proto.flow_batch import Array, FlowBatch, encode
from proto.subjects import ENRICHED_STREAM, EXPORTER_DURABLE
from services.exporter.delivery.rare_log import RareLog
from services.exporter.delivery.retrying import Delivery, Refused
from services.exporter.encoder import SpanEncoder
from services.exporter.encoding_queue import EncodingQueue, SharedRequest, Unfit
from services.exporter.metrics.flow_metrics import FlowMetrics
from services.exporter.settings import ExporterSettings
from services.runtime.account import Account
from services.runtime.errors import BusError
from services.runtime.nats import bus as runtime_bus
from services.runtime.nats.lag import Lag
from services.runtime.telemetry import Telemetry, by_reason

SERVICE: Final = "exporter"
_DRAIN_SHARE: Final = 0.8
"""Of the drain time, for what is in flight; the rest is for giving back what did not make it."""
_ATTEMPTS: Final = 5
"""Deliveries after which a batch that trips this service up is buried. What the bus or the backend does is no such thing."""
_GIVE_BACK_SECONDS: Final = 5.0
"""How long a batch rests in the stream after a failure of our own."""


class Worker:
    """Exports the stream of enriched batches."""

    def __init__(
        self,
        bus: runtime_bus.Bus,
        delivery: Delivery,
        encoder: SpanEncoder,
        settings: ExporterSettings,
        telemetry: Telemetry,
        *,
        encoding: Executor,
        flow_metrics: FlowMetrics | None = None,
    ) -> None:
        self._bus = bus
        self._delivery = delivery
        self._encoding_queue = EncodingQueue(
            encoder, settings.max_request_bytes, encoding, most_at_once=settings.concurrent_batches
        )
        self._requests: set[asyncio.Task[None]] = set()
        self._settings = settings
        self._flow_metrics = flow_metrics
        self._in_hand: dict[asyncio.Task[None], int] = {}
        self._finished = asyncio.Event()
        self._log = RareLog()
        # Of each batch, and so counted here: an instrument takes a while for one.
        self._records = self._batches = 0
        telemetry.cumulative(
            "wirespan.exporter.records",
            "Records taken from the bus, repeats included",
            "{record}",
            lambda: self._records,
        )
        telemetry.cumulative("wirespan.exporter.batches", "Batches settled and acknowledged", "{batch}", lambda: self._batches)
        self._dead = telemetry.counter(
            "wirespan.exporter.dead_letters",
            "Dead letters written",
            "{message}",
            series=by_reason("undecodable", "unencodable", "failed", "rejected", "partial_success"),
        )
        self._given_back = telemetry.counter(
            "wirespan.exporter.batches.given_back",
            "Batches returned to the bus",
            "{batch}",
            series=by_reason("stopping", "error"),
        )
        self._account = Account("settled", "dead")
        self._account.show(telemetry, SERVICE, "record")
        self._lag = Lag(bus, ENRICHED_STREAM, EXPORTER_DURABLE, telemetry, partitions=settings.streams.kept_partitions)
        telemetry.gauge("wirespan.exporter.batches.in_hand", "Batches being worked on", "{batch}", lambda: len(self._in_hand))

    @property
    def moving(self) -> bool:
        """Whether batches come to an end, where there are any."""
        return self._lag.moving

    async def run(self, stopping: asyncio.Event) -> None:
        """Export until `stopping` is set; then finish what is in hand as far as the drain time allows; give back the rest."""
        settings = self._settings
        consumption = self._bus.consume(
            ENRICHED_STREAM,
            EXPORTER_DURABLE,
            max_ack_pending=settings.max_ack_pending,
            ack_wait_seconds=settings.ack_wait_seconds,
            batch=settings.concurrent_batches,
            partitions=settings.streams.kept_partitions,
        )
        intake = asyncio.create_task(self._take(consumption))
        lag = asyncio.create_task(self._lag.watch())
        stop = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({intake, stop}, return_when=asyncio.FIRST_COMPLETED)
            if intake.done():
                intake.result()
        finally:
            for task in (stop, lag, intake):
                task.cancel()
            await consumption.aclose()
            await self._drain()

    async def _take(self, consumption: runtime_bus.Consumption) -> None:
        """Start a task for each batch, with no more in hand than the settings allow."""
        while True:
            await self._room()
            try:
                delivery = await anext(consumption)
            except StopAsyncIteration:
                return
            task = asyncio.create_task(self._settle(delivery))
            self._in_hand[task] = len(delivery.data)
            task.add_done_callback(self._on_settled)

    async def _room(self) -> None:
        settings = self._settings
        while len(self._in_hand) >= settings.concurrent_batches or sum(self._in_hand.values()) >= settings.batch_bytes:
            self._finished.clear()
            await self._finished.wait()

    def _on_settled(self, task: asyncio.Task[None]) -> None:
        del self._in_hand[task]
        self._finished.set()

    async def _drain(self) -> None:
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=self._settings.drain_seconds * _DRAIN_SHARE)
        for task in self._in_hand:
            task.cancel()
        if self._in_hand:
            await asyncio.wait(self._in_hand)
        for request in self._requests:
            request.cancel()
        if self._requests:
            await asyncio.wait(self._requests)

    async def _settle(self, delivery: runtime_bus.Delivery) -> None:
        """Bring one batch to its end: acknowledged, or given back."""
        try:
            with self._lag.over(delivery), delivery.kept():
                await self._export(delivery)
        except asyncio.CancelledError:
            self._given_back.add(1, {"reason": "stopping"})
            await delivery.nak()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch is not lost and the others go on
            if delivery.attempts >= _ATTEMPTS and not isinstance(error, BusError | OSError):
                await self._bury(delivery, "failed", f"{type(error).__name__}: {error}", None)
                return
            sequence, attempts = delivery.stream_sequence, delivery.attempts
            self._log.error("batch.given_back", stream_sequence=sequence, attempts=attempts, exc_info=error)
            self._given_back.add(1, {"reason": "error"})
            await delivery.nak(_GIVE_BACK_SECONDS)
        else:
            self._batches += 1

    async def _export(self, delivery: runtime_bus.Delivery) -> None:
        encoded = await self._encoding_queue.encoded(delivery)
        with self._account.over(encoded.records or 0) as records:
            if isinstance(encoded, Unfit):
                await self._bury(delivery, encoded.reason, encoded.detail, encoded.records)
                records.tell("dead")
                return
            self._records += encoded.records
            # Shielded: other batches have spans in the same requests.
            sending = [asyncio.shield(self._sending(request)) for request in encoded.requests]
            await (sending[0] if len(sending) == 1 else asyncio.gather(*sending))
            await delivery.ack()
            records.tell("settled")
            if self._flow_metrics is not None:
                self._flow_metrics.settled(encoded.batch, delivery.stream_sequence, delivery.message_id)

    def _sending(self, shared: SharedRequest) -> asyncio.Task[None]:
        """The one task that sends a request, whoever of those with spans in it asks first."""
        if shared.task is None:
            shared.task = asyncio.create_task(self._account_for(shared))
            self._requests.add(shared.task)
            shared.task.add_done_callback(self._requests.discard)
        return shared.task

    async def _account_for(self, shared: SharedRequest) -> None:
        """Return once each span of the request is at the backend or in a dead letter."""
        delivered = await self._delivery.deliver(shared.request)
        for refused in delivered.refused:
            left = refused.spans
            for number, rows in refused.request.bundle.by_source(refused.request.rows):
                # Which of its spans a backend refused it does not say: their number is shared out, every row is kept.
                spans = len(rows) if refused.reason == "rejected" else min(left, len(rows))
                left -= spans
                source = refused.request.bundle.sources[number]
                await self._bury_refused(shared.deliveries[number], source, np.unique(rows), spans, refused)

    async def _bury(self, delivery: runtime_bus.Delivery, reason: str, detail: str, records: int | None) -> None:
        """Make the whole message a dead letter and acknowledge it."""
        self._log.error("batch.buried", reason=reason, detail=detail, message_id=delivery.message_id)
        await self._bus.dead_letter(SERVICE, delivery, reason=reason, detail=detail, records=records)
        self._dead.add(1, {"reason": reason})

    async def _bury_refused(
        self, delivery: runtime_bus.Delivery, batch: FlowBatch, rows: Array, spans: int, refused: Refused
    ) -> None:
        """Make a dead letter of some of a batch's records. The batch itself is acknowledged later, once, as a whole."""
        payload = encode(batch.take(rows)) if len(rows) < batch.count else delivery.data
        # The same rows refused again, after a redelivery, are the same dead letter: the stream stores it once.
        digest = hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()
        await self._bus.dead_letter_payload(
            SERVICE,
            payload,
            message_id=f"{delivery.message_id}/{digest}",
            subject=delivery.subject,
            reason=refused.reason,
            detail=refused.detail,
            records=min(spans, len(rows)),
            spans=spans,
        )
        self._dead.add(1, {"reason": refused.reason})
