"""The exporter's promise: every record is at the backend or in a dead letter that says why. A real bus, process and backend."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from proto.flow_batch import FlowBatch, decode, encode
from proto.subjects import (
    DEAD_STREAM,
    DETAIL_HEADER,
    ENRICHED_STREAM,
    EXPORTER_DURABLE,
    REASON_HEADER,
    RECORDS_HEADER,
    SUBJECT_HEADER,
    batch_id,
    enriched_subject,
    part_id,
)
from services.exporter.encoder import SpanEncoder
from services.runtime.nats.bus import Bus, WatchedMessage
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.exporter_process import Exporter
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.otlp_receiver import (
    Accept,
    OtlpReceiver,
    PartialSuccess,
    Refuse,
    SpanId,
    Stall,
    TakeAndDrop,
    span_ids,
)
from tests.support.pipeline.watched import until

BATCHES, SPANS_EACH = 23, 40


@pytest.fixture
def exporter(nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path) -> Iterator[Exporter]:
    """An exporter that sends to the receiver over gRPC; not started yet."""
    exporter = Exporter(nats_server.url, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint)
    yield exporter
    exporter.close()


async def publish(bus: Bus, batch: FlowBatch, *, again: str = "") -> None:
    """Put one enriched batch on the bus; `again` makes its message id another one."""
    message_id = part_id(batch_id(batch.node, batch.epoch, batch.sequence), 0, batch.count) + again
    await bus.publish(enriched_subject(batch.node), encode(batch), message_id=message_id)


async def publish_all(bus: Bus) -> set[SpanId]:
    """Put the batches of a test on the bus; return the ids of their spans."""
    batches = [enriched_batch(SPANS_EACH, sequence=number) for number in range(BATCHES)]
    await asyncio.gather(*(publish(bus, batch) for batch in batches))
    encoder = SpanEncoder(cluster_name="")
    return {span_id for batch in batches for span_id in span_ids(encoder.encode(batch))}


async def until_all_settled(bus: Bus) -> None:
    """Return once every message of the enriched stream is acknowledged."""

    async def empty() -> bool:
        return (await bus.stream_state(ENRICHED_STREAM)).messages == 0

    await until(empty)


async def wait_for(receiver: OtlpReceiver, condition: Callable[[], bool]) -> None:
    """Wait for what the receiver has received."""
    await asyncio.to_thread(receiver.wait_for, condition)


async def dead_letters(bus: Bus) -> list[WatchedMessage]:
    """Every dead letter."""
    return [message async for message in bus.peek(DEAD_STREAM)]


def assert_all_arrived(receiver: OtlpReceiver, expected: set[SpanId]) -> None:
    """Every span is there, none that should not be, and none came twice with different content."""
    assert set(receiver.spans) == expected
    assert not receiver.conflicts


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_every_record_arrives_once(
    bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path, protocol: str
):
    """With nothing in the way, each record is one span, sent once; SIGTERM then ends the process cleanly."""
    endpoint = otlp_receiver.grpc_endpoint if protocol == "grpc" else otlp_receiver.http_endpoint
    exporter = Exporter(nats_server.url, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    expected = await publish_all(bus)
    exporter.start()
    try:
        await until_all_settled(bus)
        assert exporter.end() == 0, exporter.log
    finally:
        exporter.close()
    assert_all_arrived(otlp_receiver, expected)
    assert otlp_receiver.taken == len(expected)
    assert not await dead_letters(bus)


async def test_backend_away_for_a_while(bus: Bus, otlp_receiver: OtlpReceiver, exporter: Exporter):
    """While the backend is gone, or refuses, records wait in the stream; when it is back, all of them arrive."""
    otlp_receiver.stop()
    expected = await publish_all(bus)
    exporter.start()

    async def throttled() -> bool:
        return "sink.throttled" in exporter.events

    await until(throttled)
    assert (await bus.stream_state(ENRICHED_STREAM)).messages == BATCHES
    otlp_receiver.script(*[Refuse(grpc.StatusCode.UNAVAILABLE, retry_seconds=0.1)] * 5)
    otlp_receiver.start()
    await until_all_settled(bus)
    assert_all_arrived(otlp_receiver, expected)
    assert not await dead_letters(bus)
    assert exporter.end() == 0, exporter.log


async def test_another_endpoint_takes_over(bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path):
    """With the first endpoint down, every record arrives at the second; with both down, they wait in the stream."""
    with OtlpReceiver() as second:
        exporter = Exporter(
            nats_server.url,
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint,
            WIRESPAN_EXPORTER_FAILOVER_ENDPOINTS=second.grpc_endpoint,
            WIRESPAN_EXPORTER_FAILOVER_SECONDS="0",
        )
        otlp_receiver.stop()
        second.script(Refuse(grpc.StatusCode.UNAVAILABLE))
        wanted = await publish_all(bus)
        exporter.start()
        try:
            await until_all_settled(bus)
        finally:
            exporter.close()
        assert set(second.spans) == wanted
    assert not otlp_receiver.requests
    assert "endpoint.switched" in exporter.events


async def test_killed_in_the_middle(bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path):
    """Killed with some requests accepted, some taken without an answer, some under way: a new process completes it."""
    exporter = Exporter(
        nats_server.url,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint,
        WIRESPAN_EXPORTER_MAX_REQUEST_BYTES="20000",
    )
    otlp_receiver.script(Accept(), Accept(), TakeAndDrop(), Accept(), TakeAndDrop(), Accept())
    otlp_receiver.default = Stall()
    expected = await publish_all(bus)
    exporter.start()
    await wait_for(otlp_receiver, lambda: len(otlp_receiver.requests) >= 10)
    assert exporter.end(signal.SIGKILL) == -signal.SIGKILL
    assert 0 < len(otlp_receiver.spans) < len(expected)
    otlp_receiver.default = Accept()
    exporter.start()
    await until_all_settled(bus)
    assert_all_arrived(otlp_receiver, expected)
    assert not await dead_letters(bus)
    assert exporter.end() == 0, exporter.log


async def test_wrong_credentials_lose_nothing(bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path):
    """A token that is not taken: readiness says so, nothing is dead, and a new process with a good one delivers everything."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    exporter = Exporter(
        nats_server.url,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint,
        WIRESPAN_HEALTH_PORT=str(port),
        WIRESPAN_EXPORTER_DRAIN_SECONDS="1",
    )
    otlp_receiver.default = Refuse(grpc.StatusCode.UNAUTHENTICATED, "token expired")
    wanted = await publish_all(bus)

    def failing() -> bytes:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").read()
        except urllib.error.HTTPError as error:
            return error.read()

    async def says_so() -> bool:
        return b"credentials" in await asyncio.to_thread(failing)

    exporter.start()
    try:
        await wait_for(otlp_receiver, lambda: bool(otlp_receiver.requests))
        await until(says_so)
        assert "credentials.rejected" in exporter.events
        assert exporter.end() == 0
        otlp_receiver.default = Accept()
        exporter.start()
        await until_all_settled(bus)
    finally:
        exporter.close()
    assert set(otlp_receiver.spans) == wanted
    assert not await dead_letters(bus)


async def test_batches_share_requests_and_not_their_fate(bus: Bus, otlp_receiver: OtlpReceiver, exporter: Exporter):
    """What waits in the stream is sent together, in fewer requests than batches; what is rejected of it is a dead letter
    per batch, under the batch's own subject, and together they are the records that are lost.
    """
    batches = [enriched_batch(SPANS_EACH, sequence=number, node=f"node-{number % 3}") for number in range(BATCHES)]
    otlp_receiver.script(*[Refuse(grpc.StatusCode.UNAVAILABLE), Refuse(grpc.StatusCode.INVALID_ARGUMENT, "no such tenant")] * 2)
    await asyncio.gather(*(publish(bus, batch) for batch in batches))
    exporter.start()
    await until_all_settled(bus)
    letters = await dead_letters(bus)
    dead = [decode(letter.data) for letter in letters]
    encoder = SpanEncoder(cluster_name="")
    expected = {span_id for batch in batches for span_id in span_ids(encoder.encode(batch))}
    lost = {span_id for batch in dead for span_id in span_ids(encoder.encode(batch))}
    assert len({request.body for request in otlp_receiver.requests}) < BATCHES
    assert [letter.headers[SUBJECT_HEADER] for letter in letters] == [enriched_subject(batch.node) for batch in dead]
    assert sum(int(letter.headers[RECORDS_HEADER]) for letter in letters) == len(lost) > 0
    assert set(otlp_receiver.spans) == expected - lost
    assert not otlp_receiver.conflicts


async def test_a_message_delivered_again_changes_nothing(bus: Bus, otlp_receiver: OtlpReceiver, exporter: Exporter):
    """The same batch twice is sent twice, to the same span ids with the same content."""
    batch = enriched_batch(SPANS_EACH)
    await publish(bus, batch)
    exporter.start()
    await until_all_settled(bus)
    once = dict(otlp_receiver.spans)
    await publish(bus, batch, again="/again")
    await until_all_settled(bus)
    assert otlp_receiver.taken == 2 * SPANS_EACH
    assert otlp_receiver.spans == once
    assert not otlp_receiver.conflicts


async def test_a_batch_under_way_stays_ours(bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path):
    """While a batch waits for the backend, for several times the bus's patience, nobody else is given it."""
    exporter = Exporter(
        nats_server.url,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint,
        OTEL_EXPORTER_OTLP_TIMEOUT="1000",
        WIRESPAN_EXPORTER_ACK_WAIT_SECONDS="1",
    )
    otlp_receiver.default = Stall()
    await publish(bus, enriched_batch(SPANS_EACH))
    exporter.start()
    try:
        await wait_for(otlp_receiver, lambda: len(otlp_receiver.requests) >= 4)
        state = await bus.consumer_state(ENRICHED_STREAM, EXPORTER_DURABLE)
        assert (state.ack_pending, state.redelivered) == (1, 0)
        otlp_receiver.default = Accept()
        await until_all_settled(bus)
    finally:
        exporter.close()
    assert otlp_receiver.taken == SPANS_EACH


async def test_partial_success_is_a_dead_letter(bus: Bus, otlp_receiver: OtlpReceiver, exporter: Exporter):
    """Spans that the backend left out are counted in a dead letter that holds the request's records and the backend's words."""
    otlp_receiver.script(PartialSuccess(7, "attribute too long"))
    batch = enriched_batch(SPANS_EACH)
    await publish(bus, batch)
    exporter.start()
    await until_all_settled(bus)
    (letter,) = await dead_letters(bus)
    assert letter.headers[REASON_HEADER] == "partial_success"
    assert letter.headers[RECORDS_HEADER] == "7"
    assert letter.headers[DETAIL_HEADER] == "attribute too long"
    assert letter.headers[SUBJECT_HEADER] == enriched_subject(batch.node)
    assert letter.data == encode(batch)
    assert len(otlp_receiver.spans) == SPANS_EACH - 7
    assert len(otlp_receiver.requests) == 1


async def test_what_is_rejected_is_a_dead_letter_of_its_rows_alone(
    bus: Bus, otlp_receiver: OtlpReceiver, nats_server: NatsServer, tmp_path: Path
):
    """Of a batch sent as several requests, one of them rejected, only that one's records are dead."""
    otlp_receiver.script(Refuse(grpc.StatusCode.INVALID_ARGUMENT, "no such tenant"))
    batch = enriched_batch(SPANS_EACH)
    exporter = Exporter(
        nats_server.url,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint,
        WIRESPAN_EXPORTER_MAX_REQUEST_BYTES="10000",
    )
    await publish(bus, batch)
    exporter.start()
    try:
        await until_all_settled(bus)
    finally:
        exporter.close()
    (letter,) = await dead_letters(bus)
    dead = decode(letter.data)
    assert letter.headers[REASON_HEADER] == "rejected"
    assert letter.headers[RECORDS_HEADER] == str(dead.count)
    assert "no such tenant" in letter.headers[DETAIL_HEADER]
    assert len(otlp_receiver.requests) > 2
    assert 0 < dead.count < SPANS_EACH
    lost = set(span_ids(SpanEncoder(cluster_name="").encode(dead)))
    assert set(otlp_receiver.spans) | lost == set(span_ids(SpanEncoder(cluster_name="").encode(batch)))
    assert not set(otlp_receiver.spans) & lost


async def test_the_same_records_are_dead_once(bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path):
    """A request rejected, then the process killed before its batch is settled, then rejected again: one dead letter."""
    exporter = Exporter(
        nats_server.url,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint,
        WIRESPAN_EXPORTER_CONCURRENCY="1",
        WIRESPAN_EXPORTER_MAX_REQUEST_BYTES="10000",
    )
    otlp_receiver.script(Refuse(grpc.StatusCode.INVALID_ARGUMENT))
    otlp_receiver.default = Stall()
    await publish(bus, enriched_batch(SPANS_EACH))
    exporter.start()

    async def one_letter() -> bool:
        return len(await dead_letters(bus)) == 1

    try:
        await until(one_letter)
        exporter.end(signal.SIGKILL)
        otlp_receiver.default = Refuse(grpc.StatusCode.INVALID_ARGUMENT)
        exporter.start()
        await until_all_settled(bus)
    finally:
        exporter.close()
    letters = await dead_letters(bus)
    assert len(letters) > 2
    assert sum(int(letter.headers[RECORDS_HEADER]) for letter in letters) == SPANS_EACH
    assert not otlp_receiver.spans


async def test_what_cannot_be_decoded_does_not_stop_the_rest(bus: Bus, otlp_receiver: OtlpReceiver, exporter: Exporter):
    """A message that is no batch becomes a dead letter as it is; what is before and after it arrives."""
    await bus.publish(enriched_subject("node-a"), b"\xc1 not a batch", message_id="nonsense/0")
    expected = await publish_all(bus)
    await bus.publish(enriched_subject("node-a"), b"", message_id="nonsense/1")
    exporter.start()
    await until_all_settled(bus)
    assert_all_arrived(otlp_receiver, expected)
    letters = {letter.data: letter for letter in await dead_letters(bus)}
    assert set(letters) == {b"\xc1 not a batch", b""}
    for letter in letters.values():
        assert letter.headers[REASON_HEADER] == "undecodable"
        assert RECORDS_HEADER not in letter.headers


async def test_stopping_gives_back_what_does_not_make_it(
    bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path
):
    """SIGTERM with a backend that stalls: the process ends within its drain time, and another exporter takes over at once."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_receiver.grpc_endpoint,
        "WIRESPAN_EXPORTER_DRAIN_SECONDS": "1",
        "WIRESPAN_EXPORTER_ACK_WAIT_SECONDS": "300",  # so that only giving back explains that they come again
    }
    otlp_receiver.default = Stall()
    expected = await publish_all(bus)
    first, second = (Exporter(nats_server.url, tmp_path / name, **environ) for name in ("first", "second"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first.start()
    try:
        await wait_for(otlp_receiver, lambda: len(otlp_receiver.requests) >= 4)
        assert first.end() == 0, first.log
        otlp_receiver.default = Accept()
        second.start()
        await until_all_settled(bus)
        assert second.end() == 0, second.log
    finally:
        first.close()
        second.close()
    assert_all_arrived(otlp_receiver, expected)


async def test_the_bus_goes_away_and_comes_back(bus: Bus, nats_server: NatsServer, otlp_receiver: OtlpReceiver, tmp_path: Path):
    """The server is killed while requests are under way and started again: everything is settled."""
    exporter = Exporter(
        nats_server.url,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint,
        WIRESPAN_EXPORTER_MAX_REQUEST_BYTES="20000",
    )
    otlp_receiver.script(*[Accept()] * 5)
    otlp_receiver.default = Stall()
    expected = await publish_all(bus)
    exporter.start()
    await wait_for(otlp_receiver, lambda: len(otlp_receiver.requests) >= 8)
    nats_server.kill()
    otlp_receiver.default = Accept()
    otlp_receiver.release()
    nats_server.start()
    await bus.wait_connected()
    await until_all_settled(bus)
    exporter.close()
    assert_all_arrived(otlp_receiver, expected)
    assert not await dead_letters(bus)


async def test_spans_to_a_file(bus: Bus, nats_server: NatsServer, tmp_path: Path):
    """With an output file, every record is a span in it, and no variable of OTLP matters."""
    output = tmp_path / "spans.jsonl"
    exporter = Exporter(
        nats_server.url, tmp_path, WIRESPAN_EXPORTER_OUTPUT_FILE=str(output), OTEL_EXPORTER_OTLP_PROTOCOL="nonsense"
    )
    expected = await publish_all(bus)
    exporter.start()
    try:
        await until_all_settled(bus)
        assert exporter.end() == 0, exporter.log
    finally:
        exporter.close()
    spans = [
        (bytes.fromhex(span["traceId"]), bytes.fromhex(span["spanId"]))
        for line in output.read_text().splitlines()
        for resource_spans in json.loads(line)["resourceSpans"]
        for scope_spans in resource_spans["scopeSpans"]
        for span in scope_spans["spans"]
    ]
    assert sorted(spans) == sorted(expected)


def test_settings_that_make_no_sense(tmp_path: Path):
    """Every fault, of our variables and of the standard ones, is in one message; the exit code is 2."""
    exporter = Exporter(
        "nats://127.0.0.1:1",
        tmp_path,
        WIRESPAN_EXPORTER_CONCURRENCY="many",
        WIRESPAN_EXPORTER_CONCURENCY="1",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/json",
    )
    exporter.start()
    assert exporter.wait() == 2
    for name in ("WIRESPAN_EXPORTER_CONCURRENCY", "WIRESPAN_EXPORTER_CONCURENCY", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        assert exporter.log.count(name) == 1
    assert "Traceback" not in exporter.log


def test_an_output_file_that_cannot_be_written(tmp_path: Path):
    """One clear line, exit code 2."""
    exporter = Exporter("nats://127.0.0.1:1", tmp_path, WIRESPAN_EXPORTER_OUTPUT_FILE=str(tmp_path / "no" / "spans.jsonl"))
    exporter.start()
    assert exporter.wait() == 2
    assert "No such file or directory" in exporter.log
    assert "Traceback" not in exporter.log
