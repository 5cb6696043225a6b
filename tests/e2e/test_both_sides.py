"""Two pods, the socket tap on their node, the pipeline, and a real Jaeger: a connection as both of its ends saw it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import SpanKind

from tests.e2e.backends.jaeger import asked, running_jaeger
from tests.support.kubernetes.cluster_in_a_box import CLOSED_PORT, PORT, ClusterInABox
from tests.support.node.live_capture import reason_to_skip
from tests.support.pipeline.processes import Pipeline

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1200),  # the first to ask for a tool may build it
    pytest.mark.skipif(bool(reason_to_skip()), reason=str(reason_to_skip())),
]

WAIT_SECONDS = 120


class _Ids(IdGenerator):
    """The ids of the span that asks in the box."""

    def __init__(self, box: ClusterInABox) -> None:
        self._box = box

    def generate_trace_id(self) -> int:
        return self._box.trace_id

    def generate_span_id(self) -> int:
        return self._box.span_id


def send_application_trace(box: ClusterInABox, otlp: str) -> None:
    """What frontend's own SDK says: it asks the cart."""
    provider = TracerProvider(resource=Resource({"service.name": "frontend"}), id_generator=_Ids(box))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(otlp, insecure=True)))
    with provider.get_tracer("shop").start_as_current_span("GET /cart", kind=SpanKind.CLIENT):
        pass
    provider.shutdown()


@pytest.fixture(scope="module")
def trace_ids() -> list[str]:
    """The application's trace, once it is known."""
    return []


@pytest.fixture(scope="module")
def query(jaeger: Path, tmp_path_factory: pytest.TempPathFactory, trace_ids: list[str]) -> Iterator[str]:
    """Where Jaeger answers, which is sent every span of the box."""
    folder = tmp_path_factory.mktemp("box")
    with running_jaeger(jaeger, folder) as (otlp, url), ClusterInABox(folder) as box:
        send_application_trace(box, otlp)
        trace_ids.append(f"{box.trace_id:032x}")
        settings = box.settings | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "WIRESPAN_EXPORTER_ATTRIBUTES": "full"}
        with Pipeline(folder / "pipeline", **settings):
            yield url


def until(found: Callable[[], Any]) -> Any:
    """What is found as soon as there is something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return result


def traces_of_frontend(query: str) -> list[list[dict[str, Any]]]:
    """The spans of each trace that has one of frontend's."""
    answer = asked(query, "/api/traces?service=frontend&limit=100&lookback=1h")
    return [trace["spans"] for trace in answer["data"]]


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """A span's attributes."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def test_both_ends_of_a_connection_are_in_one_trace(query: str) -> None:
    """The server's span is the child of the client's; each tells of its own socket, and both of the same bytes."""

    def with_both_ends() -> list[dict[str, Any]] | None:
        answered = [
            spans for spans in traces_of_frontend(query) if len(spans) == 2 and tags(spans[0]).get("destination.port") == PORT
        ]
        return answered[0] if answered else None

    spans = {tags(span)["flow.observer"]: span for span in until(with_both_ends)}
    client, server = spans["client"], spans["server"]
    assert client["references"] == []
    (parent,) = server["references"]
    assert (parent["refType"], parent["spanID"]) == ("CHILD_OF", client["spanID"])
    of_client, of_server = tags(client), tags(server)
    assert (of_client["span.kind"], of_server["span.kind"]) == ("client", "server")
    for name in ("source.service.name", "destination.service.name", "source.port", "flow.payload.bytes.delta"):
        assert of_client[name] == of_server[name]
    assert (of_client["source.service.name"], of_client["destination.service.name"]) == ("frontend", "cart")
    assert of_client["flow.response.time"] >= of_server["flow.response.time"] >= 20_000_000


def test_a_refused_connection_has_no_server(query: str) -> None:
    """It fails in the client's span alone, for no socket of the server had part in it."""

    def refused() -> list[list[dict[str, Any]]]:
        return [spans for spans in traces_of_frontend(query) if tags(spans[0]).get("destination.port") == CLOSED_PORT]

    for spans in until(refused):
        (span,) = spans
        assert tags(span)["error.type"] == "connection_refused"
        assert tags(span)["error"] is True


def test_the_backend_draws_the_edge_between_the_workloads(query: str) -> None:
    """From parents and children alone: frontend calls cart, nobody calls anybody else. Jaeger draws what a service has under
    its own spans too.
    """

    def edges() -> list[dict[str, Any]]:
        now_ms = int(time.time() * 1000)
        return asked(query, f"/api/dependencies?endTs={now_ms}&lookback=3600000")["data"]

    drawn = until(edges)
    between = {(edge["parent"], edge["child"]) for edge in drawn if edge["parent"] != edge["child"]}
    assert between == {("frontend", "cart")}


def test_the_exchange_is_in_the_applications_trace(query: str, trace_ids: list[str]) -> None:
    """Under the span of the application's own SDK each end tells the exchange and its wait, as its own workload."""

    def told() -> dict[str, dict[str, Any]] | None:
        (trace,) = asked(query, f"/api/traces/{trace_ids[0]}")["data"]
        found = {span["operationName"]: span | {"process": trace["processes"][span["processID"]]} for span in trace["spans"]}
        return found if {"exchange at client", "exchange at server"} <= found.keys() else None

    spans = until(told)
    caller = spans["GET /cart"]["spanID"]
    for name, service in (("exchange at client", "frontend"), ("exchange at server", "cart")):
        exchange = spans[name]
        assert exchange["process"]["serviceName"] == service
        references = {reference["refType"]: reference for reference in exchange["references"]}
        assert references["CHILD_OF"]["spanID"] == caller
        assert references["FOLLOWS_FROM"]["traceID"] != trace_ids[0]
        assert tags(exchange)["flow.response.time"] >= 20_000_000
        assert (tags(exchange)["source.service.name"], tags(exchange)["destination.service.name"]) == ("frontend", "cart")
    assert spans["server wait"]["duration"] >= 20_000
