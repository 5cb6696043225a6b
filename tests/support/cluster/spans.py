"""What the backend of a cluster has been sent, as plain records that can be compared with what clients say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.pipeline.otlp_receiver import OtlpReceiver, SpanId

_read: WeakKeyDictionary[OtlpReceiver, dict[SpanId, Seen]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Seen:
    """A span."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    kind: str
    start: int
    error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """An attribute; None where it has none of the name."""
        return self.attributes.get(name)


def spans(receiver: OtlpReceiver) -> list[Seen]:
    """Every span that was taken, each once. Those that were asked for before are not read again."""
    known = _read.setdefault(receiver, {})
    for key, resource in list(receiver.resources.items()):
        if key not in known:
            span = receiver.spans[key]
            known[key] = Seen(
                span.trace_id,
                span.span_id,
                span.parent_span_id,
                span.name,
                Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                span.start_time_unix_nano,
                span.status.code == Status.STATUS_CODE_ERROR,
                _attributes(span.attributes),
                _attributes(resource.resource.attributes),
            )
    return list(known.values())


def matching(receiver: OtlpReceiver, wanted: Callable[[Seen], bool]) -> list[Seen]:
    """The spans that are wanted."""
    return [span for span in spans(receiver) if wanted(span)]


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
