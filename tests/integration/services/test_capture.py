"""The capture service as a process: capture files in, batches in a real nats-server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from proto.columns import Reason
from proto.flow_batch import FlowBatch, decode
from proto.subjects import MESSAGE_ID_HEADER, RAW_STREAM, batch_id
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.support.packets.pcap import ACK, FIN, SECOND, START, Conversation, Frame, ethernet, ip, udp, write
from tests.support.pipeline.nats_server import NatsServer

ROOT = Path(__file__).parents[3]
EPOCH = "0123456789abcdef"


class Capture:
    """`python -m services.capture` with its progress file."""

    def __init__(self, server: NatsServer, folder: Path, *files: Path, **variables: str) -> None:
        self._progress = folder / "progress.json"
        self._variables = {
            "WIRESPAN_NATS_URL": server.url,
            "WIRESPAN_NATS_RECONNECT_SECONDS": "0.05",
            "WIRESPAN_NATS_PUBLISH_TIMEOUT_SECONDS": "1",
            "WIRESPAN_CAPTURE_NODE": "node-a.example",
            "WIRESPAN_CAPTURE_EPOCH": EPOCH,
            "WIRESPAN_CAPTURE_REPLAY_FILES": ",".join(map(str, files)),
            "WIRESPAN_CAPTURE_PROGRESS_FILE": str(self._progress),
            **variables,
        }

    async def start(self) -> None:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.capture",
            cwd=ROOT,
            env={**os.environ, **self._variables},
            stderr=asyncio.subprocess.PIPE,
        )

    async def end(self) -> tuple[int | None, str]:
        """Wait for its end; return exit status and log."""
        _output, logged = await self._process.communicate()
        return self._process.returncode, logged.decode()

    async def run(self) -> int | None:
        """Start it and wait for its end."""
        await self.start()
        return (await self.end())[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    @property
    def progress(self) -> dict:
        """What the progress file says now."""
        return json.loads(self._progress.read_bytes()) if self._progress.exists() else {}

    async def until(self, name: str) -> None:
        """Wait until the figure is not zero."""
        while not self.progress.get(name):
            assert self._process.returncode in {None, 0}, await self.end()
            await asyncio.sleep(0.05)


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """The test's own view of the bus."""
    async with connect(NatsSettings(url=nats_server.url, reconnect_seconds=0.05), name="test") as bus:
        yield bus


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A capture of two connections, one closed and one open, and a datagram."""
    closed = Conversation().handshake(client_isn=1000, server_isn=5000)
    closed.tcp(0.02, "client", ACK, seq=1001, ack=5001, payload=b"x" * 100)
    closed.tcp(0.03, "client", FIN | ACK, seq=1101, ack=5001).tcp(0.04, "server", FIN | ACK, seq=5001, ack=1102)
    closed.tcp(0.05, "client", ACK, seq=1102, ack=5002)
    opened = Conversation(client_port=40001).handshake(0.01, client_isn=7000, server_isn=9000)
    lone = Conversation(client_port=5000, server_port=53).udp(0.1, "client", b"?")
    frames = sorted(closed.frames + opened.frames + lone.frames, key=lambda frame: frame.time_ns)
    return write(tmp_path / "talk.pcap", frames)


def many_flows(path: Path, count: int) -> Path:
    """A capture of `count` datagrams, each a flow, 10,000 in a second."""
    frames = [
        Frame(START + i * 100_000, ethernet(ip(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", "10.200.0.1", 17, udp(7, 9))))
        for i in range(count)
    ]
    return write(path, frames)


async def stored(bus: Bus) -> dict[str, FlowBatch]:
    """Every batch in the stream by its message id."""
    return {message.headers[MESSAGE_ID_HEADER]: decode(message.data) async for message in bus.peek(RAW_STREAM)}


def total(batches: dict[str, FlowBatch], name: str) -> int:
    """Sum of a column over all batches."""
    return int(sum(batch.column(name).sum() for batch in batches.values()))


async def test_every_packet_of_a_file_is_in_a_stored_record(nats_server, bus, tmp_path, talk) -> None:
    """All batches are stored under their ids with the source's counters, and the progress file says that it is finished."""
    capture = Capture(nats_server, tmp_path, talk)
    assert await capture.run() == 0

    batches = await stored(bus)
    assert list(batches) == [batch_id("node-a.example", EPOCH, number) for number in range(len(batches))]
    assert total(batches, "tx_packets") + total(batches, "rx_packets") == 11
    last = list(batches.values())[-1]
    assert (last.node, last.epoch, last.sequence) == ("node-a.example", EPOCH, len(batches) - 1)
    assert last.counters["packets"] == last.counters["flow_packets"] == 11
    assert last.interval[1] >= START + SECOND // 10
    progress = capture.progress
    assert (progress["packets"], progress["flows"], progress["records"], progress["batches"]) == (11, 3, 3, len(batches))
    assert (progress["finished"], progress["error"], progress["refused_waits"]) == (True, None, 0)
    assert progress["file_bytes_read"] == progress["file_bytes_total"] == talk.stat().st_size


async def test_the_same_replay_twice_sends_the_same_bytes(nats_server, bus, tmp_path, talk) -> None:
    """A replay that is started again changes nothing in the stream; under another epoch only the epoch differs."""
    assert await Capture(nats_server, tmp_path, talk).run() == 0
    first = [message.data async for message in bus.peek(RAW_STREAM)]
    assert await Capture(nats_server, tmp_path, talk).run() == 0
    assert [message.data async for message in bus.peek(RAW_STREAM)] == first

    assert await Capture(nats_server, tmp_path, talk, WIRESPAN_CAPTURE_EPOCH="fedcba9876543210").run() == 0
    both = [message.data async for message in bus.peek(RAW_STREAM)]
    assert [data.replace(b"fedcba9876543210", EPOCH.encode()) for data in both[len(first) :]] == first


async def test_a_full_stream_and_a_dead_server_are_waited_for(nats_server, bus, tmp_path) -> None:
    """The stream fills, the server is killed and comes back, somebody consumes at last: every record arrives once."""
    await bus.ensure_streams(StreamSettings(raw_bytes=1 << 20, raw_node_share=1))
    capture = Capture(
        nats_server, tmp_path, many_flows(tmp_path / "many.pcap", 20_000), WIRESPAN_STREAMS_RAW_BYTES=str(1 << 20)
    )
    await capture.start()
    await capture.until("refused_waits")
    assert capture.progress["finished"] is False
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.start)

    batches: dict[str, FlowBatch] = {}
    async with bus.consume(RAW_STREAM, "enricher", max_ack_pending=100, ack_wait_seconds=2, batch=2) as deliveries:
        while total(batches, "tx_packets") < 20_000:
            delivery = await anext(deliveries)
            batches[delivery.message_id] = decode(delivery.data)
            await delivery.ack()

    exit_code, _logged = await capture.end()
    assert exit_code == 0
    assert sorted(batch.sequence for batch in batches.values()) == list(range(len(batches)))
    assert len(np.unique(np.concatenate([batch.column("flow_id") for batch in batches.values()]))) == 20_000
    assert capture.progress["finished"] is True
    assert capture.progress["records"] == 20_000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_replay_that_is_ended_midway_and_started_again_is_whole(nats_server, bus, tmp_path, number) -> None:
    """Killed or stopped while the stream is full, then started again with no epoch set: every record is stored once."""
    await bus.ensure_streams(StreamSettings(raw_bytes=1 << 20, raw_node_share=1))
    variables = {
        "WIRESPAN_CAPTURE_EPOCH": "",
        "WIRESPAN_CAPTURE_DRAIN_SECONDS": "0.2",
        "WIRESPAN_STREAMS_RAW_BYTES": str(1 << 20),
    }
    capture = Capture(nats_server, tmp_path, many_flows(tmp_path / "many.pcap", 20_000), **variables)
    await capture.start()
    await capture.until("refused_waits")
    capture.signal(number)
    await capture.end()
    before = set(await stored(bus))
    await capture.start()

    batches: list[FlowBatch] = []
    async with bus.consume(RAW_STREAM, "enricher", max_ack_pending=100, ack_wait_seconds=30, batch=2) as deliveries:
        while sum(batch.count for batch in batches) < 20_000:
            delivery = await anext(deliveries)
            batches.append(decode(delivery.data))
            await delivery.ack()

    exit_code, logged = await capture.end()
    assert exit_code == 0
    assert before
    assert f'"batches": {len(before)}' in next(line for line in logged.splitlines() if "batches.stored_before" in line)
    assert sorted(batch.sequence for batch in batches) == list(range(len(batches)))
    assert {batch.epoch for batch in batches} == {batches[0].epoch}
    assert len(np.unique(np.concatenate([batch.column("flow_id") for batch in batches]))) == 20_000
    assert sum(int(batch.column("tx_packets").sum()) for batch in batches) == 20_000


@pytest.mark.parametrize("content", [b"", b"no capture at all", None])
async def test_a_file_that_is_no_capture_is_one_line(nats_server, bus, tmp_path, talk, content: bytes | None) -> None:
    """One clear line, exit status 3, and nothing of the good file before it is sent."""
    bad = tmp_path / "bad.pcap"
    if content is not None:
        bad.write_bytes(content)
    await bus.ensure_streams()
    capture = Capture(nats_server, tmp_path, talk, bad)
    await capture.start()
    exit_code, logged = await capture.end()

    assert exit_code == 3
    assert logged.count("\n") == 1
    assert str(bad) in logged
    assert capture.progress["error"] == logged.strip()
    assert (await bus.stream_state(RAW_STREAM)).last_sequence == 0


async def test_a_loop_goes_on_now_with_flows_of_its_own(nats_server, bus, tmp_path, talk) -> None:
    """Every pass is as if it happened now; flow ids and initial sequence numbers are new, the rest is the same."""
    await bus.ensure_streams()
    watch = bus.watch("flows.raw.>")
    await watch.start()
    began_unix_ns = time.time_ns()
    capture = Capture(nats_server, tmp_path, talk, WIRESPAN_CAPTURE_REPLAY_LOOP="true")
    await capture.start()
    batches = []
    while sum(batch.count for batch in batches) < 6:
        batches.append(decode((await anext(watch)).data))
    capture.signal(signal.SIGTERM)
    assert (await capture.end())[0] == 0

    columns = {
        name: np.concatenate([batch.column(name) for batch in batches])[:6]
        for name in (
            "flow_id",
            "local_isn",
            "remote_isn",
            "isn_seen",
            "start_unix_ns",
            "end_unix_ns",
            "syn_unix_ns",
            "tx_bytes",
        )
    }
    assert len(np.unique(columns["flow_id"])) == 6
    tcp = columns["isn_seen"] == 3
    assert np.count_nonzero(tcp) == 4
    assert len(np.unique(columns["local_isn"][tcp])) == 4
    assert len(np.unique((columns["remote_isn"] - columns["local_isn"])[tcp])) == 2
    assert (columns["start_unix_ns"] >= began_unix_ns).all()
    assert (columns["end_unix_ns"] <= time.time_ns()).all()
    assert (columns["syn_unix_ns"][~tcp] == 0).all()
    assert sorted(columns["tx_bytes"][:3].tolist()) == sorted(columns["tx_bytes"][3:].tolist())
    assert [batch.sequence for batch in batches] == list(range(len(batches)))
    packets = [batch.counters["packets"] for batch in batches]
    assert packets == sorted(packets)
    assert capture.progress["finished"] is False


async def test_a_stop_signal_ends_all_flows_and_loses_none(nats_server, bus, tmp_path) -> None:
    """SIGTERM in the middle: what was read is sent, live flows give a last record for it, exit status 0, not finished."""
    even, odd = Conversation(), Conversation(client_port=40001)
    frames = []
    for second in range(100):
        # Whenever one flow has just given its record, the other has packets that are in none.
        frames.append(even.udp(second, "client", b"x").frames[-1])
        frames.append(odd.udp(second + 1, "client", b"x").frames[-1])
    frames.sort(key=lambda frame: frame.time_ns)
    capture = Capture(
        nats_server,
        tmp_path,
        write(tmp_path / "long.pcap", frames),
        WIRESPAN_CAPTURE_REPLAY_LOOP="true",
        WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS="2",
    )
    await capture.start()
    await capture.until("records")
    capture.signal(signal.SIGTERM)
    exit_code, logged = await capture.end()

    batches = await stored(bus)
    assert exit_code == 0, logged
    reasons = np.concatenate([batch.column("reason") for batch in batches.values()])
    assert set(reasons[:-1].tolist()) == {Reason.ACTIVE_TIMEOUT}
    assert reasons[-1] == Reason.SHUTDOWN
    assert total(batches, "tx_packets") == capture.progress["packets"]
    assert capture.progress["finished"] is False


async def test_what_a_cut_off_drain_leaves_undone_is_said(nats_server, bus, tmp_path) -> None:
    """A stream that stays full past the deadline: exit status 1, and the log says how many records were not handed over."""
    await bus.ensure_streams(StreamSettings(raw_bytes=1 << 20, raw_node_share=1))
    capture = Capture(
        nats_server,
        tmp_path,
        many_flows(tmp_path / "many.pcap", 20_000),
        WIRESPAN_STREAMS_RAW_BYTES=str(1 << 20),
        WIRESPAN_CAPTURE_DRAIN_SECONDS="0.2",
        WIRESPAN_LOG_FORMAT="json",
    )
    await capture.start()
    await capture.until("refused_waits")
    capture.signal(signal.SIGTERM)
    exit_code, logged = await capture.end()

    lines = {line["event"]: line for line in map(json.loads, logged.splitlines())}
    assert exit_code == 1
    assert "service.drain_timed_out" in lines
    assert lines["records.abandoned"]["records"] > 0


IMPORTS = """
import sys
from services.capture.__main__ import main
try:
    main()
except SystemExit as wrong_setting:
    assert wrong_setting.code == 2
print(*sorted({name.partition(".")[0] for name, module in sys.modules.items() if module}))
"""


def test_capture_imports_only_what_it_uses() -> None:
    """On a node every MiB counts: no Kubernetes, no gRPC, no HTTP framework, nothing for a terminal."""
    environment = os.environ | {"WIRESPAN_CAPTURE_NO_SUCH": "1"}
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"nats", "numpy", "structlog"} <= imported
    assert not {"aiohttp", "bcc", "google", "grpc", "kubernetes", "pydantic", "rich"} & imported


async def test_it_stays_until_the_server_has_synced_what_it_stored(
    bus: Bus, nats_server: NatsServer, talk: Path, tmp_path: Path
) -> None:
    """A server that loses its machine after the last batch is given it again: capture has not ended before it was on a disk."""
    await bus.ensure_streams()
    capture = Capture(nats_server, tmp_path, talk, WIRESPAN_NATS_UNSYNCED_SECONDS="3600")
    await capture.start()
    await capture.until("batches")
    while not (last := (await bus.stream_state(RAW_STREAM)).messages):  # noqa: ASYNC110 - a stream tells nobody
        await asyncio.sleep(0.02)
    await asyncio.to_thread(nats_server.kill)
    shutil.rmtree(nats_server.folder / "store")
    await asyncio.to_thread(nats_server.start)
    await bus.ensure_streams()
    while (await bus.stream_state(RAW_STREAM)).messages < last:  # noqa: ASYNC110 - likewise
        await asyncio.sleep(0.02)
    capture.signal(signal.SIGKILL)
    await capture.end()
