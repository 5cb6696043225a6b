"""What becomes of a request, whatever the backend answers: real sinks, a real backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
from structlog.testing import capture_logs

from services.exporter.delivery.environment import OtlpSettings
from services.exporter.delivery.gate import Attempt, DeliverySettings, Gate
from services.exporter.delivery.grpc import GrpcSink
from services.exporter.delivery.http import HttpSink
from services.exporter.delivery.retrying import Delivered, Delivery
from services.exporter.delivery.sink import Accepted, Rejected, Retry, Sink
from services.exporter.encoder import Request, SpanEncoder
from services.runtime.telemetry import Telemetry
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.support.pipeline.otlp_receiver import (
    Accept,
    Garbage,
    OtlpReceiver,
    PartialSuccess,
    Refuse,
    ResetMidResponse,
    Stall,
    TakeAndDrop,
)

QUICK = DeliverySettings(first_backoff_seconds=0.01, longest_backoff_seconds=0.05)
UNAVAILABLE = {"grpc": Refuse(grpc.StatusCode.UNAVAILABLE), "http": Refuse(503)}
INVALID = {"grpc": Refuse(grpc.StatusCode.INVALID_ARGUMENT, "bad"), "http": Refuse(400, "bad")}
TOO_LARGE = {"grpc": Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"), "http": Refuse(413)}


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both protocols keep the same promises."""
    return str(request.param)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Counters of this test alone."""
    with Telemetry("exporter", environ={}) as telemetry:
        yield telemetry


@pytest.fixture
async def sink(receiver: OtlpReceiver, protocol: str) -> AsyncIterator[Sink]:
    """A sink that sends to the receiver."""
    sink: Sink
    if protocol == "grpc":
        sink = GrpcSink(OtlpSettings(protocol="grpc", endpoint=f"127.0.0.1:{receiver.grpc_port}", secure=False))
    else:
        sink = HttpSink(OtlpSettings(protocol="http/protobuf", endpoint=f"{receiver.http_endpoint}/v1/traces", secure=False))
    yield sink
    await sink.close()


@pytest.fixture
def delivery(sink: Sink, telemetry: Telemetry) -> Delivery:
    """A delivery that does not take its time."""
    return Delivery(sink, telemetry, QUICK)


def request_of(spans: int, sequence: int = 0) -> Request:
    """An encoded request."""
    (request,) = SpanEncoder(cluster_name="test").encode_requests(enriched_batch(spans, sequence=sequence), 1 << 22)
    assert request.spans == spans
    return request


def counters(telemetry: Telemetry) -> dict[str, float]:
    """The exporter's counters by name and labels, without those that are nothing, and those of its account, which adds up."""
    lines = [line for line in telemetry.prometheus().decode().splitlines() if line.startswith("wirespan_exporter_")]
    values = {name.removeprefix("wirespan_exporter_"): float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    assert values["ledger_spans_difference"] == 0
    return {name: value for name, value in values.items() if value and not name.startswith("ledger_")}


async def test_accepted(receiver: OtlpReceiver, delivery: Delivery, telemetry: Telemetry):
    """One request, one answer, every span counted."""
    assert await delivery.deliver(request_of(23)) == Delivered(23)
    assert len(receiver.spans) == receiver.taken == 23
    assert counters(telemetry) == {"requests_total": 1, "spans_accepted_total": 23}


async def test_retries_until_it_is_taken(receiver: OtlpReceiver, delivery: Delivery, telemetry: Telemetry, protocol: str):
    """There is no last attempt: long after others give up, the same bytes are taken."""
    receiver.script(*[UNAVAILABLE[protocol]] * 12)
    request = request_of(5)
    assert await delivery.deliver(request) == Delivered(5)
    assert [received.body for received in receiver.requests] == [request.body] * 13
    reason = {"grpc": "unavailable", "http": "http_503"}[protocol]
    assert counters(telemetry) == {
        "requests_total": 13,
        f'retries_total{{reason="{reason}"}}': 12,
        "spans_accepted_total": 5,
    }


async def test_a_lost_answer_duplicates_nothing(receiver: OtlpReceiver, delivery: Delivery):
    """Taken, but the answer lost: sent again, and the backend holds the same spans under the same ids."""
    receiver.script(TakeAndDrop())
    assert await delivery.deliver(request_of(5)) == Delivered(5)
    assert receiver.taken == 10
    assert len(receiver.spans) == 5
    assert not receiver.conflicts


async def test_half_an_answer_is_none(receiver: OtlpReceiver, delivery: Delivery):
    """A response cut off in the middle is a failed attempt."""
    receiver.script(ResetMidResponse())
    assert await delivery.deliver(request_of(5)) == Delivered(5)
    assert len(receiver.requests) == 2


async def test_the_whole_sink_waits_as_long_as_it_is_told(receiver: OtlpReceiver, delivery: Delivery, protocol: str):
    """RetryInfo and Retry-After hold back every request, also one that was never refused, and win over our own backoff."""
    status: grpc.StatusCode | int = grpc.StatusCode.RESOURCE_EXHAUSTED if protocol == "grpc" else 429
    receiver.script(Refuse(status, retry_seconds=1))
    refused = asyncio.create_task(delivery.deliver(request_of(1, sequence=1)))
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.requests) == 1)
    while delivery.backend_answers:  # noqa: ASYNC110 - the answer is out, and about to be read
        await asyncio.sleep(0)
    await asyncio.gather(refused, delivery.deliver(request_of(1, sequence=2)))
    told, *others = [received.at for received in receiver.requests]
    assert len(others) == 2
    assert min(others) - told >= 1
    assert delivery.backend_answers


async def test_rejected(receiver: OtlpReceiver, delivery: Delivery, telemetry: Telemetry, protocol: str):
    """What will never be taken is reported with the backend's words, not repeated, and the next request goes its way."""
    receiver.script(INVALID[protocol])
    request = request_of(5)
    delivered = await delivery.deliver(request)
    (refused,) = delivered.refused
    assert (delivered.accepted, refused.request, refused.spans, refused.reason) == (0, request, 5, "rejected")
    assert "bad" in refused.detail
    assert await delivery.deliver(request_of(3, sequence=1)) == Delivered(3)
    assert counters(telemetry) == {
        "requests_total": 2,
        'spans_refused_total{reason="rejected"}': 5,
        "spans_accepted_total": 3,
    }


HOLDING = DeliverySettings(first_backoff_seconds=0.01, longest_backoff_seconds=0.05, unauthorized_seconds=0.05)
UNAUTHORIZED = {
    "grpc": (Refuse(grpc.StatusCode.UNAUTHENTICATED, "token"), Refuse(grpc.StatusCode.PERMISSION_DENIED, "token")),
    "http": (Refuse(401, "token"), Refuse(403, "token")),
}


async def test_wrong_credentials_hold_everything(receiver: OtlpReceiver, sink: Sink, telemetry: Telemetry, protocol: str):
    """While the backend rejects the credentials no request is repeated, only asked whether it takes them now; nothing dies."""
    delivery = Delivery(sink, telemetry, HOLDING)
    receiver.script(*UNAUTHORIZED[protocol] * 3)
    with capture_logs() as logs:
        delivered = await asyncio.gather(delivery.deliver(request_of(5)), delivery.deliver(request_of(7, sequence=1)))
    assert delivered == [Delivered(5), Delivered(7)]
    assert len(receiver.spans) == receiver.taken == 12
    refused = [received.body for received in receiver.requests if isinstance(received.answer, Refuse)]
    assert len({body for body in refused if body}) == sum(map(bool, refused))
    assert "credentials.rejected" in {log["event"] for log in logs}
    assert delivery.authorized


async def test_a_request_that_alone_is_forbidden_is_rejected(
    receiver: OtlpReceiver, sink: Sink, telemetry: Telemetry, protocol: str
):
    """The credentials are good for a request without spans and not for this one: it is the request, and it is reported."""
    delivery = Delivery(sink, telemetry, HOLDING)
    forbidden = UNAUTHORIZED[protocol][1]
    receiver.script(forbidden, Accept(), forbidden)
    delivered = await delivery.deliver(request_of(5))
    assert (delivered.accepted, delivered.refused[0].spans) == (0, 5)
    assert await delivery.deliver(request_of(3, sequence=1)) == Delivered(3)


async def test_wrong_credentials_may_be_dead_letters(receiver: OtlpReceiver, sink: Sink, telemetry: Telemetry, protocol: str):
    """By setting, what is rejected for its credentials is reported as everything else that is rejected."""
    delivery = Delivery(sink, telemetry, DeliverySettings(hold_unauthorized=False))
    receiver.script(UNAUTHORIZED[protocol][0])
    assert [refused.spans for refused in (await delivery.deliver(request_of(5))).refused] == [5]
    assert len(receiver.requests) == 1


async def test_partial_success(receiver: OtlpReceiver, delivery: Delivery, telemetry: Telemetry):
    """Spans that the backend left out are counted and reported, and the request is not repeated."""
    receiver.script(PartialSuccess(2, "too old"))
    request = request_of(5)
    delivered = await delivery.deliver(request)
    (refused,) = delivered.refused
    assert (delivered.accepted, refused.request, refused.spans) == (3, request, 2)
    assert (refused.reason, refused.detail) == ("partial_success", "too old")
    assert counters(telemetry) == {
        "requests_total": 1,
        "spans_accepted_total": 3,
        'spans_refused_total{reason="partial_success"}': 2,
    }


async def test_a_lie_about_rejected_spans(receiver: OtlpReceiver, delivery: Delivery):
    """More spans rejected than were sent counts as all of them."""
    receiver.script(PartialSuccess(99))
    delivered = await delivery.deliver(request_of(5))
    assert (delivered.accepted, delivered.refused[0].spans) == (0, 5)


@pytest.mark.parametrize("answer", [PartialSuccess(0, "almost full"), Garbage()])
async def test_warnings_of_the_backend(receiver: OtlpReceiver, delivery: Delivery, answer: PartialSuccess | Garbage):
    """A message without rejected spans, and an OK that cannot be read, are acceptance; said once, not per request."""
    receiver.script(answer, answer, answer)
    with capture_logs() as logs:
        for sequence in range(3):
            assert await delivery.deliver(request_of(5, sequence)) == Delivered(5)
    assert [entry["event"] for entry in logs] == ["backend.warned"]


@pytest.mark.parametrize("spans", [1, 2, 7])
async def test_too_large_is_split(receiver: OtlpReceiver, delivery: Delivery, protocol: str, spans: int):
    """A backend that takes one span at a time gets them one at a time, each once."""

    def halve(count: int) -> None:
        if count > 1:
            receiver.script(TOO_LARGE[protocol])
            halve(count // 2)
            halve(count - count // 2)
        else:
            receiver.script(Accept())

    halve(spans)
    assert await delivery.deliver(request_of(spans)) == Delivered(spans)
    assert len(receiver.spans) == receiver.taken == spans


async def test_a_span_that_is_too_large_by_itself(receiver: OtlpReceiver, delivery: Delivery, protocol: str):
    """It is refused alone; its neighbours arrive."""
    receiver.script(TOO_LARGE[protocol], TOO_LARGE[protocol])
    delivered = await delivery.deliver(request_of(2))
    (refused,) = delivered.refused
    assert (delivered.accepted, refused.spans, refused.request.rows.tolist()) == (1, 1, [0])
    assert len(receiver.spans) == 1


async def test_cancelled_while_waiting(receiver: OtlpReceiver, delivery: Delivery, protocol: str):
    """A delivery can be given up at any point, and leaves its place to others."""
    receiver.script(Stall(), *[UNAVAILABLE[protocol]] * 3)
    stalled = asyncio.create_task(delivery.deliver(request_of(1, sequence=1)))
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.requests) == 1)
    refused = asyncio.create_task(delivery.deliver(request_of(1, sequence=2)))
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.requests) == 2)
    for task in (stalled, refused):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await delivery.deliver(request_of(3, sequence=3)) == Delivered(3)


async def test_never_more_in_flight_than_allowed(receiver: OtlpReceiver, sink: Sink, telemetry: Telemetry):
    """The limit of requests holds however many are waiting."""
    delivery = Delivery(sink, telemetry, DeliverySettings(concurrency=3))
    receiver.default = Stall()
    tasks = [asyncio.create_task(delivery.deliver(request_of(1, sequence=number))) for number in range(8)]
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.requests) == 3)
    assert counters(telemetry)["requests_in_flight"] == 3
    receiver.default = Accept()
    tasks[0].cancel()
    await asyncio.to_thread(receiver.wait_for, lambda: len(receiver.spans) == 5)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert "requests_in_flight" not in counters(telemetry)


async def test_a_server_that_closes_on_large_bodies(receiver: OtlpReceiver, telemetry: Telemetry):
    """One that breaks the connection instead of reading what is too large gets it in pieces."""
    receiver.max_http_bytes = 700_000
    sink = HttpSink(OtlpSettings(protocol="http/protobuf", endpoint=f"{receiver.http_endpoint}/v1/traces", secure=False))
    try:
        assert await Delivery(sink, telemetry, QUICK).deliver(request_of(1_500)) == Delivered(1_500)
    finally:
        await sink.close()
    assert len(receiver.spans) == receiver.taken == 1_500


@pytest.mark.parametrize(("spans", "sizes"), [(1_500, [1_500, 1_500, 1_500, 750, 750]), (20, [20, 20, 20, 20])])
async def test_a_large_request_that_times_out_again_and_again(
    receiver: OtlpReceiver, telemetry: Telemetry, spans: int, sizes: list[int]
):
    """It may be too much for the link: its halves are tried. A small one is sent as it is, however often it takes."""
    receiver.script(Stall(), Stall(), Stall())
    settings = OtlpSettings(protocol="grpc", endpoint=f"127.0.0.1:{receiver.grpc_port}", secure=False, timeout_seconds=1.0)
    sink = GrpcSink(settings)
    try:
        assert await Delivery(sink, telemetry, QUICK).deliver(request_of(spans)) == Delivered(spans)
    finally:
        await sink.close()
    found = [received.spans for received in receiver.requests]
    assert found[:4] == sizes[:4]
    assert max(found[4:], default=0) <= sizes[-1]  # as often as the machine takes longer for one than it has


@asynccontextmanager
async def entered(gate: Gate, count: int) -> AsyncIterator[list[Callable[[Accepted | Retry | Rejected], None]]]:
    """Attempts that are in the gate together; each is ended by calling it with an outcome."""
    ends: list[asyncio.Future[Accepted | Retry | Rejected]] = []
    inside = asyncio.Semaphore(0)

    async def attempt(end: asyncio.Future[Accepted | Retry | Rejected]) -> None:
        async with gate.attempt(1) as current:
            assert isinstance(current, Attempt)
            inside.release()
            current.outcome = await end

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            ends.append(asyncio.get_running_loop().create_future())
            group.create_task(attempt(ends[-1]))
            await inside.acquire()
        yield [end.set_result for end in ends]


async def test_concurrency_halves_once_per_trouble_and_grows_back():
    """Failures of requests that were under way together count once; each round of successes gives one place back."""
    gate = Gate(DeliverySettings(concurrency=8, first_backoff_seconds=0.001, longest_backoff_seconds=0.001))
    async with entered(gate, 8) as ends:
        for end in ends:
            end(Retry("unavailable", ""))
    assert gate.limit == 4
    assert gate.throttled
    async with entered(gate, 4) as ends:
        for end in ends:
            end(Accepted())
    assert gate.limit == 4
    assert not gate.throttled
    async with entered(gate, 4) as ends:
        for end in ends:
            end(Accepted())
    assert gate.limit == 5


async def test_bytes_in_flight_are_bounded_and_one_always_goes():
    """Requests wait while the bytes of others fill the limit; one that is larger than the limit goes alone."""
    gate = Gate(DeliverySettings(concurrency=8, bytes_in_flight=10))
    order: list[str] = []

    async def pass_through(name: str, size: int) -> None:
        async with gate.attempt(size) as attempt:
            order.append(name)
            assert gate.in_flight == 1
            await asyncio.sleep(0)
            attempt.outcome = Accepted()

    await asyncio.gather(pass_through("large", 100), pass_through("half", 6), pass_through("other half", 6))
    assert order == ["large", "half", "other half"]
