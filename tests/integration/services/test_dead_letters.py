"""`wirespan dead-letters` against a real bus: what is dead is shown, put back where it belongs, once, or deleted for good."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto.flow_batch import encode
from proto.subjects import DEAD_STREAM, ENRICHED_STREAM, RAW_STREAM, enriched_subject, raw_subject
from services.cli.dead_letters.letters import read
from services.exporter.encoder import SpanEncoder
from services.runtime.nats.bus import Bus, StoredMessage
from services.runtime.settings import StreamSettings
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.exporter_process import ROOT, Exporter
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.otlp_receiver import Accept, OtlpReceiver, Refuse, SpanId, span_ids

BATCHES, SPANS_EACH = 5, 20


@pytest.fixture
def exporter(nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path) -> Iterator[Exporter]:
    """A running exporter that sends to the receiver over gRPC, and makes dead letters of all that is rejected."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp_receiver.grpc_endpoint, "WIRESPAN_EXPORTER_UNAUTHORIZED": "dead_letter"}
    exporter = Exporter(nats_server.url, tmp_path, **environ)
    exporter.start()
    yield exporter
    exporter.close()


async def wirespan(server: NatsServer, *arguments: str, expected: int = 0) -> str:
    """Run `wirespan dead-letters ...` as a shell would; return what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WIRESPAN_")}
    environ |= {"WIRESPAN_NATS_URL": server.url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "services.cli", "dead-letters", *arguments]
    result = await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == expected, result.stderr
    return result.stdout + (result.stderr if expected else "")


async def publish_all(bus: Bus) -> set[SpanId]:
    """Put batches on the bus; return the ids of their spans."""
    batches = [enriched_batch(SPANS_EACH, sequence=number) for number in range(BATCHES)]
    for batch in batches:
        await bus.publish(enriched_subject(batch.node), encode(batch), message_id=f"node-a/e/{batch.sequence}/0-{SPANS_EACH}")
    encoder = SpanEncoder(cluster_name="")
    return {span_id for batch in batches for span_id in span_ids(encoder.encode(batch))}


async def settled(bus: Bus) -> list[StoredMessage]:
    """Wait until the exporter has settled all that it was given; return the dead letters."""
    async with asyncio.timeout(60):
        while (await bus.stream_state(ENRICHED_STREAM)).messages:  # noqa: ASYNC110 - the server tells nobody when it changes
            await asyncio.sleep(0.02)
    return [message async for message in bus.peek(DEAD_STREAM)]


async def bury(bus: Bus, service: str, reason: str, subject: str, *, data: bytes = b"?", message_id: str = "") -> None:
    """Make a dead letter as a service does."""
    await bus.dead_letter_payload(
        service, data, message_id=message_id or reason, subject=subject, reason=reason, detail=f"{reason} it is", records=3
    )


async def test_what_a_backend_refused_arrives_once_it_takes_it(
    nats_server: NatsServer, bus: Bus, otlp_receiver: OtlpReceiver, exporter: Exporter
):
    """Rejected, replayed while that lasts, replayed again once it is mended: every span is there, no letter is left."""
    otlp_receiver.default = Refuse(grpc.StatusCode.UNAUTHENTICATED, "no such token")
    wanted = await publish_all(bus)
    letters = await settled(bus)
    listed = await wirespan(nats_server, "list", "--reason", "rejected")
    assert f"{BATCHES * SPANS_EACH}" in listed
    assert "no such token" in listed
    assert await wirespan(nats_server, "replay", "--service", "exporter") == f"{len(letters)} letters replayed\n"
    again = await settled(bus)
    assert sorted(letter.data for letter in again) == sorted(letter.data for letter in letters)
    assert not otlp_receiver.spans
    otlp_receiver.default = Accept()
    await wirespan(nats_server, "replay")
    assert await settled(bus) == []
    assert set(otlp_receiver.spans) == wanted
    assert otlp_receiver.taken == BATCHES * SPANS_EACH
    assert await wirespan(nats_server, "list") == "no dead letters\n"


async def test_each_letter_goes_back_to_its_own_stream(nats_server: NatsServer, bus: Bus):
    """The enricher's to the raw batches, the exporter's to the enriched ones, of whatever partition; filters choose."""
    await bury(bus, "enricher", "refused", raw_subject("node-a"), data=b"raw")
    await bury(bus, "exporter", "rejected", enriched_subject("node-a"), data=b"enriched")
    await bury(bus, "exporter", "partial_success", enriched_subject("node-b", partitions=16), data=b"partial")
    await wirespan(nats_server, "replay", "--service", "enricher")
    assert [message.data async for message in bus.peek(RAW_STREAM)] == [b"raw"]
    assert not (await bus.stream_state(ENRICHED_STREAM)).messages
    await wirespan(nats_server, "replay", "--reason", "partial_success", "--reason", "nothing")
    await wirespan(nats_server, "replay", "--detail", "REJECTED")
    sent = [(message.subject, message.data) async for message in bus.peek(ENRICHED_STREAM)]
    assert sent == [("flows.enriched.node-b", b"partial"), ("flows.enriched.node-a", b"enriched")]
    assert not (await bus.stream_state(DEAD_STREAM)).messages


async def test_a_replay_that_ended_half_way_puts_nothing_back_twice(nats_server: NatsServer, bus: Bus):
    """Stored in its stream and not yet taken out of the dead letters: replayed again, it is stored once."""
    await bury(bus, "exporter", "rejected", enriched_subject("node-a"))
    (message,) = [message async for message in bus.peek(DEAD_STREAM)]
    await bus.publish(enriched_subject("node-a"), message.data, message_id=read(message).replay_id)
    await wirespan(nats_server, "replay")
    assert (await bus.stream_state(ENRICHED_STREAM)).messages == 1
    assert not (await bus.stream_state(DEAD_STREAM)).messages


async def test_what_cannot_be_put_back_stays(nats_server: NatsServer, bus: Bus):
    """A letter from nowhere known is named and left; a full stream ends the replay, and what was not stored is still dead."""
    await bury(bus, "exporter", "rejected", "orders.new")
    said = await wirespan(nats_server, "replay", expected=1)
    assert "1 cannot be put back: it does not say from where it came" in said
    await wirespan(nats_server, "purge", "--yes")
    await bus.ensure_streams(StreamSettings(enriched_bytes=1 << 20))
    for number in range(3):
        await bury(bus, "exporter", "rejected", enriched_subject("node-a"), data=bytes(400_000), message_id=str(number))
    said = await wirespan(nats_server, "replay", expected=1)
    assert "2 letters replayed, then the stream was full" in said
    assert (await bus.stream_state(DEAD_STREAM)).messages == 1


async def test_letters_are_shown(nats_server: NatsServer, bus: Bus):
    """`list --each` numbers them, `show` prints records as JSON or bytes as they are."""
    batch = enriched_batch(2)
    await bury(bus, "exporter", "rejected", enriched_subject("node-a"), data=encode(batch))
    await bury(bus, "enricher", "undecodable", raw_subject("node-a"), data=b"\x1b[31m")
    lines = (await wirespan(nats_server, "list", "--each")).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert lines[0].endswith("exporter  rejected  3 records  from flows.enriched.node-a  rejected it is")
    rows = [json.loads(line) for line in (await wirespan(nats_server, "show", "1")).splitlines()]
    assert [row["tx_bytes"] for row in rows] == [100, 100]
    assert "--raw" in await wirespan(nats_server, "show", "2", expected=1)
    assert await wirespan(nats_server, "show", "2", "--raw") == "\x1b[31m"
    assert "no dead letter 3" in await wirespan(nats_server, "show", "3", expected=1)


async def test_purge_deletes_what_is_meant_and_asks_first(nats_server: NatsServer, bus: Bus):
    """Without a yes nothing is deleted; numbers and filters say what is."""
    for number in range(4):
        await bury(bus, "exporter", "rejected" if number else "undecodable", enriched_subject("node-a"), message_id=str(number))
    await wirespan(nats_server, "purge", expected=1)
    assert (await bus.stream_state(DEAD_STREAM)).messages == 4
    assert await wirespan(nats_server, "purge", "--yes", "2", "4") == "2 dead letters deleted\n"
    await wirespan(nats_server, "purge", "--yes", "--reason", "undecodable")
    assert [message.sequence async for message in bus.peek(DEAD_STREAM)] == [3]


async def test_a_server_without_the_stream_says_so(nats_server: NatsServer):
    """One line, no traceback."""
    said = await wirespan(nats_server, "list", expected=1)
    assert said.startswith("wirespan: there is no stream FLOWS_DEAD at ")
    assert said.count("\n") == 1
