"""How much of FLOWS_RAW one node may fill, on a real server."""

from __future__ import annotations

import pytest

from proto.subjects import ENRICHER_DURABLE, MAX_BATCH_BYTES, RAW_STREAM, raw_subject
from services.runtime.nats.bus import Bus, MessageTooLargeError, StreamFullError, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.nats_server import NatsServer

SMALL = StreamSettings(raw_bytes=8 << 20)
SHARE = 8
"""Half of it, by batches of 512 KiB."""


async def flood(bus: Bus, node: str, first: int = 0) -> int:
    """Publish small batches of a node until the server refuses one; return how many it took."""
    for number in range(100):
        try:
            await bus.publish(raw_subject(node), b"batch", message_id=f"{node}/{first + number}")
        except StreamFullError:
            return number
    raise AssertionError("the stream takes everything")


async def test_one_node_does_not_fill_the_stream(nats_server: NatsServer) -> None:
    """A node has its share, and more is refused as by a full stream; others have theirs. What is taken makes room."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(SMALL)
        assert await flood(bus, "loud") == SHARE
        assert await flood(bus, "quiet") == SHARE
        async with bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=9, ack_wait_seconds=600, batch=1) as taken:
            delivery = await anext(taken)
            await delivery.ack()
        assert delivery.subject == raw_subject("loud")
        assert await flood(bus, "loud", SHARE) == 1
        assert await flood(bus, "quiet", SHARE) == 0


async def test_no_message_is_larger_than_a_batch(nats_server: NatsServer) -> None:
    """So many messages are so many bytes at the most: a batch of the largest size fits, twice that is refused."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(SMALL)
        await bus.publish(raw_subject("a"), bytes(MAX_BATCH_BYTES), message_id="a/1/0-4000000000")
        with pytest.raises(MessageTooLargeError):
            await bus.publish(raw_subject("a"), bytes((1 << 20) - 64), message_id="a/2")


async def test_shares_delete_nothing_that_is_stored(nats_server: NatsServer) -> None:
    """An upgrade while much waits, or a smaller share: nothing goes. With less in the stream the share is set."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(StreamSettings(raw_bytes=8 << 20, raw_node_share=1))
        for number in range(3 * SHARE):
            await bus.publish(raw_subject("loud"), b"batch", message_id=f"{number}")
        await bus.ensure_streams(SMALL)
        assert (await bus.stream_state(RAW_STREAM)).messages == 3 * SHARE
        async with bus.consume(RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=99, ack_wait_seconds=600, batch=9) as taken:
            for _ in range(3 * SHARE):
                await (await anext(taken)).ack()
        await bus.ensure_streams(SMALL)
        assert await flood(bus, "loud", 3 * SHARE) == SHARE
