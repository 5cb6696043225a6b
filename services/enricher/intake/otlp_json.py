"""Files of spans in OTLP/JSON, a request a line as Collectors write them, as the requests that a sender would have sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from proto.protobuf import field, varint
from services.enricher.errors import IntakeError
from services.enricher.intake.scan import MOST_SPANS

_KINDS: Final = {f"SPAN_KIND_{name}": number for number, name in enumerate(("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT",
                                                                           "PRODUCER", "CONSUMER"))}  # fmt: skip
_SECOND_NS: Final = 1_000_000_000
_MOST: Final = MOST_SPANS // 2


class Sent(NamedTuple):
    """A request, and when it might have come: when the last of its spans had ended."""

    body: bytes
    spans: int
    sent_unix_ns: int


class _Span(NamedTuple):
    end_ns: int
    resource: bytes
    content: bytes


def requests_in(paths: Iterable[Path]) -> Iterator[Sent]:
    """Yield requests in the order of time, each of one second. Raises IntakeError for a file that holds anything else."""
    spans = sorted((span for path in paths for span in _spans_in(path)), key=lambda span: span.end_ns)
    first = 0
    for last in range(1, len(spans) + 1):
        if last == len(spans) or last - first == _MOST or spans[last].end_ns // _SECOND_NS != spans[first].end_ns // _SECOND_NS:
            yield _request(spans[first:last])
            first = last


def _request(spans: list[_Span]) -> Sent:
    by_resource: dict[bytes, list[bytes]] = {}
    for span in spans:
        by_resource.setdefault(span.resource, []).append(field(2, span.content))
    body = b"".join(field(1, field(1, resource) + field(2, b"".join(contents))) for resource, contents in by_resource.items())
    return Sent(body, len(spans), spans[-1].end_ns)


def _spans_in(path: Path) -> Iterator[_Span]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007 - it is said where a line is none
                if line.strip():
                    yield from _spans_of(msgspec.json.decode(line))
    except OSError as error:
        raise IntakeError(f"{path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise IntakeError(f"{path}, line {number}: no spans in OTLP/JSON ({error})") from error


def _spans_of(request: Mapping[str, Any]) -> Iterator[_Span]:
    for group in request["resourceSpans"]:
        resource = _attributes(1, (group.get("resource") or {}).get("attributes"))
        for scope in group.get("scopeSpans") or ():
            for span in scope.get("spans") or ():
                yield _span(span, resource)


def _span(span: Mapping[str, Any], resource: bytes) -> _Span:
    kind, begin_ns, end_ns = span.get("kind", 0), int(span.get("startTimeUnixNano", 0)), int(span.get("endTimeUnixNano", 0))
    content = field(1, bytes.fromhex(span.get("traceId", ""))) + field(2, bytes.fromhex(span.get("spanId", "")))
    content += field(4, bytes.fromhex(span.get("parentSpanId") or ""))
    content += b"\x30" + varint(_KINDS[kind] if isinstance(kind, str) else int(kind))
    content += b"\x39" + begin_ns.to_bytes(8, "little") + b"\x41" + end_ns.to_bytes(8, "little")
    content += _attributes(9, span.get("attributes"))
    content += b"\x85\x01" + int(span.get("flags", 0)).to_bytes(4, "little")
    return _Span(end_ns, resource, content)


def _attributes(number: int, attributes: Iterable[Mapping[str, Any]] | None) -> bytes:
    """Return those that are texts or whole numbers: others say nothing of a peer or a pod."""
    found = b""
    for attribute in attributes or ():
        value = attribute.get("value") or {}
        if "stringValue" in value:
            content = field(1, str(value["stringValue"]).encode())
        elif "intValue" in value:
            content = b"\x18" + varint(int(value["intValue"]) % (1 << 64))
        else:
            continue
        found += field(number, field(1, str(attribute["key"]).encode()) + field(2, content))
    return found
