"""Takes raw batches from the bus, joins them with the index, judges each record, and passes them on.

A raw batch is acknowledged once all that came of it is stored, and on the server's disk. Killed at any moment before, it is
done again by whoever gets it next, under the same message ids, so the stream keeps one copy. Were it acknowledged when its
outcome is stored, a loss of power that takes the server and this process could take the outcome and leave the acknowledgement.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np
import structlog

from proto.columns import Resolution
from proto.errors import DecodeError
from proto.flow_batch import FlowBatch, Part, decode, encode, encode_parts
from proto.subjects import ENRICHER_DURABLE, RAW_STREAM, enriched_subject, part_id, raw_subject, without_partition
from services.enricher.enriching import Enriching
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.index.source import IndexSource
from services.enricher.intake.names import NamesSeen
from services.enricher.settings import EnricherSettings
from services.runtime.account import Account, Item
from services.runtime.errors import BusError, PermissionDeniedError, Stopping
from services.runtime.nats.bus import Bus, Consumption, Delivery, MessageTooLargeError, PublishRefusedError, StreamFullError
from services.runtime.nats.lag import Lag
from services.runtime.nats.unsynced_metrics import show_unsynced
from services.runtime.telemetry import Attributes, Telemetry, by_reason

logger = structlog.get_logger()

SERVICE: Final = "enricher"
_MAX_ACK_PENDING: Final = 8192
"""Raw batches that all replicas together may hold, those among them that wait to be on the disk: some 2,000 batches a second. A
constant: replicas that differ in it would change it to and fro."""
_FIRST_WAIT_SECONDS: Final = 0.05
_LONGEST_WAIT_SECONDS: Final = 5.0
_SIDES: Final = ("local", "remote")
_ATTEMPTS: Final = 5
"""Deliveries after which a batch that trips this service up is given up. The faults of others are no such thing."""
_REST_SECONDS: Final = 5.0
_SETTLING_SHARE: Final = 0.5
"""Of the drain time, for what waits to be on the disk."""


class Worker:
    """The enricher's work."""

    def __init__(
        self,
        bus: Bus,
        settings: EnricherSettings,
        telemetry: Telemetry,
        source: IndexSource,
        names: NamesSeen | None = None,
    ) -> None:
        """Work with the index of `source`; `names` learns those of the flows."""
        self._names = names
        self._bus = bus
        self._settings = settings
        self._source = source
        self._enriching = Enriching(
            ExternalNetworks(settings.external_networks), settings.thresholds, most_at_once=settings.concurrent_batches
        )
        # Of each batch, and so counted here: an instrument takes as long for one as looking up the batch does.
        self._records = 0
        self._ends = np.zeros((len(_SIDES), len(Resolution)), np.int64)
        telemetry.cumulative("wirespan.enricher.records", "Records enriched and stored", "{record}", lambda: self._records)
        telemetry.cumulative("wirespan.enricher.ends", "Ends of records by what is known of them", "{end}", self._read_ends)
        self._dead = telemetry.counter(
            "wirespan.enricher.dead",
            "Messages given up, by reason",
            "{message}",
            series=by_reason("undecodable", "foreign_subject", "failed", "refused", "too_large", "dead_letter_refused"),
        )
        self._foreign = telemetry.counter(
            "wirespan.enricher.foreign",
            "Records whose local end is on another node than the one that tells it",
            "{record}",
            series=(),
        )
        self._foreign_nodes: set[str] = set()
        self._account = Account("enriched", "dead")
        self._account.show(telemetry, SERVICE, "record")
        self._full_waits = telemetry.counter("wirespan.enricher.refused_waits", "Waits for room in the stream", "{wait}")
        self._redelivered = telemetry.counter("wirespan.enricher.redelivered", "Messages that had been delivered before")
        show_unsynced(bus, SERVICE, telemetry)
        self._lag = Lag(bus, RAW_STREAM, ENRICHER_DURABLE, telemetry, partitions=settings.streams.kept_partitions)
        self._stopping = asyncio.Event()
        self._settling: set[asyncio.Task[None]] = set()
        """Batches whose outcome is stored, and which are acknowledged once it is on the disk."""

    @property
    def moving(self) -> bool:
        """Whether batches come to an end, where there are any."""
        return self._lag.moving

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop; then finish what is in work. A batch that waits for room is given back."""
        self._stopping = stopping
        slots = asyncio.Semaphore(self._settings.concurrent_batches)
        deliveries = self._bus.consume(
            RAW_STREAM,
            ENRICHER_DURABLE,
            max_ack_pending=_MAX_ACK_PENDING,
            ack_wait_seconds=self._settings.ack_wait_seconds,
            batch=self._settings.concurrent_batches,
            partitions=self._settings.streams.kept_partitions,
        )
        closing = asyncio.create_task(self._close(deliveries), name="stop consuming")
        lag = asyncio.create_task(self._lag.watch(), name="watch the lag")
        try:
            async with deliveries, asyncio.TaskGroup() as batches:
                await slots.acquire()
                async for delivery in deliveries:
                    batches.create_task(self._work(delivery, slots))
                    await slots.acquire()
        finally:
            closing.cancel()
            lag.cancel()
            if self._settling:
                # What is not on the disk by then, because no server answers, is done again by another.
                await asyncio.wait(self._settling, timeout=self._settings.drain_seconds * _SETTLING_SHARE)
            for task in self._settling:
                task.cancel()

    async def _close(self, deliveries: Consumption) -> None:
        await self._stopping.wait()
        await deliveries.aclose()

    async def _work(self, delivery: Delivery, slots: asyncio.Semaphore) -> None:
        try:
            with self._lag.over(delivery), delivery.kept():
                await self._enrich(delivery)
        except Stopping:
            await delivery.nak()
        except BusError:
            raise
        except Exception as error:  # whatever one batch trips up, the others go on
            logger.exception("batch.failed", subject=delivery.subject, attempts=delivery.attempts)
            if delivery.attempts < _ATTEMPTS:
                await delivery.nak(_REST_SECONDS)
            else:
                await self._give_up(delivery, "failed", f"{type(error).__name__}: {error}", None)
        finally:
            slots.release()

    async def _enrich(self, delivery: Delivery) -> None:
        """Bring one raw batch to its end: stored enriched, or dead. Raises Stopping where it is neither."""
        if delivery.attempts > 1:
            self._redelivered.add(1)
        try:
            raw = decode(delivery.data)
        except DecodeError as error:
            await self._give_up(delivery, "undecodable", str(error), None)
            return
        with self._account.over(raw.count) as records:
            await self._enrich_batch(delivery, raw, records)

    async def _enrich_batch(self, delivery: Delivery, raw: FlowBatch, records: Item) -> None:
        if raw_subject(raw.node) != without_partition(delivery.subject):
            # A node may publish under its own name only, and that name is the server's to check: the subject has it.
            await self._give_up(delivery, "foreign_subject", f"says it is of node {raw.node!r}", raw.count)
            records.tell("dead")
            return
        if self._names is not None:
            self._names.learn(raw)
        self._enriching.learn(raw)
        latest = int(raw.column("start_unix_ns").max(initial=0))
        enriched = await self._enriching.enriched(raw, await self._source.view(latest, self._stopping))
        batch = enriched.batch
        if enriched.foreign:
            self._note_foreign(delivery.subject, enriched.foreign)
        subject = enriched_subject(batch.node, self._settings.streams.partitions)
        stored, given_up, parts = 0, 0, deque(encode_parts(batch))
        outcome: list[str] = []
        try:
            while parts:
                part = parts.popleft()
                try:
                    outcome.append(await self._store(subject, part, delivery))
                except MessageTooLargeError as error:
                    if part.end - part.first > 1:
                        parts.extendleft(reversed([*encode_parts(decode(part.message), error.limit, part.first)]))
                        continue
                    await self._give_up_record(delivery, raw, part, str(error))
                    given_up += 1
                stored = part.end
        except PublishRefusedError as error:
            if isinstance(error.__cause__, PermissionDeniedError):
                raise
            await self._give_up(delivery, "refused", str(error), batch.count - stored)
            records.tell("enriched", stored - given_up)
            records.tell("dead")
            return
        self._settle(delivery, outcome)
        records.tell("dead", given_up)
        records.tell("enriched")
        self._count(batch)

    def _settle(self, delivery: Delivery, outcome: list[str]) -> None:
        """Acknowledge the batch once its outcome is on the disk; others are enriched meanwhile."""
        task = asyncio.create_task(self._acknowledge(delivery, outcome))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _acknowledge(self, delivery: Delivery, outcome: list[str]) -> None:
        delivery.forget_content()
        with delivery.kept():
            await self._bus.synced(outcome)
        await delivery.ack()

    def _note_foreign(self, subject: str, records: int) -> None:
        node = subject.rpartition(".")[2]
        self._foreign.add(records, {"node": node})
        if node not in self._foreign_nodes:
            self._foreign_nodes.add(node)
            logger.warning("records.of_another_node", node=node, records=records, hint="their local ends stay unresolved")

    async def _store(self, subject: str, part: Part, delivery: Delivery) -> str:
        """Store a part and return its id; wait while the stream is full. Raises Stopping where the service is to end first."""
        wait_seconds = _FIRST_WAIT_SECONDS
        message_id = part_id(delivery.message_id, part.first, part.end)
        while True:
            try:
                await self._bus.publish(subject, part.message, message_id=message_id)
            except StreamFullError:
                self._full_waits.add(1)
            else:
                return message_id
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds * random.uniform(0.5, 1.0)):  # noqa: S311 - only spreads replicas out
                    await self._stopping.wait()
                raise Stopping("told to stop while the stream was full")
            wait_seconds = min(wait_seconds * 2, _LONGEST_WAIT_SECONDS)

    async def _give_up(self, delivery: Delivery, reason: str, detail: str, records: int | None) -> None:
        """Put a message that can never be passed on where people can look at it, and go on."""
        self._dead.add(1, {"reason": reason})
        logger.warning("batch.given_up", reason=reason, detail=detail, subject=delivery.subject, message_id=delivery.message_id)
        try:
            await self._bus.dead_letter(SERVICE, delivery, reason=reason, detail=detail, records=records)
        except PublishRefusedError as error:
            if isinstance(error.__cause__, PermissionDeniedError):
                raise
            self._dead.add(1, {"reason": "dead_letter_refused"})
            logger.exception("dead_letter.refused", message_id=delivery.message_id, bytes=len(delivery.data))
            await delivery.ack()

    async def _give_up_record(self, delivery: Delivery, raw: FlowBatch, part: Part, detail: str) -> None:
        """Make a dead letter of a record that is larger than the bus takes in one message: as it came, that is smaller."""
        self._dead.add(1, {"reason": "too_large"})
        logger.warning("record.given_up", reason="too_large", detail=detail, message_id=delivery.message_id, row=part.first)
        await self._bus.dead_letter_payload(
            SERVICE,
            encode(raw.take(slice(part.first, part.end))),
            message_id=part_id(delivery.message_id, part.first, part.end),
            subject=delivery.subject,
            reason="too_large",
            detail=detail,
            records=1,
        )

    def _count(self, batch: FlowBatch) -> None:
        self._records += batch.count
        for number, side in enumerate(_SIDES):
            self._ends[number] += np.bincount(batch.column(f"{side}_resolution"), minlength=len(Resolution))

    def _read_ends(self) -> Iterator[tuple[int, Attributes]]:
        for counts, side in zip(self._ends.tolist(), _SIDES, strict=True):
            for found in Resolution:
                if found:
                    yield counts[found], {"side": side, "resolution": found.name.lower()}
