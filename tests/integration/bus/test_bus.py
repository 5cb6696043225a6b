"""The bus against a real nats-server: nothing is lost in silence, whatever happens to the server."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proto.subjects import (
    DEAD_STREAM,
    DETAIL_HEADER,
    ENRICHED_STREAM,
    MESSAGE_ID_HEADER,
    RAW_STREAM,
    REASON_HEADER,
    RECENT_STREAM,
    RECORDS_HEADER,
    SUBJECT_HEADER,
    enriched_subject,
)
from services.runtime.errors import ApiError
from services.runtime.nats import connection
from services.runtime.nats.bus import (
    Bus,
    MessageTooLargeError,
    PublishRefusedError,
    StreamConfigError,
    StreamFullError,
    connect,
)
from services.runtime.nats.client import OneSocketClient
from services.runtime.nats.connection import Connection
from services.runtime.nats.jetstream import JetStream
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.recent import recent_copies

SUBJECT = "flows.raw.node-a"


def quick(server: NatsServer, **changes: object) -> NatsSettings:
    """Settings that notice and repair within tenths of a second."""
    return NatsSettings(
        **{"url": server.url, "reconnect_seconds": 0.05, "publish_timeout_seconds": 1.0, "ping_interval_seconds": 0.5} | changes
    )


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connected bus with its streams."""
    async with connect(quick(nats_server), name="test") as bus:
        await bus.ensure_streams()
        yield bus


def consume(bus: Bus, *, batch: int = 16, ack_wait_seconds: float = 10.0, max_ack_pending: int = 1000):
    """The raw stream's deliveries."""
    return bus.consume(RAW_STREAM, "enricher", max_ack_pending=max_ack_pending, ack_wait_seconds=ack_wait_seconds, batch=batch)


async def publish_many(bus: Bus, count: int, *, prefix: str = "m") -> None:
    """Publish `count` small messages, up to 16 at a time."""
    gate = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with gate:
            await bus.publish(SUBJECT, b"x" * 100, message_id=f"{prefix}/{number}")

    await asyncio.gather(*(one(number) for number in range(count)))


async def fill(bus: Bus) -> tuple[int, StreamFullError]:
    """Publish 4 KiB messages until the stream refuses; return how many it took."""
    for number in range(1000):
        try:
            await bus.publish(SUBJECT, b"x" * 4096, message_id=f"{number}")
        except StreamFullError as refused:
            return number, refused
    raise AssertionError("the stream takes everything")


async def stored_ids(bus: Bus, stream: str = RAW_STREAM) -> Counter[str]:
    """How often the stream holds each message id."""
    return Counter([message.headers[MESSAGE_ID_HEADER] async for message in bus.peek(stream)])


async def test_a_published_message_is_stored_once_however_often_it_is_sent(bus: Bus) -> None:
    """`publish` returns for a duplicate as for the first, and the stream holds one."""
    for _ in range(3):
        await bus.publish(SUBJECT, b"payload", message_id="node-a/e/0", headers={"Other": "value"})

    messages = [message async for message in bus.peek(RAW_STREAM)]

    assert [(message.subject, message.data, message.headers) for message in messages] == [
        (SUBJECT, b"payload", {"Other": "value", MESSAGE_ID_HEADER: "node-a/e/0"})
    ]


async def test_an_acknowledged_message_leaves_the_queue(bus: Bus) -> None:
    """After `ack` returns, the work queue does not hold the message any more."""
    await publish_many(bus, 5)

    async with consume(bus) as deliveries:
        for _ in range(5):
            delivery = await anext(deliveries)
            assert delivery.attempts == 1
            assert delivery.message_id == f"m/{delivery.stream_sequence - 1}"
            await delivery.ack()
            assert (await bus.stream_state(RAW_STREAM)).messages == 5 - delivery.stream_sequence

    assert (await bus.consumer_state(RAW_STREAM, "enricher")).ack_pending == 0


async def test_a_dead_letter_says_what_it_was_and_leaves_the_queue(bus: Bus) -> None:
    """A message that cannot be processed is kept with the reason, on one line, and is not delivered again."""
    await bus.publish(SUBJECT, b"\xc1", message_id="node-a/e/7")

    async with consume(bus) as deliveries:
        delivery = await anext(deliveries)
        await bus.dead_letter("enricher", delivery, reason="not_decodable", detail="not msgpack:\r\nInjected: ä", records=3)

    assert (await bus.stream_state(RAW_STREAM)).messages == 0
    (letter,) = [message async for message in bus.peek(DEAD_STREAM)]
    assert (letter.subject, letter.data) == ("flows.dead.enricher", b"\xc1")
    assert letter.headers == {
        MESSAGE_ID_HEADER: "dead/enricher/node-a/e/7",
        REASON_HEADER: "not_decodable",
        DETAIL_HEADER: "not msgpack: Injected: ä",
        SUBJECT_HEADER: SUBJECT,
        RECORDS_HEADER: "3",
    }


async def test_enriched_batches_can_be_looked_back_at(bus: Bus) -> None:
    """A copy of what was enriched stays when the exporter has taken it, within its own bytes; with 0 bytes none is made."""
    await bus.publish(enriched_subject("node-a"), b"batch", message_id="a")
    async with bus.consume(ENRICHED_STREAM, "exporter", max_ack_pending=1, ack_wait_seconds=10, batch=1) as deliveries:
        await (await anext(deliveries)).ack()

    copies = await recent_copies(bus)
    assert [(copy.subject, copy.data, copy.headers[MESSAGE_ID_HEADER]) for copy in copies] == [
        ("flows.recent.node-a", b"batch", "a")
    ]

    await bus.ensure_streams(StreamSettings(recent_bytes=0))
    await bus.publish(enriched_subject("node-a"), b"later", message_id="b")
    assert len([message async for message in bus.peek(RECENT_STREAM)]) == 1


async def test_a_message_given_back_comes_again(bus: Bus) -> None:
    """`nak` delivers at once, `nak` with a delay later, and both count the attempt."""
    await bus.publish(SUBJECT, b"", message_id="a")

    async with consume(bus) as deliveries:
        first = await anext(deliveries)
        await first.nak()
        second = await anext(deliveries)
        await second.nak(0.2)
        third = await anext(deliveries)

    assert [first.attempts, second.attempts, third.attempts] == [1, 2, 3]


async def test_progress_keeps_a_message_ours(bus: Bus) -> None:
    """A message whose worker says `in_progress` outlives `ack_wait`; so do messages that wait to be taken."""
    await publish_many(bus, 2)

    async with consume(bus, ack_wait_seconds=3.0) as deliveries:
        delivery = await anext(deliveries)
        for _ in range(8):
            await asyncio.sleep(0.5)
            await delivery.in_progress()
        waiting = await anext(deliveries)
        await delivery.ack()
        await waiting.ack()
        assert (delivery.attempts, waiting.attempts) == (1, 1)
        assert (await bus.consumer_state(RAW_STREAM, "enricher")).redelivered == 0

    assert (await bus.stream_state(RAW_STREAM)).messages == 0


async def test_what_was_not_taken_goes_to_a_sibling_at_once(bus: Bus, nats_server: NatsServer) -> None:
    """Closing an iterator gives back what it had ahead, long before `ack_wait`."""
    await publish_many(bus, 10)
    async with connect(quick(nats_server), name="sibling") as sibling:
        async with consume(bus, batch=10, ack_wait_seconds=3600) as deliveries:
            await (await anext(deliveries)).ack()

        async with consume(sibling, ack_wait_seconds=3600) as others:
            for _ in range(9):
                await (await anext(others)).ack()

    assert (await bus.stream_state(RAW_STREAM)).messages == 0


async def test_no_more_than_a_batch_waits_here(bus: Bus) -> None:
    """However many messages there are, at most `batch` are with a consumer that takes none."""
    await publish_many(bus, 50)

    async with consume(bus, batch=8) as deliveries:
        held = [await anext(deliveries) for _ in range(3)]
        await publish_many(bus, 50, prefix="n")
        state = await bus.consumer_state(RAW_STREAM, "enricher")
        assert state.ack_pending <= 8 + len(held)
        assert state.pending >= 89
        for delivery in held:
            await delivery.ack()


async def test_two_consumers_share_the_work(bus: Bus, nats_server: NatsServer) -> None:
    """Two processes on one durable see every message once between them."""
    await publish_many(bus, 100)
    seen: Counter[str] = Counter()

    async def work(on: Bus) -> None:
        async with consume(on, batch=4) as deliveries:
            async for delivery in deliveries:
                seen[delivery.message_id] += 1
                await delivery.ack()
                if len(seen) == 100:
                    done.set()

    done = asyncio.Event()
    async with connect(quick(nats_server), name="sibling") as sibling:
        workers = [asyncio.create_task(work(bus)), asyncio.create_task(work(sibling))]
        await done.wait()
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)

    assert seen == {f"m/{number}": 1 for number in range(100)}


async def test_a_full_stream_refuses_and_recovers(nats_server: NatsServer) -> None:
    """At its limit of bytes the stream refuses with StreamFullError; when messages are taken off, the same message fits."""
    async with connect(quick(nats_server), name="test") as bus:
        await bus.ensure_streams(StreamSettings(raw_bytes=1 << 20, raw_node_share=1))
        stored, refused = await fill(bus)
        assert refused.code == 10077
        assert stored == (await bus.stream_state(RAW_STREAM)).messages

        async with consume(bus) as deliveries:
            await (await anext(deliveries)).ack()
        await bus.publish(SUBJECT, b"x" * 4096, message_id=f"{stored}")

        assert await stored_ids(bus) == {str(number): 1 for number in range(1, stored + 1)}


async def test_a_store_without_room_is_full_too(tmp_path: Path) -> None:
    """An account at the limit of its storage refuses in the same way: room can come there too."""
    limited = """
    accounts { A {
      users: [ { user: a, password: b } ], jetstream { max_memory: 1000000, max_file: 0 }
    } }
    """
    with NatsServer(tmp_path / "nats", extra_config=limited) as server:
        async with connect(quick(server, user="a", password="b"), name="test") as bus, admin(server, "a", "b") as jetstream:
            await jetstream.ensure_stream({"name": RAW_STREAM, "subjects": ["flows.raw.>"], "storage": "memory"})
            stored, refused = await fill(bus)
    assert stored
    assert refused.code == 10002


async def test_a_message_too_large_is_refused_and_nothing_else(bus: Bus) -> None:
    """A payload that the server would not take raises, and says what it would; the connection stays; one at the limit fits."""
    with pytest.raises(MessageTooLargeError, match="the server takes 1048576") as refused:
        await bus.publish("flows.enriched.node-a", b"x" * (1 << 20), message_id="large")
    await bus.publish("flows.enriched.node-a", b"x" * refused.value.limit, message_id="other")
    await bus.publish("flows.enriched.node-a", b"x" * ((1 << 20) - 64), message_id="fits")

    assert await stored_ids(bus, "FLOWS_ENRICHED") == {"fits": 1, "other": 1}
    assert bus.resent == 0


async def test_a_stream_that_takes_less_than_the_server_says_so_too(bus: Bus, nats_server: NatsServer) -> None:
    """`max_msg_size`, set by hand, is a message that is too large; less is offered until it fits."""
    async with admin(nats_server) as jetstream:
        info = await jetstream._ask(f"STREAM.INFO.{RAW_STREAM}")
        await jetstream._ask(f"STREAM.UPDATE.{RAW_STREAM}", info["config"] | {"max_msg_size": 3000})
    with pytest.raises(MessageTooLargeError) as refused:
        await bus.publish(SUBJECT, b"x" * 4000, message_id="large")
    assert refused.value.limit == 2000


async def test_a_dead_letter_that_is_too_large_is_cut(bus: Bus) -> None:
    """Bytes at the server's limit, and why they are dead: the dead letter holds what fits, and says how many there were."""
    payload = bytes(range(256)) * 4095
    await bus.dead_letter_payload(
        "enricher", payload + b"x" * 200, message_id="m", subject=SUBJECT, reason="failed", detail="d" * 400, records=None
    )
    (letter,) = [message async for message in bus.peek(DEAD_STREAM)]
    assert (payload + b"x" * 200).startswith(letter.data)
    assert len(letter.data) > len(payload) - 1000
    assert letter.headers[DETAIL_HEADER].startswith(f"(cut: {len(letter.data)} of {len(payload) + 200} bytes) ddd")


async def test_a_publish_without_permission_is_refused(tmp_path: Path) -> None:
    """A user who may not publish to a subject is told so at once: capture of one node cannot write as another."""
    users = """
    authorization { users = [
      { user: admin, password: secret }
      { user: node-a, password: secret, permissions { publish: ["flows.raw.node-a", "$JS.API.>"], subscribe: ["_INBOX.>"] } }
    ] }
    """
    with NatsServer(tmp_path / "nats", extra_config=users) as server:
        async with connect(quick(server, user="admin", password="secret"), name="admin") as admin:
            await admin.ensure_streams()
            async with connect(quick(server, user="node-a", password="secret"), name="node-a") as bus:
                await bus.publish("flows.raw.node-a", b"", message_id="own")
                with pytest.raises(PublishRefusedError, match="no permission"):
                    await bus.publish("flows.raw.node-b", b"", message_id="other")
            assert await stored_ids(admin) == {"own": 1}


async def test_a_wrong_password_is_said_once_and_tried_again(tmp_path: Path) -> None:
    """With credentials that the server does not take the bus keeps trying, and one line says why."""
    with NatsServer(tmp_path / "nats", extra_config="authorization { user: a, password: b }") as server:
        with capture_logs() as logs:
            async with connect(quick(server, user="a", password="wrong"), name="test") as bus:
                while not any(line["event"] == "bus.failed" for line in logs):  # noqa: ASYNC110 - a log tells nobody
                    await asyncio.sleep(0.02)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await bus.wait_connected()
        reasons = [line["error"] for line in logs if line["event"] == "bus.failed"]
        assert reasons.count("nats: 'Authorization Violation'") == 1
        assert len(reasons) == len(set(reasons))


async def test_a_server_that_is_absent_is_waited_for(tmp_path: Path) -> None:
    """A service may start before its server: the first publish waits for it."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    server.stop()
    async with connect(quick(server), name="test") as bus:
        work = asyncio.create_task(bus.ensure_streams())
        await asyncio.sleep(0.2)
        assert not work.done()
        server.start()
        try:
            await work
            await bus.publish(SUBJECT, b"", message_id="a")
            assert await stored_ids(bus) == {"a": 1}
        finally:
            server.kill()


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_publishing_survives_the_server(bus: Bus, nats_server: NatsServer, end: str) -> None:
    """The server ends in the middle of 200 publishes and comes back on its store: all complete, each id is stored once."""
    watch = bus.watch("flows.raw.>")
    await watch.start()
    publishing = asyncio.create_task(publish_many(bus, 200))
    for _ in range(40):
        await anext(watch)
    await asyncio.to_thread(getattr(nats_server, end))
    await asyncio.to_thread(nats_server.start)
    await publishing

    assert await stored_ids(bus) == {f"m/{number}": 1 for number in range(200)}


async def test_consuming_survives_the_server(bus: Bus, nats_server: NatsServer) -> None:
    """The server is killed in the middle of consuming and comes back: every message is delivered and acknowledged."""
    await publish_many(bus, 200)
    seen: set[str] = set()

    async with consume(bus, ack_wait_seconds=2.0) as deliveries:
        while len(seen) < 200:
            delivery = await anext(deliveries)
            seen.add(delivery.message_id)
            await delivery.ack()
            if len(seen) == 60:
                await asyncio.to_thread(nats_server.kill)
                await asyncio.to_thread(nats_server.start)

        while (await bus.stream_state(RAW_STREAM)).messages:
            await (await anext(deliveries)).ack()


async def test_a_silent_server_is_noticed(nats_server: NatsServer) -> None:
    """A server that stops answering and keeps its sockets open is left within a few pings, full send buffers or not."""
    settings = quick(nats_server, ping_interval_seconds=0.2, connect_timeout_seconds=0.5)
    async with connect(settings, name="test") as bus:
        await bus.ensure_streams(StreamSettings(raw_node_share=1))
        nats_server.send_signal(signal.SIGSTOP)
        large = [
            asyncio.create_task(bus.publish(SUBJECT, bytes(1_000_000), message_id=f"large/{number}")) for number in range(20)
        ]
        while bus.connected:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)
        nats_server.send_signal(signal.SIGCONT)
        await asyncio.gather(*large)

        assert await stored_ids(bus) == {f"large/{number}": 1 for number in range(20)}


async def test_a_deleted_consumer_is_made_again(bus: Bus, nats_server: NatsServer) -> None:
    """An operator who deletes the durable consumer does not stop the pipeline."""
    async with admin(nats_server) as jetstream, consume(bus) as deliveries:
        await publish_many(bus, 1)
        await (await anext(deliveries)).ack()
        await jetstream._ask(f"CONSUMER.DELETE.{RAW_STREAM}.enricher")
        await publish_many(bus, 1, prefix="n")
        delivery = await anext(deliveries)
        await delivery.ack()

    assert delivery.message_id == "n/0"


async def test_a_deleted_stream_is_made_again(bus: Bus, nats_server: NatsServer) -> None:
    """A stream that vanishes (a store that was not kept) comes back while messages are published and consumed. What was
    published shortly before may come once more: nobody knows that it was consumed.
    """
    async with admin(nats_server) as jetstream, consume(bus) as deliveries:
        await publish_many(bus, 1)
        await (await anext(deliveries)).ack()
        await jetstream._ask(f"STREAM.DELETE.{RAW_STREAM}")
        publishing = asyncio.create_task(publish_many(bus, 20, prefix="n"))
        wanted = {f"n/{number}" for number in range(20)}
        while wanted:
            delivery = await anext(deliveries)
            wanted.discard(delivery.message_id)
            await delivery.ack()
        await publishing


async def test_streams_are_made_by_many_at_once_and_changed_when_settings_change(nats_server: NatsServer) -> None:
    """Services that start together make the same streams; other limits later change them and keep what they hold."""
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(connect(quick(nats_server), name=f"{number}")) for number in range(4)]
        await asyncio.gather(*(bus.ensure_streams() for bus in buses))
        await buses[0].publish(SUBJECT, b"", message_id="a")
        await asyncio.gather(*(bus.ensure_streams(StreamSettings(raw_bytes=1 << 20, raw_node_share=1)) for bus in buses))
        jetstream = await stack.enter_async_context(admin(nats_server))

        config = (await jetstream._ask(f"STREAM.INFO.{RAW_STREAM}"))["config"]

        assert (config["max_bytes"], config["retention"], config["discard"]) == (1 << 20, "workqueue", "new")
        assert config["duplicate_window"] == 600 * 10**9
        assert await stored_ids(buses[0]) == {"a": 1}
        assert (await buses[0].stream_state(ENRICHED_STREAM)).messages == 0


async def test_a_stream_that_cannot_be_changed_is_an_error(nats_server: NatsServer) -> None:
    """A stream of that name with another kind of retention is named, not used."""
    async with admin(nats_server) as jetstream, connect(quick(nats_server), name="test") as bus:
        await jetstream.ensure_stream({"name": RAW_STREAM, "subjects": ["flows.raw.>"], "retention": "limits", "max_bytes": -1})
        with pytest.raises(StreamConfigError, match=f"stream {RAW_STREAM} cannot be made"):
            await bus.ensure_streams()


async def test_a_stream_that_is_absent_is_an_error_to_ask_about(nats_server: NatsServer) -> None:
    """The state of a stream that nobody made is an error with JetStream's code."""
    async with connect(quick(nats_server), name="test") as bus:
        with pytest.raises(ApiError) as refused:
            await bus.stream_state(RAW_STREAM)
        assert refused.value.code == 10059


async def test_watching_sees_what_is_published_and_drops_the_oldest(bus: Bus) -> None:
    """A watch consumes nothing; what nobody reads in time is dropped, oldest first, and counted."""
    watch = bus.watch("flows.raw.>", limit=3)
    await watch.start()
    for number in range(5):
        await bus.publish(SUBJECT, str(number).encode(), message_id=f"{number}")
    await watch.aclose()

    assert [message.data async for message in watch] == [b"2", b"3", b"4"]
    assert watch.dropped == 2
    assert (await bus.stream_state(RAW_STREAM)).messages == 5


async def test_the_end_of_the_connection_ends_its_iterators(nats_server: NatsServer) -> None:
    """Leaving `connect` ends iterators that others wait on."""

    async def count(deliveries) -> int:
        return len([delivery async for delivery in deliveries])

    async with connect(quick(nats_server), name="test") as bus:
        await bus.ensure_streams()
        reading = asyncio.create_task(count(consume(bus)))
        watching = asyncio.create_task(count(bus.watch("flows.raw.>")))
        await bus.publish(SUBJECT, b"", message_id="a")
    assert await reading in (0, 1)
    assert await watching in (0, 1)


def test_the_positions_of_both_forms_of_reply_subjects() -> None:
    """Servers with and without domains put the numbers at different places."""
    from services.runtime.nats.consuming import _position

    plain = _position("$JS.ACK.FLOWS_RAW.enricher.3.17.20.1700000000000000000.5")
    domain = _position("$JS.ACK.hub.ACCHASH.FLOWS_RAW.enricher.3.17.20.1700000000000000000.5.token")

    assert plain == domain
    assert (plain.attempts, plain.stream_sequence, plain.stored_unix_ns) == (3, 17, 1_700_000_000_000_000_000)


class admin:  # noqa: N801 - reads as the context manager it is
    """JetStream's administrative interface over a connection of its own."""

    def __init__(self, server: NatsServer, user: str | None = None, password: str | None = None) -> None:
        self._connection = Connection(quick(server, user=user, password=password), name="admin")

    async def __aenter__(self) -> JetStream:
        self._task = asyncio.create_task(self._connection.run())
        return JetStream(self._connection, domain="")

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


async def test_what_is_subscribed_while_a_socket_opens_is_heard_on_it(nats_server: NatsServer, monkeypatch) -> None:
    """A consumer that is started before its process is connected gets its messages, whenever in between that was."""
    opening = Connection(quick(nats_server), name="test")
    heard = asyncio.Queue[str]()
    subjects: set[str] = set()

    async def hear(message: connection.Message) -> None:
        heard.put_nowait(message.subject)

    def subscribing(step: str) -> None:
        original = getattr(OneSocketClient, step)

        async def stepped(client: OneSocketClient, *args: object, **options: object) -> object:
            if not opening.connected and not step_done:
                step_done.append(step)
                await opening.subscribe(f"while.{step}", hear)
                subjects.add(f"while.{step}")
            return await original(client, *args, **options)

        step_done: list[str] = []
        monkeypatch.setattr(OneSocketClient, step, stepped)

    for step in ("connect", "subscribe", "flush"):
        subscribing(step)
    running = asyncio.create_task(opening.run())
    try:
        await opening.wait_connected()
        for subject in subjects:
            await opening.send(subject)
        assert sorted([await asyncio.wait_for(heard.get(), 60) for _ in range(3)]) == sorted(subjects)
        await opening.request("$SYS.REQ.USER.INFO", timeout_seconds=10)
        assert heard.empty()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_loop_that_was_held_up_while_the_server_restarted_goes_on(nats_server: NatsServer, monkeypatch) -> None:
    """A late report of a socket's end, with the next one open, is about the old one alone: the loop turns, messages pass."""
    monkeypatch.setattr(connection, "_CLOSED_POLL_SECONDS", 0.05)
    async with connect(quick(nats_server), name="test") as bus:
        await bus.ensure_streams()
        for number in range(8):
            nats_server.kill()
            nats_server.start()
            time.sleep(0.02 * number)  # noqa: ASYNC251 - what a starved machine does to an event loop
            await bus.publish(SUBJECT, b"x", message_id=f"{number}")
        assert len(await stored_ids(bus)) == 8
