"""Several endpoints: spans go to the first that works, and come back to it. Real sinks, real backends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from structlog.testing import capture_logs

from services.exporter.delivery.environment import OtlpSettings, read_endpoint
from services.exporter.delivery.failover import FailoverSink
from services.exporter.delivery.grpc import GrpcSink
from services.exporter.delivery.http import HttpSink
from services.exporter.delivery.sink import Accepted, Rejected, Retry, Sink
from services.runtime.errors import SettingsError
from tests.support.pipeline.otlp_receiver import Accept, OtlpReceiver, Refuse, export_request

BODY = export_request(3)
DOWN = {"grpc": Refuse(grpc.StatusCode.UNAVAILABLE), "http": Refuse(503)}


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """What time it is."""
        return self.now


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Both protocols."""
    return str(request.param)


@pytest.fixture
def receivers() -> Iterator[tuple[OtlpReceiver, OtlpReceiver, OtlpReceiver]]:
    """Three backends."""
    with OtlpReceiver() as first, OtlpReceiver() as second, OtlpReceiver() as third:
        yield first, second, third


@pytest.fixture
def clock() -> Clock:
    """The sink's clock."""
    return Clock()


@pytest.fixture
async def sink(
    receivers: tuple[OtlpReceiver, OtlpReceiver, OtlpReceiver], protocol: str, clock: Clock
) -> AsyncIterator[FailoverSink]:
    """The three as one: the next after 5 s of failure, back again after 30 s."""
    sinks: list[tuple[str, Sink]] = []
    for receiver in receivers:
        if protocol == "grpc":
            target = f"127.0.0.1:{receiver.grpc_port}"
            sinks.append((target, GrpcSink(OtlpSettings(protocol="grpc", endpoint=target, secure=False))))
        else:
            url = f"{receiver.http_endpoint}/v1/traces"
            sinks.append((url, HttpSink(OtlpSettings(protocol="http/protobuf", endpoint=url, secure=False))))
    sink = FailoverSink(sinks, failover_seconds=5, failback_seconds=30, clock=clock)
    yield sink
    await sink.close()


def counts(receivers: tuple[OtlpReceiver, ...]) -> list[int]:
    """Requests that each backend has had."""
    return [len(receiver.requests) for receiver in receivers]


async def test_the_first_is_used_while_it_works(receivers, sink: FailoverSink, protocol: str):
    """A failure that passes changes nothing."""
    receivers[0].script(Accept(), DOWN[protocol], Accept())
    assert await sink.send(BODY) == Accepted()
    assert isinstance(await sink.send(BODY), Retry)
    assert await sink.send(BODY) == Accepted()
    assert counts(receivers) == [3, 0, 0]


async def test_the_next_that_works_takes_over_and_gives_back(receivers, sink: FailoverSink, clock: Clock, protocol: str):
    """After five seconds of failure the request goes on down the list; later one looks whether the first is back."""
    receivers[0].default = receivers[1].default = DOWN[protocol]
    assert isinstance(await sink.send(BODY), Retry)
    clock.now += 4
    assert isinstance(await sink.send(BODY), Retry)
    clock.now += 1
    with capture_logs() as logs:
        assert await sink.send(BODY) == Accepted()
    assert [log["event"] for log in logs] == ["endpoint.switched"]
    assert (sink.active, counts(receivers)) == (2, [3, 1, 1])
    assert await sink.send(BODY) == Accepted()
    assert counts(receivers) == [3, 1, 2]
    clock.now += 30
    assert await sink.send(BODY) == Accepted()
    assert (sink.active, counts(receivers)) == (2, [4, 2, 3])
    receivers[0].default = Accept()
    clock.now += 30
    assert await sink.send(BODY) == Accepted()
    assert (sink.active, sink.switches, counts(receivers)) == (0, 2, [5, 2, 3])


async def test_what_a_backend_asks_for_is_no_failure(receivers, sink: FailoverSink, clock: Clock, protocol: str):
    """One that says when to come again, or that rejects a request, works: nothing goes elsewhere."""
    wait, never = {
        "grpc": (Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=1), Refuse(grpc.StatusCode.INVALID_ARGUMENT)),
        "http": (Refuse(429, retry_seconds=1), Refuse(400)),
    }[protocol]
    for answer, kind in ((wait, Retry), (never, Rejected), (wait, Retry)):
        receivers[0].script(answer)
        assert isinstance(await sink.send(BODY), kind)
        clock.now += 60
    assert counts(receivers) == [3, 0, 0]


async def test_all_of_them_down(receivers, sink: FailoverSink, clock: Clock, protocol: str):
    """Each is tried, the attempt is to be repeated, and whichever comes back first is used."""
    for receiver in receivers:
        receiver.default = DOWN[protocol]
    assert isinstance(await sink.send(BODY), Retry)
    clock.now += 5
    assert isinstance(await sink.send(BODY), Retry)
    assert (sink.active, counts(receivers)) == (0, [2, 1, 1])
    receivers[1].default = Accept()
    assert await sink.send(BODY) == Accepted()
    assert (sink.active, counts(receivers)) == (1, [3, 2, 1])


def test_endpoints_have_the_form_of_the_standard_variable():
    """Same protocol, headers and certificates, another address; what is wrong with it is said under its own name."""
    environ = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://first:1/here",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
    }
    settings = read_endpoint("http://second:4318", "FAILOVER", environ)
    assert (settings.endpoint, settings.headers) == ("http://second:4318/v1/traces", (("a", "b"),))
    with pytest.raises(SettingsError) as caught:
        read_endpoint("second", "FAILOVER", environ)
    assert caught.value.faults == ("FAILOVER='second': wanted a URL that begins with http:// or https://",)
