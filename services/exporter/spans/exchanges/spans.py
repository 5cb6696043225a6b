"""Exchange records as spans of the application's trace: the exchange under the caller's span, its phases under the exchange,
and beside it the steps of its connection's set-up (setup/).

None of them is CLIENT or SERVER, and none names a peer: the application's own spans draw the edges of a service graph, and what
is said here again must not be counted twice.
"""

from __future__ import annotations

import numpy as np

from proto.columns import CONNECTION_PART
from proto.exchange_phases import SET_UP, Phase, Phases, phases
from proto.flow_batch import Array, FlowBatch
from services.exporter.otlp import protobuf_wire as wire
from services.exporter.otlp.assembly import Block, SpanSet
from services.exporter.otlp.piece_table import Column, Table
from services.exporter.otlp.protobuf_wire import as_void, attribute, field
from services.exporter.spans.exchanges.attributes import (
    EXCHANGE_INTEGERS,
    PART_INTEGERS,
    ExchangeFacts,
    ExchangeIntegers,
)
from services.exporter.spans.facts import TCP, is_ipv4
from services.exporter.spans.flow_spans import HEAD_WITH_PARENT, SpanHeads, add_part, sized, write_heads, write_parents
from services.exporter.spans.identity import (
    FLAG_HAS_IS_REMOTE,
    FLAG_IS_REMOTE,
    ExchangeIds,
    IdMixer,
    Kind,
    perspective,
    phase_ids,
)
from services.exporter.spans.links import link_rows
from services.exporter.spans.names.questions import ServerNames
from services.exporter.spans.pieces import SPAN_NAME, Ends, status
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection
from services.exporter.spans.setup.spans import SetUpSpans
from services.exporter.spans.verdicts import Verdicts

_PHASE, _SIDE, _DIRECTION, _IPV4, _END, _SILENT = 0, 3, 5, 6, 7, 15
_SHARED, _METHOD, _GRPC, _STATUS, _MATCHED, _UDP = 16, 18, 22, 30, 46, 47


class ExchangeSpans:
    """Encodes exchange records. What is kept between batches are bytes for values seen before."""

    def __init__(self, mixer: IdMixer, selection: Selection, ends: Ends) -> None:
        self._mixer = mixer
        self._selection = selection
        self._ends = ends
        self._server_names = ServerNames(selection)
        self._words = Table(self._make_words)
        self._verdicts = Verdicts(selection)
        self._set_up = SetUpSpans(mixer, selection)

    def encode(self, batch: FlowBatch, rows: Array, entities: Array, resources: Array) -> list[SpanSet]:
        """Return the spans of those `rows` (an index array) of a batch that are exchanges; `entities` are what `Ends.numbers`
        gave, `resources` has the key of each row's resource.
        """
        if self._words.full:
            self._words.clear()
        is_part = batch.column("exchange_shared")[rows] == CONNECTION_PART
        sets = []
        for chosen, integers in ((rows[~is_part], EXCHANGE_INTEGERS), (rows[is_part], PART_INTEGERS)):
            if len(chosen):
                sets += self._encode(batch, chosen, entities, resources, integers)
        return sets

    def _encode(
        self, batch: FlowBatch, rows: Array, entities: Array, resources: Array, integers: tuple[ExchangeIntegers, ...]
    ) -> list[SpanSet]:
        """Return the spans of rows that say the same integers."""
        told = batch.take(rows)
        records = Records(told, perspective(told))
        ids = self._mixer.exchange_ids(told, records.seen)
        times = phases(told)
        ends = self._ends.columns(records, entities, named=False)
        row, phase = times.present.nonzero()
        part = (phase != Phase.EXCHANGE) & ~np.isin(phase, SET_UP)
        sets = [self._exchanges(records, ids, times, ends, integers)]
        if part.any():
            sets.append(self._phases(records, ids, times, row[part], phase[part]))
        for step in SET_UP:
            waited = row[phase == step]
            if len(waited):
                words = self._words.column(_facts_key(records)[waited] | np.uint64(step))
                sets.append(self._set_up.encode(records, ids, times, waited, step, words))
        return [placed(one, rows, resources) for one in sets]

    def _exchanges(
        self,
        records: Records,
        ids: ExchangeIds,
        times: Phases,
        ends: tuple[Column, ...],
        integers: tuple[ExchangeIntegers, ...],
    ) -> SpanSet:
        """Return the spans of the exchanges, one for each record."""
        count = records.count
        rows, whole = np.arange(count), np.full(count, int(Phase.EXCHANGE))
        always, *parts = integers
        head = wire.attribute_rows(self._selection.values(always.attributes, records), HEAD_WITH_PARENT)
        blocks, room = [Block(as_void(head), None, 0)], np.full(count, head.shape[1], np.int64)
        for part in parts:
            at = records.column(part.where).nonzero()[0]
            values = self._selection.values(part.attributes, records.at(at)) if len(at) else {}
            if values:
                add_part(blocks, room, at, wire.attribute_rows(values))
        at = ids.linked.nonzero()[0]
        if len(at):
            links = link_rows(ids.flow_trace_id_high[at], ids.flow_trace_id_low[at], ids.flow_span_id[at])
            add_part(blocks, room, at, links)
        _write(head, records, ids, times, rows, whole)
        pieces = [self._words.column(_facts_key(records)), *ends, *self._server_names.columns(records)]
        pieces.extend(self._verdicts.columns(records))
        return sized(head, rows, blocks, room, pieces)

    def _phases(self, records: Records, ids: ExchangeIds, times: Phases, row: Array, phase: Array) -> SpanSet:
        """Return the spans of phases, each of the record `row`."""
        head = wire.Template(HEAD_WITH_PARENT, ()).rows(len(row))
        _write(head, records, ids, times, row, phase)
        words = self._words.column(_facts_key(records)[row] | phase.astype(np.uint64))
        return sized(head, row, [Block(as_void(head), None, 0)], np.full(len(row), head.shape[1], np.int64), [words])

    def _make_words(self, key: tuple[int, ...]) -> bytes:
        (bits,) = key
        facts = ExchangeFacts(
            phase=bits >> _PHASE & 7,
            side=bits >> _SIDE & 3,
            direction="forward" if bits >> _DIRECTION & 1 else "reverse",
            ipv4=bool(bits >> _IPV4 & 1),
            end=bits >> _END & 0xFF,
            silent=bool(bits >> _SILENT & 1),
            shared=bits >> _SHARED & 3,
            method=bits >> _METHOD & 0xF,
            grpc=bits >> _GRPC & 0xFF,
            status=bits >> _STATUS & 0xFFFF,
            matched=bits >> _MATCHED & 1,
            udp=bool(bits >> _UDP & 1),
        )
        chosen = (item for item in facts.words().items() if self._selection.has(item[0]))
        out = field(SPAN_NAME, facts.name.encode()) + b"".join(attribute(*item) for item in chosen)
        return out + (status(facts.error[1]) if facts.error else b"")


def _facts_key(records: Records) -> Array:
    """`ExchangeFacts` of each exchange in a word, without the phase."""
    column = records.column
    key: Array = records.seen.side.astype(np.uint64) << np.uint64(_SIDE)
    for value, shift in (
        (records.told_by_source(), _DIRECTION),
        (is_ipv4(column("local_address")), _IPV4),
        (column("exchange_end"), _END),
        (column("response_first_unix_ns") == 0, _SILENT),
        (column("exchange_shared") & np.uint8(3), _SHARED),
        (column("http_method") & np.uint8(0xF), _METHOD),
        (column("grpc_status"), _GRPC),
        (column("http_status"), _STATUS),
        (column("exchange_matched") & np.uint8(1), _MATCHED),
        (column("transport") != TCP, _UDP),
    ):
        key |= value.astype(np.uint64) << np.uint64(shift)
    return key


def _write(  # noqa: PLR0917 - what a span is made of
    head: wire.Bytes2D, records: Records, ids: ExchangeIds, times: Phases, row: Array, phase: Array
) -> None:
    """Fill the heads of spans, each of the record `row` and a `Phase`: all but the length."""
    is_whole = phase == Phase.EXCHANGE
    flags = records.column("trace_flags")[row].astype(np.uint32) | np.uint32(FLAG_HAS_IS_REMOTE)
    write_heads(
        head,
        SpanHeads(
            ids.trace_id_high[row],
            ids.trace_id_low[row],
            phase_ids(ids.exchange[row], phase.astype(np.uint64)),
            times.begin[row, phase],
            times.end[row, phase],
            flags | is_whole * np.uint32(FLAG_IS_REMOTE),
            np.full(len(row), Kind.INTERNAL, np.uint8),
        ),
    )
    exchange = phase_ids(ids.exchange[row], np.zeros(1, np.uint64))
    write_parents(head, np.where(is_whole, ids.parent_span_id[row], exchange))


def placed(spans: SpanSet, rows: Array, resources: Array) -> SpanSet:
    """The same spans as of the batch's rows, with the resources of those."""
    of_batch = rows[spans.rows]
    return SpanSet(of_batch, resources[of_batch], spans.blocks, spans.room, spans.pieces, spans.lengths)
