"""Streams in several partitions, against a real nats-server: nothing starves, and nothing is lost when their number changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from proto.subjects import (
    ENRICHED_STREAM,
    ENRICHED_SUBJECTS,
    ENRICHER_DURABLE,
    RAW_SEEN_SUBJECTS,
    RAW_STREAM,
    enriched_subject,
    in_all_partitions,
    partition_of,
    partition_stream,
    partition_streams,
    raw_subject,
)
from services.runtime.errors import ApiError
from services.runtime.nats.bus import Bus, Consumption, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.recent import recent_copies

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed

PARTITIONS = 4
NODES = tuple(
    next(name for name in map("node-{}".format, range(1000)) if partition_of(name, PARTITIONS) == partition)
    for partition in range(PARTITIONS)
)
"""One for each partition."""


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connected bus, without streams."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as connected:
        yield connected


def consume(bus: Bus, partitions: int = PARTITIONS, batch: int = 16) -> Consumption:
    """As an enricher does."""
    return bus.consume(
        RAW_STREAM, ENRICHER_DURABLE, max_ack_pending=1000, ack_wait_seconds=600, batch=batch, partitions=partitions
    )


async def publish(bus: Bus, node: str, numbers: range, partitions: int) -> None:
    """As a capture does."""
    for number in numbers:
        await bus.publish(raw_subject(node, partitions), b"batch", message_id=f"{node}/{number}")


async def taken(consumption: Consumption, count: int) -> Counter[str]:
    """Take so many and acknowledge them; what each is."""
    found: Counter[str] = Counter()
    for _ in range(count):
        delivery = await anext(consumption)
        found[delivery.message_id] += 1
        await delivery.ack()
    return found


async def test_no_partition_starves(bus: Bus) -> None:
    """What a quiet node published is taken while a loud one, in another partition, has much left: they take turns."""
    await bus.ensure_streams(StreamSettings(partitions=PARTITIONS))
    await publish(bus, NODES[0], range(400), PARTITIONS)
    for quiet in NODES[1:]:
        await publish(bus, quiet, range(2), PARTITIONS)
    async with consume(bus) as consumption:
        await (await anext(consumption)).ack()
        for stream in partition_streams(RAW_STREAM, PARTITIONS):
            while not await delivers(bus, stream):  # noqa: ASYNC110 - a consumer tells nobody
                await asyncio.sleep(0.01)
        nodes: Counter[str] = Counter()
        while sum(nodes[quiet] for quiet in NODES[1:]) < 2 * (PARTITIONS - 1):
            delivery = await anext(consumption)
            nodes[delivery.message_id.partition("/")[0]] += 1
            await delivery.ack()
    assert nodes[NODES[0]] < 200


async def delivers(bus: Bus, stream: str) -> bool:
    """Whether the stream's consumer is there, and has delivered something."""
    try:
        return (await bus.consumer_state(stream, ENRICHER_DURABLE)).ack_pending > 0
    except ApiError:
        return False


async def test_replicas_share_all_partitions(bus: Bus, nats_server: NatsServer) -> None:
    """Two enrichers take what there is in each partition, every batch once."""
    await bus.ensure_streams(StreamSettings(partitions=PARTITIONS))
    for node in NODES:
        await publish(bus, node, range(20), PARTITIONS)
    found: Counter[str] = Counter()

    async def replica(own: Bus) -> None:
        async with consume(own) as consumption:
            while len(found) < 20 * PARTITIONS:
                try:
                    async with asyncio.timeout(0.1):
                        delivery = await anext(consumption)
                except TimeoutError:
                    continue
                found[delivery.message_id] += 1
                await delivery.ack()

    async with connect(NatsSettings(url=nats_server.url), name="other") as other:
        await asyncio.gather(replica(bus), replica(other))
    assert set(found.values()) == {1}


async def test_more_and_fewer_partitions_lose_nothing(bus: Bus) -> None:
    """As docs/scale.md says to change their number: each batch is taken once, and the first stream stays what it was."""
    await bus.ensure_streams(StreamSettings())
    alone = (await bus._jetstream._ask(f"STREAM.INFO.{RAW_STREAM}"))["config"]
    for node in NODES:
        await publish(bus, node, range(5), 1)
    for first, settings in enumerate(
        (
            StreamSettings(partitions_consumed=PARTITIONS),
            StreamSettings(partitions=PARTITIONS),
            StreamSettings(partitions=2, partitions_consumed=PARTITIONS),
        ),
        start=1,
    ):
        await bus.ensure_streams(settings)
        for node in NODES:
            await publish(bus, node, range(5 * first, 5 * first + 5), settings.partitions)
    assert (await bus._jetstream._ask(f"STREAM.INFO.{RAW_STREAM}"))["config"] == alone
    assert await bus.partitions(RAW_STREAM) == PARTITIONS
    async with consume(bus) as consumption:
        found = await taken(consumption, 20 * PARTITIONS)
    assert found == Counter(f"{node}/{number}" for node in NODES for number in range(20))
    await bus.ensure_streams(StreamSettings(partitions=2))
    for stream in partition_streams(RAW_STREAM, PARTITIONS):
        assert (await bus.stream_state(stream)).messages == 0


async def test_those_who_listen_hear_all_partitions(bus: Bus) -> None:
    """Raw batches on one subject, enriched ones on one for all partitions; copies of them are kept under the node's subject."""
    await bus.ensure_streams(StreamSettings(partitions=PARTITIONS))
    raw, enriched = bus.watch(RAW_SEEN_SUBJECTS), bus.watch(*in_all_partitions(ENRICHED_SUBJECTS))
    await raw.start()
    await enriched.start()
    for node in NODES:
        await bus.publish(raw_subject(node, PARTITIONS), node.encode(), message_id=f"raw {node}")
        await bus.publish(enriched_subject(node, PARTITIONS), node.encode(), message_id=f"enriched {node}")
    for watch in (raw, enriched):
        assert {(await anext(watch)).data.decode() for _ in NODES} == set(NODES)
    assert {copy.subject for copy in await recent_copies(bus, len(NODES))} == {f"flows.recent.{node}" for node in NODES}


async def test_what_a_partition_lost_is_published_again(bus: Bus) -> None:
    """A deleted partition is made anew and gets what was in it; the others hold nothing twice."""
    bus._publisher._unsynced_seconds = 3600.0  # machines are slow
    await bus.ensure_streams(StreamSettings(partitions=PARTITIONS))
    for node in NODES:
        await publish(bus, node, range(10), PARTITIONS)
    lost = partition_stream(RAW_STREAM, 2)
    await bus._jetstream._ask(f"STREAM.DELETE.{lost}")
    await publish(bus, NODES[2], range(10, 11), PARTITIONS)
    while (await bus.stream_state(lost)).messages < 11:  # noqa: ASYNC110 - a stream tells nobody
        await asyncio.sleep(0.02)
    held = [(await bus.stream_state(stream)).messages for stream in partition_streams(RAW_STREAM, PARTITIONS)]
    assert held == [10, 10, 11, 10]
    assert await bus.partitions(ENRICHED_STREAM) == PARTITIONS
