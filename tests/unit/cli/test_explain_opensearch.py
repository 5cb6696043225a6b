"""Documents of spans, however OpenSearch has them, are the spans that they were made of."""

from __future__ import annotations

import pytest

from services.cli.explain.opensearch import request_of

IDS = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "tcp redis"}
TIMES = {"startTime": "2026-11-29T00:15:18.061457123Z", "endTime": "2026-11-29T00:15:19Z"}
START, END = 1_795_911_318_061_457_123, 1_795_911_319_000_000_000
SAID = [
    {"key": "flow.verdict", "value": {"stringValue": "ok"}},
    {"key": "flow.record", "value": {"intValue": 0}},
    {"key": "flow.tcp.flags.tags", "value": {"arrayValue": {"values": [{"stringValue": "syn"}]}}},
]
BY_DATA_PREPPER = {
    "span.attributes.flow@verdict": "ok",
    "span.attributes.flow@record": 0,
    "span.attributes.flow@tcp@flags@tags": ["syn"],
    "resource.attributes.service@name": "web",
}
BY_THE_COLLECTOR = {
    "attributes": {"flow.verdict": "ok", "flow.record": 0, "flow.tcp.flags.tags": ["syn"]},
    "resource": {"service.name": "web"},
}
AS_OBJECTS = {
    "attributes": {"flow": {"verdict": "ok", "record": 0, "tcp": {"flags": {"tags": ["syn"]}}}},
    "resource": {"attributes": {"service": {"name": "web"}}},
}


@pytest.mark.parametrize("said", [BY_DATA_PREPPER, BY_THE_COLLECTOR, AS_OBJECTS], ids=["data prepper", "collector", "objects"])
def test_each_form_is_the_same_span(said: dict) -> None:
    """Attributes and times are whole, to the nanosecond; a document that is there twice is one span."""
    hit = {"_source": IDS | TIMES | said}
    answer = request_of({"hits": {"hits": [hit, hit]}})
    assert answer is not None
    (resource_spans,) = answer["resourceSpans"]
    assert resource_spans["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "web"}}]
    (span,) = resource_spans["scopeSpans"][0]["spans"]
    assert span["attributes"] == SAID
    assert (span["startTimeUnixNano"], span["endTimeUnixNano"]) == (START, END)


def test_an_answer_without_documents_is_no_request() -> None:
    """So is one of another backend."""
    assert request_of({"hits": {"hits": []}}) is None
    assert request_of({"result": {"resourceSpans": []}}) is None
