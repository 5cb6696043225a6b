"""Consumers that stand beyond what their streams hold.

A server writes down where a consumer stands in one file, and what its stream holds in others. After a full disk or a power cut
it may have the one and not the others: what was acknowledged is there again, or the stream counts anew from before where the
consumer stands. Either way the consumer delivers none of it, not even what is stored there later.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from proto.subjects import ENRICHED_STREAM, ENRICHER_DURABLE, EXPORTER_DURABLE, RAW_STREAM, partition_streams
from services.runtime.errors import ApiError, PermissionDeniedError
from services.runtime.nats.jetstream import JetStream

logger = structlog.get_logger()

CONSUMERS: Final = ((RAW_STREAM, ENRICHER_DURABLE), (ENRICHED_STREAM, EXPORTER_DURABLE))
_AGAIN_SECONDS: Final = 5.0
"""The servers of a cluster take a moment to delete what was acknowledged: what is there after this stays."""


class Standing:
    """Looks at the consumers, and has those begin again that are beyond what their streams hold."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._not_permitted: set[tuple[str, str]] = set()

    async def put_right(self, partitions: int) -> None:
        """Delete each consumer that is beyond its stream: whoever consumes makes it again, and is given all that is there.

        What it had acknowledged comes once more, which changes nothing: ids are derived. To delete the messages instead would
        lose those that were never delivered.
        """
        places = [(each, durable) for stream, durable in CONSUMERS for each in partition_streams(stream, partitions)]
        beyond = {place: first for place in places if (first := await self._beyond(*place)) is not None}
        if not beyond:
            return
        await asyncio.sleep(_AGAIN_SECONDS)
        for (stream, durable), first in beyond.items():
            if await self._beyond(stream, durable) == first:
                logger.warning(
                    "consumer.begins_again",
                    stream=stream,
                    consumer=durable,
                    first_sequence=first,
                    hint="it stood beyond what the stream holds, as after a full disk or a power cut",
                )
                with contextlib.suppress(ApiError):  # somebody else has just done so
                    await self._jetstream.delete_consumer(stream, durable)

    async def _beyond(self, stream: str, durable: str) -> int | None:
        """The stream's first sequence, where the consumer has acknowledged all up to that or more."""
        if (stream, durable) in self._not_permitted:
            return None
        try:
            # In this order: what was acknowledged when the consumer was asked is gone when the stream is.
            consumer = await self._jetstream.consumer_state(stream, durable)
            first = (await self._jetstream.stream_state(stream)).first_sequence
        except ApiError:  # none is there, or not yet
            return None
        except PermissionDeniedError as error:
            self._not_permitted.add((stream, durable))
            logger.info("consumer.not_looked_at", stream=stream, consumer=durable, error=str(error))
            return None
        return first if consumer.acknowledged_sequence >= max(first, 1) else None
