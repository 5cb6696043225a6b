"""What somebody else changes while services run, against a real nats-server: it is restored, or said by name."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proto.subjects import ENRICHED_STREAM, RAW_STREAM, RECENT_STREAM
from services.runtime.errors import ApiError, ConsumerConfigError
from services.runtime.nats import consuming, jetstream, standing, streams
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.recent import recent_copies

SUBJECT = "flows.raw.node-a"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at streams and consumers many times a second."""
    monkeypatch.setattr(streams, "_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(consuming, "_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(consuming, "_HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(standing, "_AGAIN_SECONDS", 0.2)


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Bus]:
    """A bus that notices within tenths of a second that its server is gone."""
    settings = NatsSettings(url=server.url, reconnect_seconds=0.05, publish_timeout_seconds=1.0, ping_interval_seconds=0.5)
    async with connect(settings, name="test") as bus:
        await bus.ensure_streams()
        yield bus


async def asked(bus: Bus, operation: str, body: Any = None) -> dict[str, Any]:
    """What JetStream answers somebody with another tool."""
    return await bus._jetstream._ask(operation, body)


async def until_config(bus: Bus, operation: str, **wanted: Any) -> None:
    """Return once the stream's or consumer's configuration says so; the test's own time limit is the only one."""
    while True:
        try:
            config = (await asked(bus, operation))["config"]
        except ApiError:
            config = {}
        if config and all((config.get(name) or None) == value for name, value in wanted.items()):
            return
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("lost", ["memory", "deleted"])
async def test_the_stream_to_look_back_at_comes_back(nats_server: NatsServer, lost: str) -> None:
    """A server that is restarted has lost what was in its memory, or an operator deletes it: it is made anew, and filled."""
    async with connected(nats_server) as bus:
        if lost == "memory":
            await asyncio.to_thread(nats_server.stop)
            await asyncio.to_thread(nats_server.start)
        else:
            await asked(bus, f"STREAM.DELETE.{RECENT_STREAM}")
        await until_config(bus, f"STREAM.INFO.{RECENT_STREAM}", storage="memory")
        await bus.publish("flows.enriched.node-a", b"batch", message_id="a")
        assert [copy.data for copy in await recent_copies(bus)] == [b"batch"]


async def test_streams_changed_by_hand_are_changed_back_and_it_is_said_once(nats_server: NatsServer) -> None:
    """Without its republishing, with acknowledgements off or another limit, a stream is put right; others' words stay."""
    with capture_logs() as logs:
        async with connected(nats_server) as bus:
            config = (await asked(bus, f"STREAM.INFO.{ENRICHED_STREAM}"))["config"]
            other = config | {"republish": None, "max_msgs_per_subject": 1, "no_ack": True, "description": "mine"}
            await asked(bus, f"STREAM.UPDATE.{ENRICHED_STREAM}", other)
            await until_config(
                bus, f"STREAM.INFO.{ENRICHED_STREAM}", republish=config["republish"], no_ack=None, description="mine"
            )
            while not any(line["event"] == "stream.restored" for line in logs):  # noqa: ASYNC110 - a log tells nobody that it has grown
                await asyncio.sleep(0.02)  # the answer to the change is still on its way
    said = [line["done"] for line in logs if line["event"] == "stream.restored"]
    assert said == ["changed: max_msgs_per_subject, no_ack, republish"]


@pytest.mark.parametrize("by", ["nobody yet", "somebody else"])
async def test_what_a_deleted_stream_held_is_published_again(nats_server: NatsServer, by: str) -> None:
    """What was stored within the time for which it is kept is in the stream that takes its place, whoever made that."""
    count = 300
    async with connected(nats_server) as bus:
        bus._publisher._unsynced_seconds = 3600.0  # machines are slow
        for number in range(count):
            await bus.publish(SUBJECT, b"", message_id=str(number))
        config = (await asked(bus, f"STREAM.INFO.{RAW_STREAM}"))["config"]
        await asked(bus, f"STREAM.DELETE.{RAW_STREAM}")
        if by == "somebody else":
            await asked(bus, f"STREAM.CREATE.{RAW_STREAM}", config)
        await bus.publish(SUBJECT, b"", message_id="after")
        while (await bus.stream_state(RAW_STREAM)).messages < count + 1:  # noqa: ASYNC110 - a stream tells nobody
            await asyncio.sleep(0.02)
        # And no more than once: what is published again is where it was.
        await bus.publish(SUBJECT, b"", message_id="last")
        assert (await bus.stream_state(RAW_STREAM)).messages == count + 2


async def test_what_a_server_lost_with_its_machine_is_published_again_however_long_that_took(nats_server: NatsServer) -> None:
    """A machine boots for longer than messages are kept: what its server had just acknowledged is kept until the next one has
    it, and whoever waits for it to be on the disk waits for that one's. Another stream that stays away holds up nothing.
    """
    seconds = 0.2
    settings = NatsSettings(url=nats_server.url, reconnect_seconds=0.05, ping_interval_seconds=600, unsynced_seconds=seconds)
    async with connect(settings, name="test") as bus:
        await bus.ensure_streams()
        await asked(bus, "STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["another.stream.>"]})
        await bus.publish("another.stream.a", b"", message_id="other")
        await bus.publish(SUBJECT, b"", message_id="a")
        await asyncio.to_thread(nats_server.kill)
        shutil.rmtree(nats_server.folder / "store")
        on_the_disk = asyncio.create_task(bus.synced(["a"]))
        await asyncio.sleep(2 * seconds)
        await asyncio.to_thread(nats_server.start)
        await on_the_disk
        assert (await bus.stream_state(RAW_STREAM)).messages == 1


async def test_a_stream_of_another_kind_is_said_by_name_and_the_service_goes_on(nats_server: NatsServer) -> None:
    """Deleted and made by hand with another retention it cannot be ours: one warning names it, and the service goes on."""
    with capture_logs() as logs:
        async with connected(nats_server) as bus:
            config = (await asked(bus, f"STREAM.INFO.{RAW_STREAM}"))["config"]
            async with bus._streams._restoring:  # nobody restores it in between
                await asked(bus, f"STREAM.DELETE.{RAW_STREAM}")
                await asked(bus, f"STREAM.CREATE.{RAW_STREAM}", config | {"retention": "limits"})
            while not [line for line in logs if line["event"] == "streams.not_restored"]:  # noqa: ASYNC110 - a log tells nobody that it has grown
                await asyncio.sleep(0.02)
            await bus._streams.restore()
            await bus.publish(SUBJECT, b"", message_id="a")
    (said,) = [line["error"] for line in logs if line["event"] == "streams.not_restored"]
    assert f"stream {RAW_STREAM} cannot be made what the settings ask for" in said


async def test_what_earlier_settings_left_is_said(nats_server: NatsServer) -> None:
    """Nothing is to be kept to look back at any more: the stream that is left is named, once, and not touched."""
    async with connected(nats_server) as bus:
        await bus.publish("flows.enriched.node-a", b"batch", message_id="a")
    with capture_logs() as logs:
        async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
            for _ in range(3):
                await bus.ensure_streams(StreamSettings(recent_bytes=0))
            assert len(await recent_copies(bus)) == 1
    assert [line["stream"] for line in logs if line["event"] == "stream.left_over"] == [RECENT_STREAM]


@pytest.mark.parametrize(
    "changes",
    [{"max_ack_pending": 1, "ack_wait": 2 * 10**9}, {"max_deliver": 1}, {"filter_subject": "flows.raw.other"}, None],
    ids=["waits", "attempts", "filter", "made anew"],
)
async def test_a_consumer_changed_by_hand_is_changed_back(nats_server: NatsServer, changes: dict[str, Any] | None) -> None:
    """Its limits, its filter, or all of it made anew while it is used: it is ours again, and what was kept from us arrives."""
    info = f"CONSUMER.INFO.{RAW_STREAM}.enricher"
    async with (
        connected(nats_server) as bus,
        bus.consume(RAW_STREAM, "enricher", max_ack_pending=100, ack_wait_seconds=10, batch=4) as deliveries,
    ):
        await bus.publish(SUBJECT, b"", message_id="first")
        await (await anext(deliveries)).ack()
        config = (await asked(bus, info))["config"]
        if changes is None:
            await asked(bus, f"CONSUMER.DELETE.{RAW_STREAM}.enricher")
        other = {"stream_name": RAW_STREAM, "config": config | (changes or {"max_ack_pending": 1})}
        await asked(bus, f"CONSUMER.CREATE.{RAW_STREAM}.enricher", other)
        await until_config(bus, info, max_ack_pending=100, ack_wait=10 * 10**9, max_deliver=-1, filter_subject=None)
        await bus.publish(SUBJECT, b"", message_id="last")
        last = await anext(deliveries)
        assert last.message_id == "last"
        await last.ack()


async def test_a_consumer_that_cannot_be_ours_is_named(nats_server: NatsServer) -> None:
    """One made by hand that delivers otherwise: nothing is taken from it, and the error says which and what is wrong."""
    async with connected(nats_server) as bus:
        config = {"durable_name": "exporter", "name": "exporter", "ack_policy": "explicit", "deliver_policy": "all"}
        body = {"stream_name": ENRICHED_STREAM, "config": config | {"replay_policy": "original"}}
        await asked(bus, f"CONSUMER.CREATE.{ENRICHED_STREAM}.exporter", body)
        async with bus.consume(ENRICHED_STREAM, "exporter", max_ack_pending=9, ack_wait_seconds=9, batch=1) as deliveries:
            with pytest.raises(ConsumerConfigError, match=f"consumer exporter of stream {ENRICHED_STREAM} .*replay_policy"):
                await anext(deliveries)


async def test_a_consumer_that_the_server_cannot_write_down_is_asked_for_until_it_can(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the last one of its name is still being removed, or where the disk is full: no service ends, and it is said,
    when it happens anew and now and then while it lasts.
    """
    monkeypatch.setattr(jetstream, "_KEPT", {})
    async with (
        connected(nats_server) as bus,
        bus.consume(RAW_STREAM, "enricher", max_ack_pending=100, ack_wait_seconds=10, batch=4) as deliveries,
    ):
        await bus.publish(SUBJECT, b"", message_id="a")
        await (await anext(deliveries)).ack()
        (consumers,) = (nats_server.folder / "store").rglob(f"{RAW_STREAM}/obs")
        for message_id, times, again_seconds in (("b", 1, 3600.0), ("c", 2, 0.05)):
            monkeypatch.setattr(consuming, "_SAY_AGAIN_SECONDS", again_seconds)
            with capture_logs() as logs:
                while [line["event"] for line in logs].count("consumer.not_made") < times:
                    with contextlib.suppress(ApiError):  # it may be gone, or have been made again before there was a file
                        await asked(bus, f"CONSUMER.DELETE.{RAW_STREAM}.enricher")
                    if consumers.is_dir():
                        shutil.rmtree(consumers)
                        consumers.touch()  # no folder can be made in a file
                    await asyncio.sleep(0.02)
                consumers.unlink()
                await bus.publish(SUBJECT, b"", message_id=message_id)
                delivery = await anext(deliveries)
                assert delivery.message_id == message_id
                await delivery.ack()


@pytest.mark.parametrize("lost", ["that messages are gone", "messages"])
async def test_a_consumer_that_stands_beyond_its_stream_begins_again(
    nats_server: NatsServer, tmp_path: Path, lost: str
) -> None:
    """After a full disk or a power cut a server may have where a consumer stands, and not that what it acknowledged is gone, or
    not what it acknowledged: all that is there is delivered again, and so is what comes.
    """
    kept = tmp_path / "kept"

    async def restart(*, put_back: bool) -> None:
        """With what the stream had on the disk then; without `put_back` that is then kept."""
        (messages,) = (nats_server.folder / "store").rglob(f"{RAW_STREAM}/msgs")
        await asyncio.to_thread(nats_server.stop)
        if put_back:
            shutil.rmtree(messages)
            shutil.copytree(kept, messages)
        else:
            shutil.copytree(messages, kept)
        await asyncio.to_thread(nats_server.start)

    async with (
        connected(nats_server) as bus,
        bus.consume(RAW_STREAM, "enricher", max_ack_pending=100, ack_wait_seconds=1, batch=4) as deliveries,
    ):

        async def taken() -> set[str]:
            ids = set()
            while (await bus.stream_state(RAW_STREAM)).messages:
                delivery = await anext(deliveries)
                await delivery.ack()
                ids.add(delivery.message_id)
            return ids

        for message_id in ("a", "b"):
            await bus.publish(SUBJECT, b"", message_id=message_id)
        if lost == "messages":
            await taken()
        await restart(put_back=False)
        if lost == "messages":
            await bus.publish(SUBJECT, b"", message_id="c")
        await taken()
        await restart(put_back=True)
        await bus.publish(SUBJECT, b"", message_id="last")
        assert await taken() >= ({"last"} if lost == "messages" else {"a", "b", "last"})
