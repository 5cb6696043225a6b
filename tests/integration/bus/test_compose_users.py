"""docker-compose.yml's nats.conf in a real server: each user can do its work, and its answers reach nothing of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import nats
import pytest

from proto.subjects import DEAD_STREAM, ENRICHED_STREAM, ENRICHER_DURABLE, EXPORTER_DURABLE, RAW_SEEN_SUBJECTS, RAW_STREAM
from services.runtime.nats.bus import Bus, PublishRefusedError, connect
from services.runtime.nats.standing import CONSUMERS
from services.runtime.settings import NatsSettings
from tests.support.pipeline.nats_server import NatsServer

CONFIG = Path(__file__).parents[3] / "deploy" / "compose" / "nats.conf"
USERS = ("capture", "enricher", "exporter", "reader")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """The server with that configuration, on a port of the loopback."""
    config = CONFIG.read_text()
    here = {"0.0.0.0:4222": "127.0.0.1:@PORT@", "127.0.0.1:8222": "127.0.0.1:-1", '"/data"': f'"{tmp_path / "data"}"'}
    for place, other in here.items():
        assert place in config
        config = config.replace(place, other)
    with NatsServer(tmp_path, config=config, environ={f"{user.upper()}_PASSWORD": user for user in USERS}) as running:
        yield running


async def take(bus: Bus, stream: str, durable: str) -> bytes:
    """The stream's next message, acknowledged."""
    async with bus.consume(stream, durable, max_ack_pending=9, ack_wait_seconds=30, batch=1) as deliveries:
        delivery = await anext(deliveries)
        await delivery.ack()
    return delivery.data


async def test_each_user_can_do_its_work_and_its_answers_reach_nothing_else(server: NatsServer) -> None:
    """A batch passes from user to user; who has an answer sent to a subject of others puts nothing there."""
    async with AsyncExitStack() as stack:
        buses = {}
        for user in USERS:
            settings = NatsSettings(url=server.url, user=user, password=user, inbox_prefix=f"_INBOX_{user}")
            buses[user] = await stack.enter_async_context(connect(settings, name=user))
        capture, enricher, exporter, reader = (buses[user] for user in USERS)
        for bus in (enricher, capture, exporter):
            await bus.ensure_streams()
        watch = reader.watch(RAW_SEEN_SUBJECTS)
        await watch.start()
        await reader.stream_state(ENRICHED_STREAM)  # whoever is answered is heard: the subscription was sent before
        await capture.publish("flows.raw.host", b"raw", message_id="1")
        assert (await anext(watch)).data == b"raw"
        assert await take(enricher, RAW_STREAM, ENRICHER_DURABLE) == b"raw"
        asked = capture.watch("spans.asked.host")
        await asked.start()
        await capture.may_publish()
        assert await enricher.tell([("spans.asked.host", b"what?")], timeout_seconds=30) == [True]
        assert (await anext(asked)).data == b"what?"
        await enricher.publish("flows.enriched.host", b"enriched", message_id="1")
        assert await take(exporter, ENRICHED_STREAM, EXPORTER_DURABLE) == b"enriched"
        await exporter.dead_letter_payload(
            "exporter", b"dead", message_id="1", subject="flows.raw.host", reason="failed", detail="", records=None
        )
        assert [letter.data async for letter in reader.peek(DEAD_STREAM)] == [b"dead"]
        with pytest.raises(PublishRefusedError, match="no permission"):
            await capture.publish("flows.raw.other", b"", message_id="2")
        for stream, durable in CONSUMERS:
            await enricher.consumer_state(stream, durable)
            await enricher._jetstream.delete_consumer(stream, durable)

        asked = {"capture": "flows.raw.host", "exporter": "flows.dead.exporter", "reader": "$JS.API.STREAM.INFO.FLOWS_RAW"}
        for user, subject in asked.items():
            client = await nats.connect(server.url, user=user, password=user)
            for answer in ("flows.raw.other", "flows.enriched.x", "flows.dead.enricher"):
                await client.publish(subject, b"", reply=answer)
            inbox = f"_INBOX_{user}.done"
            answered = await client.subscribe(inbox)
            await client.publish(subject, b"", reply=inbox)
            await answered.next_msg(60)
            await client.close()
        assert (await reader.stream_state(ENRICHED_STREAM)).last_sequence == 1
        assert {letter.subject async for letter in reader.peek(DEAD_STREAM)} == {"flows.dead.exporter"}
        for _ in range((await reader.stream_state(RAW_STREAM)).messages):
            assert await take(enricher, RAW_STREAM, ENRICHER_DURABLE) == b""
