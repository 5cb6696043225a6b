"""Flow records as spans, one for each: the parts of fixed width, and the pieces that follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from proto.flow_batch import Array, FlowBatch
from services.exporter.otlp import protobuf_wire as wire
from services.exporter.otlp.assembly import Block, SpanSet
from services.exporter.otlp.piece_table import Column
from services.exporter.otlp.protobuf_wire import as_void
from services.exporter.spans.attributes import Integer, Integers
from services.exporter.spans.identity import TRACE_RECORDS, IdMixer, Mask, Perspective, SpanIds
from services.exporter.spans.links import link_rows
from services.exporter.spans.names.handshakes import Handshakes
from services.exporter.spans.names.questions import Questions, ServerNames
from services.exporter.spans.pieces import Backends, Ends, Files, Tunnels, Words
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection
from services.exporter.spans.verdicts import Verdicts

# ScopeSpans.spans with its length, then Span: trace_id, span_id, start and end (fixed64), flags (fixed32), kind.
LENGTH_BYTES: Final = 4
HEAD: Final = (
    b"\x12" + bytes(LENGTH_BYTES) + b"\x0a\x10" + bytes(16) + b"\x12\x08" + bytes(8)
    + b"\x39" + bytes(8) + b"\x41" + bytes(8) + b"\x85\x01" + bytes(4) + b"\x30" + bytes(1)
)  # fmt: skip
PARENT: Final = b"\x22\x08" + bytes(8)
HEAD_WITH_PARENT: Final = HEAD + PARENT
"""Of spans all of which have a parent."""
_BIG_U8, _U8, _U4, _U1 = (np.dtype(name) for name in (">u8", "<u8", "<u4", "u1"))
_SPARSE: Final = 4
"""What fewer than one in so many spans have is computed for those alone; else it is cheaper to do it for all at once."""
_AT_LENGTH, _AT_TRACE, _AT_SPAN, _AT_START, _AT_END, _AT_FLAGS, _AT_KIND = 1, 7, 25, 34, 43, 53, 58


@dataclass(frozen=True, slots=True, eq=False)
class SpanHeads:
    """What every span has, one row for each."""

    trace_id_high: Array
    trace_id_low: Array
    span_id: Array
    start: Array
    end: Array
    """Unix nanoseconds, as `start`."""
    flags: Array
    kind: Array


class FlowSpans:
    """Encodes records as spans. What is kept between batches are bytes for values seen before."""

    def __init__(
        self,
        cluster_name: str,
        selection: Selection,
        trace_records: int = TRACE_RECORDS,
        *,
        looked_up_peers: bool = False,
        entity_refs: bool = False,
    ) -> None:
        """`trace_records`: after so many records a flow goes on in another trace. `looked_up_peers`: a name that was looked up
        for a destination that nobody knows is the peer's. `entity_refs`: resources say whose they are.
        """
        self.mixer = IdMixer(cluster_name, trace_records)
        self._selection = selection
        self._words = Words(selection)
        self._tunnels = Tunnels(selection)
        self._backends = Backends(selection)
        self._files = Files(selection)
        self._questions = Questions(selection)
        self._handshakes = Handshakes(selection)
        self._server_names = ServerNames(selection, as_peers=looked_up_peers)
        self._verdicts = Verdicts(selection)
        self.ends = Ends(selection, entity_refs=entity_refs)

    def ids(self, batch: FlowBatch, seen: Perspective) -> SpanIds:
        """Return the ids of a batch's spans."""
        return self.mixer.ids(batch, seen)

    def encode(self, batch: FlowBatch, seen: Perspective, ids: SpanIds, entities: Array, resources: Array) -> SpanSet:
        """Return one span per record, with these ids. `entities` are what `ends.numbers` gave for the batch, `resources` is the
        key of each span's resource.
        """
        records = Records(batch, seen)
        ends = self.ends.columns(records, entities, other_peers=self._server_names.peers(records))
        pieces = [self._words.column(records), *ends, *self._tunnels.columns(records)]
        pieces.extend(self._backends.columns(records))
        pieces.extend(self._files.columns(records))
        pieces.extend(self._questions.columns(records))
        pieces.extend(self._handshakes.columns(records))
        pieces.extend(self._server_names.columns(records))
        pieces.extend(self._verdicts.columns(records))
        head, parts = _fixed(records, ids, self._selection.integers)
        room = np.full(batch.count, head.shape[1], np.int64)
        blocks = [Block(as_void(head), None, 0)]
        for at, rows in [*parts, *_links(ids)]:
            blocks.append(Block(as_void(rows), at, room[at]))
            room[at] += rows.shape[1]
        lengths = room.copy()
        for column in pieces:
            lengths += column.lengths
        wire.write_slots(head, _AT_LENGTH, LENGTH_BYTES, lengths - 1 - LENGTH_BYTES)
        return SpanSet(np.arange(batch.count), resources, blocks, room, pieces, lengths)


def _fixed(
    records: Records, ids: SpanIds, integers: tuple[Integers, ...]
) -> tuple[wire.Bytes2D, list[tuple[Array, wire.Bytes2D]]]:
    """The parts of fixed width: those that every span has, to which only its length is missing, and those that some have, with
    the rows (an index array) that have them. What the same spans have is one part.
    """
    (_, always), *some = _groups(records, integers)
    dense = [(at, attributes) for at, attributes in some if len(at) * _SPARSE >= records.count]
    columns = wire.IntegerColumns([row.values(records) for _, attributes in [(None, always), *dense] for row in attributes])
    head = columns.rows(_names(always), slice(0, len(always)), prefix=HEAD)
    times = records.column("start_unix_ns"), records.column("end_unix_ns")
    write_heads(head, SpanHeads(ids.trace_id_high, ids.trace_id_low, ids.span_id, *times, ids.flags, records.seen.kind))
    parts, first = parent_rows(ids), len(always)
    for at, attributes in dense:
        parts.append((at, columns.rows(_names(attributes), slice(first, first + len(attributes)), at)))
        first += len(attributes)
    for at, attributes in some:
        if len(at) * _SPARSE < records.count:
            few = records.at(at)
            parts.append((at, wire.attribute_rows({row.name: row.values(few) for row in attributes})))
    return head, parts


def _groups(records: Records, integers: tuple[Integers, ...]) -> list[tuple[Array, list[Integer]]]:
    """The attributes that records have, with the rows (an index array) that have them; first those that all have."""
    everyone = np.ones(records.count, np.bool_)
    groups: dict[bytes, tuple[Mask, list[Integer]]] = {everyone.tobytes(): (everyone, [])}
    for block in integers:
        present = everyone if block.present is None else block.present(records)
        if present is not records.nobody:
            groups.setdefault(present.tobytes(), (present, []))[1].extend(block.attributes)
    found = [(present.nonzero()[0], attributes) for present, attributes in groups.values()]
    return [group for group in found if len(group[0])]


def _names(attributes: list[Integer]) -> tuple[str, ...]:
    return tuple([row.name for row in attributes])


def write_heads(head: wire.Bytes2D, heads: SpanHeads) -> None:
    """Fill what follows `HEAD` in each row; the length is still missing then."""
    wire.put(head, _AT_TRACE, _BIG_U8, heads.trace_id_high)
    wire.put(head, _AT_TRACE + 8, _BIG_U8, heads.trace_id_low)
    wire.put(head, _AT_SPAN, _BIG_U8, heads.span_id)
    wire.put(head, _AT_START, _U8, heads.start)
    wire.put(head, _AT_END, _U8, heads.end)
    wire.put(head, _AT_FLAGS, _U4, heads.flags)
    wire.put(head, _AT_KIND, _U1, heads.kind)


def write_parents(head: wire.Bytes2D, parents: Array) -> None:
    """Fill the parent in each row that begins with `HEAD_WITH_PARENT`."""
    wire.put(head, len(HEAD_WITH_PARENT) - 8, _BIG_U8, parents)


def parent_rows(ids: SpanIds) -> list[tuple[Array, wire.Bytes2D]]:
    """Which spans have a parent, and its field for each of those."""
    at = ids.parent_span_id.nonzero()[0]
    if not len(at):
        return []
    rows = wire.Template(PARENT, ()).rows(len(at))
    wire.put(rows, len(PARENT) - 8, _BIG_U8, ids.parent_span_id[at])
    return [(at, rows)]


def _links(ids: SpanIds) -> list[tuple[Array, wire.Bytes2D]]:
    """The spans with which flows go on in another trace, and their links: to the first, and to the one before."""
    continued = ids.continued
    if not len(continued.rows):
        return []
    return [(continued.rows, link_rows(*links)) for links in (continued.first, continued.before)]


def add_part(blocks: list[Block], room: Array, at: Array, parts: wire.Bytes2D) -> None:
    """Put one more part of fixed width behind those that some spans have already."""
    blocks.append(Block(as_void(parts), at, room[at]))
    room[at] += parts.shape[1]


def sized(head: wire.Bytes2D, rows: Array, blocks: list[Block], room: Array, pieces: list[Column]) -> SpanSet:
    """The spans with their lengths, as if the records were all that there is."""
    lengths = room.copy()
    for column in pieces:
        lengths += column.lengths
    wire.write_slots(head, 1, LENGTH_BYTES, lengths - 1 - LENGTH_BYTES)
    return SpanSet(rows, rows, blocks, room, pieces, lengths)
