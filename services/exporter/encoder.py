"""Flow batches to OTLP: `ExportTraceServiceRequest` bytes from columns, without a protobuf runtime.

A span is a row of pieces: integers that are filled for all rows at once, and strings that are made once per distinct
value and kept. Pieces are put in order and joined; no code here runs per record.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import numpy as np

from proto.columns import NO_INDEX, Observer, Reason
from proto.exchange_phases import is_traced
from proto.flow_batch import Array, FlowBatch
from services.exporter.otlp import protobuf_wire as wire
from services.exporter.otlp.assembly import Assembly, Scope, SpanSet
from services.exporter.spans.bundle import MOST_BATCHES, Bundle, bundle
from services.exporter.spans.entities import Origin
from services.exporter.spans.exchanges.spans import ExchangeSpans
from services.exporter.spans.flow_spans import FlowSpans
from services.exporter.spans.identity import TRACE_RECORDS, Perspective, SpanIds, perspective
from services.exporter.spans.names.question_spans import QuestionSpans
from services.exporter.spans.profiles import Profile
from services.exporter.spans.selection import selection
from services.exporter.spans.summary import NOT_OF_A_SUMMARY, Thinning, summary_ids, summed_up, without_lost_parents

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE_NAME: Final = "wirespan"

# The key of a resource: whether a socket saw it, then node, container, entity. A message holds far fewer than 2**24 of any.
_NODE, _CONTAINER, _ENTITY = 1, 13, 37
_NO_CONTAINER: Final = (1 << 24) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """The body of one export request and what it came from."""

    body: bytes
    spans: int
    rows: Array
    """The rows of `bundle` that the spans were made of: the first of each span in the order of the spans, then all others."""
    places: Array
    """Which span each of `rows` is in."""
    bundle: Bundle
    encoder: SpanEncoder = field(repr=False)

    @property
    def divisible(self) -> bool:
        """Whether it holds spans of more than one record, or of more than one summary."""
        return len(np.unique(self._first_places()[1])) > 1

    def _first_places(self) -> tuple[Array, Array]:
        """Each record once, and the first span that it is in."""
        rows, at = np.unique(self.rows, return_index=True)
        return rows, self.places[at]

    def split(self) -> tuple[Request, Request]:
        """Return the same spans as two requests. Raises ValueError where they are of one record, or of one summary."""
        rows, places = self._first_places()
        beginnings = np.unique(places)
        if len(beginnings) < 2:
            raise ValueError("a request of one record cannot be split")
        in_first = places < beginnings[len(beginnings) // 2]
        first, second = (self.encoder.request(self.bundle, rows[half]) for half in (in_first, ~in_first))
        return first, second


class SpanEncoder:
    """Encodes flow batches as OTLP spans: one for each record of a flow, a few for each of an exchange.

    The same batch gives the same bytes. What is kept between batches are only bytes for values seen before, in bounded caches.
    Threads may share one; they take turns.
    """

    def __init__(
        self,
        *,
        cluster_name: str,
        distribution_version: str | None = None,
        profile: Profile = "full",
        thinning: Thinning | None = None,
        trace_records: int = TRACE_RECORDS,
        looked_up_peers: bool = False,
        entity_refs: bool = False,
    ) -> None:
        """`thinning`: which flows get spans of their own, the others are summed up; None: all do.

        `trace_records`: after so many records a flow goes on in another trace. `looked_up_peers`: a name that was looked up for
        a destination that nobody knows is `peer.service` too. `entity_refs`: resources say which entities they are of.
        """
        self._cluster_name = cluster_name
        self._version = distribution_version if distribution_version is not None else installed_version()
        self._flow_spans = FlowSpans(
            cluster_name, selection(profile), trace_records, looked_up_peers=looked_up_peers, entity_refs=entity_refs
        )
        self._thinning = thinning
        self._summaries = FlowSpans(cluster_name, selection(profile, NOT_OF_A_SUMMARY)) if thinning else None
        self._exchange_spans = ExchangeSpans(self._flow_spans.mixer, selection(profile), self._flow_spans.ends)
        self._question_spans = QuestionSpans(selection(profile), self._flow_spans.ends)
        self._lock = threading.Lock()
        scope = wire.field(1, SCOPE_NAME.encode()) + wire.field(2, self._version.encode())
        self._scope = Scope(wire.field(1, scope), wire.field(3, SCHEMA_URL.encode()))

    def encode(self, batch: FlowBatch, rows: slice | Array | None = None) -> bytes:
        """Return an `ExportTraceServiceRequest` with the spans of some rows, grouped by resource; empty for no rows."""
        chosen = batch if rows is None else batch.take(rows)
        if not chosen.count:
            return b""
        spans = self._spans(bundle([chosen]))
        return spans.body(0, spans.count)

    def request(self, whole: Bundle, rows: Array) -> Request:
        """Return the request for some rows (an index array) of a bundle: with a row, all that are in a summary with it."""
        rows = np.sort(rows)
        spans = self._spans(whole, rows)
        own_rows, places = spans.rows(0, spans.count)
        return Request(spans.body(0, spans.count), spans.count, rows[own_rows], places, whole, self)

    def encode_requests(self, batch: FlowBatch, max_bytes: int) -> list[Request]:
        """Return the batch as requests of at most `max_bytes`; a span that is larger by itself is a request by itself."""
        return self.encode_bundle(bundle([batch]), max_bytes)

    def encode_bundle(self, whole: Bundle, max_bytes: int) -> list[Request]:
        """Return several batches as requests of at most `max_bytes`; one request may hold spans of several batches."""
        if not whole.batch.count:
            return []
        spans = self._spans(whole)
        return [
            Request(spans.body(first, end), end - first, *spans.rows(first, end), whole, self)
            for first, end in spans.runs(max_bytes)
        ]

    def _spans(self, whole: Bundle, rows: Array | None = None) -> Assembly:
        """Encode all spans that a bundle's records, or some rows of them, become.

        A new shape of span plugs in here: one more `SpanSet`, with `rows` naming the record that each span belongs to and
        `resources` that record's resource.
        """
        chosen = whole if rows is None else whole.take(rows)
        with self._lock:
            batch = chosen.batch
            entities = self._flow_spans.ends.numbers(batch)
            exchange = batch.column("reason") == Reason.EXCHANGE
            if not exchange.any():
                sets = self._flow_sets(whole, chosen, entities, rows)
            else:
                traced = is_traced(batch)
                flows, exchanges, questions = (mask.nonzero()[0] for mask in (~exchange, traced, exchange & ~traced))
                sets = []
                if len(flows):
                    of_whole = flows if rows is None else rows[flows]
                    sets += [_placed(one, flows) for one in self._flow_sets(whole, chosen.take(flows), entities, of_whole)]
                if len(exchanges):
                    resources = _resource_keys(chosen, perspective(batch))
                    sets += self._exchange_spans.encode(batch, exchanges, entities, resources)
                if len(questions):
                    sets.append(_placed(self._question_set(chosen.take(questions), entities), questions))
            return Assembly(sets, self._scope, partial(self._resource, whole, entities))

    def _question_set(self, chosen: Bundle, entities: Array) -> SpanSet:
        """The spans of questions. Where flows are summed up, only those of flows that were drawn have a parent that comes."""
        seen = perspective(chosen.batch)
        ids = self._flow_spans.mixer.question_ids(chosen.batch, seen)
        if self._thinning is not None:
            ids = without_lost_parents(ids, self._thinning.drawn(ids))
        return self._question_spans.encode(chosen.batch, seen, ids, entities, _resource_keys(chosen, seen))

    def _flow_sets(self, whole: Bundle, chosen: Bundle, entities: Array, rows: Array | None) -> list[SpanSet]:
        """The spans of flows: `chosen` are the bundle's `rows`, or all. The sets' rows are those of `chosen`."""
        seen = perspective(chosen.batch)
        ids = self._flow_spans.ids(chosen.batch, seen)
        if self._thinning is None or self._summaries is None:
            return [self._flow_spans.encode(chosen.batch, seen, ids, entities, _resource_keys(chosen, seen))]
        source = np.searchsorted(whole.first_rows, np.arange(chosen.batch.count) if rows is None else rows, "right")
        drawn = self._thinning.drawn(ids)
        kept = self._thinning.kept(chosen.batch, drawn)
        return [
            *self._kept(chosen, kept.nonzero()[0], without_lost_parents(ids, drawn), entities),
            *self._summed_up(self._summaries, chosen, (~kept).nonzero()[0], ids, source),
        ]

    def _kept(self, chosen: Bundle, rows: Array, ids: SpanIds, entities: Array) -> Iterator[SpanSet]:
        """The spans of the flows that have their own."""
        if len(rows):
            part = chosen.take(rows)
            seen = perspective(part.batch)
            spans = self._flow_spans.encode(part.batch, seen, ids.take(rows), entities, _resource_keys(part, seen))
            yield replace(spans, rows=rows)

    def _summed_up(self, summaries: FlowSpans, chosen: Bundle, rows: Array, ids: SpanIds, source: Array) -> Iterator[SpanSet]:
        """The spans that stand for the others."""
        if not len(rows):
            return
        part = chosen.take(rows)
        entities = summaries.ends.numbers(part.batch)
        sums = summed_up(part, source[rows], perspective(part.batch), entities)
        whole = replace(part, batch=sums.batch, node=part.node[sums.first])
        seen = perspective(sums.batch)
        own_ids = summary_ids(ids.take(rows), sums.first)
        spans = summaries.encode(sums.batch, seen, own_ids, entities, _resource_keys(whole, seen))
        others = np.setdiff1d(np.arange(len(rows)), sums.first)
        yield replace(spans, rows=rows[sums.first], further=(rows[others], sums.summary[others]))

    def _resource(self, whole: Bundle, entities: Array, key: int) -> bytes:
        container_number, at_socket = key >> _CONTAINER & _NO_CONTAINER, key & 1
        container = whole.batch.containers[container_number] if container_number != _NO_CONTAINER else {}
        origin = Origin(
            self._cluster_name,
            self._version,
            whole.nodes[key >> _NODE & MOST_BATCHES - 1] if at_socket else "",
            container.get("pod_uid", ""),
            container.get("container_id", ""),
        )
        return self._flow_spans.ends.resource(int(entities[key >> _ENTITY]), origin)


def _placed(spans: SpanSet, rows: Array) -> SpanSet:
    """The same spans as of rows of something larger, of which `rows` was a part."""
    further = None if spans.further is None else (rows[spans.further[0]], spans.further[1])
    return replace(spans, rows=rows[spans.rows], further=further)


def _resource_keys(whole: Bundle, seen: Perspective) -> Array:
    """What tells resources apart, in one int64: entity, container, node and whether a socket saw it."""
    batch = whole.batch
    at_socket = batch.column("observer") != Observer.CAPTURE
    entity = np.where(seen.told_by_local, batch.column("local_entity"), batch.column("remote_entity"))
    container = np.where(at_socket, batch.column("local_container"), np.uint32(NO_INDEX))
    last = len(batch.entities or ())
    key: Array = np.minimum(entity, last).astype(np.int64) << _ENTITY
    key |= np.minimum(container, _NO_CONTAINER).astype(np.int64) << _CONTAINER
    key |= (whole.node << _NODE | 1) * at_socket
    return key


def installed_version() -> str:
    """Return the version that spans and metrics name."""
    try:
        return version("wirespan")
    except PackageNotFoundError:  # run from a source tree
        return "0.0.0"
