"""What is read of a request is what OpenTelemetry's own classes read of it."""

import ipaddress

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from services.enricher.intake.scan import MOST_SPANS, NO_NAME, count_spans, scan
from tests.support import otlp_requests
from tests.support.otlp_requests import CLIENT, CONSUMER, PRODUCER, SERVER, key_values, request, span, together

HOSTS = [
    "cart",
    "redis.shop.svc",
    "10.0.0.7",
    "::ffff:10.0.0.7",
    "fd00::7",
    "[fd00::7]",
    "fe80::1%eth0",
    "/run/redis.sock",
    "a b",
    "",
]
_hosts = st.sampled_from(HOSTS)
_ports = st.integers(-1, 70_000) | st.sampled_from(["80", "8080", "x", ""])
_known = {
    **dict.fromkeys(["network.peer.address", "net.sock.peer.addr", "server.socket.address", "client.socket.address"], _hosts),
    **dict.fromkeys(["net.peer.ip", "net.peer.name", "server.address", "client.address"], _hosts),
    **dict.fromkeys(["network.peer.port", "network.local.port", "net.sock.peer.port", "net.sock.host.port"], _ports),
    **dict.fromkeys(["server.socket.port", "client.socket.port", "net.peer.port", "net.host.port"], _ports),
    **dict.fromkeys(["server.port", "client.port"], _ports),
    **dict.fromkeys(["url.full", "http.url"], st.sampled_from(["http://cart:81/x", "https://10.0.0.9", "tcp://a", "://", "x"])),
    **dict.fromkeys(["db.system", "db.system.name", "messaging.system"], st.sampled_from(["redis", "kafka", "nope"])),
    **dict.fromkeys(["k8s.pod.uid", "k8s.pod.ip", "container.id", "host.name"], st.text(max_size=9)),
    **dict.fromkeys(["network.peer.addresz", "http.route", ""], st.text(max_size=9)),
}
_any_value = st.one_of(
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
    st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
    st.just(AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="10.0.0.1")]))),
    st.just(AnyValue()),
)


@st.composite
def _attributes(draw):
    keys = draw(st.lists(st.sampled_from(sorted(_known)), unique=True, max_size=6))
    made = key_values({key: draw(_known[key]) for key in keys})
    for each in made:
        if draw(st.integers(0, 9)) == 0:
            each.value.CopyFrom(draw(_any_value))
    return made


_ids = st.sampled_from([b"", bytes(16), bytes(8), b"\1" * 16, b"\2" * 8, b"\3" * 17])
_spans = st.builds(
    Span,
    trace_id=st.just(b"\1" * 16) | _ids,
    span_id=st.just(b"\2" * 8) | _ids,
    trace_state=st.text(max_size=4),
    name=st.text(max_size=4),
    kind=st.integers(0, 6),
    start_time_unix_nano=st.integers(0, 2**64 - 1) | st.just(5),
    end_time_unix_nano=st.just(2**64 - 1) | st.integers(0, 2**64 - 1),
    attributes=_attributes(),
    events=st.lists(st.builds(Span.Event, name=st.text(max_size=4), attributes=_attributes()), max_size=2),
    flags=st.integers(0, 2**32 - 1),
)
_requests = st.builds(
    ExportTraceServiceRequest,
    resource_spans=st.lists(
        st.builds(
            ResourceSpans,
            resource=st.builds(Resource, attributes=_attributes()),
            scope_spans=st.lists(
                st.builds(ScopeSpans, spans=st.lists(_spans, max_size=4), schema_url=st.text(max_size=4)), max_size=2
            ),
        ),
        max_size=3,
    ),
)


def said(attributes) -> dict:
    """Texts and numbers among attributes."""
    found = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        found[each.key] = getattr(each.value, kind) if kind in ("string_value", "int_value") else None
    return found


def literal(text) -> bytes:
    """A literal address as the bus has it, else 16 zeros."""
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except (ValueError, AttributeError):
        return bytes(16)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def check(payload: bytes, parsed: ExportTraceServiceRequest) -> None:
    """Compare what the C says of a request with what the classes say."""
    total = sum(len(scope.spans) for each in parsed.resource_spans for scope in each.scope_spans)
    assert count_spans(payload) == total
    got = scan(payload, total)
    assert got.seen == total == len(got.spans) + got.kind + got.no_ids + got.beyond
    assert got.beyond == 0 or len(parsed.resource_spans) > total
    expected = []
    for place, each in enumerate(parsed.resource_spans):
        attributes = said(each.resource.attributes)
        wanted = tuple(attributes.get(name) or "" for name in ("k8s.pod.uid", "k8s.pod.ip", "container.id", "host.name"))
        if place < len(got.resources):
            assert tuple(got.resources[place]) == tuple(text if isinstance(text, str) else "" for text in wanted)
        for made in (made for scope in each.scope_spans for made in scope.spans):
            good = any(made.trace_id) and any(made.span_id) and (len(made.trace_id), len(made.span_id)) == (16, 8)
            timed = 0 < made.start_time_unix_nano <= made.end_time_unix_nano
            if SERVER <= made.kind <= CONSUMER and good and timed and place < len(got.resources):
                expected.append((place, made))
    assert len(expected) == len(got.spans)
    for (place, made), row in zip(expected, got.spans, strict=True):
        assert (row["trace_id"].tobytes(), row["span_id"].tobytes()) == (made.trace_id, made.span_id)
        parent = made.parent_span_id if len(made.parent_span_id) == 8 else bytes(8)
        assert row["parent_span_id"].tobytes() == parent
        assert (row["start_ns"], row["end_ns"]) == (made.start_time_unix_nano, made.end_time_unix_nano)
        assert (row["kind"], row["flags"], row["resource"]) == (made.kind, (made.flags & 255) | 1, place)
        address, name = row["peer_address"].tobytes(), "" if row["name"] == NO_NAME else got.names[row["name"]]
        check_peer(made.kind, said(made.attributes), address, name)


def check_peer(kind: int, values: dict, address: bytes, name: str) -> None:
    """A peer is somebody whom the attributes name, and the socket's other end where they say that."""
    assert not (any(address) and name)
    if name:
        assert any(name in value for value in values.values() if isinstance(value, str))
        assert kind != SERVER
    if any(address):
        assert any(literal(value) == address for value in values.values()) or "https://10.0.0.9" in values.values()
    for first in ("network.peer.address", "net.sock.peer.addr"):
        if any(literal(values.get(first))):
            assert address == literal(values[first])
            break
        if values.get(first) in ("cart", "redis.shop.svc"):
            break


@settings(max_examples=120, deadline=None)
@given(_requests)
def test_a_request_is_read_as_opentelemetrys_classes_read_it(made):
    """Spans, ids, times, kinds, resources and peers of any request are those that the protobuf classes see."""
    check(made.SerializeToString(), made)


@settings(max_examples=120, deadline=None)
@given(_requests, st.data())
def test_damaged_requests_are_read_as_the_classes_do_or_refused(made, data):
    """Whatever the classes still read of damaged bytes is read alike; what nobody can read is refused and never trips."""
    payload = bytearray(made.SerializeToString() or b"\n\0")
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(payload[: data.draw(st.just(len(payload)) | st.integers(0, len(payload)))])
    count = count_spans(damaged)
    got = None if count is None else scan(damaged, count)
    try:
        parsed = ExportTraceServiceRequest.FromString(damaged)
    except DecodeError:  # what they refuse we may pass over: names and events are not looked at
        return
    if got is not None:
        check(damaged, parsed)


@pytest.mark.parametrize(
    ("attributes", "address", "name", "port"),
    [
        ({"server.address": "redis", "server.port": 6380}, "", "redis", 6380),
        ({"db.system.name": "postgresql", "server.address": "db"}, "", "db", 5432),
        ({"db.system": "redis", "net.peer.name": "cache", "net.peer.port": 6379}, "", "cache", 6379),
        ({"messaging.system": "kafka", "server.address": "10.0.0.5"}, "10.0.0.5", "", 9092),
        ({"http.url": "http://cart:8080/items"}, "", "cart", 8080),
        ({"url.full": "https://cart.shop/items"}, "", "cart.shop", 443),
        ({"url.full": "http://u:p@[fd00::1]:99/"}, "fd00::1", "", 99),
        ({"network.peer.address": "10.0.0.5", "server.address": "cart", "server.port": 80}, "10.0.0.5", "", 80),
        ({"net.peer.ip": "10.0.0.5", "net.peer.port": "5432"}, "10.0.0.5", "", 5432),
        ({"network.peer.address": "/run/redis.sock"}, "", "", 0),
        ({"server.address": "0.0.0.0"}, "", "", 0),
        ({"rpc.system": "grpc"}, "", "", 0),
    ],
)
def test_a_client_names_its_server(attributes, address, name, port):
    """The peer's address is the socket's where it is said, else what the application calls it, by new names and old ones."""
    for kind in (CLIENT, PRODUCER, CONSUMER):
        made = span(kind=kind)
        made.attributes.extend(key_values(attributes))
        got = scan(request([made]), 1)
        (row,) = got.spans
        assert row["peer_address"].tobytes() == literal(address)
        assert ("" if row["name"] == NO_NAME else got.names[row["name"]]) == name
        assert row["peer_port"] == port


@pytest.mark.parametrize(
    ("attributes", "address", "port", "local_port"),
    [
        ({"client.address": "10.0.0.9", "client.port": 40000, "server.port": 80}, "10.0.0.9", 40000, 0),
        ({"net.peer.ip": "10.0.0.9", "net.host.port": 8080}, "10.0.0.9", 0, 8080),
        ({"network.peer.address": "10.0.0.1", "network.peer.port": 5, "client.address": "8.8.8.8"}, "10.0.0.1", 5, 0),
        ({"client.address": "8.8.8.8", "network.peer.port": 5, "server.port": 80}, "8.8.8.8", 0, 80),
        ({"client.address": "laptop", "client.port": 1, "net.sock.host.port": 8443}, "", 0, 8443),
        ({"network.peer.address": "10.0.0.1", "network.peer.port": 5, "network.local.port": 81}, "10.0.0.1", 5, 81),
    ],
)
def test_a_server_names_its_client(attributes, address, port, local_port):
    """The peer of a SERVER span is who asked: its address and its port are one pair's, or the port is not known."""
    made = span(kind=SERVER)
    made.attributes.extend(key_values(attributes))
    (row,) = scan(request([made]), 1).spans
    assert row["peer_address"].tobytes() == literal(address)
    assert (row["peer_port"], row["local_port"]) == (port, local_port)


def test_a_resource_may_stand_behind_its_spans():
    """Fields of a message may come in any order, and in pieces."""
    resource = ResourceSpans(resource=Resource(attributes=key_values({"host.name": "a", "k8s.pod.uid": "b"})))
    spans = ResourceSpans(scope_spans=[ScopeSpans(spans=[span()])])
    more = ResourceSpans(resource=Resource(attributes=key_values({"host.name": "c"})))
    inner = spans.SerializeToString() + resource.SerializeToString() + more.SerializeToString()
    payload = b"\x0a" + bytes([len(inner)]) + inner
    (found,) = scan(payload, 1).resources
    assert (found.pod_uid, found.host_name) == ("b", "c")


def test_what_is_more_than_is_looked_at_is_counted():
    """Neither spans nor resources beyond the bound are read; they are counted."""
    spans = [span(number) for number in range(1, MOST_SPANS + 11)]
    got = scan(request(spans), len(spans))
    assert (len(got.spans), got.beyond, got.seen) == (MOST_SPANS, 10, len(spans))
    got = scan(together([([], [])] * 50 + [([], [span()])]), 1)
    assert (len(got.spans), got.beyond) == (0, 1)


def test_names_are_numbered_once():
    """A request that names one peer a thousand times has one name."""
    got = scan(request([span(number, server__address="redis") for number in range(1, 1001)]), 1000)
    assert (len(got.spans), got.names) == (1000, ["redis"])


@pytest.mark.parametrize("payload", [b"\x0a\x05", b"\xff" * 11, b"\x0b", b"\x00\x00", b"\x0a\x02\x12\x7f"])
def test_what_is_no_request_is_refused(payload):
    """Bytes that end too early, lengths beyond them, fields of number 0 and groups are no request."""
    assert count_spans(payload) is None


def test_seeds_of_the_fuzzer_can_be_read():
    """The corpus begins with requests, not with noise."""
    for payload in otlp_requests.seeds():
        parsed = ExportTraceServiceRequest.FromString(payload)
        spans = [made for each in parsed.resource_spans for scope in each.scope_spans for made in scope.spans]
        assert count_spans(payload) == len(spans)
        assert scan(payload, len(spans)).seen == len(spans)


def test_keys_that_only_begin_alike_are_others():
    """An attribute is known by all of its name, and a value of another type says nothing."""
    made = span()
    made.attributes.extend(key_values({"server.addresS": "a", "server.port": 1.5}))
    made.attributes.append(KeyValue(key="server.address"))
    (row,) = scan(request([made]), 1).spans
    assert (row["name"], row["peer_port"]) == (NO_NAME, 0)
