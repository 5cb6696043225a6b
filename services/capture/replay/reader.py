"""Capture files as batches that are ready to be sent, in order.

A flow's watermark moves as soon as its batch is made, because a batch of a replay is never given up. So what a batch holds does
not depend on when the bus takes it: the same files under the same epoch give the same bytes under the same message ids.

In a loop the files are read again and again at the speed of their clock, or faster. Times are moved to now and durations stay;
flow ids go on, and initial sequence numbers and the applications' trace ids differ from pass to pass, so that every pass has
traces of its own.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from proto.columns import COLUMNS, NO_INDEX, Reason
from proto.exchange_phases import is_traced, span_count
from proto.flow_batch import Array, FlowBatch, encode
from proto.subjects import MAX_BATCH_BYTES, batch_id
from services.capture.errors import path_text
from services.capture.flows.exchange_layout import MET, Exchanges
from services.capture.flows.exchange_table import ExchangeEmission, ExchangeTable
from services.capture.flows.layout import Slots
from services.capture.flows.table import Emission, FlowTable
from services.capture.names.reader import NameReader
from services.capture.progress import ProgressReport
from services.capture.replay.layout import file_columns
from services.capture.replay.meeting import ReplayMeeting
from services.capture.replay.replaying import replay
from services.capture.replay.source import ReplaySource
from services.capture.settings import CaptureSettings

_LONGEST_PAUSE_NS: Final = 10_000_000_000
"""Longer silences of the files' clock are cut to this in a loop."""
_PASS_STRIDE: Final = 0x9E37_79B1
"""What initial sequence numbers grow by from pass to pass: odd, so that 2**32 passes differ."""
_TIME_COLUMNS: Final = frozenset(name for name in COLUMNS if name.endswith("_unix_ns"))


@dataclass(frozen=True, slots=True)
class ReadyBatch:
    """A message for the bus."""

    message_id: str
    message: bytes
    records: int
    exchanges: int
    """Of them, those of requests in an application's trace."""
    spans: int
    """What they become."""
    due_unix_ns: int
    """When to send it by this machine's clock; 0: at once."""


class ReplayReader:
    """Reads in the caller's thread, which should not be the event loop's; not for two threads at once.

    Raises CaptureFileError, when it is made, for the first file that is no capture.
    """

    def __init__(self, settings: CaptureSettings, epoch: str, report: ProgressReport) -> None:
        self._settings = settings
        self._node = settings.node_name
        self._epoch = epoch
        self._report = report
        self._sequence = 0
        self._passes = 0
        self._earlier_flows = 0
        self._begin_pass()

    def read(self) -> list[ReadyBatch] | None:
        """Return the next records as batches, reading as far as it takes; None once the files are read."""
        while True:
            emission = next(self._emissions, None)
            if emission is not None:
                return self._ready(emission)
            if not self._settings.replay_loop or not self._source.flows:
                return None
            self._earlier_flows += self._source.flows
            ended = self._source
            self._passes += 1
            self._begin_pass()
            ended.close()

    def finish(self) -> Iterator[list[ReadyBatch]]:
        """Read no more; yield the last records of all flows, whose reason is shutdown."""
        now_unix_ns = max(self._source.clock_unix_ns, self._last_now_unix_ns)
        for exchanges in self._exchanges.drain(now_unix_ns, final=True):
            yield self._ready(exchanges)
        for emission in self._table.drain(now_unix_ns, Reason.SHUTDOWN):
            yield self._ready(emission)

    @property
    def faults(self) -> list[str]:
        """What could not be read so far of this pass's files, a line for each file."""
        return [f"{path_text(path)}: {fault}" for path, fault in self._source.faults.items()]

    def close(self) -> None:
        """Close the files."""
        self._source.close()

    def _begin_pass(self) -> None:
        settings = self._settings
        key = settings.replay_pseudonym_key.encode()
        self._names = NameReader(settings.names, settings.hidden_names, settings.questions, key)
        self._source = ReplaySource(
            settings.replay_files,
            settings.replay_capacity,
            trace_context=settings.trace_context,
            datagrams=settings.datagrams,
            names=self._names,
            turns=settings.replay_questions is not None,
        )
        self._meeting = (
            ReplayMeeting(settings.replay_questions, settings.meeting_bytes, self._source, self._names)
            if settings.replay_questions is not None
            else None
        )
        self._table = FlowTable(self._source, settings.flow_table)
        self._exchanges = ExchangeTable(self._source, settings.flow_table)
        self._emissions = replay(
            self._source, self._table, exchanges=self._exchanges, meeting=self._meeting, at_once=settings.replay_loop
        )
        self._last_now_unix_ns = 0
        self._offset_ns = 0
        met = () if self._meeting is None else (self._meeting,)
        self._report.begin_pass(self._source, self._table, self._names, *met)

    def _ready(self, emission: Emission | ExchangeEmission) -> list[ReadyBatch]:
        now_unix_ns = emission.now_unix_ns
        began_unix_ns = self._last_now_unix_ns or int(emission.columns["flow_start_unix_ns"].min())
        if isinstance(emission, Emission):
            told = self._names.tell(emission)
            said = emission.columns | file_columns(self._source.outers[emission.slots])
            said |= {"file": self._source.files_of(emission.slots), **told.columns}
        else:
            told = self._names.tell_exchanges(emission.columns, self._flows)
            said = emission.columns | {"file": self._files_of(emission.exchanges), **told.columns}
        columns: Mapping[str, Array] = told.records.behind(said)
        if self._settings.replay_loop:
            self._keep_pace(now_unix_ns)
            columns = self._moved(columns)
        self._last_now_unix_ns = now_unix_ns
        batch = FlowBatch(
            node=self._node,
            epoch=self._epoch,
            sequence=0,
            count=len(columns["flow_id"]),
            interval=(min(began_unix_ns, now_unix_ns) + self._offset_ns, now_unix_ns + self._offset_ns),
            columns=columns,
            files=[{"name": name} for name in self._source.file_names],
            names=told.names,
            counters=self._report.counters,
        )
        due_unix_ns = now_unix_ns + self._offset_ns if self._settings.replay_loop else 0
        ready = [self._message(part, due_unix_ns) for part in _parts(batch)]
        if isinstance(emission, Emission):
            self._table.accept(emission)
        return ready

    def _files_of(self, exchanges: Exchanges) -> Array:
        """Return which file each was in; none where its flow has given its slot back: the slot's file is somebody else's."""
        slots, flow_ids = exchanges["slot"], exchanges["flow_id"]
        slots = np.where(slots == MET, self._source.places_of(flow_ids), slots)
        files = self._source.files_of(slots)
        return np.where(self._source.slots["id"][slots] == flow_ids, files, np.uint32(NO_INDEX))

    def _flows(self, flow_ids: Array) -> tuple[Slots, Array]:
        return self._source.slots_of(flow_ids), np.zeros(len(flow_ids), np.int64)

    def _message(self, batch: FlowBatch, due_unix_ns: int) -> ReadyBatch:
        batch = replace(batch, sequence=self._sequence)
        self._sequence += 1
        return ReadyBatch(
            message_id=batch_id(self._node, self._epoch, batch.sequence),
            message=encode(batch),
            records=batch.count,
            exchanges=int(is_traced(batch).sum()),
            spans=span_count(batch),
            due_unix_ns=due_unix_ns,
        )

    def _keep_pace(self, now_unix_ns: int) -> None:
        """Set what is added to the files' clock: a pass begins now, long silences are cut, a clock gone back begins anew."""
        wall_unix_ns, speed = time.time_ns(), self._settings.replay_speed
        if not self._last_now_unix_ns:
            slots = self._source.slots[: self._source.high_slot]
            due_unix_ns, elapsed_ns = wall_unix_ns, now_unix_ns - int(slots["first_ns"][slots["first_ns"] != 0].min())
        elif now_unix_ns < self._last_now_unix_ns:
            due_unix_ns, elapsed_ns = wall_unix_ns, 0
        else:
            due_unix_ns = self._last_now_unix_ns + self._offset_ns
            elapsed_ns = now_unix_ns - self._last_now_unix_ns
        due_unix_ns += round(elapsed_ns / speed)
        self._offset_ns = min(due_unix_ns, wall_unix_ns + round(_LONGEST_PAUSE_NS / speed)) - now_unix_ns

    def _moved(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Return the columns of this pass: times moved to now, identities its own."""
        moved = dict(columns)
        offset = np.uint64(self._offset_ns % 2**64)
        for name in _TIME_COLUMNS & columns.keys():
            moved[name] = np.where(columns[name] != 0, columns[name] + offset, 0).astype("<u8")
        moved["flow_id"] = columns["flow_id"] + np.uint64(self._earlier_flows)
        shift = np.uint32((zlib.crc32(self._epoch.encode()) + self._passes * _PASS_STRIDE) % 2**32)
        for bit, name in ((1, "local_isn"), (2, "remote_isn")):
            moved[name] = np.where(columns["isn_seen"] & bit, columns[name] + shift, columns[name]).astype("<u4")
        if "trace_id" in columns:
            words = np.ascontiguousarray(columns["trace_id"]).view("<u4").reshape(-1, 4).copy()
            words[:, 0] += shift
            moved["trace_id"] = words.view("|V16").ravel()
        return moved


def _parts(batch: FlowBatch) -> Iterator[FlowBatch]:
    """Yield the batch, in halves of halves where its message would be too long."""
    if batch.count <= 1 or len(encode(batch)) <= MAX_BATCH_BYTES:
        yield batch
        return
    half = batch.count // 2
    yield from _parts(batch.take(slice(0, half)))
    yield from _parts(batch.take(slice(half, batch.count)))
