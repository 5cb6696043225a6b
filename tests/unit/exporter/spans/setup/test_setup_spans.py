"""What a connection's first request waited for, as spans beside it: where they stand, what they say, whose ids they have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from proto.columns import NO_INDEX, Observer, Reason, Role
from proto.exchange_phases import span_count
from services.exporter.encoder import SpanEncoder
from tests.unit.exporter.spans.exchanges.test_exchange_spans import (
    CLIENT,
    MS,
    PARENT_ID,
    START,
    TRACE_ID,
    batch,
    exchange,
    flow,
    times,
)

RESOLVER = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 53])
LOOKUP = {
    "lookup_unix_ns": START - 60 * MS, "dns_first_time_ns": 20 * MS, "dns_first_name": 0, "dns_first_type": 1,
    "dns_first_answers": 2, "dns_first_repeats": 1, "lookup_flow_start_unix_ns": START - 61 * MS,
    "lookup_local_address": CLIENT, "lookup_remote_address": RESOLVER, "lookup_local_port": 5353, "lookup_remote_port": 53,
}  # fmt: skip
CONNECT = {"syn_unix_ns": START - 30 * MS, "handshake_ack_unix_ns": START - 20 * MS, "syn_repeats": 1}
TLS = {"tls_handshake_unix_ns": START - 20 * MS, "tls_handshake_time_ns": 15 * MS}
STEPS = {"connect", "tls handshake", "dns lookup"}


def spans(*rows, **how):
    """All spans of rows, in whose batch one name is known."""
    told = batch(*rows)
    columns = told.columns | {"dns_first_name": np.array([row.get("dns_first_name", NO_INDEX) for row in rows], "<u4")}
    told = replace(told, names=("cart.shop.svc",), columns=columns)
    request = ExportTraceServiceRequest.FromString(SpanEncoder(cluster_name="c", **how).encode(told))
    found = [span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]
    assert len(found) == span_count(told)
    return found


def steps(*rows, **how):
    """Name -> span of the steps of set-up."""
    return {span.name: span for span in spans(*rows, **how) if span.name in STEPS}


def said(span):
    """Attributes as a dict."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_each_step_stands_beside_the_exchange_that_waited_for_it():
    """Children of the caller's span, before the exchange, INTERNAL; what each says is its own."""
    found = steps(exchange(**LOOKUP, **CONNECT, **TLS))
    assert {name: times(span) for name, span in found.items()} == {
        "dns lookup": [-60, -40], "connect": [-30, -20], "tls handshake": [-20, -5],
    }  # fmt: skip
    for span in found.values():
        assert (span.trace_id, span.parent_span_id, span.flags, span.kind) == (
            TRACE_ID, PARENT_ID, 0x303, Span.SPAN_KIND_INTERNAL,
        )  # fmt: skip
    assert {name: said(span) for name, span in found.items()} == {
        "connect": {"flow.observer": "client", "flow.tcp.connect.time": 10 * MS, "flow.tcp.syn_repeats": 1},
        "tls handshake": {"flow.observer": "client", "flow.tls.handshake.time": 15 * MS},
        "dns lookup": {
            "flow.observer": "client", "flow.dns.time": 20 * MS, "flow.dns.repeats": 1, "dns.question.name": "cart.shop.svc",
            "dns.question.type": "A", "dns.response_code": "NOERROR", "flow.dns.answer.count": 2,
        },
    }  # fmt: skip


def test_what_did_not_take_place_has_no_span():
    """Later exchanges of a connection carry none of the columns."""
    assert steps(exchange()) == {}
    assert steps(exchange(**CONNECT)).keys() == {"connect"}
    assert steps(exchange(**LOOKUP), exchange(number=1)).keys() == {"dns lookup"}


def test_a_step_ends_before_the_request_that_waited_for_it():
    """The last ACK of a connect may come with the request, or behind one that was sent with the SYN (RFC 7413)."""
    late = CONNECT | {"handshake_ack_unix_ns": START + 3 * MS}
    assert times(steps(exchange(**late))["connect"]) == [-30, 0]


def question_flow(**columns):
    """The first record of the flow of the question."""
    kept = flow(**columns) | {
        "flow_id": 9, "transport": 17, "remote_address": RESOLVER, "remote_port": 53, "local_port": 5353, "isn_seen": 0,
        "flow_start_unix_ns": LOOKUP["lookup_flow_start_unix_ns"],
    }  # fmt: skip
    return kept | {"local_service": NO_INDEX, "remote_service": NO_INDEX}


@pytest.mark.parametrize("observer", [Observer.SOCKET, Observer.CAPTURE])
def test_each_has_a_link_to_the_span_that_it_came_from(observer):
    """The connection's first, and for a lookup the first of the flow of its question."""
    seen = {"observer": observer}
    found = steps(exchange(**LOOKUP, **CONNECT, **TLS, **seen))
    (of_connection,), (of_question,) = spans(flow(**seen)), spans(question_flow(**seen))
    links = {name: (link.trace_id, link.span_id) for name, span in found.items() for link in span.links}
    assert links == {
        "connect": (of_connection.trace_id, of_connection.span_id),
        "tls handshake": (of_connection.trace_id, of_connection.span_id),
        "dns lookup": (of_question.trace_id, of_question.span_id),
    }


def test_a_lookup_of_an_unknown_flow_has_no_link():
    """Over TCP, or where its flow is gone: the span is there all the same."""
    unknown = {name: value for name, value in LOOKUP.items() if not name.startswith("lookup_") or name == "lookup_unix_ns"}
    assert not steps(exchange(**unknown))["dns lookup"].links


def test_ids_are_derived():
    """All differ, from the exchange's too; told again they are the same; a lookup for two connections of one caller is one
    span, and for two callers two.
    """
    whole = exchange(**LOOKUP, **CONNECT, **TLS)
    ids = [span.span_id for span in spans(whole)]
    assert len(set(ids)) == len(ids) == 7
    assert [span.span_id for span in spans(whole)] == ids
    other = whole | {"flow_id": 8, "local_port": 40001, "local_isn": 12}
    both = steps(whole), steps(other)
    assert both[0]["dns lookup"] == both[1]["dns lookup"]
    assert both[0]["connect"].span_id != both[1]["connect"].span_id
    called = steps(other | {"parent_span_id": bytes(range(8))})["dns lookup"]
    assert called.span_id != both[0]["dns lookup"].span_id


def test_a_lean_profile_keeps_every_step():
    """With fewer attributes."""
    lean = steps(exchange(**LOOKUP, **CONNECT, **TLS), profile="lean")
    assert lean.keys() == STEPS
    assert said(lean["dns lookup"])["dns.question.name"] == "cart.shop.svc"


def test_flows_and_other_records_have_none():
    """A flow's record fills the same columns, and is one span."""
    rows = [flow(**CONNECT), flow(Role.SERVER, **CONNECT), exchange(**CONNECT)]
    assert len(spans(*rows)) == 2 + 5
    assert np.unique([row["reason"] for row in rows]).tolist() == [Reason.END_OF_FLOW, Reason.EXCHANGE]
