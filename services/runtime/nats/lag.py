"""How far a service is behind on the stream that it consumes, as metrics."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from proto.subjects import partition_streams, stream_prefix
from services.runtime.nats.bus import Bus, BusError, Delivery
from services.runtime.telemetry import Telemetry

_LOOK_SECONDS: Final = 10.0
_STALLED_SECONDS: Final = 120.0
"""With something in hand, and nothing that came to its end for so long, a service does not move."""
_NS: Final = 1_000_000_000


class Lag:
    """What waits for one durable consumer, of all partitions and replicas, and the oldest of what this one has in hand."""

    def __init__(self, bus: Bus, stream: str, durable: str, telemetry: Telemetry, *, partitions: int = 1) -> None:
        self._bus = bus
        self._streams, self._durable = partition_streams(stream, partitions), durable
        self._pending: dict[str, int] = {}
        """By stream, as of the last look that was answered."""
        self._stored_unix_ns: dict[Delivery, int] = {}
        self._in_hand: Counter[str] = Counter()
        """How many by partition."""
        self._moved_at: dict[str, float] = {}
        """When something of a partition came to its end, or was taken in hand with nothing else of it there."""
        telemetry.gauge(
            f"wirespan.{durable}.batches.pending",
            "Batches in the stream that no replica has yet",
            "{batch}",
            lambda: sum(self._pending.values()),
        )
        telemetry.gauge(
            f"wirespan.{durable}.lag",
            "How long the oldest batch in hand is in the stream; 0 with none in hand",
            "s",
            self.seconds,
        )

    def seconds(self) -> float:
        """Return how long ago the oldest batch in hand was stored in the stream. Any thread may ask."""
        stored = tuple(self._stored_unix_ns.values())
        return max(0.0, (time.time_ns() - min(stored)) / _NS) if stored else 0.0

    @property
    def moving(self) -> bool:
        """Whether of each partition nothing is in hand, or something came to its end lately. Any thread may ask."""
        longest_ago = time.monotonic() - _STALLED_SECONDS
        return all(self._moved_at[partition] > longest_ago for partition, count in tuple(self._in_hand.items()) if count)

    @contextmanager
    def over(self, delivery: Delivery) -> Iterator[None]:
        """The delivery is in hand while the block runs; a block that ends without an error brought it to its end."""
        partition = stream_prefix(delivery.subject)  # what tells the partitions of a stream apart
        if not self._in_hand[partition]:
            self._moved_at[partition] = time.monotonic()
        self._in_hand[partition] += 1
        self._stored_unix_ns[delivery] = delivery.stored_unix_ns
        try:
            yield
            self._moved_at[partition] = time.monotonic()
        finally:
            self._in_hand[partition] -= 1
            del self._stored_unix_ns[delivery]

    async def watch(self) -> None:
        """Look at each stream from time to time until cancelled; one that does not answer delays no other."""
        await asyncio.gather(*map(self._watch, self._streams))

    async def _watch(self, stream: str) -> None:
        while True:
            with suppress(BusError):  # the next look may say more
                self._pending[stream] = (await self._bus.consumer_state(stream, self._durable)).pending
            await asyncio.sleep(_LOOK_SECONDS)
