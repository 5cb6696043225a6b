"""Flow batches to OTLP: `ExportTraceServiceRequest` bytes from columns, without a protobuf runtime.

A span is a row of pieces: integers that are filled for all rows at once, and strings that are made once per distinct
value and kept. Pieces are put in order and joined; no code here runs per record.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Final

import numpy as np

from proto.columns import NO_INDEX, Observer
from proto.flow_batch import Array, FlowBatch
from services.exporter import protobuf_wire as wire
from services.exporter.attributes import INTEGERS, Integer
from services.exporter.bundle import MOST_BATCHES, Bundle, bundle
from services.exporter.entities import Origin
from services.exporter.pieces import Addresses, Pieces, Words, Workloads
from services.exporter.protobuf_wire import as_void
from services.exporter.records import Records
from services.exporter.spans import IdMixer, Mask, Perspective, SpanIds, perspective

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE_NAME: Final = "wirespan"

_SCHEMA: Final = wire.field(3, SCHEMA_URL.encode())
_CLOSING: Final = _SCHEMA + _SCHEMA
"""What stands after the spans of a resource: `ScopeSpans.schema_url` and `ResourceSpans.schema_url`."""
# The key of a resource: whether a socket saw it, then node, container, entity. A message holds far fewer than 2**24 of any.
_NODE, _CONTAINER, _ENTITY = 1, 13, 37
_NO_CONTAINER: Final = (1 << 24) - 1

_MOST: Final = 1 << 32
"""More bytes than the spans of a resource ever take."""

# ScopeSpans.spans with its length, then Span: trace_id, span_id, start and end (fixed64), flags (fixed32), kind.
_LENGTH_BYTES: Final = 4
_HEAD: Final = (
    b"\x12" + bytes(_LENGTH_BYTES) + b"\x0a\x10" + bytes(16) + b"\x12\x08" + bytes(8)
    + b"\x39" + bytes(8) + b"\x41" + bytes(8) + b"\x85\x01" + bytes(4) + b"\x30" + bytes(1)
)  # fmt: skip
_PARENT: Final = b"\x22\x08" + bytes(8)
_AT_LENGTH, _AT_TRACE, _AT_SPAN, _AT_START, _AT_END, _AT_FLAGS, _AT_KIND = 1, 7, 25, 34, 43, 53, 58


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """The body of one export request and what it came from."""

    body: bytes
    spans: int
    rows: Array
    """The rows of `bundle` that the spans are, in the order of the spans."""
    bundle: Bundle
    encoder: SpanEncoder = field(repr=False)

    def split(self) -> tuple[Request, Request]:
        """Return the same spans as two requests. Raises ValueError for a single span."""
        if self.spans < 2:
            raise ValueError("a request of one span cannot be split")
        half = self.spans // 2
        first, second = (self.encoder.request(self.bundle, rows) for rows in (self.rows[:half], self.rows[half:]))
        return first, second


class SpanEncoder:
    """Encodes flow batches as OTLP spans, one span per record.

    The same batch gives the same bytes. What is kept between batches are only bytes for values seen before, in bounded caches.
    Threads may share one; they take turns.
    """

    def __init__(self, *, cluster_name: str, distribution_version: str | None = None) -> None:
        self._cluster_name = cluster_name
        self._version = distribution_version if distribution_version is not None else _installed_version()
        self._mixer = IdMixer(cluster_name)
        self._words = Words()
        self._addresses = Addresses()
        self._workloads = Workloads()
        self._lock = threading.Lock()
        scope = wire.field(1, SCOPE_NAME.encode()) + wire.field(2, self._version.encode())
        self._scope = wire.field(1, scope)

    def encode(self, batch: FlowBatch, rows: slice | Array | None = None) -> bytes:
        """Return an `ExportTraceServiceRequest` with one span per row, grouped by resource; empty for no rows."""
        chosen = batch if rows is None else batch.take(rows)
        return self._spans(bundle([chosen])).body(0, chosen.count) if chosen.count else b""

    def request(self, whole: Bundle, rows: Array) -> Request:
        """Return the request for some rows (an index array) of a bundle."""
        spans = self._spans(whole.take(rows))
        return Request(spans.body(0, len(rows)), len(rows), rows[spans.order], whole, self)

    def encode_requests(self, batch: FlowBatch, max_bytes: int) -> list[Request]:
        """Return the batch as requests of at most `max_bytes`; a span that is larger by itself is a request by itself."""
        return self.encode_bundle(bundle([batch]), max_bytes)

    def encode_bundle(self, whole: Bundle, max_bytes: int) -> list[Request]:
        """Return several batches as requests of at most `max_bytes`; one request may hold spans of several batches."""
        if not whole.batch.count:
            return []
        spans = self._spans(whole)
        return [
            Request(spans.body(first, end), end - first, spans.order[first:end], whole, self)
            for first, end in spans.runs(max_bytes)
        ]

    def _spans(self, whole: Bundle) -> _Spans:
        with self._lock:
            return self._encoded(whole)

    def _encoded(self, whole: Bundle) -> _Spans:
        batch = whole.batch
        numbers = self._workloads.numbers(batch)
        seen = perspective(batch)
        keys = _resource_keys(whole, seen)
        order = np.argsort(keys, kind="stable")
        if (order[1:] < order[:-1]).any():
            batch, seen, keys = batch.take(order), seen.take(order), keys[order]
        records = Records(batch, seen)
        columns = [
            *self._workloads.columns(records, numbers),
            self._words.column(records),
            *self._addresses.columns(records),
        ]
        head, blocks = _fixed(records, self._mixer.ids(batch, seen))
        fixed = np.full(batch.count, head.shape[1], np.int64)
        placed = [Block(as_void(head), None, 0)]
        for present, rows in blocks:
            at = np.flatnonzero(present)
            placed.append(Block(as_void(rows), at, fixed[at]))
            fixed += present * np.int64(rows.shape[1])
        lengths = fixed.copy()
        for column in columns:
            lengths += column.lengths
        wire.write_slots(head, _AT_LENGTH, _LENGTH_BYTES, lengths - 1 - _LENGTH_BYTES)
        pieces = [_room(fixed), *(column.pieces for column in columns)]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        resources = [self._resource(whole, numbers, key) for key in keys[starts].tolist()]
        return _Spans(pieces, placed, np.cumsum(lengths), starts, resources, self._scope, order)

    def _resource(self, whole: Bundle, numbers: Array, key: int) -> bytes:
        container_number, at_socket = key >> _CONTAINER & _NO_CONTAINER, key & 1
        container = whole.batch.containers[container_number] if container_number != _NO_CONTAINER else {}
        origin = Origin(
            self._cluster_name,
            self._version,
            whole.nodes[key >> _NODE & MOST_BATCHES - 1] if at_socket else "",
            container.get("pod_uid", ""),
            container.get("container_id", ""),
        )
        return self._workloads.resource(int(numbers[key >> _ENTITY]), origin)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A part of fixed width that some spans have."""

    parts: Array
    """One opaque value for each span that has it."""
    at: Array | None
    """Which spans those are, ascending; None: all of them."""
    offset: Array | int
    """Where it begins within each of them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Spans:
    """Encoded spans in their resources' order, not yet put together."""

    pieces: list[Pieces]
    """Columns of what is joined to spans; in the first, room for the blocks."""
    blocks: list[Block]
    ends: Array
    """Bytes of the spans up to and with each, tags and lengths included."""
    starts: Array
    """First span of each resource."""
    resources: Pieces
    """`ResourceSpans.resource` of each."""
    scope: bytes
    order: Array
    """The batch's row that each span is."""

    def body(self, first: int, end: int) -> bytes:
        """The request that holds spans `first` up to `end`."""
        width = len(self.pieces)
        parts = [b""] * ((end - first) * width)
        for at, column in enumerate(self.pieces):
            parts[at::width] = column[first:end] if end - first < len(column) else column
        base = int(self.ends[first - 1]) if first else 0
        begins = np.concatenate([[0], self.ends[first : end - 1] - base])
        group, last_group = np.searchsorted(self.starts, (first, end - 1), "right").tolist()
        bounds = [first, *self.starts[group:last_group].tolist(), end]
        ends = [0, *(self.ends[np.array(bounds[1:]) - 1] - base).tolist()]
        shift, shifts = 0, []
        for at, resource in enumerate(self.resources[group - 1 : last_group]):
            opening = self._opening(resource, ends[at + 1] - ends[at])
            begin, stop = ((row - first) * width for row in bounds[at : at + 2])
            parts[begin] = opening + parts[begin]
            parts[stop - 1] += _CLOSING
            shifts.append(shift + len(opening))
            shift = shifts[-1] + len(_CLOSING)
        begins += np.repeat(shifts, np.diff(bounds))
        # What BytesIO holds it gives away again without a copy.
        stream = BytesIO(b"".join(parts))
        self._fill(stream, begins, first, end)
        return stream.getvalue()

    def _fill(self, stream: BytesIO, begins: Array, first: int, end: int) -> None:
        """Write the blocks of spans `first` up to `end` into their room; each span begins where `begins` says."""
        out = np.frombuffer(stream.getbuffer(), np.uint8)
        for block in self.blocks:
            # Every byte begins a value: they overlap, and only those are written that do not.
            places = np.ndarray((len(out) - block.parts.itemsize + 1,), block.parts.dtype, out, 0, (1,))
            if block.at is None:
                places[begins] = block.parts[first:end]
            else:
                some = slice(*np.searchsorted(block.at, (first, end)).tolist())
                offset = block.offset[some] if isinstance(block.offset, np.ndarray) else block.offset
                places[begins[block.at[some] - first] + offset] = block.parts[some]

    def runs(self, max_bytes: int) -> Iterator[tuple[int, int]]:
        """Runs of spans whose requests take at most `max_bytes`, or hold a single span."""
        around = np.array([len(self._opening(resource, _MOST)) + len(_CLOSING) for resource in self.resources], np.int64)
        sizes = np.diff(self.ends, prepend=0)
        sizes[self.starts] += around
        ends = np.cumsum(sizes)
        first = 0
        while first < len(sizes):
            group = int(np.searchsorted(self.starts, first, "right")) - 1
            begins_group = self.starts[group] == first
            room = max_bytes + int(ends[first] - sizes[first]) - (0 if begins_group else int(around[group]))
            end = max(int(np.searchsorted(ends, room, "right")), first + 1)
            yield first, end
            first = end

    def _opening(self, resource: bytes, span_bytes: int) -> bytes:
        """What stands before the spans of a resource."""
        scope_spans = b"\x12" + wire.varint(len(self.scope) + span_bytes + len(_SCHEMA)) + self.scope
        length = len(resource) + len(scope_spans) + span_bytes + len(_CLOSING)
        return b"\x0a" + wire.varint(length) + resource + scope_spans


def _fixed(records: Records, ids: SpanIds) -> tuple[wire.Bytes2D, list[tuple[Mask, wire.Bytes2D]]]:
    """The parts of fixed width: those that every span has, to which only its length is missing, and those that some have.

    What the same spans have is one part.
    """
    everyone = np.ones(records.batch.count, np.bool_)
    groups: dict[bytes, tuple[Mask, list[Integer]]] = {everyone.tobytes(): (everyone, [])}
    for block in INTEGERS:
        present = block.present(records) if block.present else everyone
        groups.setdefault(present.tobytes(), (present, []))[1].extend(block.attributes)
    (_, always), *some = groups.values()
    head = wire.attribute_rows({row.name: row.values(records) for row in always}, _HEAD)
    _write_head(head, records, ids)
    parts = [(present, _rows(attributes, records, present)) for present, attributes in some if present.any()]
    return head, [*parts, *_parents(ids)]


def _rows(attributes: list[Integer], records: Records, present: Mask) -> wire.Bytes2D:
    at = np.flatnonzero(present)
    return wire.attribute_rows({row.name: row.values(records)[at] for row in attributes})


def _write_head(head: wire.Bytes2D, records: Records, ids: SpanIds) -> None:
    wire.put(head, _AT_TRACE, ">u8", ids.trace_id_high)
    wire.put(head, _AT_TRACE + 8, ">u8", ids.trace_id_low)
    wire.put(head, _AT_SPAN, ">u8", ids.span_id)
    wire.put(head, _AT_START, "<u8", records.column("start_unix_ns"))
    wire.put(head, _AT_END, "<u8", records.column("end_unix_ns"))
    wire.put(head, _AT_FLAGS, "<u4", ids.flags)
    wire.put(head, _AT_KIND, "u1", records.seen.kind)


def _parents(ids: SpanIds) -> Iterator[tuple[Mask, wire.Bytes2D]]:
    """Which spans have a parent, and its field for each of those."""
    present: Mask = ids.parent_span_id != 0
    if present.any():
        parents = ids.parent_span_id[present]
        rows = wire.Template(_PARENT, ()).rows(len(parents))
        wire.put(rows, len(_PARENT) - 8, ">u8", parents)
        yield present, rows


def _room(lengths: Array) -> Pieces:
    """So many bytes for each row, to be written over."""
    room = np.empty(int(lengths.max()) + 1, object)
    for length in np.flatnonzero(np.bincount(lengths)).tolist():
        room[length] = bytes(length)
    pieces: Pieces = room[lengths].tolist()
    return pieces


def _resource_keys(whole: Bundle, seen: Perspective) -> Array:
    """What tells resources apart, in one int64: entity, container, node and whether a socket saw it."""
    batch = whole.batch
    at_socket = batch.column("observer") != Observer.CAPTURE
    entity = np.where(seen.told_by_local, batch.column("local_entity"), batch.column("remote_entity"))
    container = np.where(at_socket, batch.column("local_container"), np.uint32(NO_INDEX))
    last = len(batch.entities or ())
    key: Array = np.minimum(entity, last).astype(np.int64) << _ENTITY
    key |= np.minimum(container, _NO_CONTAINER).astype(np.int64) << _CONTAINER
    key |= np.where(at_socket, whole.node << _NODE | 1, 0)
    return key


def _installed_version() -> str:
    try:
        return version("wirespan")
    except PackageNotFoundError:  # run from a source tree
        return "0.0.0"
