"""The name that was looked up for a destination that nobody knows: where it stands, and where not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.columns import COLUMNS, FIRST_EXCHANGE, NO_INDEX, Observer, Outcome, Reason, Resolution, Role
from proto.flow_batch import Entity, FlowBatch, decode, encode
from services.exporter.encoder import SpanEncoder
from services.exporter.spans.bundle import bundle
from services.exporter.spans.summary import Thinning

START = 1_700_000_000_000_000_000
NAMES = ("api.example.com", "cdn.example.net")
CART = Entity("k8s.pod", {"service.name": "cart", "k8s.pod.name": "cart-1"})
BANK = Entity("external", {"external.name": "bank", "service.name": "bank"})
TALK = {
    "reason": Reason.END_OF_FLOW, "observer": Observer.SOCKET, "role": Role.CLIENT, "transport": 6, "outcome": Outcome.CLOSED,
    "local_port": 40000, "remote_port": 443, "local_container": NO_INDEX, "local_entity": 0, "remote_entity": NO_INDEX,
    "local_service": NO_INDEX, "remote_service": NO_INDEX, "remote_resolution": Resolution.EXTERNAL, "start_unix_ns": START,
    "flow_start_unix_ns": START, "end_unix_ns": START + 9, "remote_name": 0, "tx_bytes": 100,
}  # fmt: skip
EXCHANGE = TALK | {
    "record": FIRST_EXCHANGE, "reason": Reason.EXCHANGE, "trace_id": b"t" * 16, "parent_span_id": b"p" * 8, "trace_flags": 1,
    "request_first_unix_ns": START, "request_last_unix_ns": START, "response_first_unix_ns": START + 9, "tx_bytes": 0,
    "response_last_unix_ns": START + 9,
}  # fmt: skip
SUMMED_UP = {"thinning": Thinning(0.0, 10**9)}


def batch(*rows):
    """Rows as one batch that went over the bus."""
    columns = {}
    for name in {name for row in rows for name in row}:
        dtype = COLUMNS[name].numpy_dtype
        values = [row.get(name, COLUMNS[name].default or (bytes(dtype.itemsize) if dtype.kind == "V" else 0)) for row in rows]
        columns[name] = np.frombuffer(b"".join(values), dtype) if dtype.kind == "V" else np.array(values, dtype)
    columns["flow_id"] = np.arange(len(rows), dtype="<u8")
    return decode(encode(FlowBatch("n", "e", 0, len(rows), (0, 0), columns, entities=[CART, BANK], names=NAMES)))


def said(*batches, **how):
    """The attributes of each span."""
    (request,) = SpanEncoder(cluster_name="c", **how).encode_bundle(bundle(batches), 10**6)
    found = ExportTraceServiceRequest.FromString(request.body)
    spans = [span for group in found.resource_spans for scope in group.scope_spans for span in scope.spans]
    return [{pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes} for span in spans]


@pytest.mark.parametrize("how", [{}, SUMMED_UP, {"profile": "lean"}], ids=["own", "summed up", "lean"])
@pytest.mark.parametrize(("change", "name"), [
    ({}, NAMES[0]), ({"remote_name": NO_INDEX}, None), ({"remote_entity": 1}, None), ({"remote_service": 1}, None),
])  # fmt: skip
def test_a_destination_that_nobody_knows_has_the_name_that_was_looked_up(how, change, name):
    """On spans of flows, and of flows summed up; whom the index or a user names is named by those."""
    (attributes,) = said(batch(TALK | change), **how)
    assert attributes.get("server.address") == name


@pytest.mark.parametrize(("change", "name"), [({}, NAMES[0]), ({"remote_entity": 1}, None)])
def test_a_request_of_a_trace_has_it_too(change, name):
    """Its exchange, not the phases of that; no peer is named, lest service graphs count it twice."""
    spans = said(batch(EXCHANGE | change))
    assert [attributes["server.address"] for attributes in spans if "server.address" in attributes] == [name] * bool(name)
    assert not any("peer.service" in attributes for attributes in spans)


def test_flows_are_summed_up_by_name():
    """Whom the index knows is one, whatever it was called; what has no name is one; nothing is lost between them."""
    told = [TALK, TALK, TALK | {"remote_name": 1}, TALK | {"remote_name": NO_INDEX}, TALK | {"remote_name": NO_INDEX}]
    told += [TALK | {"remote_name": name, "remote_entity": 1} for name in (0, 1, NO_INDEX)]
    other = replace(batch(TALK), node="m", names=("cdn.example.net",))
    spans = said(batch(*told), other, **SUMMED_UP)
    found = sorted((span.get("server.address", ""), span["flow.summary.flows"]) for span in spans)
    assert found == [("", 2), ("", 3), (NAMES[0], 2), (NAMES[1], 1), (NAMES[1], 1)]
    assert sum(span["flow.bytes.delta"] for span in spans) == 900


def test_names_are_peers_where_they_are_asked_for():
    """Of CLIENT spans, in the place of `external`; whom others know stays who it is."""
    told = batch(TALK, TALK | {"remote_name": NO_INDEX}, TALK | {"remote_entity": 1}, TALK | {"record": 1})
    peers = [
        (one.get("peer.service"), one.get("service.peer.name")) for one in said(told, looked_up_peers=True, profile="full")
    ]
    assert peers == [(NAMES[0], NAMES[0]), ("external", None), ("bank", "bank"), (None, None)]
    assert [one.get("peer.service") for one in said(told)] == ["external", "external", "bank", None]
