"""Asks the bus how the pipeline is. It takes the rights of the chart's `reader`: nothing is consumed, nothing is changed."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proto.errors import DecodeError
from proto.flow_batch import decode
from proto.subjects import (
    CACHE_PULSE_SUBJECT,
    CACHE_STREAM,
    DEAD_STREAM,
    DEAD_SUBJECTS,
    ENRICHED_STREAM,
    ENRICHER_DURABLE,
    EXPORTER_DURABLE,
    RAW_STREAM,
    RECENT_STREAM,
    RECENT_SUBJECTS,
    partition_streams,
)
from services.cli.status.state import Node, Stage, Status
from services.runtime.errors import ApiError

if TYPE_CHECKING:
    from services.runtime.nats import bus as runtime_bus

_STAGES: Final = ((RAW_STREAM, ENRICHER_DURABLE), (ENRICHED_STREAM, EXPORTER_DURABLE))
_AT_ONCE: Final = 16
_LOST: Final = "unattributed_"
_PACKETS: Final = "_packets"
_MOST_PULSE_BYTES: Final = 1 << 20
_NS: Final = 1_000_000_000


async def asked(bus: runtime_bus.Bus, server: str, *, backend: str = "") -> Status:
    """Return how it is now."""
    allowed = await bus.may_publish()
    stages = [
        await _stage(bus, partition, durable)
        for stream, durable in _STAGES
        for partition in partition_streams(stream, await bus.partitions(stream, allowed))
    ]
    nodes, looks_back = await _nodes(bus)
    letters, last = await _dead_letters(bus)
    return Status(
        server=server,
        nodes=nodes,
        stages=stages,
        dead_letters=letters,
        last_dead_seconds=last,
        index_seconds=await _index_seconds(bus),
        backend=backend,
        looks_back=looks_back,
    )


async def _stage(bus: runtime_bus.Bus, stream: str, durable: str) -> Stage:
    try:
        held = await bus.stream_state(stream)
    except ApiError:
        return Stage(stream=stream, service=durable, missing=stream)
    oldest = await bus.first(stream) if held.messages else None
    stage = Stage(
        stream=stream,
        service=durable,
        batches=held.messages,
        bytes=held.bytes,
        max_bytes=max(0, held.max_bytes),
        lag_seconds=_ago(oldest.stored) if oldest else 0.0,
    )
    try:
        consumer = await bus.consumer_state(stream, durable)
    except ApiError:
        return msgspec.structs.replace(stage, missing=f"the consumer of {stream}")
    return msgspec.structs.replace(
        stage,
        in_hand=consumer.ack_pending,
        redelivered=consumer.redelivered,
        asking=consumer.asking,
        acknowledged_seconds=_ago(consumer.acknowledged) if consumer.acknowledged else None,
    )


async def _nodes(bus: runtime_bus.Bus) -> tuple[list[Node], bool]:
    """What is known of nodes by the latest batch of each, and whether such are kept."""
    try:
        subjects = sorted(await bus.stream_subjects(RECENT_STREAM, RECENT_SUBJECTS))
    except ApiError:
        return [], False
    room = asyncio.Semaphore(_AT_ONCE)

    async def node(subject: str) -> Node | None:
        async with room:
            message = await bus.last(RECENT_STREAM, subject)
        return None if message is None else _node(subject, message)

    return [found for found in await asyncio.gather(*map(node, subjects)) if found is not None], True


def _node(subject: str, message: runtime_bus.StoredMessage) -> Node:
    heard = _ago(message.stored)
    try:
        batch = decode(message.data)
    except DecodeError:
        return Node(name=subject.rpartition(".")[2], heard_seconds=heard)
    counters = batch.counters
    lost = {
        name.removeprefix(_LOST).removesuffix(_PACKETS): number
        for name, number in counters.items()
        if name.startswith(_LOST) and name.endswith(_PACKETS) and number
    }
    return Node(
        name=batch.node,
        heard_seconds=heard,
        slots_used=counters.get("used_slots", 0),
        slots=counters.get("capacity", 0),
        lost_packets=lost,
        merged_records=counters.get("merged_records", 0),
    )


async def _dead_letters(bus: runtime_bus.Bus) -> tuple[dict[str, int], float | None]:
    """How many are kept, by service, and how long ago the last one was stored."""
    try:
        kept = await bus.stream_subjects(DEAD_STREAM, DEAD_SUBJECTS)
    except ApiError:
        return {}, None
    last = [await bus.last(DEAD_STREAM, subject) for subject in kept]
    ages = [_ago(message.stored) for message in last if message is not None]
    return {subject.rpartition(".")[2]: number for subject, number in sorted(kept.items())}, min(ages, default=None)


async def _index_seconds(bus: runtime_bus.Bus) -> float | None:
    """Age of what the one who follows the API server for all has told; None where nobody does."""
    try:
        await bus.stream_state(CACHE_STREAM)  # of a stream that is not there nobody answers what is asked for directly
        pulse = await bus.last(CACHE_STREAM, CACHE_PULSE_SUBJECT)
    except ApiError:
        return None
    if pulse is None:
        return None
    reached: Any = None
    with contextlib.suppress(zlib.error, msgspec.DecodeError, TypeError, AttributeError):
        said = msgspec.msgpack.decode(zlib.decompressobj().decompress(pulse.data, _MOST_PULSE_BYTES))
        reached = said.get("reached_unix_ns")
    return max(0.0, datetime.now(UTC).timestamp() - reached / _NS) if isinstance(reached, int) else _ago(pulse.stored)


def _ago(when: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - when).total_seconds())
