"""`wirespan status` on a real bus: what is well, what is not, and an exit status for whoever watches."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proto.flow_batch import FlowBatch, encode
from proto.subjects import ENRICHED_STREAM, EXPORTER_DURABLE, RAW_STREAM, batch_id, enriched_subject, raw_subject
from services.cli.status.state import Node, Stage, Status, troubles
from services.runtime.nats.bus import Bus
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.nats_server import NatsServer

ROOT = Path(__file__).parents[3]
STAGES = (
    Stage(stream="FLOWS_RAW", service="enricher", asking=1),
    Stage(stream="FLOWS_ENRICHED", service="exporter", asking=1, batches=3, lag_seconds=5, in_hand=3, acknowledged_seconds=1),
)
WELL = Status(server="here", nodes=[Node(name="a", heard_seconds=3)], stages=STAGES, dead_letters={})


def status(server: NatsServer, *arguments: str) -> tuple[dict[str, Any], str, int]:
    """What the command says as JSON and as text, and its exit status."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
    command = [sys.executable, "-m", "services.cli", "status", "--timeout", "20", "--nats-url", server.url, *arguments]
    text = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    as_json = subprocess.run([*command, "--json"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert text.returncode == as_json.returncode, text.stderr + as_json.stderr
    return json.loads(as_json.stdout), text.stdout, text.returncode


async def publish(bus: Bus, batch: FlowBatch) -> None:
    """As the enricher does."""
    message_id = batch_id(batch.node, batch.epoch, batch.sequence)
    await bus.publish(enriched_subject(batch.node), encode(batch), message_id=message_id)


async def test_a_pipeline_that_nobody_consumes_is_in_trouble(bus: Bus, nats_server: NatsServer) -> None:
    """Nodes with their table and what was lost by why, what waits, and that nobody takes it: exit status 5, and a line each."""
    counters = {"used_slots": 95, "capacity": 100, "unattributed_no_slot_packets": 7, "merged_records": 2}
    await publish(bus, replace(enriched_batch(10, node="node-1"), counters=counters))
    await publish(bus, enriched_batch(10, node="node-2"))
    await bus.publish(raw_subject("node-1"), b"any", message_id="any")

    said, text, code = status(nats_server)
    assert code == 5
    assert [node["name"] for node in said["nodes"]] == ["node-1", "node-2"]
    assert said["nodes"][0]["lost_packets"] == {"no_slot": 7}
    assert [(stage["stream"], stage["batches"]) for stage in said["stages"]] == [(RAW_STREAM, 1), (ENRICHED_STREAM, 2)]
    assert not said["ok"]
    assert any("95% full" in trouble for trouble in said["troubles"])
    assert f"trouble: the consumer of {RAW_STREAM} is not there" in text
    assert "7 packets unattributed (no slot)" in text


async def test_a_pipeline_that_keeps_up_is_well(bus: Bus, nats_server: NatsServer) -> None:
    """Both streams are consumed, a node was heard just now: exit status 0. Of a dead letter it says so."""
    await publish(bus, enriched_batch(10))
    raw = bus.consume(RAW_STREAM, "enricher", max_ack_pending=8, ack_wait_seconds=5, batch=8)
    enriched = bus.consume(ENRICHED_STREAM, EXPORTER_DURABLE, max_ack_pending=8, ack_wait_seconds=5, batch=8)
    await bus.publish(raw_subject("node-1"), b"any", message_id="any")
    async with raw, enriched:
        first = await anext(raw)
        await first.ack()
        await (await anext(enriched)).ack()
        said, text, code = await asyncio.to_thread(status, nats_server)
        assert (code, said["ok"], said["troubles"]) == (0, True, [])
        assert text.splitlines()[-1] == "all is well"

        await bus.publish(raw_subject("node-1"), b"more", message_id="more")
        await bus.dead_letter("enricher", await anext(raw), reason="undecodable", detail="no FlowBatch", records=None)
        said, _, code = await asyncio.to_thread(status, nats_server)
        assert (code, said["dead_letters"]) == (5, {"enricher": 1})


def test_a_server_without_streams_says_what_is_missing(nats_server: NatsServer) -> None:
    """A bus on which nothing has ever run is no error of the command."""
    said, _, code = status(nats_server)
    assert code == 5
    assert f"{RAW_STREAM} is not there" in said["troubles"][0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"nodes": [Node(name="a", heard_seconds=300)]}, "node a is silent"),
        ({"nodes": []}, "no node"),
        ({"stages": [Stage(stream="S", service="exporter", asking=1, batches=1, lag_seconds=90)]}, "behind"),
        ({"stages": [Stage(stream="S", service="exporter", asking=1, bytes=95, max_bytes=100)]}, "95% full"),
        ({"stages": [Stage(stream="S", service="exporter")]}, "no exporter"),
        (
            {"stages": [Stage(stream="S", service="exporter", in_hand=2, batches=2, lag_seconds=40, acknowledged_seconds=35)]},
            "the backend takes nothing",
        ),
        ({"index_seconds": 100.0}, "the cluster"),
        ({"backend": "UNAVAILABLE"}, "UNAVAILABLE"),
    ],
)
def test_each_kind_of_trouble_is_named(change: dict[str, Any], word: str) -> None:
    """And what is well is none: a batch that came a moment ago waits for nobody, however long the last one is ago."""
    assert troubles(WELL) == []
    wrong = troubles(Status(**{**{name: getattr(WELL, name) for name in WELL.__struct_fields__}, **change}))
    assert len(wrong) == 1
    assert word in wrong[0]
