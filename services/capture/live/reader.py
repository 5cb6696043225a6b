"""The live table as batches: what is due each tick, ready to be sent, and settled when its fate is known.

Deltas of a batch that the bus refuses go back to the table and merge into the flows' next records. Not for two threads at once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import numpy as np

from proto.columns import Observer, Reason
from proto.exchange_phases import span_count
from proto.flow_batch import Array, FlowBatch, encode_parts
from proto.subjects import batch_id, part_id
from services.capture.flows.exchange_layout import NO_EXCHANGES, Exchanges
from services.capture.flows.exchange_table import ExchangeEmission, ExchangeTable
from services.capture.flows.layout import Slots
from services.capture.flows.table import Emission, FlowTable
from services.capture.flows.timing import FlowTableSettings
from services.capture.live.owners.cgroups import CgroupIndex, find_root
from services.capture.live.owners.cgroups_v1 import PodsOfVersion1
from services.capture.live.owners.processes import Processes
from services.capture.live.records import LiveClock, LiveRecords, finish, finish_exchanges, monotonic_ns
from services.capture.live.succession import Succession
from services.capture.live.tap.slot_layout import SLOT_OF_FLOW
from services.capture.live.tap.socket_tap import SocketTap
from services.capture.live_options import LiveOptions
from services.capture.meeting.meeting import Meeting
from services.capture.names.reader import NameReader, NamesTold

_LARGEST_ROWS: Final = 950


@dataclass(frozen=True, slots=True)
class LiveMessage:
    """A message for the bus."""

    message_id: str
    message: bytes


@dataclass(frozen=True, slots=True, eq=False)
class LiveBatch:
    """Messages for the bus, nearly always one, and what they settle together."""

    messages: Sequence[LiveMessage]
    emission: Emission | ExchangeEmission
    spans: int
    """What the records become."""
    records: int
    """Those in the messages: the emission's, and of questions."""
    told: NamesTold
    """What the records say of names."""


class LiveReader(AbstractContextManager["LiveReader"]):
    """Attaches when entered; raises as SocketTap does."""

    def __init__(
        self,
        *,
        node: str,
        epoch: str,
        options: LiveOptions,
        table: FlowTableSettings | None = None,
        leave_out_own: bool = True,
    ) -> None:
        """`leave_out_own`: the connections that this process makes are told neither at its end nor at the other."""
        self._leave_out_own = leave_out_own
        self._node = node
        self._epoch = epoch or uuid.uuid4().hex
        self._options = options
        self._table_settings = table or FlowTableSettings(max_rows=_LARGEST_ROWS)
        self._names = NameReader(options.names, options.hidden_names, options.questions)
        self.meeting = Meeting(options.meeting_bytes, self._names.may_multiplex) if options.meeting_bytes else None
        """Where spans of applications are asked for: None where nobody may."""
        self._sequence = 0
        self._stack = ExitStack()
        self.refused_batches = 0
        """Batches that the bus refused; their deltas merged."""
        self.merged_records = 0
        """Records in them."""

    def __enter__(self) -> Self:
        with self._stack:
            root = find_root(given=self._options.cgroup_root)
            self._cgroups = self._stack.enter_context(CgroupIndex(root))
            self._pods_of_version_1 = PodsOfVersion1(root)
            self._processes = self._stack.enter_context(Processes(self._cgroups.paths)) if self._options.process_names else None
            self.tap = self._stack.enter_context(
                SocketTap(
                    capacity=self._options.capacity,
                    cgroup_root=root,
                    rules=self._options.rules,
                    trace_context=self._options.trace_context,
                    datagrams=self._options.datagrams,
                    pieces=self._names.kinds,
                    meeting=self.meeting is not None,
                    closers=self._processes is not None,
                    leave_out_own=self._leave_out_own,
                )
            )
            if self._processes is not None and self.tap.closers is not None:
                self._processes.closers_of = self.tap.closers.of
            self.succession = self._stack.enter_context(Succession(root, self._options.succession, monotonic_ns()))
            self._share = self.succession.share
            self._clock = LiveClock(self._options.capacity)
            self._table = FlowTable(self.tap, self._table_settings, Observer.SOCKET)
            exchanges = self.tap.exchanges
            self._exchanges = ExchangeTable(exchanges, self._table_settings, Observer.SOCKET) if exchanges else None
            self._last_unix_ns = self._clock.begin_drain() + self._clock.now_offset_ns
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def read(self, final: Reason | None = None) -> Iterator[LiveBatch]:
        """Yield what is due now; with `final`, which detaches first, every flow's last record.

        May be left before its end: what was not asked for is due again.
        """
        waited, share = self._share, self.succession.look()
        self._share = share
        if final is not None:
            until_ns = monotonic_ns()
            self.tap.detach()
            self.succession.leave(until_ns)
        self._pods_of_version_1.look(self._cgroups.pods)
        now_ns = self._clock.begin_drain()
        now_unix_ns = now_ns + self._clock.now_offset_ns
        if self.tap.pieces is not None:
            self._names.read(self.tap.pieces.take())
        if waited.waits:
            self._names.leave()
            if not share.waits:
                self._table.leave(waited, share.rest_since_ns, now_ns)
        counters = self.counters
        if self._exchanges is not None:
            meet = partial(self._meet, now_ns) if self.meeting is not None else None
            for exchanges in self._exchanges.drain(now_ns, final=final is not None, share=share, meet=meet):
                records = finish_exchanges(exchanges, self._clock, self._cgroups)
                owners, offset_ns = exchanges.exchanges["owner"], self._clock.now_offset_ns
                told = self._names.tell_exchanges(exchanges.columns, self._flows, owners, offset_ns)
                yield self._batch(exchanges, records, now_unix_ns, counters, told)
        for emission in self._table.drain(now_ns, final, share):
            slots = self.tap.rows(emission.slots)
            records = finish(emission, slots, self._clock, self._cgroups, self._processes)
            told = self._names.tell(emission, slots["cgroup_id"])
            yield self._batch(emission, records, now_unix_ns, counters, told)
        self._last_unix_ns = max(now_unix_ns, self._last_unix_ns)

    @property
    def frames_wait(self) -> bool:
        """Whether `read_frames` is due: there is room for so much of what the programs tell, and no more."""
        return self.tap.exchanges is not None and self.tap.exchanges.frames_wait

    def read_frames(self) -> None:
        """Take over what the programs told of frames of HTTP/2 since the last read, for the next one."""
        if self.tap.exchanges is not None:
            self.tap.exchanges.read_frames()

    def _flows(self, flow_ids: Array) -> tuple[Slots, Array]:
        slots = self.tap.slots_of(flow_ids)
        known = np.flatnonzero(slots["id"] == flow_ids)
        offsets = np.full(len(flow_ids), self._clock.now_offset_ns)
        offsets[known] = self._clock.of_flows((flow_ids[known] & np.uint64(SLOT_OF_FLOW)).astype(np.uint32), flow_ids[known])
        return slots, offsets

    def _meet(self, now_ns: int, by_wire: Exchanges) -> Exchanges:
        """Remember what was exchanged, and return what of it spans were asked for, but for what was read on the wire."""
        if self.meeting is None or self.tap.turns is None:
            return NO_EXCHANGES
        kept = self.tap.turns
        turns = kept.take(now_ns, self.tap.high_slot)
        self.meeting.note_lost(kept.lost, now_ns)
        self.meeting.tell(by_wire)
        offset_ns, owners = self._clock.now_offset_ns, self._cgroups.rows
        self.meeting.ring.begin(kept.begun_tls, self.tap.rows)
        met = self.meeting.look(now_ns, offset_ns, turns, self.tap.rows, owners)
        kept.share(self.meeting.ring.take_shared())
        return met

    def accept(self, batch: LiveBatch) -> None:
        """The batch is stored."""
        if isinstance(batch.emission, Emission):
            self._table.accept(batch.emission)

    def refuse(self, batch: LiveBatch) -> None:
        """The batch is stored nowhere and never will be."""
        if isinstance(batch.emission, Emission):
            self._table.refuse(batch.emission)
            self._names.put_back(batch.emission, batch.told)
        elif self._exchanges is not None:
            self._exchanges.refuse(batch.emission)
        self.refused_batches += 1
        self.merged_records += batch.records

    @property
    def counters(self) -> dict[str, int]:
        """What goes with every batch: packets and bytes that are in no flow, cumulative, and the table's state."""
        return (
            self.tap.counters
            | self._table.counters
            | self._names.counters
            | (self.meeting.counters if self.meeting else {})
            | ({"turns_lost": self.tap.turns.lost} if self.tap.turns else {})
            | {
                "refused_batches": self.refused_batches,
                "merged_records": self.merged_records,
                "dropped_exchanges": self._exchanges.dropped if self._exchanges else 0,
                "unknown_cgroups": self._cgroups.counts.unknown,
                "unidentified_pods": self._pods_of_version_1.unidentified,
                "processes_given_up": self._processes.given_up if self._processes else 0,
                "used_slots": self.tap.used_slots,
                "capacity": self.tap.capacity,
            }
        )

    def _batch(
        self,
        emission: Emission | ExchangeEmission,
        records: LiveRecords,
        now_unix_ns: int,
        counters: dict[str, int],
        told: NamesTold,
    ) -> LiveBatch:
        columns = told.records.behind({**records.columns, **told.columns}, self._clock.now_offset_ns)
        batch = FlowBatch(
            node=self._node,
            epoch=self._epoch,
            sequence=self._sequence,
            count=len(columns["flow_id"]),
            interval=(min(self._last_unix_ns, now_unix_ns), now_unix_ns),
            columns=columns,
            names=told.names,
            containers=records.containers,
            counters=counters,
        )
        self._sequence += 1
        message_id = batch_id(self._node, self._epoch, batch.sequence)
        parts = list(encode_parts(batch))
        if len(parts) == 1:
            return LiveBatch([LiveMessage(message_id, parts[0].message)], emission, span_count(batch), batch.count, told)
        # Containers with very long names: one batch, several messages.
        messages = [LiveMessage(part_id(message_id, part.first, part.end), part.message) for part in parts]
        return LiveBatch(messages, emission, span_count(batch), batch.count, told)
