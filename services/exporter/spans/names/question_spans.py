"""DNS questions that have records of their own, as spans of their flows' traces: those that failed or were slow.

None is CLIENT or SERVER, and none has `flow.observer`: service graphs and what counts flows go by these, and a question is
counted by its flow's span already.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from proto.flow_batch import Array, FlowBatch
from services.exporter.otlp import protobuf_wire as wire
from services.exporter.otlp.assembly import Block, SpanSet
from services.exporter.otlp.piece_table import Table
from services.exporter.otlp.protobuf_wire import as_void, attribute, field
from services.exporter.spans.attributes import DEVELOPMENT, MERMIN, OURS, STABLE, Attribute, Integer, Integers
from services.exporter.spans.facts import is_ipv4, transport_name
from services.exporter.spans.flow_spans import HEAD, SpanHeads, add_part, parent_rows, sized, write_heads
from services.exporter.spans.identity import Perspective, SpanIds
from services.exporter.spans.names.questions import Questions
from services.exporter.spans.pieces import SPAN_NAME, Backends, Ends
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection

QUESTION_NAME: Final = "dns question"
"""Of every such span: names that are asked for have no bound."""

QUESTION_INTEGERS: Final = (
    Integers("always", None, (
        Integer("source.port", DEVELOPMENT, "port of the client", "", lambda records: records.source("port")),
        Integer("destination.port", DEVELOPMENT, "port of the resolver", "", lambda records: records.destination("port")),
        Integer("network.local.port", STABLE, "port of the resource's end", "", lambda records: records.told("port")),
        Integer("network.peer.port", STABLE, "port of the other end", "", lambda records: records.peer("port")),
    )),
    Integers("it was answered", lambda records: records.nonzero("dns_first_time_ns"), (
        Integer("flow.dns.time", OURS, "how long the answer took since the question was first asked", "ns",
                lambda records: records.column("dns_first_time_ns")),
    )),
    Integers("it was sent again", lambda records: records.nonzero("dns_first_repeats"), (
        Integer("flow.dns.repeats", OURS, "how often", "", lambda records: records.column("dns_first_repeats")),
    )),
)  # fmt: skip

QUESTION_WORDS: Final = (
    Attribute("network.transport", STABLE, "`udp`"),
    Attribute("network.type", STABLE, "`ipv4` or `ipv6`"),
    Attribute("flow.direction", MERMIN, "whether the resource is the client (`forward`) or the resolver (`reverse`)"),
)  # fmt: skip

_DIRECTION, _IPV4, _TRANSPORT = 0, 2, 8
_DIRECTIONS: Final = ("unknown", "forward", "reverse")


class QuestionSpans:
    """Encodes records of questions, one span for each. What is kept between batches are bytes for values seen before."""

    def __init__(self, selection: Selection, ends: Ends) -> None:
        self._selection = selection
        self._ends = ends
        self._backends = Backends(selection)
        self._questions = Questions(selection)
        self._words = Table(self._make_words)

    def encode(self, batch: FlowBatch, seen: Perspective, ids: SpanIds, entities: Array, resources: Array) -> SpanSet:
        """Return the spans of a batch all of whose records are questions; the rest is as `FlowSpans.encode` has it."""
        if self._words.full:
            self._words.clear()
        records = Records(batch, seen)
        always, *some = [(block, self._selection.values(block.attributes, records)) for block in QUESTION_INTEGERS]
        head = wire.attribute_rows(always[1], HEAD)
        times = records.column("start_unix_ns"), records.column("end_unix_ns")
        write_heads(head, SpanHeads(ids.trace_id_high, ids.trace_id_low, ids.span_id, *times, ids.flags, seen.kind))
        blocks, room = [Block(as_void(head), None, 0)], np.full(batch.count, head.shape[1], np.int64)
        for at, rows in parent_rows(ids):
            add_part(blocks, room, at, rows)
        for block, values in some:
            at = block.present(records).nonzero()[0] if block.present and values else np.empty(0, np.int64)
            if len(at):
                add_part(blocks, room, at, wire.attribute_rows({name: column[at] for name, column in values.items()}))
        pieces = [self._words.column(_key(records)), *self._ends.columns(records, entities, named=False)]
        pieces += [self._questions.own(records), *self._backends.columns(records)]
        spans = sized(head, np.arange(batch.count), blocks, room, pieces)
        return SpanSet(spans.rows, resources, spans.blocks, spans.room, spans.pieces, spans.lengths)

    def _make_words(self, key: tuple[int, ...]) -> bytes:
        (bits,) = key
        words = {
            "network.transport": transport_name(bits >> _TRANSPORT & 0xFF),
            "network.type": "ipv4" if bits >> _IPV4 & 1 else "ipv6",
            "flow.direction": _DIRECTIONS[bits >> _DIRECTION & 3],
        }
        chosen = (item for item in words.items() if self._selection.has(item[0]))
        return field(SPAN_NAME, QUESTION_NAME.encode()) + b"".join(attribute(*item) for item in chosen)


def _key(records: Records) -> Array:
    """The small facts of each question in a word."""
    direction = np.where(records.has_initiator(), np.where(records.told_by_source(), 1, 2), 0)
    key: Array = np.zeros(records.count, np.uint64)
    for value, shift in (
        (direction, _DIRECTION),
        (is_ipv4(records.column("local_address")), _IPV4),
        (records.column("transport"), _TRANSPORT),
    ):
        key |= value.astype(np.uint64) << np.uint64(shift)
    return key
