"""Spans in files: the same as a sender of requests would have had them, in the order of time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.enricher.errors import IntakeError
from services.enricher.intake.otlp_json import requests_in
from tests.support.otlp_requests import request, span

SECOND = 1_000_000_000


def as_json(payload: bytes) -> str:
    """A request as OTLP/JSON has it: ids in hexadecimal, which protobuf's own JSON has not."""
    message = ExportTraceServiceRequest.FromString(payload)
    tree = MessageToDict(message)
    for group, said in zip(tree["resourceSpans"], message.resource_spans, strict=True):
        for one, meant in zip(group["scopeSpans"][0]["spans"], said.scope_spans[0].spans, strict=True):
            one |= {"traceId": meant.trace_id.hex(), "spanId": meant.span_id.hex(), "parentSpanId": meant.parent_span_id.hex()}
    return f"{json.dumps(tree)}\n"


def test_what_a_file_says_is_what_the_request_said(tmp_path: Path) -> None:
    """Ids, times, kind, and the attributes that are looked at; spans of different seconds are requests of their own."""
    spans = [span(1, start=SECOND, end=3 * SECOND, server__address="db", server__port=5432), span(2, start=5, end=SECOND)]
    (tmp_path / "spans.jsonl").write_text(as_json(request(spans, **{"k8s.pod.uid": "a-pod"})) + "\n")
    sent = list(requests_in([tmp_path / "spans.jsonl"]))
    assert [(each.spans, each.sent_unix_ns) for each in sent] == [(1, SECOND), (1, 3 * SECOND)]
    found = [ExportTraceServiceRequest.FromString(each.body).resource_spans[0] for each in sent]
    assert [group.resource.attributes[0].value.string_value for group in found] == ["a-pod"] * 2
    for group, meant in zip(found, reversed(spans), strict=True):
        (one,) = group.scope_spans[0].spans
        for name in ("trace_id", "span_id", "kind", "start_time_unix_nano", "end_time_unix_nano", "attributes"):
            assert getattr(one, name) == getattr(meant, name)


@pytest.mark.parametrize(
    "content", ["no json", "[]", '{"spans": []}', '{"resourceSpans": [{"scopeSpans": [{"spans": [7]}]}]}',
                '{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xy"}]}]}]}',
                '{"resourceSpans": [{"scopeSpans": [{"spans": [{"endTimeUnixNano": -1}]}]}]}'],
)  # fmt: skip
def test_what_holds_no_spans_is_named(tmp_path: Path, content: str) -> None:
    """By file and line."""
    (tmp_path / "spans.jsonl").write_text(f"\n{content}\n")
    with pytest.raises(IntakeError, match=r"spans\.jsonl, line 2: no spans in OTLP/JSON"):
        list(requests_in([tmp_path / "spans.jsonl"]))
