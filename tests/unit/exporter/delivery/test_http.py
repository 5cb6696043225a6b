"""Every rule of OTLP over HTTP, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from services.exporter.delivery.environment import OtlpSettings
from services.exporter.delivery.http import HttpSink
from services.exporter.delivery.sink import MAX_RESPONSE_BYTES, Accepted, Rejected, Retry
from tests.support.certificates import make_certificates
from tests.support.pipeline.broken_server import BrokenServer, Drip, ResetMidRequest
from tests.support.pipeline.otlp_receiver import (
    Garbage,
    OtlpReceiver,
    PartialSuccess,
    Refuse,
    ResetMidResponse,
    Stall,
    TakeAndDrop,
    export_request,
)

PERMANENT = (301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 409, 415, 422, 500, 501, 505, 507)
DATE = {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}


@pytest.fixture
def settings(receiver: OtlpReceiver) -> OtlpSettings:
    """How to reach the receiver."""
    url = f"{receiver.http_endpoint}/v1/traces"
    return OtlpSettings(protocol="http/protobuf", endpoint=url, secure=False, timeout_seconds=20)


@pytest.fixture
async def sink(settings: OtlpSettings) -> AsyncIterator[HttpSink]:
    """A sink that sends to the receiver."""
    sink = HttpSink(settings)
    yield sink
    await sink.close()


async def send_once(settings: OtlpSettings, body: bytes) -> object:
    """One attempt through a sink of its own."""
    sink = HttpSink(settings)
    try:
        return await sink.send(body)
    finally:
        await sink.close()


async def test_accepted(receiver: OtlpReceiver, sink: HttpSink):
    """The backend gets the bytes as they are, as binary protobuf, from a client that says who it is."""
    body = export_request(23)
    assert await sink.send(body) == Accepted()
    assert receiver.requests[0].body == body
    assert receiver.requests[0].headers["content-type"] == "application/x-protobuf"
    assert receiver.requests[0].headers["user-agent"].startswith("Wirespan/")
    assert len(receiver.spans) == 23


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_retryable_statuses(receiver: OtlpReceiver, sink: HttpSink, status: int):
    """The four statuses that OTLP lists are retryable, with Retry-After and without."""
    receiver.script(Refuse(status, "busy"), Refuse(status, retry_seconds=7))
    first, second = await sink.send(export_request(1)), await sink.send(export_request(1))
    assert isinstance(first, Retry)
    assert (first.reason, first.after_seconds) == (f"http_{status}", None)
    assert "busy" in first.detail
    assert isinstance(second, Retry)
    assert second.after_seconds == 7


@pytest.mark.parametrize("status", PERMANENT)
async def test_permanent_statuses(receiver: OtlpReceiver, sink: HttpSink, status: int):
    """Every other status is final and Retry-After does not change that. A redirect is not followed, and is no success."""
    elsewhere = f"{receiver.http_endpoint}/elsewhere"
    receiver.script(Refuse(status, retry_seconds=1, headers={"Location": elsewhere}))
    outcome = await sink.send(export_request(1))
    assert isinstance(outcome, Rejected)
    assert not outcome.too_large
    assert f"HTTP {status}" in outcome.detail
    assert len(receiver.requests) == 1
    assert not receiver.spans


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "Mon, 01 Jan 2024 00:01:30 GMT"} | DATE, 90.0),
        ({"Retry-After": "Sun, 31 Dec 2023 23:00:00 GMT"} | DATE, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"Retry-After": "0"}, 0.0),
    ],
)
async def test_forms_of_retry_after(receiver: OtlpReceiver, sink: HttpSink, headers: dict[str, str], seconds: float | None):
    """Seconds or a date, measured on the server's clock; anything else counts as absent."""
    receiver.script(Refuse(503, headers=headers))
    outcome = await sink.send(export_request(1))
    assert isinstance(outcome, Retry)
    assert outcome.after_seconds == seconds


async def test_retry_after_without_the_servers_time(receiver: OtlpReceiver, sink: HttpSink):
    """A date from a server that does not say what time it is there is measured on the local clock."""
    receiver.script(Refuse(503, headers={"Retry-After": formatdate(4_102_444_800, usegmt=True), "Date": "unknown"}))
    outcome = await sink.send(export_request(1))
    assert isinstance(outcome, Retry)
    assert outcome.after_seconds is not None
    assert outcome.after_seconds > 60


async def test_larger_than_the_server_takes(receiver: OtlpReceiver, sink: HttpSink):
    """413 says that the size is the trouble, and nothing else."""
    receiver.script(Refuse(413))
    outcome = await sink.send(export_request(1))
    assert isinstance(outcome, Rejected)
    assert outcome.too_large


async def test_a_server_that_closes_on_a_large_body(receiver: OtlpReceiver, sink: HttpSink):
    """One that answers 413 and closes without reading is understood, or the size is under suspicion."""
    outcome = await sink.send(export_request(4, padding=2_000_000))
    assert (isinstance(outcome, Rejected) and outcome.too_large) or (isinstance(outcome, Retry) and outcome.smaller_may_pass)
    assert await sink.send(export_request(1, padding=2_000_000)) == Accepted()


@pytest.mark.parametrize("rejected", [0, 3])
async def test_partial_success(receiver: OtlpReceiver, sink: HttpSink, rejected: int):
    """What the backend left out and why is handed on; with nothing left out it is a warning."""
    receiver.script(PartialSuccess(rejected, "too old"))
    assert await sink.send(export_request(5)) == Accepted(rejected, "too old")


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"<html>", bytes(MAX_RESPONSE_BYTES + 1)])
async def test_response_that_cannot_be_read(receiver: OtlpReceiver, sink: HttpSink, body: bytes):
    """200 is 200: the request is accepted, the strange answer is a warning, and only so much of it is read."""
    receiver.script(Garbage(body))
    outcome = await sink.send(export_request(5))
    assert isinstance(outcome, Accepted)
    assert outcome.rejected_spans == 0
    assert "response" in outcome.message
    assert await sink.send(export_request(5)) == Accepted()


@pytest.mark.parametrize("answer", [TakeAndDrop(), ResetMidResponse()])
async def test_connection_lost(receiver: OtlpReceiver, sink: HttpSink, answer: TakeAndDrop | ResetMidResponse):
    """An answer that did not arrive whole is no answer, and the next attempt gets a new connection."""
    assert await sink.send(export_request(1)) == Accepted()
    receiver.script(answer)
    outcome = await sink.send(export_request(2))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "connection"
    assert await sink.send(export_request(2)) == Accepted()


async def test_no_answer_in_time(receiver: OtlpReceiver, settings: OtlpSettings):
    """A stalled backend is a retry once the attempt's time is over."""
    receiver.script(Stall())
    outcome = await send_once(replace(settings, timeout_seconds=0.2), export_request(1))
    assert isinstance(outcome, Retry)
    assert outcome.reason == "timeout"


@pytest.mark.parametrize("fault", [Drip, ResetMidRequest])
async def test_a_server_that_is_none(settings: OtlpSettings, fault: type[BrokenServer]):
    """One that drips an answer for ever is given up when the attempt's time is over; one that resets meanwhile, at once."""
    with fault() as server:
        unlucky = replace(settings, endpoint=f"http://127.0.0.1:{server.port}/v1/traces", timeout_seconds=1)
        assert isinstance(await send_once(unlucky, export_request(3, padding=1 << 20)), Retry)
        assert server.connections


async def test_backend_goes_away_and_comes_back(receiver: OtlpReceiver, sink: HttpSink):
    """A refused connection is a retry; the same session then finds its way back."""
    assert await sink.send(export_request(1)) == Accepted()
    await asyncio.to_thread(receiver.stop)
    assert isinstance(await sink.send(export_request(1)), Retry)
    receiver.start()
    while isinstance(outcome := await sink.send(export_request(1)), Retry):  # noqa: ASYNC110 - asks again, awaits no event
        await asyncio.sleep(0.05)
    assert outcome == Accepted()


async def test_attempts_run_side_by_side(receiver: OtlpReceiver, sink: HttpSink):
    """A stalled attempt does not hold up the next."""
    receiver.script(Stall())
    stalled = asyncio.create_task(sink.send(export_request(1)))
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.requests) == 1)
    assert await sink.send(export_request(2)) == Accepted()
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled


async def test_headers(receiver: OtlpReceiver, settings: OtlpSettings):
    """Configured headers are sent with every request."""
    await send_once(replace(settings, headers=(("Authorization", "Bearer x"),)), export_request(1))
    assert receiver.requests[0].headers["authorization"] == "Bearer x"


@pytest.mark.parametrize("padding", [10, 100_000])
async def test_gzip(receiver: OtlpReceiver, settings: OtlpSettings, padding: int):
    """Compressed requests, small and large, arrive as what was sent."""
    body = export_request(3, padding=padding)
    assert await send_once(replace(settings, compression="gzip"), body) == Accepted()
    assert receiver.requests[0].body == body
    assert receiver.requests[0].headers["content-encoding"] == "gzip"


async def test_mutual_tls(tmp_path: Path):
    """With the right authority and certificate spans arrive; without either, nothing does, and it is a retry."""
    certificates = make_certificates(tmp_path)
    with OtlpReceiver(tls=certificates, client_certificates=True) as receiver:
        url = f"https://localhost:{receiver.http_port}/v1/traces"
        plain = OtlpSettings(protocol="http/protobuf", endpoint=url, secure=True, timeout_seconds=20)
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
        settings = OtlpSettings(
            protocol="http/protobuf",
            endpoint=f"https://localhost:{receiver.http_port}/v1/traces",
            secure=True,
            timeout_seconds=20,
        )
        outcome = await send_once(replace(settings, ca_file=certificates.authority), export_request(1))
        assert isinstance(outcome, Retry)
        assert not receiver.requests
