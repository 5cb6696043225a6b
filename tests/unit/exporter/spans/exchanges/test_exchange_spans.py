"""An exchange record is spans of the application's trace: where they stand, what they say, and what they must not say."""

from __future__ import annotations

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proto.columns import (
    COLUMNS,
    CONNECTION_PART,
    FIRST_EXCHANGE,
    NO_INDEX,
    ExchangeEnd,
    ExchangeMatched,
    HttpMethod,
    Observer,
    Reason,
    Role,
)
from proto.exchange_phases import span_count
from proto.flow_batch import Entity, FlowBatch, decode, encode
from proto.verdicts.names import Verdict, VerdictMeasure
from services.exporter.encoder import SpanEncoder

MS = 1_000_000
START = 1_700_000_000_000_000_000
TRACE_ID, PARENT_ID = bytes(range(1, 17)), bytes(range(101, 109))
CLIENT = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])
SERVER = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 2])
ENTITIES = [
    Entity("k8s.pod", {"service.name": "frontend", "k8s.pod.name": "frontend-1"}),
    Entity("k8s.pod", {"service.name": "cart", "k8s.pod.name": "cart-1"}),
]


def exchange(role=Role.CLIENT, *, observer=Observer.SOCKET, number=0, **columns):
    """The columns of an exchange of 40 ms, seen by the client or the server: 5 ms request, 20 ms wait, 15 ms response."""
    client, server = ("local", "remote") if role == Role.CLIENT else ("remote", "local")
    return {
        "flow_id": 7,
        "record": FIRST_EXCHANGE + number,
        "reason": Reason.EXCHANGE,
        "observer": observer,
        "role": role,
        "transport": 6,
        f"{client}_address": CLIENT,
        f"{server}_address": SERVER,
        f"{client}_port": 40000,
        f"{server}_port": 8080,
        f"{client}_entity": 0,
        f"{server}_entity": 1,
        f"{client}_isn": 11,
        f"{server}_isn": 22,
        "isn_seen": 3,
        "local_container": NO_INDEX,
        "local_service": NO_INDEX,
        "remote_service": NO_INDEX,
        "flow_start_unix_ns": START - MS,
        "start_unix_ns": START,
        "end_unix_ns": START + 40 * MS,
        "trace_id": TRACE_ID,
        "parent_span_id": PARENT_ID,
        "trace_flags": 3,
        "exchange_end": ExchangeEnd.NEXT_REQUEST,
        "request_first_unix_ns": START,
        "request_last_unix_ns": START + 5 * MS,
        "response_first_unix_ns": START + 25 * MS,
        "response_last_unix_ns": START + 40 * MS,
        "request_bytes": 300,
        "response_bytes": 9000,
        "request_retransmits": 1,
        "response_retransmits": 2,
    } | columns


def flow(role=Role.CLIENT, **columns):
    """The columns of the first record of the same flow."""
    kept = {name: value for name, value in exchange(role).items() if not name.startswith(("request", "response", "trace"))}
    del kept["parent_span_id"], kept["exchange_end"]
    return kept | {"record": 0, "reason": Reason.END_OF_FLOW, "tx_bytes": 100} | columns


def batch(*rows):
    """Rows as one batch; a column that a row does not have is its default there."""
    columns = {}
    for name in {name for row in rows for name in row}:
        column = COLUMNS[name]
        values = [row.get(name, column.default or (bytes(16) if column.dtype == "|V16" else 0)) for row in rows]
        if column.numpy_dtype.kind == "V":
            values = [value or bytes(column.numpy_dtype.itemsize) for value in values]
            columns[name] = np.frombuffer(b"".join(values), column.dtype)
        else:
            columns[name] = np.array(values, column.dtype)
    return decode(encode(FlowBatch("node-a", "e", 0, len(rows), (START, START), columns, entities=ENTITIES)))


def spans(*rows, **how):
    """Name -> span of the rows, and span -> its resource's attributes."""
    request = ExportTraceServiceRequest.FromString(SpanEncoder(cluster_name="c", **how).encode(batch(*rows)))
    found = [
        (span, attributes(resource_spans.resource))
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
    assert len(found) == span_count(batch(*rows))
    assert len({span.name for span, _ in found}) == len(found)
    return {span.name: span for span, _ in found}, {span.name: resource for span, resource in found}


def attributes(message):
    """Attributes as a dict."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in message.attributes}


def times(span):
    """Start and end in milliseconds after START."""
    return [(span.start_time_unix_nano - START) / MS, (span.end_time_unix_nano - START) / MS]


def test_it_stands_under_the_caller_and_its_phases_under_it():
    """The trace and the parent are the request's own; the phases follow each other within the exchange."""
    told, resources = spans(exchange())
    whole = told["exchange at client"]
    assert (whole.trace_id, whole.parent_span_id, whole.flags) == (TRACE_ID, PARENT_ID, 0x303)
    assert {name: times(span) for name, span in told.items()} == {
        "exchange at client": [0, 40],
        "request transfer": [0, 5],
        "server wait": [5, 25],
        "response transfer": [25, 40],
    }
    for name in ("request transfer", "server wait", "response transfer"):
        assert (told[name].trace_id, told[name].parent_span_id) == (TRACE_ID, whole.span_id)
        assert told[name].flags == 0x103
    assert {span.kind for span in told.values()} == {Span.SPAN_KIND_INTERNAL}
    assert len({span.span_id for span in told.values()}) == 4
    assert {resource["service.name"] for resource in resources.values()} == {"frontend"}


def test_the_last_of_a_series_says_how_many_there_were():
    """And what they took of the server; one that was alone says nothing of it."""
    told, _ = spans(exchange(exchange_series=37, exchange_series_wait_ns=90 * MS))
    said = attributes(told["exchange at client"])
    assert (said["flow.exchange.series.count"], said["flow.exchange.series.wait"]) == (37, 90 * MS)
    told, _ = spans(exchange())
    assert not [name for span in told.values() for name in attributes(span) if "series" in name]


def test_it_says_what_became_of_exactly_this_request():
    """Bytes, retransmissions and times of the request; both ends as the flow's span has them; no peer."""
    told, _ = spans(exchange())
    said = attributes(told["exchange at client"])
    assert (
        said
        | {
            "flow.request.bytes": 300,
            "flow.response.bytes": 9000,
            "flow.request.retransmits": 1,
            "flow.response.retransmits": 2,
            "flow.request.transfer_time": 5 * MS,
            "flow.response.time": 20 * MS,
            "flow.response.transfer_time": 15 * MS,
            "flow.exchange.end_reason": "next_request",
            "flow.observer": "client",
            "flow.direction": "forward",
            "network.transport": "tcp",
            "network.type": "ipv4",
        }
        == said
    )
    (of_flow,) = spans(flow())[0].values()
    ends = {name: value for name, value in attributes(of_flow).items() if name.startswith(("source.", "destination."))}
    assert ends == {name: value for name, value in said.items() if name.startswith(("source.", "destination."))}
    assert ends["destination.service.name"] == "cart"
    assert not [name for span in told.values() for name in attributes(span) if "peer.service" in name or "service.peer" in name]
    assert attributes(told["server wait"]) == {"flow.observer": "client"}


def test_it_says_what_was_asked_and_answered():
    """Method and status codes where they are known; that a stream's connection is not its alone."""
    asked = exchange(http_method=HttpMethod.POST, http_status=200, grpc_status=6, exchange_shared=1)
    other = exchange(number=1, http_method=HttpMethod.OTHER, http_status=404)
    names = (
        "http.request.method", "http.response.status_code", "rpc.system", "rpc.grpc.status_code", "flow.exchange.shared",
    )  # fmt: skip
    found = []
    for one in (asked, other, exchange(number=2)):
        said = attributes(spans(one)[0]["exchange at client"])
        found.append([said.get(name) for name in names])
    assert found == [["POST", 200, "grpc", 5, True], ["_OTHER", 404, None, None, None], [None] * 5]


def test_of_a_connection_that_several_share_it_says_no_more_than_what_that_did():
    """Its name says so, and its attributes; it has no phases, though exchanges beside it have; it stands where they would."""
    end = START + 40 * MS
    moments = {f"{name}_unix_ns": 0 for name in ("response_first", "response_last")}
    moments |= {"request_first_unix_ns": end, "request_last_unix_ns": end}
    counts = {"smoothed_rtt_ns": 90_000, "tx_zero_windows": 4, "rx_zero_windows": 5, "response_time_max_ns": 7 * MS}
    matched = {"exchange_shared": CONNECTION_PART, "exchange_matched": ExchangeMatched.SPAN, "exchange_end": ExchangeEnd.NONE}
    for role in (Role.CLIENT, Role.SERVER):
        part = exchange(role, number=2, **moments, **counts, **matched)
        told, _ = spans(part, exchange(Role.CLIENT if role == Role.SERVER else Role.SERVER))
        whole = told.pop(f"connection at {role.name.lower()}")
        assert sorted(name.split()[0] for name in told) == ["exchange", "request", "response", "server"]
        assert (whole.trace_id, whole.parent_span_id, times(whole)) == (TRACE_ID, PARENT_ID, [0, 40])
        assert len(whole.links) == 1
        assert whole.status.code == Status.STATUS_CODE_UNSET
        said = attributes(whole)
        shared = {name.removeprefix("flow.shared."): said.pop(name) for name in list(said) if name.startswith("flow.shared.")}
        closed = {"request.zero_window": 4, "response.zero_window": 5}
        if role == Role.SERVER:
            closed = {"request.zero_window": 5, "response.zero_window": 4}
        assert shared == closed | {
            "request.bytes": 300, "response.bytes": 9000, "request.retransmits": 1, "response.retransmits": 2,
            "silence_max": 7 * MS, "rtt": 90_000,
        }  # fmt: skip
        assert {name for name in said if name.startswith("flow.")} == {
            "flow.direction", "flow.observer", "flow.exchange.matched", "flow.exchange.shared",
        }  # fmt: skip
        assert (said["flow.exchange.shared"], said["flow.exchange.matched"]) == (True, "span")
    file, _ = spans(exchange(**moments, **(counts | {"smoothed_rtt_ns": 0}), **matched))
    assert "flow.shared.rtt" not in attributes(file["connection at client"])


def test_it_is_linked_to_its_connection():
    """The link's target is the span of the flow's first record at the same side."""
    for role in (Role.CLIENT, Role.SERVER):
        (of_flow,) = spans(flow(role))[0].values()
        (link,) = spans(exchange(role))[0][f"exchange at {role.name.lower()}"].links
        assert (link.trace_id, link.span_id, link.flags) == (of_flow.trace_id, of_flow.span_id, 0x101)
    joined, _ = spans(exchange(isn_seen=0))
    assert not joined["exchange at client"].links
    captured = {"observer": Observer.CAPTURE, "isn_seen": 0}
    (of_flow,) = spans(flow(**captured))[0].values()
    (link,) = spans(exchange(**captured))[0]["exchange at capture"].links
    assert (link.trace_id, link.span_id) == (of_flow.trace_id, of_flow.span_id)


def test_both_sides_tell_their_own():
    """The server's exchange is the caller's child too, under the server's resource; no id is used twice."""
    client, _ = spans(exchange())
    server, resources = spans(exchange(Role.SERVER, local_container=NO_INDEX))
    assert server["exchange at server"].parent_span_id == PARENT_ID
    assert resources["server wait"]["service.name"] == "cart"
    assert attributes(server["exchange at server"])["flow.direction"] == "reverse"
    assert attributes(server["exchange at server"])["source.service.name"] == "frontend"
    assert not {span.span_id for span in client.values()} & {span.span_id for span in server.values()}
    later, _ = spans(exchange(number=1))
    assert not {span.span_id for span in client.values()} & {span.span_id for span in later.values()}


def test_what_was_wrong_stands_on_the_exchange_and_on_none_of_its_phases():
    """What the enricher judged, and the attribute that decided it, which is on the same span; unknown is left out."""
    judged = exchange(verdict=Verdict.SERVER_SLOW, verdict_measure=VerdictMeasure.RESPONSE_TIME)
    found, _ = spans(judged, profile="lean")
    whole = attributes(found.pop("exchange at client"))
    assert (whole["flow.verdict"], whole["flow.verdict.measure"]) == ("server_slow", "flow.response.time")
    assert whole["flow.verdict.measure"] in whole
    assert not any("flow.verdict" in attributes(span) for span in found.values())
    found, _ = spans(exchange(verdict=Verdict.UNKNOWN))
    assert "flow.verdict" not in attributes(found["exchange at client"])
    found, _ = spans(exchange(verdict=Verdict.OK))
    well = attributes(found["exchange at client"])
    assert (well["flow.verdict"], well.get("flow.verdict.measure")) == ("ok", None)


def test_the_same_record_gives_the_same_bytes():
    """Redelivery overwrites: nothing is drawn by lot."""
    assert SpanEncoder(cluster_name="c").encode(batch(exchange())) == SpanEncoder(cluster_name="c").encode(batch(exchange()))


@pytest.mark.parametrize(("columns", "names"), [
    ({"request_last_unix_ns": START}, {"server wait", "response transfer"}),
    ({"response_last_unix_ns": START + 25 * MS, "end_unix_ns": START + 25 * MS}, {"request transfer", "server wait"}),
    ({"response_first_unix_ns": 0, "response_last_unix_ns": 0, "response_bytes": 0}, {"request transfer", "server wait"}),
    ({"response_first_unix_ns": 0, "response_last_unix_ns": 0, "response_bytes": 40}, {"request transfer", "server wait"}),
    ({"response_first_unix_ns": START + MS}, {"request transfer", "response transfer"}),
    ({"request_last_unix_ns": START, "response_first_unix_ns": START}, {"server wait", "response transfer"}),
])  # fmt: skip
def test_a_phase_is_told_where_there_was_one(columns, names):
    """No transfer within one segment, and no response where none came or interim ones only; a wait however short, but for none
    where the server answered before the request was over.
    """
    assert set(spans(exchange(**columns))[0]) == names | {"exchange at client"}


@pytest.mark.parametrize(("end", "answered", "error"), [
    (ExchangeEnd.CLOSED, True, None),
    (ExchangeEnd.SHUTDOWN, True, None),
    (ExchangeEnd.SHUTDOWN, False, None),
    (ExchangeEnd.RESET, True, "connection_reset"),
    (ExchangeEnd.RESET, False, "connection_reset"),
    (ExchangeEnd.STREAM_RESET, True, "stream_reset"),
    (ExchangeEnd.STREAM_RESET, False, "stream_reset"),
    (ExchangeEnd.STREAM, True, None),
    (ExchangeEnd.CLOSED, False, "no_response"),
    (ExchangeEnd.IDLE_TIMEOUT, False, "timeout"),
])  # fmt: skip
def test_an_exchange_that_failed_says_how(end, answered, error):
    """Status and `error.type`; where capture ended first nobody knows."""
    silent = {} if answered else {"response_first_unix_ns": 0, "response_last_unix_ns": 0, "response_bytes": 0}
    told, _ = spans(exchange(exchange_end=end, **silent))
    whole = told["exchange at client"]
    assert attributes(whole).get("error.type") == error
    assert whole.status.code == (Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET)
    assert {span.status.code for name, span in told.items() if name != whole.name} <= {Status.STATUS_CODE_UNSET}
    if end == ExchangeEnd.RESET and answered:
        assert times(told["response transfer"]) == [25, 40]


def test_flows_and_exchanges_share_a_request():
    """In one batch: each flow's span is what it is without the exchanges, and all of a resource stand together."""
    rows = [flow(), exchange(), flow(Role.SERVER), exchange(Role.SERVER)]
    request = ExportTraceServiceRequest.FromString(SpanEncoder(cluster_name="c").encode(batch(*rows)))
    assert len(request.resource_spans) == 2
    alone = ExportTraceServiceRequest.FromString(SpanEncoder(cluster_name="c").encode(batch(flow(), flow(Role.SERVER))))
    together = [span for each in request.resource_spans for span in each.scope_spans[0].spans]
    assert len(together) == span_count(batch(*rows)) == 10
    for each in alone.resource_spans:
        assert each.scope_spans[0].spans[0] in together


def test_a_request_of_exchanges_is_split_by_records():
    """Both halves together hold the spans of the whole; one record is not split."""
    encoder = SpanEncoder(cluster_name="c")
    (request,) = encoder.encode_requests(batch(exchange(), exchange(number=1), flow()), 1 << 20)
    assert request.spans == 9
    halves = request.split()
    assert sum(half.spans for half in halves) == 9
    (alone,) = encoder.encode_requests(batch(exchange()), 1 << 20)
    assert not alone.divisible
    with pytest.raises(ValueError, match="one record"):
        alone.split()


def test_a_lean_profile_keeps_what_tells_the_fault():
    """Bytes and retransmissions, the ends' names, and every phase."""
    told, _ = spans(exchange(), profile="lean")
    said = attributes(told["exchange at client"])
    assert {"flow.request.retransmits", "flow.response.time", "source.service.name", "flow.observer"} <= set(said)
    assert "network.local.port" not in said
    assert len(told) == 4
