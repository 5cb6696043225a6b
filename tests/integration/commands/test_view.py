"""The page over a real bus: what passed lately, what passes, and what `wirespan status` says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from rich.console import Console

from proto.flow_batch import FlowBatch, encode
from proto.subjects import batch_id, enriched_subject
from services.cli.status.asking import asked
from services.cli.status.show import lines
from services.cli.status.state import SILENT_SECONDS
from services.cli.tap.bus_source import BusSource
from services.cli.view.kept import Kept
from services.cli.view.running import bus_pipeline, keep_bus
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.nats_server import NatsServer

PATIENCE_SECONDS = 60


async def publish(bus: Bus, batch: FlowBatch) -> None:
    """As the enricher does."""
    message_id = batch_id(batch.node, batch.epoch, batch.sequence)
    await bus.publish(enriched_subject(batch.node), encode(batch), message_id=message_id)


async def until(kept: Kept, records: int) -> None:
    """Wait until so many are kept."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while kept.last < records:
            await kept.changed(PATIENCE_SECONDS)


@contextlib.asynccontextmanager
async def keeping(nats_server: NatsServer, streams: StreamSettings) -> AsyncIterator[tuple[Bus, Kept]]:
    """A page that listens to a bus."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(streams)
        await publish(bus, enriched_batch(2, sequence=0))
        kept = Kept()
        listening = asyncio.create_task(keep_bus(kept, BusSource(bus, Console(stderr=True), raw=False)))
        try:
            yield bus, kept
        finally:
            listening.cancel()
            await asyncio.wait({listening})


async def test_what_passed_and_what_passes_is_kept_once(nats_server: NatsServer) -> None:
    """Records from before the page and from while it is looked at, each once; the pipeline as `status` tells it."""
    async with keeping(nats_server, StreamSettings()) as (bus, kept):
        await until(kept, 2)
        await publish(bus, enriched_batch(2, sequence=1))
        await until(kept, 4)
        said = await bus_pipeline(bus, nats_server.url)
        names = [line.split("  ")[0] for line in lines(await asked(bus, nats_server.url), SILENT_SECONDS)]
    flows = [flow_id for piece in kept.pieces for flow_id in piece.batch.column("flow_id").tolist()]
    assert flows == [0, 1, 1_000_000, 1_000_001]
    assert [name.split("  ")[0] for name, _ in said["rows"]][:3] == [name.strip() for name in names][:3]
    assert not said["ok"]
    assert any("exporter" in trouble for trouble in said["troubles"])


async def test_without_copies_it_begins_with_what_passes_and_says_so(nats_server: NatsServer) -> None:
    """A page that cannot look back is no page of a quiet network."""
    async with keeping(nats_server, StreamSettings(recent_bytes=0)) as (bus, kept):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not kept.notes:
                await kept.changed(PATIENCE_SECONDS)
        await publish(bus, enriched_batch(2, sequence=1))
        await until(kept, 2)
    assert "WIRESPAN_STREAMS_RECENT_BYTES" in kept.notes[0]
