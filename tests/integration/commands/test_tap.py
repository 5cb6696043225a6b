"""`wirespan tap` on a real bus: what passes, what passed, and nothing of it twice."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from proto.flow_batch import FlowBatch, encode
from proto.subjects import batch_id, enriched_subject
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.nats_server import NatsServer

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
PATIENCE_SECONDS = 60


async def publish(bus: Bus, batch: FlowBatch) -> None:
    """As the enricher does."""
    message_id = batch_id(batch.node, batch.epoch, batch.sequence)
    await bus.publish(enriched_subject(batch.node), encode(batch), message_id=message_id)


async def wirespan(*arguments: str | Path) -> asyncio.subprocess.Process:
    """The command, running."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *map(str, arguments), cwd=ROOT, env=environ | {"TZ": "UTC"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def printed(*arguments: str | Path) -> tuple[list[str], str, int]:
    """Lines of standard output, standard error and exit status of a command that ends by itself."""
    process = await wirespan(*arguments)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return out.decode().splitlines(), err.decode(), process.returncode or 0


async def test_what_passed_lately_can_be_asked_for(bus: Bus, nats_server: NatsServer) -> None:
    """The last records, those since a time, those of one end: of batches that the exporter has long acknowledged or not."""
    for sequence in range(3):
        await publish(bus, enriched_batch(10, sequence=sequence, node=f"node-{sequence}"))

    url = ("--nats-url", nats_server.url, "-o", "json")
    lines, _, status = await printed("tap", *url, "--last", "12")
    flows = [json.loads(line)["flow_id"] for line in lines]
    assert status == 0
    assert flows == [1_000_008, 1_000_009, *range(2_000_000, 2_000_010)]

    lines, _, _ = await printed("tap", *url, "--last", "100", "--node-name", "node-1", "--to-service", "shop/redis")
    assert [json.loads(line)["node"] for line in lines] == ["node-1"] * 10
    assert (await printed("tap", *url, "--since", "1h"))[0] == []


async def test_following_goes_on_where_looking_back_ends(bus: Bus, nats_server: NatsServer) -> None:
    """A record that passed before, one that passes now: each is shown once."""
    await publish(bus, enriched_batch(2, sequence=0))
    process = await wirespan("tap", "--nats-url", nats_server.url, "--last", "1", "--follow", "-o", "json")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            first = json.loads(await process.stdout.readline())
            await publish(bus, enriched_batch(2, sequence=1))
            others = [json.loads(await process.stdout.readline()) for _ in range(2)]
            process.terminate()
            assert await process.stdout.read() == b""
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert [row["flow_id"] for row in (first, *others)] == [1, 1_000_000, 1_000_001]


async def test_where_nothing_is_kept_looking_back_says_so(nats_server: NatsServer) -> None:
    """An empty answer would pass for a quiet network."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        await bus.ensure_streams(StreamSettings(recent_bytes=0))
        lines, said, status = await printed("tap", "--nats-url", nats_server.url, "--last", "5")
    assert (lines, status) == ([], 1)
    assert said.count("\n") == 1
    assert "WIRESPAN_STREAMS_RECENT_BYTES" in said


async def test_spans_in_a_file_say_what_the_records_on_the_bus_say(nats_server: NatsServer, tmp_path: Path) -> None:
    """The bundled capture, as records that passed, as the spans made of them, and as it is: the same table."""
    spans = tmp_path / "spans.jsonl"
    replay = ("replay", DATA / "cluster.pcapng", "--kube-snapshot", DATA / "cluster.json", "--output", spans)
    assert (await printed(*replay, "--nats-url", nats_server.url))[2] == 0
    of_bus, _, _ = await printed("tap", "--nats-url", nats_server.url, "--since", "2020-01-01", "-o", "table")
    of_file, _, _ = await printed("tap", "--input-file", spans, "-o", "table")
    assert len(of_bus) > 30
    assert sorted(of_file) == sorted(of_bus)
    of_capture = await printed("tap", DATA / "cluster.pcapng", "--kube-snapshot", DATA / "cluster.json", "-o", "table")
    assert sorted(of_capture[0]) == sorted(of_bus)
