"""Every rule of OTLP over gRPC, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from services.exporter.delivery.environment import OtlpSettings
from services.exporter.delivery.grpc import GrpcSink
from services.exporter.delivery.sink import Accepted, Rejected, Retry
from tests.support.certificates import make_certificates
from tests.support.pipeline.broken_server import BrokenServer, Drip, ResetMidRequest
from tests.support.pipeline.otlp_receiver import Garbage, OtlpReceiver, PartialSuccess, Refuse, Stall, export_request

Code = grpc.StatusCode
RETRYABLE = {Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.OUT_OF_RANGE, Code.UNAVAILABLE, Code.DATA_LOSS}
PERMANENT = set(Code) - RETRYABLE - {Code.OK}


@pytest.fixture
def settings(receiver: OtlpReceiver) -> OtlpSettings:
    """How to reach the receiver."""
    return OtlpSettings(protocol="grpc", endpoint=f"127.0.0.1:{receiver.grpc_port}", secure=False, timeout_seconds=20)


@pytest.fixture
async def sink(settings: OtlpSettings) -> AsyncIterator[GrpcSink]:
    """A sink that sends to the receiver."""
    sink = GrpcSink(settings)
    yield sink
    await sink.close()


async def send_once(settings: OtlpSettings, body: bytes) -> object:
    """One attempt through a sink of its own."""
    sink = GrpcSink(settings)
    try:
        return await sink.send(body)
    finally:
        await sink.close()


async def test_accepted(receiver: OtlpReceiver, sink: GrpcSink):
    """The backend gets the bytes as they are, from a client that says who it is."""
    body = export_request(23)
    assert await sink.send(body) == Accepted()
    assert receiver.requests[0].body == body
    assert receiver.requests[0].headers["user-agent"].startswith("Wirespan/")
    assert len(receiver.spans) == 23


@pytest.mark.parametrize("code", sorted(RETRYABLE, key=str), ids=str)
async def test_retryable_codes(receiver: OtlpReceiver, sink: GrpcSink, code: grpc.StatusCode):
    """The codes that OTLP lists as retryable are, with and without RetryInfo."""
    receiver.script(Refuse(code), Refuse(code, retry_seconds=2.5))
    first, second = await sink.send(export_request(1)), await sink.send(export_request(1))
    assert isinstance(first, Retry)
    assert first.after_seconds is None
    assert first.reason == code.name.lower()
    assert isinstance(second, Retry)
    assert second.after_seconds == 2.5


@pytest.mark.parametrize("code", sorted(PERMANENT, key=str), ids=str)
async def test_permanent_codes(receiver: OtlpReceiver, sink: GrpcSink, code: grpc.StatusCode):
    """Every other code is final, RESOURCE_EXHAUSTED without RetryInfo among them."""
    receiver.script(Refuse(code, "quota"))
    assert await sink.send(export_request(1)) == Rejected(
        f"{code.name}: quota", unauthorized=code.name in {"UNAUTHENTICATED", "PERMISSION_DENIED"}
    )


async def test_resource_exhausted_with_retry_info(receiver: OtlpReceiver, sink: GrpcSink):
    """RetryInfo in the status details makes RESOURCE_EXHAUSTED retryable, even with a delay of nothing."""
    receiver.script(Refuse(Code.RESOURCE_EXHAUSTED, retry_seconds=5), Refuse(Code.RESOURCE_EXHAUSTED, retry_seconds=0))
    first, second = await sink.send(export_request(1)), await sink.send(export_request(1))
    assert isinstance(first, Retry)
    assert first.after_seconds == 5
    assert isinstance(second, Retry)
    assert second.after_seconds == 0


async def test_retry_info_does_not_make_a_permanent_code_retryable(receiver: OtlpReceiver, sink: GrpcSink):
    """Only RESOURCE_EXHAUSTED waits on RetryInfo to be retryable."""
    receiver.script(Refuse(Code.INVALID_ARGUMENT, retry_seconds=5))
    assert isinstance(await sink.send(export_request(1)), Rejected)


async def test_larger_than_the_server_takes(receiver: OtlpReceiver, sink: GrpcSink):
    """A real server's refusal of a message above its limit says that the size is the trouble, and nothing else."""
    outcome = await sink.send(export_request(3, padding=2_000_000))
    assert isinstance(outcome, Rejected)
    assert outcome.too_large
    assert not receiver.requests
    assert await sink.send(export_request(1, padding=2_000_000)) == Accepted()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (5000000 vs. 4194304)"),
        (Code.RESOURCE_EXHAUSTED, "grpc: received message after decompression larger than max 4194304"),
        (Code.RESOURCE_EXHAUSTED, "gRPC message exceeds maximum size 4194304: 5000000"),
        (Code.RESOURCE_EXHAUSTED, "Received message exceeds the maximum configured message size."),
        (Code.OUT_OF_RANGE, "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes"),
        (Code.UNKNOWN, "Received http2 header with status: 413"),
    ],
)
async def test_how_servers_say_too_large(receiver: OtlpReceiver, sink: GrpcSink, code: grpc.StatusCode, words: str):
    """What gRPC for Go, Java, .NET and Rust, and a proxy in front of any, say is understood."""
    receiver.script(Refuse(code, words))
    assert await sink.send(export_request(2)) == Rejected(f"{code.name}: {words}", too_large=True)


@pytest.mark.parametrize("rejected", [0, 3])
async def test_partial_success(receiver: OtlpReceiver, sink: GrpcSink, rejected: int):
    """What the backend left out and why is handed on; with nothing left out it is a warning."""
    receiver.script(PartialSuccess(rejected, "too old"))
    assert await sink.send(export_request(5)) == Accepted(rejected, "too old")


async def test_response_that_cannot_be_read(receiver: OtlpReceiver, sink: GrpcSink):
    """OK is OK: the request is accepted, and the strange answer is a warning."""
    receiver.script(Garbage())
    outcome = await sink.send(export_request(5))
    assert isinstance(outcome, Accepted)
    assert outcome.rejected_spans == 0
    assert "ExportTraceServiceResponse" in outcome.message


async def test_no_answer_in_time(receiver: OtlpReceiver, settings: OtlpSettings):
    """A stalled backend is a retry once the attempt's time is over."""
    receiver.script(Stall())
    outcome = await send_once(replace(settings, timeout_seconds=0.2), export_request(1))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "deadline_exceeded"


async def test_backend_goes_away_and_comes_back(receiver: OtlpReceiver, sink: GrpcSink):
    """A connection that breaks, and one that is refused, are retries; the same channel then finds its way back."""
    receiver.script(Stall())
    attempt = asyncio.create_task(sink.send(export_request(1)))
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.requests) == 1)
    await asyncio.to_thread(receiver.stop)
    assert isinstance(await attempt, Retry)
    assert isinstance(await sink.send(export_request(1)), Retry)
    receiver.start()
    while isinstance(outcome := await sink.send(export_request(1)), Retry):  # noqa: ASYNC110 - asks again, awaits no event
        await asyncio.sleep(0.05)
    assert outcome == Accepted()


async def test_attempts_run_side_by_side(receiver: OtlpReceiver, sink: GrpcSink):
    """A stalled attempt does not hold up the next."""
    receiver.script(Stall())
    stalled = asyncio.create_task(sink.send(export_request(1)))
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.requests) == 1)
    assert await sink.send(export_request(2)) == Accepted()
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_headers(receiver: OtlpReceiver, settings: OtlpSettings):
    """Configured headers travel as metadata, their names in lower case as gRPC needs them."""
    headers = (("Authorization", "Bearer x"), ("X-Scope-OrgID", "1"))
    await send_once(replace(settings, headers=headers), export_request(1))
    received = receiver.requests[0].headers
    assert (received["authorization"], received["x-scope-orgid"]) == ("Bearer x", "1")


@pytest.mark.parametrize("fault", [Drip, ResetMidRequest])
async def test_a_server_that_is_none(settings: OtlpSettings, fault: type[BrokenServer]):
    """One that drips bytes for ever is given up when the attempt's time is over; one that resets meanwhile, at once."""
    with fault() as server:
        unlucky = replace(settings, endpoint=f"127.0.0.1:{server.port}", timeout_seconds=1)
        assert isinstance(await send_once(unlucky, export_request(3, padding=1 << 20)), Retry)
        assert server.connections


async def test_gzip(receiver: OtlpReceiver, settings: OtlpSettings):
    """Compressed requests arrive as what was sent."""
    body = export_request(3, padding=10_000)
    assert await send_once(replace(settings, compression="gzip"), body) == Accepted()
    assert receiver.requests[0].body == body


async def test_mutual_tls(tmp_path: Path):
    """With the right authority and certificate spans arrive; without either, nothing does, and it is a retry."""
    certificates = make_certificates(tmp_path)
    with OtlpReceiver(tls=certificates, client_certificates=True) as receiver:
        plain = OtlpSettings(protocol="grpc", endpoint=f"localhost:{receiver.grpc_port}", secure=True, timeout_seconds=20)
        trusting = replace(plain, ca_file=certificates.authority)
        mutual = replace(
            trusting, client_certificate_file=certificates.client_certificate, client_key_file=certificates.client_key
        )
        assert isinstance(await send_once(plain, export_request(1)), Retry)
        assert isinstance(await send_once(trusting, export_request(1)), Retry)
        assert not receiver.requests
        assert await send_once(mutual, export_request(1)) == Accepted()


async def test_a_certificate_for_another_name(tmp_path: Path):
    """A server that cannot prove who it is gets nothing."""
    certificates = make_certificates(tmp_path, name="elsewhere.example")
    with OtlpReceiver(tls=certificates) as receiver:
        settings = OtlpSettings(protocol="grpc", endpoint=f"localhost:{receiver.grpc_port}", secure=True, timeout_seconds=20)
        outcome = await send_once(replace(settings, ca_file=certificates.authority), export_request(1))
        assert isinstance(outcome, Retry)
        assert not receiver.requests
