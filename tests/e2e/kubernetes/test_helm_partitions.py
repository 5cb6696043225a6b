"""The chart with several streams for flows: each of its users may do with all of them what it does with one, and no more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proto.subjects import (
    ENRICHED_STREAM,
    ENRICHED_SUBJECTS,
    ENRICHER_DURABLE,
    EXPORTER_DURABLE,
    RAW_SEEN_SUBJECTS,
    RAW_STREAM,
    enriched_subject,
    in_all_partitions,
    partition_streams,
    raw_subject,
)
from services.runtime.nats.bus import Bus, PublishRefusedError, connect
from services.runtime.settings import StreamSettings
from tests.support.kubernetes.helm_chart import MATRIX, merged, render
from tests.support.kubernetes.helm_nats import NODE, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

KEPT = 3
SETTINGS = StreamSettings(partitions=2, partitions_consumed=KEPT)
VALUES = {
    "toolbox": {"enabled": True},
    "settings": {"streams": {"partitions": SETTINGS.partitions, "partitions_consumed": KEPT}},
    "nats": {"persistence": {"size": "10Gi"}},
}


async def taken(bus: Bus, stream: str, durable: str, count: int) -> set[bytes]:
    """Take so many batches of all partitions, and acknowledge them."""
    async with bus.consume(
        stream, durable, max_ack_pending=99, ack_wait_seconds=600, batch=KEPT, partitions=KEPT
    ) as deliveries:
        found = set()
        for _ in range(count):
            delivery = await anext(deliveries)
            found.add(delivery.data)
            await delivery.ack()
    return found


async def test_users_of_the_chart_use_all_partitions(helm_binary: Path, tmp_path: Path) -> None:
    """A node publishes into each of them in its own name only, enricher and exporter take what is there, the reader hears and
    asks; nobody asks for what he may not.
    """
    rendered = render(helm_binary, merged(MATRIX["a user for each node"], VALUES))
    with running(rendered, tmp_path) as nats:
        async with (
            connect(nats.settings("enricher"), name="enricher") as enricher,
            connect(nats.settings("capture", NODE), name="capture") as capture,
            connect(nats.settings("exporter"), name="exporter") as exporter,
            connect(nats.settings("toolbox"), name="tap") as tap,
        ):
            await enricher.ensure_streams(SETTINGS)
            raw, enriched = tap.watch(RAW_SEEN_SUBJECTS), tap.watch(*in_all_partitions(ENRICHED_SUBJECTS))
            await raw.start()
            await enriched.start()
            assert [await tap.partitions(stream) for stream in (RAW_STREAM, ENRICHED_STREAM)] == [KEPT, KEPT]
            for number in {1, 2, KEPT}:  # of partitions that the node may have had, and has
                await capture.publish(raw_subject(NODE, number), str(number).encode(), message_id=str(number))
                await enricher.publish(enriched_subject(NODE, number), str(number).encode(), message_id=str(number))
            wanted = {b"1", b"2", b"3"}
            assert await taken(enricher, RAW_STREAM, ENRICHER_DURABLE, 3) == wanted
            assert await taken(exporter, ENRICHED_STREAM, EXPORTER_DURABLE, 3) == wanted
            for watch in (raw, enriched):
                assert {(await anext(watch)).data for _ in wanted} == wanted
            for stream in (*partition_streams(RAW_STREAM, KEPT), *partition_streams(ENRICHED_STREAM, KEPT)):
                assert (await tap.stream_state(stream)).messages == 0
        log = [line for server in nats.servers for line in server.log]
        assert not any("Permissions Violation" in line for line in log)
        async with connect(nats.settings("capture", NODE), name="capture") as capture:
            for subject in ("flows.1.raw.other", f"flows.1.enriched.{NODE}", f"flows.{KEPT}.raw.{NODE}"):
                with pytest.raises(PublishRefusedError, match="no permission"):
                    await capture.publish(subject, b"", message_id="foreign")


async def test_each_partition_scales_the_services(helm_binary: Path) -> None:
    """KEDA takes the largest of what its triggers ask for, so each stream asks with its part of the threshold."""
    values = merged(VALUES, {"enricher": {"autoscaling": {"type": "keda", "lagThreshold": 200}}})
    rendered = await asyncio.to_thread(render, helm_binary, values)
    (scaled,) = (each for each in rendered.objects if each["kind"] == "ScaledObject")
    triggers = [trigger["metadata"] for trigger in scaled["spec"]["triggers"]]
    assert [trigger["stream"] for trigger in triggers] == list(partition_streams(RAW_STREAM, KEPT))
    assert {trigger["lagThreshold"] for trigger in triggers} == {"66"}
    assert {trigger["consumer"] for trigger in triggers} == {ENRICHER_DURABLE}
