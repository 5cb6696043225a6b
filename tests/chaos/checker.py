"""Whether what was generated is what the backend has accepted: each connection once, and to the byte."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.chaos.cluster import pod_name
from tests.chaos.traffic import Key, Sum
from tests.support.pipeline.otlp_receiver import Answer, OtlpReceiver, Received

_SERVER: Final = ("destination.address", "destination.k8s.pod.name")


@dataclass
class _Told:
    """What the spans of a connection say, added up."""

    bytes: int = 0
    packets: int = 0
    reverse_bytes: int = 0
    reverse_packets: int = 0
    records: list[int] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """Of pods that its spans name where another one was the server, empty for none."""

    def add(self, attributes: Mapping[str, int]) -> None:
        self.bytes += attributes["flow.bytes.delta"]
        self.packets += attributes["flow.packets.delta"]
        self.reverse_bytes += attributes["flow.reverse.bytes.delta"]
        self.reverse_packets += attributes["flow.reverse.packets.delta"]
        self.records.append(attributes["flow.record"])

    @property
    def sum(self) -> Sum:
        return Sum(self.bytes, self.packets, self.reverse_bytes, self.reverse_packets)


class Backend(OtlpReceiver):
    """A receiver that adds up what it accepts and keeps no requests. What it accepted stays accepted when it restarts."""

    def __init__(self, **how: object) -> None:
        super().__init__(**how)  # type: ignore[arg-type]
        self.accepted_at: list[float] = []
        """When spans came that were new."""
        self._read = 0
        self._told: dict[Key, _Told] = defaultdict(_Told)

    def receive(self, protocol: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take in one request, and note when."""
        before = len(self.spans)
        answer = super().receive(protocol, headers, body)
        with self._changed:
            self.requests = [Received(protocol, {}, b"", answer, time.monotonic())]
            if len(self.spans) > before:
                self.accepted_at.append(time.monotonic())
        return answer

    def told(self, key: Key) -> Sum | None:
        """What was accepted of a connection; None for nothing."""
        told = self._told.get(key)
        return told.sum if told else None

    def records(self, key: Key) -> list[int]:
        """Numbers of its records, sorted."""
        return sorted(self._told[key].records) if key in self._told else []

    def other_names(self, key: Key) -> set[str]:
        """What its spans call its server, where that is not the pod which it was; empty for no name."""
        return self._told[key].names if key in self._told else set()

    def read(self) -> None:
        """Add up what came since the last time."""
        with self._changed:
            fresh = list(islice(self.spans.values(), self._read, None))
            self._read += len(fresh)
        for span in fresh:
            self._add(span)

    def _add(self, span: Span) -> None:
        values = {each.key: each.value for each in span.attributes}
        key = Key(values["source.address"].string_value, values["source.port"].int_value)
        told = self._told[key]
        told.add({name: value.int_value for name, value in values.items()})
        server, name = (values[each].string_value if each in values else "" for each in _SERVER)
        if name != pod_name(server):
            told.names.add(name)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of the connections of an episode."""

    connections: int
    lost: int
    """Of which nothing, or not all, was accepted."""
    wrong: int
    """Of which more was accepted than there was, or the same record twice under other ids."""
    misnamed: int
    """With a span that does not name the pod that was the server: another, or none."""
    spans: int
    """That tell of them."""
    example: str = ""


def verdict(backend: Backend, known: Mapping[Key, Sum]) -> Verdict:
    """Compare what is known with what was accepted."""
    backend.read()
    lost, wrong, misnamed, spans, example = 0, 0, 0, 0, ""
    for key, expected in known.items():
        told, records, names = backend.told(key), backend.records(key), backend.other_names(key)
        spans += len(records)
        if names:
            misnamed += 1
            example = example or f"{key.client}:{key.client_port}: its server is called {names}"
        if told == expected and records == list(range(len(records))):
            continue
        more = told is not None and (
            len(set(records)) < len(records) or told.bytes > expected.bytes or told.reverse_bytes > expected.reverse_bytes
        )
        wrong, lost = wrong + more, lost + (not more)
        example = example or f"{key.client}:{key.client_port}: {expected} were sent, {told} accepted, records {records}"
    return Verdict(len(known), lost, wrong, misnamed, spans, example)
