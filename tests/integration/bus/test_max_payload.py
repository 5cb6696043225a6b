"""Servers that take little in one message: what is sent is cut to it, and what cannot be is kept or counted."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from structlog.testing import capture_logs

from proto.flow_batch import FlowBatch, decode, encode
from proto.subjects import DEAD_STREAM, ENRICHED_STREAM, MESSAGE_ID_HEADER, RAW_STREAM, REASON_HEADER, batch_id, raw_subject
from services.capture.outbox import Outbox
from services.runtime.nats.bus import Bus, connect
from services.runtime.settings import NatsSettings
from tests.support.packets.pcap import START, Frame, ethernet, ip, udp, write
from tests.support.pipeline.nats_server import NatsServer

ROOT = Path(__file__).parents[3]
FLOWS = 1500
NODE = "node-a"


def batch_of(rows: int, container: str = "c") -> FlowBatch:
    """A batch of records that differ; the first is of a container with that name."""
    columns = {"flow_id": np.arange(rows, dtype="<u8"), "tx_bytes": np.arange(rows, dtype="<u8") + 1}
    columns["local_container"] = np.where(np.arange(rows) == 0, 0, 1).astype("<u4")
    containers = [{"container_id": container}, {"container_id": "other"}]
    return FlowBatch(NODE, "e", 0, rows, (0, 0), columns, containers=containers)


async def flow_ids(bus: Bus, stream: str) -> list[int]:
    """Flow ids of all records in a stream, sorted."""
    found = [decode(message.data).column("flow_id") async for message in bus.peek(stream)]
    return sorted(np.concatenate(found).tolist()) if found else []


def service(name: str, server: NatsServer, **variables: str) -> subprocess.Popen[str]:
    """A service as a process."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("WIRESPAN_", "OTEL_", "KUBECONFIG"))}
    return subprocess.Popen(
        [sys.executable, "-m", f"services.{name}"],
        cwd=ROOT,
        env=environ | {"WIRESPAN_NATS_URL": server.url} | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_a_replay_and_its_enrichment_fit_a_small_server(tmp_path: Path) -> None:
    """A server of 16 KiB a message: every flow of a file is enriched, once, and both services end well."""
    frames = [
        Frame(START + i * 1000, ethernet(ip(f"10.0.{i >> 8}.{i & 255}", "10.9.0.1", 17, udp(7, 9)))) for i in range(FLOWS)
    ]
    file, progress = write(tmp_path / "many.pcap", frames), tmp_path / "progress.json"
    with NatsServer(tmp_path / "nats", extra_config="max_payload: 16384") as server:
        async with connect(NatsSettings(url=server.url), name="test") as bus:
            files = {"WIRESPAN_CAPTURE_REPLAY_FILES": str(file), "WIRESPAN_CAPTURE_PROGRESS_FILE": str(progress)}
            capture = service("capture", server, **files)
            _, logged = await asyncio.to_thread(capture.communicate)
            assert capture.returncode == 0, logged
            assert await flow_ids(bus, RAW_STREAM) == list(range(1, FLOWS + 1))
            assert json.loads(progress.read_bytes())["records"] == FLOWS

            enricher = service("enricher", server, WIRESPAN_ENRICHER_EXTERNAL_NETWORKS=f"{'n' * 200}=10.0.0.0/8")
            while (await bus.stream_state(RAW_STREAM)).messages:
                assert enricher.poll() is None, enricher.communicate()[1]
                await asyncio.sleep(0.05)
            enricher.terminate()
            _, logged = await asyncio.to_thread(enricher.communicate)
            assert enricher.returncode == 0, logged
            assert await flow_ids(bus, ENRICHED_STREAM) == list(range(1, FLOWS + 1))
            assert (await bus.stream_state(DEAD_STREAM)).messages == 0


async def test_a_record_that_no_message_holds_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    """One record with a name longer than the server takes: all others are stored, one line says so, nothing is raised."""
    with NatsServer(tmp_path / "nats", extra_config="max_payload: 8192") as server, capture_logs() as logs:
        async with connect(NatsSettings(url=server.url), name="test") as bus:
            await bus.ensure_streams()
            outbox = Outbox(bus, raw_subject(NODE), [(batch_id(NODE, "e", 0), encode(batch_of(1000, "x" * 9000)))])
            await outbox.send()
            assert outbox.oversized == 1
            assert await flow_ids(bus, RAW_STREAM) == list(range(1, 1000))
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["record.too_large"]


async def test_a_server_that_comes_back_with_less_gets_smaller_messages(tmp_path: Path) -> None:
    """Its operator lowers `max_payload`: what was made for the old limit is cut, and sent again it is the same messages."""
    small = NatsServer(tmp_path / "nats", extra_config="max_payload: 8192")
    with NatsServer(tmp_path / "nats") as server:
        async with connect(NatsSettings(url=server.url, reconnect_seconds=0.05), name="test") as bus:
            await bus.ensure_streams()
            messages = [(batch_id(NODE, "e", 0), encode(batch_of(1000)))]
            await Outbox(bus, raw_subject(NODE), [("first", messages[0][1])]).send()
            await asyncio.to_thread(server.stop)
            small.port = server.port
            with small:
                for _ in range(2):
                    await Outbox(bus, raw_subject(NODE), messages).send()
                ids = [message.headers[MESSAGE_ID_HEADER] async for message in bus.peek(RAW_STREAM)]
                assert ids[0] == "first"
                assert len(ids) == len(set(ids)) > 4
                assert all(each.startswith(messages[0][0]) for each in ids[1:])
                assert sum([decode(message.data).count async for message in bus.peek(RAW_STREAM)]) == 2000


async def test_what_enrichment_makes_too_large_is_a_dead_letter_of_its_own(tmp_path: Path) -> None:
    """A record fits as it came and not with its names: it is kept as it came, the rest of its batch goes on."""
    with NatsServer(tmp_path / "nats", extra_config="max_payload: 4096") as server:
        async with connect(NatsSettings(url=server.url), name="test") as bus:
            await bus.ensure_streams()
            batch = batch_of(20)
            address = np.zeros((20, 16), np.uint8)
            address[:, 10:12], address[:, 12] = 255, np.where(np.arange(20) == 7, 10, 8)
            batch.columns["remote_address"] = address.view("|V16").ravel()
            await bus.publish(raw_subject(NODE), encode(batch), message_id="m")
            enricher = service("enricher", server, WIRESPAN_ENRICHER_EXTERNAL_NETWORKS=f"{'n' * 4000}=10.0.0.0/8")
            while (await bus.stream_state(RAW_STREAM)).messages:
                assert enricher.poll() is None, enricher.communicate()[1]
                await asyncio.sleep(0.05)
            enricher.terminate()
            await asyncio.to_thread(enricher.communicate)
            assert await flow_ids(bus, ENRICHED_STREAM) == [row for row in range(20) if row != 7]
            (letter,) = [message async for message in bus.peek(DEAD_STREAM)]
    assert letter.headers[REASON_HEADER] == "too_large"
    assert decode(letter.data).column("flow_id").tolist() == [7]
