"""Spans as OpenSearch keeps them, documents of Data Prepper or the Collector's exporter, as the OTLP/JSON they were made of.

Data Prepper writes an attribute as `span.attributes.flow@verdict`; later versions, and the Collector's exporter, as
`attributes` with `flow.verdict` in it, whole or in its parts. A document that is there twice, because spans were sent twice, is
one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

INDICES: Final = ("otel-v1-apm-span-*", "otel-v2-apm-span-*", "ss4o_traces-*")
_MOST: Final = 10_000
"""Documents that OpenSearch gives in one answer."""
_SPAN, _RESOURCE = "span.attributes.", "resource.attributes."


def search_path(trace_id: str) -> str:
    """Return what is asked of OpenSearch for a trace."""
    query = {"size": _MOST, "query": {"match": {"traceId": trace_id}}}
    asked = {"source": json.dumps(query), "source_content_type": "application/json"}
    asked |= {"ignore_unavailable": "true", "allow_no_indices": "true"}
    return f"/{','.join(INDICES)}/_search?{urlencode(asked)}"


def request_of(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ExportTraceServiceRequest of an answer's spans; None for none. Raises KeyError, TypeError, ValueError."""
    spans: dict[tuple[str, str], Mapping[str, Any]] = {}
    for hit in answer.get("hits", {}).get("hits", ()):
        document = hit["_source"]
        spans.setdefault((document["traceId"], document["spanId"]), document)
    return {"resourceSpans": [_resource_spans(document) for document in spans.values()]} if spans else None


def _resource_spans(document: Mapping[str, Any]) -> dict[str, Any]:
    span = {
        "traceId": document["traceId"],
        "spanId": document["spanId"],
        "parentSpanId": document.get("parentSpanId") or "",
        "name": document.get("name", ""),
        "startTimeUnixNano": _unix_ns(document["startTime"]),
        "endTimeUnixNano": _unix_ns(document["endTime"]),
        "links": [{"traceId": link["traceId"], "spanId": link["spanId"]} for link in document.get("links") or ()],
        "attributes": _key_values(document, _SPAN, document.get("attributes")),
    }
    resource = document.get("resource") or {}
    of_resource = _key_values(document, _RESOURCE, resource.get("attributes", resource))
    return {"resource": {"attributes": of_resource}, "scopeSpans": [{"spans": [span]}]}


def _key_values(document: Mapping[str, Any], prefix: str, nested: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    flat = {name.removeprefix(prefix): value for name, value in document.items() if name.startswith(prefix)}
    found = {name.replace("@", "."): value for name, value in flat.items()} | dict(_leaves(nested or {}))
    return [{"key": name, "value": _value(value)} for name, value in found.items() if value is not None]


def _leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """An attribute by its whole name, however much of that the document has as objects."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}".replace("@", "."), value


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": value}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _unix_ns(text: str) -> int:
    """A time such as `2026-11-29T00:15:18.061457123Z`, whose last digits Python's own reader cuts off."""
    whole, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)
