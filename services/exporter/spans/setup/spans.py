"""Steps of a connection's set-up as spans of the application's trace: children of the caller's span, beside its first exchange.

Each has a link to the span that it came from: the connection's, or for a lookup that of the question's flow. A lookup that led
to several connections for one caller has the same id in all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from proto.columns import FIRST_EXCHANGE, Role
from proto.exchange_phases import Phase, Phases
from proto.flow_batch import Array
from services.exporter.otlp import protobuf_wire as wire
from services.exporter.otlp.assembly import Block, SpanSet
from services.exporter.otlp.piece_table import Column
from services.exporter.otlp.protobuf_wire import as_void
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
from services.exporter.spans.names.questions import Questions
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection
from services.exporter.spans.setup.attributes import STEP_INTEGERS

_UDP: Final = 17
_OF_LOOKUP: Final = ("local_address", "remote_address", "local_port", "remote_port")


class SetUpSpans:
    """Encodes the steps. What is kept between batches are bytes for values seen before."""

    def __init__(self, mixer: IdMixer, selection: Selection) -> None:
        self._mixer = mixer
        self._selection = selection
        self._questions = Questions(selection)

    def encode(  # noqa: PLR0917 - what a span is made of
        self, records: Records, ids: ExchangeIds, times: Phases, rows: Array, step: Phase, words: Column
    ) -> SpanSet:
        """Return the spans of one kind of step: of the records `rows` (an index array). `words` are their names and words."""
        few, steps = records.at(rows), np.full(len(rows), step, np.uint64)
        always, *some = STEP_INTEGERS[step]
        values = self._selection.values(always.attributes, few)
        head = wire.attribute_rows(values, HEAD_WITH_PARENT) if values else wire.Template(HEAD_WITH_PARENT, ()).rows(len(rows))
        own = phase_ids(ids.exchange[rows], steps)
        links = ids.flow_trace_id_high[rows], ids.flow_trace_id_low[rows], ids.flow_span_id[rows]
        linked = ids.linked[rows]
        pieces = [words]
        if step == Phase.DNS_LOOKUP:
            of_question = self._question_ids(records, rows)
            linked = few.column("lookup_flow_start_unix_ns") != 0
            own = np.where(linked, phase_ids(of_question.exchange, steps), own)
            links = of_question.flow_trace_id_high, of_question.flow_trace_id_low, of_question.flow_span_id
            pieces.append(self._questions.own(few))
        flags = few.column("trace_flags").astype(np.uint32) | np.uint32(FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE)
        trace, kinds = (ids.trace_id_high[rows], ids.trace_id_low[rows]), np.full(len(rows), Kind.INTERNAL, np.uint8)
        write_heads(head, SpanHeads(*trace, own, times.begin[rows, step], times.end[rows, step], flags, kinds))
        write_parents(head, ids.parent_span_id[rows])
        blocks, room = [Block(as_void(head), None, 0)], np.full(len(rows), head.shape[1], np.int64)
        for block in some:
            at = block.present(few).nonzero()[0] if block.present else np.arange(len(rows))
            values = self._selection.values(block.attributes, few)
            if len(at) and values:
                add_part(blocks, room, at, wire.attribute_rows({name: column[at] for name, column in values.items()}))
        at = linked.nonzero()[0]
        if len(at):
            add_part(blocks, room, at, link_rows(*(word[at] for word in links)))
        return sized(head, rows, blocks, room, pieces)

    def _question_ids(self, records: Records, rows: Array) -> ExchangeIds:
        """The ids of lookups as exchanges of their questions' flows, each with a number made of when it was asked."""
        batch = records.batch.take(rows)
        column, count = batch.column, len(rows)
        since = column("lookup_unix_ns") - column("lookup_flow_start_unix_ns")
        columns = {name: column(f"lookup_{name}") for name in _OF_LOOKUP} | {
            "flow_start_unix_ns": column("lookup_flow_start_unix_ns"),
            "record": (since % np.uint64(FIRST_EXCHANGE)).astype(np.uint32) + np.uint32(FIRST_EXCHANGE),
            "role": np.full(count, Role.CLIENT, np.uint8),
            "transport": np.full(count, _UDP, np.uint8),
            "isn_seen": np.zeros(count, np.uint8),
        }
        asked = replace(batch, columns={**batch.columns, **columns})
        return self._mixer.exchange_ids(asked, perspective(asked))
