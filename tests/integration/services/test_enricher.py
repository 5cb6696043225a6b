"""The enricher as a process between two streams of a real nats-server."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from proto.columns import Observer, Resolution, Role
from proto.flow_batch import FlowBatch, decode, encode
from proto.subjects import (
    DEAD_STREAM,
    DETAIL_HEADER,
    ENRICHED_STREAM,
    ENRICHER_DURABLE,
    RAW_STREAM,
    REASON_HEADER,
    RECORDS_HEADER,
    batch_id,
    enriched_subject,
    partition_of,
    partition_streams,
    raw_subject,
)
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.enricher_process import running_enricher
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import until
from tests.unit.enricher.objects_as_json import batch_of, flow, name_at, pod

SNAPSHOT = Path(__file__).parents[2] / "data" / "cluster.json"
NODE = "worker-a.example.com"
ROWS = 40
SMALL_STREAM, MANY_ROWS = 1 << 20, 500
"""Sixty batches of so many rows do not fit into that many bytes."""

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed


@contextmanager
def enricher(nats_server: NatsServer, tmp_path: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """An enricher with the bundled snapshot. Its log goes to a file that a failed test shows."""
    own = {
        "WIRESPAN_CLUSTER_NAME": "demo",
        "WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(SNAPSHOT),
        "WIRESPAN_ENRICHER_ACK_WAIT_SECONDS": "2",
        **settings,
    }
    with running_enricher(nats_server, tmp_path, own) as process:
        yield process


def raw_batch(sequence: int, rows: int = ROWS) -> FlowBatch:
    """A batch whose flow ids are its own."""
    records = [
        flow("10.42.0.12:40016", "10.42.1.11:6379", flow_id=sequence * 1000 + row, tx_bytes=row + 1) for row in range(rows)
    ]
    batch = batch_of(*records, node_name=NODE)
    return FlowBatch(batch.node, "epoch", sequence, batch.count, batch.interval, batch.columns)


async def publish(bus: Bus, sequences: range, rows: int = ROWS) -> None:
    """Publish raw batches as capture does."""
    for sequence in sequences:
        await bus.publish(raw_subject(NODE), encode(raw_batch(sequence, rows)), message_id=batch_id(NODE, "epoch", sequence))


async def enriched_at_least(bus: Bus, count: int) -> None:
    """Return once so many messages are in the stream of enriched batches."""

    async def stored() -> bool:
        return (await bus.stream_state(ENRICHED_STREAM)).messages >= count

    await until(stored)


async def raw_is_empty(bus: Bus) -> None:
    """Return once every raw batch is acknowledged."""
    await until_empty(bus, RAW_STREAM)


async def until_empty(bus: Bus, stream: str) -> None:
    """Return once every batch of the stream is acknowledged."""

    async def empty() -> bool:
        return (await bus.stream_state(stream)).messages == 0

    await until(empty)


async def enriched_batches(bus: Bus) -> list[FlowBatch]:
    """All that is in the stream of enriched batches."""
    return [decode(message.data) async for message in bus.peek(ENRICHED_STREAM)]


def flow_ids(batches: list[FlowBatch]) -> list[int]:
    """Identities of all records, in order."""
    return sorted(int(each) for batch in batches for each in batch.column("flow_id"))


def expected_ids(sequences: range, rows: int = ROWS) -> list[int]:
    """Identities of all records of raw batches."""
    return [sequence * 1000 + row for sequence in sequences for row in range(rows)]


async def test_raw_batches_come_out_with_their_workloads(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """Every batch is enriched under its node's subject, the raw one is gone, and SIGTERM ends the service cleanly."""
    await publish(bus, range(5))
    with enricher(nats_server, tmp_path) as process:
        await raw_is_empty(bus)
        messages = [message async for message in bus.peek(ENRICHED_STREAM)]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
    assert {message.subject for message in messages} == {enriched_subject(NODE)}
    batches = [decode(message.data) for message in messages]
    assert flow_ids(batches) == expected_ids(range(5))
    assert name_at(batches[0], "local_entity") == "cart-6f8d4c9b7-h5t2w"
    assert name_at(batches[0], "remote_service") == "redis"
    raw, out = raw_batch(batches[0].sequence), batches[0]
    assert all((out.column(name) == array).all() for name, array in raw.columns.items())


async def test_a_pods_connection_has_the_backend_that_its_server_tells(
    nats_server: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    """The server's record came from another node before; the client's own knows the Service alone."""
    numbers = {"observer": Observer.SOCKET, "isn_seen": 3}
    server = flow("10.42.1.11:6380", "10.42.0.1:1025", role=Role.SERVER, local_isn=9, remote_isn=7, **numbers)
    client = flow("10.42.0.12:40016", "10.96.14.7:6379", local_isn=7, remote_isn=9, **numbers)
    with enricher(nats_server, tmp_path):
        for node, record in (("worker-b.example.com", server), (NODE, client)):
            content = encode(batch_of(record, node_name=node))
            await bus.publish(raw_subject(node), content, message_id=batch_id(node, "epoch", 7))
            await raw_is_empty(bus)
    (told,) = (batch for batch in await enriched_batches(bus) if batch.node == NODE)
    assert told.column("remote_nat_port").tolist() == [6380]
    assert bytes(told.column("remote_nat_address")[0]) == server["local_address"]
    assert told.column("remote_port").tolist() == [6379]


async def test_partitions_are_read_and_written_by_node(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """With several streams the enricher makes them, takes batches of all of them, and what comes of each node is in its own."""
    nodes = [next(name for name in map("node-{}".format, range(1000)) if partition_of(name, 3) == each) for each in range(3)]
    settings = StreamSettings(partitions=3)
    await bus.ensure_streams(settings)
    for node in nodes:
        batch = encode(replace(raw_batch(1), node=node))
        # One that was under way when there were no partitions, and one of now.
        for number, subject in enumerate({raw_subject(node), raw_subject(node, 3)}):
            await bus.publish(subject, batch, message_id=batch_id(node, "epoch", number))
    with enricher(nats_server, tmp_path, WIRESPAN_STREAMS_PARTITIONS="3"):
        for stream in partition_streams(RAW_STREAM, 3):
            await until_empty(bus, stream)
        found = [[message.subject async for message in bus.peek(each)] for each in partition_streams(ENRICHED_STREAM, 3)]
    assert [set(subjects) for subjects in found] == [{enriched_subject(node, 3)} for node in nodes]
    assert (await bus.stream_state(DEAD_STREAM)).messages == 0


async def test_killed_at_work_it_loses_and_doubles_nothing(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """Killed while batches are in its hands and started again, every raw record is enriched, and stored once."""
    await publish(bus, range(300))
    with enricher(nats_server, tmp_path) as process:
        await enriched_at_least(bus, 20)
        process.kill()
        await asyncio.to_thread(process.wait)
    left = (await bus.stream_state(RAW_STREAM)).messages
    assert left, "the kill came after the work was done"
    with enricher(nats_server, tmp_path):
        await raw_is_empty(bus)
    assert flow_ids(await enriched_batches(bus)) == expected_ids(range(300))


async def test_a_batch_is_kept_until_its_outcome_is_on_the_disk(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """What the server has stored and not synced may be gone with its power: until then the raw batch is not acknowledged, and a
    kill has it done again, into the same messages. Told to stop, the enricher waits for that first.
    """
    await publish(bus, range(5))
    with enricher(nats_server, tmp_path, WIRESPAN_NATS_UNSYNCED_SECONDS="3600") as process:
        await enriched_at_least(bus, 5)
        process.kill()
        await asyncio.to_thread(process.wait)
    assert (await bus.stream_state(RAW_STREAM)).messages == 5
    with enricher(nats_server, tmp_path, WIRESPAN_NATS_UNSYNCED_SECONDS="1") as process:
        await raw_is_empty(bus)  # the five are delivered again once the killed one's time to acknowledge is over
        await publish(bus, range(5, 6))
        await enriched_at_least(bus, 6)
        process.terminate()
        assert await asyncio.to_thread(process.wait) == 0
    assert (await bus.stream_state(RAW_STREAM)).messages == 0
    assert flow_ids(await enriched_batches(bus)) == expected_ids(range(6))


async def test_replicas_share_the_work(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """Enrichers take batches from one queue. One joins, one is killed, one is stopped, and each record is stored once."""
    await publish(bus, range(100))
    with enricher(nats_server, tmp_path) as first, enricher(nats_server, tmp_path) as second:
        await enriched_at_least(bus, 10)
        first.kill()
        await publish(bus, range(100, 200))
        with enricher(nats_server, tmp_path):
            await enriched_at_least(bus, 60)
            second.terminate()
            assert await asyncio.to_thread(second.wait, 30) == 0
            await publish(bus, range(200, 250))
            await raw_is_empty(bus)
    assert flow_ids(await enriched_batches(bus)) == expected_ids(range(250))


async def test_what_is_no_batch_goes_to_the_dead_letters(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """A message that does not decode is kept with the reason, and the batches around it go on."""
    await publish(bus, range(1))
    await bus.publish(raw_subject(NODE), b"\xc1 not a batch", message_id="odd")
    await publish(bus, range(1, 2))
    with enricher(nats_server, tmp_path):
        await raw_is_empty(bus)
    assert flow_ids(await enriched_batches(bus)) == expected_ids(range(2))
    dead = [message async for message in bus.peek(DEAD_STREAM)]
    assert [(each.subject, each.data, each.headers[REASON_HEADER]) for each in dead] == [
        ("flows.dead.enricher", b"\xc1 not a batch", "undecodable")
    ]
    assert "msgpack" in dead[0].headers[DETAIL_HEADER]


async def test_what_fits_no_message_goes_to_the_dead_letters(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """A record that its pods' annotations make too large for any message is kept as it came, with how many are lost."""
    snapshot = tmp_path / "cluster.json"
    addresses = ("10.42.0.12", "10.42.1.11")
    large = {"resource.opentelemetry.io/large": "x" * (600 << 10)}
    snapshot.write_text(json.dumps([pod(f"large-{each}", each, annotations=large) for each in addresses]))
    raw = encode(raw_batch(0, rows=1))
    await bus.publish(raw_subject(NODE), raw, message_id="large")
    with enricher(nats_server, tmp_path, WIRESPAN_ENRICHER_KUBE_SNAPSHOT=str(snapshot)):
        await raw_is_empty(bus)
    dead = [message async for message in bus.peek(DEAD_STREAM)]
    assert [(each.data, each.headers[REASON_HEADER], each.headers[RECORDS_HEADER]) for each in dead] == [
        (raw, "too_large", "1")
    ]


async def test_a_full_stream_is_waited_for(nats_server: NatsServer, tmp_path: Path) -> None:
    """While enriched batches are refused the raw ones stay, longer than an acknowledgement may take; room lets all go on."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(StreamSettings(enriched_bytes=SMALL_STREAM))
        await publish(bus, range(60), MANY_ROWS)
        with enricher(nats_server, tmp_path, WIRESPAN_STREAMS_ENRICHED_BYTES=str(SMALL_STREAM)) as process:

            async def nothing_moves() -> bool:
                before = await bus.stream_state(ENRICHED_STREAM)
                await asyncio.sleep(2.5)
                return 0 < before.messages == (await bus.stream_state(ENRICHED_STREAM)).messages

            await until(nothing_moves)
            waiting = (await bus.stream_state(RAW_STREAM)).messages
            assert 0 < waiting < 60
            # Waiting batches say that they are alive, so no other replica is given them.
            assert (await bus.consumer_state(RAW_STREAM, ENRICHER_DURABLE)).redelivered == 0
            found = await taken(bus, until_empty=RAW_STREAM)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
        assert sorted(set(flow_ids(found))) == expected_ids(range(60), MANY_ROWS)


async def taken(bus: Bus, *, until_empty: str) -> list[FlowBatch]:
    """Take enriched batches as an exporter does, until another stream and this one are empty."""
    found: list[FlowBatch] = []
    async with bus.consume(ENRICHED_STREAM, "exporter", max_ack_pending=100, ack_wait_seconds=10, batch=10) as deliveries:
        # The raw batch is acknowledged after its enriched one is here.
        while any([(await bus.stream_state(stream)).messages for stream in (until_empty, ENRICHED_STREAM)]):
            try:
                async with asyncio.timeout(1):
                    delivery = await anext(deliveries)
            except TimeoutError:
                continue
            found.append(decode(delivery.data))
            await delivery.ack()
    return found


async def test_told_to_stop_while_the_stream_is_full_it_gives_back(nats_server: NatsServer, tmp_path: Path) -> None:
    """A stop does not wait for room: what is in hand is given back to be done by the next."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(StreamSettings(enriched_bytes=SMALL_STREAM))
        await publish(bus, range(60), MANY_ROWS)
        with enricher(nats_server, tmp_path, WIRESPAN_STREAMS_ENRICHED_BYTES=str(SMALL_STREAM)) as process:
            await enriched_at_least(bus, 3)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
        assert (await bus.stream_state(RAW_STREAM)).messages > 0


async def test_a_broken_snapshot_is_one_line_and_code_2(nats_server: NatsServer, tmp_path: Path) -> None:
    """Nothing is opened with a snapshot that cannot be used."""
    broken = tmp_path / "broken.json"
    broken.write_text('{"kind": "List", "items": [')
    with enricher(nats_server, tmp_path, WIRESPAN_ENRICHER_KUBE_SNAPSHOT=str(broken)) as process:
        assert await asyncio.to_thread(process.wait) == 2
    lines = (tmp_path / "enricher-0.log").read_text().splitlines()
    assert len(lines) == 1
    assert str(broken) in lines[0]


async def test_without_a_snapshot_batches_pass_unresolved(nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """No index is no reason to keep the flows: they say that nobody could be asked."""
    await publish(bus, range(2))
    with enricher(nats_server, tmp_path, WIRESPAN_ENRICHER_KUBE_SNAPSHOT=""):
        await raw_is_empty(bus)
    batches = await enriched_batches(bus)
    assert flow_ids(batches) == expected_ids(range(2))
    assert set(batches[0].column("remote_resolution").tolist()) == {Resolution.UNRESOLVED}


async def test_its_counters_add_up(nats_server: NatsServer, bus: Bus, tmp_path: Path, unused_tcp_port: int) -> None:
    """Ready once it can work; records, and the ends of each by what is known of them, are at /metrics."""
    await publish(bus, range(3))
    await bus.publish(raw_subject(NODE), b"odd", message_id="odd")
    url = f"http://127.0.0.1:{unused_tcp_port}"
    with enricher(nats_server, tmp_path, WIRESPAN_HEALTH_PORT=str(unused_tcp_port)):
        await raw_is_empty(bus)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/readyz") as ready:
                assert ready.status == 200

            async def counted() -> bool:
                async with session.get(f"{url}/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                metrics = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
                return {name: float(value) for name, value in metrics.items()}.items() >= expected.items()

            expected = {
                "wirespan_enricher_records_total": 3.0 * ROWS,
                'wirespan_enricher_ends_total{resolution="resolved",side="local"}': 3.0 * ROWS,
                'wirespan_enricher_ends_total{resolution="resolved",side="remote"}': 3.0 * ROWS,
                'wirespan_enricher_dead_total{reason="undecodable"}': 1.0,
            }
            await until(counted)
