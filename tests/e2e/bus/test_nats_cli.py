"""NATS' own command line is a tap on Wirespan's streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.e2e.backends.collector import read_spans
from tests.e2e.conftest import WIRESPAN, Replay
from tests.support.pipeline.nats_server import NatsServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to ask for a tool may build it

PROBE = (Path(__file__).parents[2] / "golden" / "flow_v1.msgpack").read_bytes()
PROBE_NODE = "node-a"
PATIENCE_SECONDS = 60
PHASES = {"request transfer", "server wait", "response transfer", "connect", "tls handshake", "dns lookup"}
"""Spans that share a record with their exchange's: its phases, and the steps that its connection was set up in."""


async def test_nats_sub_shows_records_while_a_capture_is_replayed(
    nats_cli: Path, nats_server: NatsServer, replay: Replay, environment: dict[str, str], tmp_path: Path
) -> None:
    """`nats sub 'flows.raw.>' --translate 'wirespan decode'` prints one JSON object per record, as many as spans came out
    but for the phases of exchanges, with the times of those spans.
    """
    command: list[str | Path] = [
        nats_cli,
        "sub",
        "flows.raw.>",
        "--raw",
        "--server",
        nats_server.url,
        "--translate",
        shlex.join([*WIRESPAN, "decode"]),
    ]
    tap = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE, limit=1 << 20)
    try:
        assert tap.stdout is not None
        await subscribed(nats_server.url, tap.stdout)
        await asyncio.to_thread(replay, "--nats-url", nats_server.url, "--output", tmp_path / "spans.jsonl")
        told = [found.scope_spans[0].spans[0] for found in read_spans(tmp_path / "spans.jsonl").values()]
        spans = [span for span in told if span.name not in PHASES]
        records: list[dict[str, Any]] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(records) < len(spans):
                records += [record for record in [await next_record(tap.stdout)] if record["node"] != PROBE_NODE]
    finally:
        with contextlib.suppress(ProcessLookupError):
            tap.terminate()
        await tap.wait()
    times = sorted((span.start_time_unix_nano, span.end_time_unix_nano) for span in spans)
    assert sorted((record["start_unix_ns"], record["end_unix_ns"]) for record in records) == times


async def subscribed(url: str, output: asyncio.StreamReader) -> None:
    """Return once the tap prints: probes are sent, before there is a stream, until the first one shows."""
    client = await nats.connect(url)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            first = asyncio.ensure_future(next_record(output))
            while not first.done():
                await client.publish("flows.raw.probe", PROBE)
                await asyncio.wait([first], timeout=0.2)
        assert first.result()["node"] == PROBE_NODE
    finally:
        await client.close()


async def next_record(output: asyncio.StreamReader) -> dict[str, Any]:
    """The next line that the tap prints, empty ones left out."""
    while not (line := (await output.readline()).strip()):
        assert not output.at_eof(), "the tap has ended"
    record: dict[str, Any] = json.loads(line)
    return record
