"""Batches wait their turn for the one thread that encodes. What has gathered by then is encoded together.

A batch that comes alone is encoded as it comes. Those that come soon after it wait a moment for each other (`PACE_SECONDS`):
under load, and the more so the smaller the batches are, many become one bundle, whose cost hardly grows with their number.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

import structlog

from proto.errors import DecodeError
from proto.flow_batch import Entity, FlowBatch, decode
from services.exporter.encoder import Request, SpanEncoder
from services.exporter.otlp.piece_table import CACHE_LIMIT
from services.exporter.spans.bundle import MOST_BATCHES, bundle
from services.runtime.gathering import Gathering
from services.runtime.nats.bus import Delivery

logger = structlog.get_logger()

BUNDLE_BYTES: Final = 2 << 20
"""No batch joins a bundle that has this many bytes: beyond it nothing is saved, and the first would wait for the last."""
PACE_SECONDS: Final = 0.025
"""From the start of one bundle to the next at the least, so that what comes meanwhile shares a bundle and a request: each costs
a millisecond or two whatever is in it."""
_ENOUGH_BATCHES: Final = 16
"""As many do not wait for more; nor do fewer, where no more can come."""


@dataclass(slots=True, eq=False)
class SharedRequest:
    """A request with spans of one or more batches."""

    request: Request
    deliveries: list[Delivery]
    """Whence each source of the request's bundle came."""
    task: asyncio.Task[None] | None = None
    """Sends it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One batch's share of what was encoded."""

    batch: FlowBatch
    requests: list[SharedRequest] = field(default_factory=list)
    """All that have spans of the batch."""

    @property
    def records(self) -> int:
        """How many there are in the batch."""
        return self.batch.count


@dataclass(frozen=True, slots=True)
class Unfit:
    """A message that cannot become spans."""

    reason: str
    detail: str
    records: int | None = None


class EncodingQueue:
    """Turns deliveries into requests, together with whatever else waits."""

    def __init__(
        self,
        encoder: SpanEncoder,
        max_request_bytes: int,
        thread: Executor,
        *,
        most_at_once: int = _ENOUGH_BATCHES,
        pace_seconds: float = PACE_SECONDS,
    ) -> None:
        """`most_at_once`: so many deliveries are ever brought here at the same time."""
        self._encoder = encoder
        self._max_request_bytes = max_request_bytes
        self._thread = thread
        self._known: dict[bytes, Entity] = {}
        self._gathering: Gathering[Delivery, Encoded | Unfit] = Gathering(
            self._work,
            enough=min(most_at_once, _ENOUGH_BATCHES),
            pace_seconds=pace_seconds,
            size=lambda delivery: len(delivery.data),
            most_size=BUNDLE_BYTES,
            most_pieces=MOST_BATCHES,
        )

    async def encoded(self, delivery: Delivery) -> Encoded | Unfit:
        """Return the requests that have spans of the delivery's batch."""
        return await self._gathering.done(delivery)

    async def _work(self, deliveries: list[Delivery]) -> list[Encoded | Unfit]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, deliveries)

    def _encode(self, deliveries: list[Delivery]) -> list[Encoded | Unfit]:
        """What each delivery becomes. Runs in the encoding thread and raises nothing."""
        results: list[Encoded | Unfit] = []
        fit: list[tuple[Delivery, FlowBatch, Encoded]] = []
        if len(self._known) > CACHE_LIMIT:
            self._known.clear()
        for delivery in deliveries:
            try:
                batch = decode(delivery.data, self._known)
            except DecodeError as error:
                results.append(Unfit("undecodable", str(error)))
            else:
                results.append(encoded := Encoded(batch))
                fit.append((delivery, batch, encoded))
        try:
            self._encode_together(fit)
        except Exception:  # noqa: BLE001 - one of them breaks the encoder: it must not take the others along
            alone = {id(encoded): self._encode_alone(one, batch, encoded) for one, batch, encoded in fit}
            results = [alone.get(id(result), result) for result in results]
        return results

    def _encode_together(self, fit: list[tuple[Delivery, FlowBatch, Encoded]]) -> None:
        if not fit:
            return
        whole = bundle([batch for _, batch, _ in fit])
        deliveries = [delivery for delivery, _, _ in fit]
        for request in self._encoder.encode_bundle(whole, self._max_request_bytes):
            shared = SharedRequest(request, deliveries)
            for number, _ in whole.by_source(request.rows):
                fit[number][2].requests.append(shared)

    def _encode_alone(self, delivery: Delivery, batch: FlowBatch, encoded: Encoded) -> Encoded | Unfit:
        try:
            encoded.requests.clear()
            self._encode_together([(delivery, batch, encoded)])
        except Exception as error:
            logger.error("batch.not_encoded", stream_sequence=delivery.stream_sequence, exc_info=error)  # noqa: TRY400
            return Unfit("unencodable", f"{type(error).__name__}: {error}", batch.count)
        return encoded
