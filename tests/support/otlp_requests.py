"""OTLP requests as applications send them, made with OpenTelemetry's own classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

Values = Mapping[str, str | int | bool | float | bytes]

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


def key_values(attributes: Values) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=key, value=_any(value)) for key, value in attributes.items()]


def _any(value: str | bool | float | bytes) -> AnyValue:  # noqa: FBT001 - a value of any type
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(bytes_value=value) if isinstance(value, bytes) else AnyValue(string_value=value)


def span(number: int = 1, *, kind: int = CLIENT, start: int = 1_000, end: int = 2_000, **attributes: str | int) -> Span:
    """A span; in names of attributes `__` is a dot."""
    return Span(
        trace_id=number.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        name="GET",
        kind=kind,
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        attributes=key_values({key.replace("__", "."): value for key, value in attributes.items()}),
    )


def request(spans: Sequence[Span], **resource: str) -> bytes:
    """One request of one resource; in names of attributes `__` is a dot."""
    attributes = key_values({key.replace("__", "."): value for key, value in resource.items()})
    return together([(attributes, spans)])


def together(groups: Sequence[tuple[Sequence[KeyValue], Sequence[Span]]]) -> bytes:
    """One request of several resources."""
    return ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(resource=Resource(attributes=attributes), scope_spans=[ScopeSpans(spans=spans)])
            for attributes, spans in groups
        ]
    ).SerializeToString()


def typical(count: int, *, start: int = 1_000, pod_uid: str = "0f8fad5b-d9cb-469f-a165-70867728950e") -> bytes:
    """A request of `count` spans of some 1 KiB each, as the SDK's HTTP instrumentation makes them."""
    common = {
        "http.request.method": "GET",
        "url.full": "http://cart.shop.svc.cluster.local:8080/api/v1/items/42?page=3&size=50&sort=price&order=desc",
        "server.address": "cart.shop.svc.cluster.local",
        "server.port": 8080,
        "network.peer.address": "10.96.0.12",
        "network.peer.port": 8080,
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
        "thread.name": "http-nio-8080-exec-7",
        "thread.id": 71,
        "code.function.name": "com.example.shop.frontend.clients.CartClient.fetchItemsOfCustomer",
        "customer.id": "5a0e1c0e-52f1-4f0c-9d6b-3a1de1ec7b1a",
        "feature.flags": "new-checkout,fast-search,recommendations-v2,dark-mode",
        "note": "x" * 180,
    }
    attributes = key_values(common)
    spans = []
    for number in range(1, count + 1):
        made = span(number, start=start, end=start + 1_000_000)
        made.attributes.extend(attributes)
        spans.append(made)
    return request(spans, k8s__pod__uid=pod_uid, service__name="frontend", service__namespace="shop", host__name="frontend-1")


def seeds() -> Iterator[bytes]:
    """Requests that reach every part of bpf/otlp."""
    yield b""
    yield typical(3)
    names = ["cart", "10.0.0.1", "[::1]", "fe80::1%eth0", "/run/x.sock", "0.0.0.0"]
    addresses = [
        "network.peer.address",
        "net.sock.peer.addr",
        "server.address",
        "net.peer.name",
        "client.address",
        "net.peer.ip",
    ]
    for kind in (0, 1, 2, 3, 4, 5):
        for address, name in zip(addresses, names, strict=True):
            made = span(7, kind=kind)
            made.attributes.extend(key_values({address: name, "server.port": 80, "net.peer.port": "5432"}))
            yield request([made], k8s__pod__ip="10.1.1.1", container__id="ab" * 32)
    for url in ("http://a:1/", "https://u:p@[::1]:9/x", "ws://b?c", "x", "http://", "http://c:99999"):
        yield request([span(1, url__full=url), span(2, http__url=url, db__system="redis")], host__name="h")
    yield together([(key_values({"host.name": str(number)}), [span(number)]) for number in range(1, 6)])
