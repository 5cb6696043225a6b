"""A DNS question's record is a span of its flow's trace: where it stands, what it says, and what it must not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from proto.columns import COLUMNS, FIRST_EXCHANGE, MOST_QUESTIONS, NO_ANSWER, NO_INDEX, Observer, Reason, Role
from proto.exchange_phases import span_count
from proto.flow_batch import Entity, FlowBatch, decode, encode
from services.exporter.encoder import SpanEncoder
from services.exporter.spans.bundle import bundle
from services.exporter.spans.summary import Thinning

MS = 1_000_000
START = 1_700_000_000_000_000_000
CLIENT, SERVER = (bytes(10) + b"\xff\xff" + bytes([10, 0, 0, last]) for last in (1, 53))
ENTITIES = [Entity("k8s.pod", {"service.name": "cart"}), Entity("k8s.pod", {"service.name": "kube-dns"})]
FLOW = {
    "flow_id": 7, "record": 0, "reason": Reason.ACTIVE_TIMEOUT, "observer": Observer.SOCKET, "role": Role.CLIENT,
    "transport": 17, "local_address": CLIENT, "remote_address": SERVER, "local_port": 40000, "remote_port": 53,
    "local_entity": 0, "remote_entity": 1, "local_container": NO_INDEX, "flow_start_unix_ns": START, "start_unix_ns": START,
    "end_unix_ns": START + 900 * MS, "tx_bytes": 60, "dns_first_name": NO_INDEX, "dns_slowest_name": NO_INDEX,
}  # fmt: skip


def question(beside=0, number=0, **columns):
    """The columns of a slow question."""
    return FLOW | {
        "record": FIRST_EXCHANGE + beside * MOST_QUESTIONS + number, "reason": Reason.EXCHANGE, "tx_bytes": 0,
        "start_unix_ns": START + 100 * MS, "end_unix_ns": START + 300 * MS, "dns_first_name": 0, "dns_first_type": 28,
        "dns_first_time_ns": 200 * MS, "dns_first_answers": 2,
    } | columns  # fmt: skip


def batch(*rows):
    """Rows as one batch that went over the bus."""
    columns = {}
    for name in {name for row in rows for name in row}:
        values = [row.get(name, COLUMNS[name].default) for row in rows]
        packed = np.frombuffer(b"".join(values), "|V16") if name.endswith("address") else None
        columns[name] = np.array(values, COLUMNS[name].dtype) if packed is None else packed
    return decode(encode(FlowBatch("n", "e", 0, len(rows), (0, 0), columns, entities=ENTITIES, names=("slow.example",))))


def spans(*rows, **how):
    """The spans of rows, those of questions last."""
    told = batch(*rows)
    request = ExportTraceServiceRequest.FromString(SpanEncoder(cluster_name="c", **how).encode(told))
    found = [span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans]
    assert "thinning" in how or len(found) == span_count(told) == len(rows)
    return sorted(found, key=lambda span: span.name == "dns question")


def attributes(holder):
    """Attributes as a dict."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes}


def test_it_is_a_child_of_its_flow_with_a_name_that_is_nobodys():
    """INTERNAL, from question to answer: names of spans have a bound, and no service graph counts it."""
    flow, asked = spans(FLOW, question())
    assert (asked.trace_id, asked.parent_span_id, asked.kind) == (flow.trace_id, flow.span_id, Span.SPAN_KIND_INTERNAL)
    assert (asked.start_time_unix_nano, asked.end_time_unix_nano) == (START + 100 * MS, START + 300 * MS)
    assert asked.status.code == Status.STATUS_CODE_UNSET
    said = attributes(asked)
    assert (said["dns.question.name"], said["dns.question.type"], said["dns.response_code"]) == (
        "slow.example",
        "AAAA",
        "NOERROR",
    )
    assert (said["flow.dns.time"], said["flow.dns.answer.count"], said["destination.port"]) == (200 * MS, 2, 53)
    assert (said["source.service.name"], said["destination.service.name"]) == ("cart", "kube-dns")
    assert not [
        name
        for name in said
        if "bytes" in name or name.startswith(("flow.record", "flow.observer", "peer.", "flow.dns.slowest"))
    ]


@pytest.mark.parametrize(
    ("code", "error"), [(0, None), (3, None), (5, None), (2, "dns_server_failure"), (NO_ANSWER, "dns_no_answer")]
)
def test_a_failure_is_an_error(code, error):
    """SERVFAIL and no answer; a name that is not there is none, nor is a refusal."""
    (asked,) = spans(question(dns_first_code=code))
    assert attributes(asked).get("error.type") == error
    assert asked.status.code == (Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET)
    assert ("dns.response_code" in attributes(asked)) is (code != NO_ANSWER)


def test_it_is_in_the_trace_of_the_record_beside_it():
    """A flow goes on in another trace after so many records; its questions go with it. All have ids of their own."""
    first, second = FLOW | {"record": 0}, FLOW | {"record": 2}
    *flows, early, late, other = spans(first, second, question(1), question(2), question(2, 1), trace_records=2)
    roots = {flow.trace_id: flow.span_id for flow in flows}
    assert [roots[asked.trace_id] for asked in (early, late, other)] == [asked.parent_span_id for asked in (early, late, other)]
    assert early.trace_id != late.trace_id == other.trace_id
    assert len({span.span_id for span in (*flows, early, late, other)}) == 5


def test_where_flows_are_summed_up_it_stands_alone():
    """Its flow's span may never come."""
    thinning = Thinning(0.0, 10**9)
    summary, asked = spans(FLOW, question(), thinning=thinning)
    assert summary.name != asked.name
    assert asked.parent_span_id == b""


def test_what_a_profile_leaves_out_is_left_out():
    """`lean` says what was asked, and what the answer was."""
    (asked,) = spans(question(dns_first_repeats=2), profile="lean")
    assert {"dns.question.name", "dns.response_code"} <= attributes(asked).keys()
    assert "flow.dns.repeats" not in attributes(asked)
    (asked,) = spans(question(dns_first_repeats=2))
    assert attributes(asked)["flow.dns.repeats"] == 2


def test_batches_of_several_nodes_stand_in_one_request():
    """Each has its own names."""
    one = batch(question())
    other = replace(batch(FLOW | {"flow_id": 9, "local_port": 4}, question(local_port=4)), names=("other.example",), node="m")
    encoder = SpanEncoder(cluster_name="c")

    (request,) = encoder.encode_bundle(bundle([one, other]), 10**6)
    found = ExportTraceServiceRequest.FromString(request.body)
    assert request.spans == 3
    named = {
        attributes(span).get("dns.question.name")
        for group in found.resource_spans for scope in group.scope_spans for span in scope.spans
    }  # fmt: skip
    assert named == {"slow.example", "other.example", None}
