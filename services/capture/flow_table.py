"""From flow slots to records: which flows are due, why, and what each record adds to the ones before it.

The slots are a host's (bpf/replay.c's, or the socket tap's mapped array); this module only reads them, but for `taken`. All
work is on columns. What a record holds is fixed when it is emitted; what the next one starts from is fixed when it is accepted:

- *emitted*: the slot is pending and is left alone until its emission is settled;
- *accepted*: the flow's watermark moves to the totals the record was made of;
- *refused*: nothing moved, so the next record of the flow covers what this one would have; the two things a total cannot give
  back, the interval's start and its longest response time, are carried over.

The last record of a flow is taken after its slot was retired, when no packet can reach it any more. So it holds everything, and
always the final outcome: even where no packet came since the last record, one without counts is emitted if outcome or
`closed_by` changed since (a connection attempt that is given up, say). Where nothing changed, the flow leaves without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from proto.columns import NO_INDEX, RAW, RESPONSE_TIME_BUCKETS, End, Observer, Outcome, Reason
from services.capture.flow_layout import KNOWN_ISN, Array, State
from services.capture.flow_timing import FlowTableSettings, time_limits

if TYPE_CHECKING:
    from services.capture.flow_layout import Slots

Indexes = npt.NDArray[np.uint32]

_NS: Final = 1_000_000_000

_DELTAS: Final[dict[str, str]] = {
    "tx_bytes": "<u8",
    "rx_bytes": "<u8",
    "tx_packets": "<u8",
    "rx_packets": "<u8",
    "tx_payload_bytes": "<u8",
    "rx_payload_bytes": "<u8",
    "tx_retransmits": "<u4",
    "rx_retransmits": "<u4",
    "responses": "<u4",
    "response_time_sum_ns": "<u8",
    "response_time_histogram": f"({RESPONSE_TIME_BUCKETS},)<u4",
    "request_transfer_sum_ns": "<u8",
    "response_transfer_sum_ns": "<u8",
    "icmp_errors": "<u2",
} | {
    f"{way}_{name}": dtype
    for name, dtype in (
        ("retransmit_bytes", "<u4"),
        ("spurious_retransmits", "<u4"),
        ("out_of_order", "<u4"),
        ("duplicate_acks", "<u4"),
        ("zero_windows", "<u2"),
        ("window_full", "<u2"),
        ("keep_alives", "<u2"),
        ("rtt_samples", "<u4"),
        ("rtt_sum_ns", "<u8"),
        ("ecn_ce", "<u4"),
    )
    for way in ("tx", "rx")
}
"""Columns that are a member's growth since the last accepted record; they wrap as the member does."""

_TOTALS: Final = np.dtype(list(_DELTAS.items()))
_COLUMN_TYPES: Final = {column.name: column.numpy_dtype.base for column in RAW}

_STATE_COLUMNS: Final[dict[str, str]] = {
    "flow_id": "id",
    "role": "role",
    "transport": "transport",
    "local_address": "local_address",
    "remote_address": "remote_address",
    "local_port": "local_port",
    "remote_port": "remote_port",
    "icmp_type": "icmp_type",
    "icmp_code": "icmp_code",
    "end_unix_ns": "last_ns",
    "flow_start_unix_ns": "first_ns",
    "syn_unix_ns": "syn_ns",
    "syn_ack_unix_ns": "syn_ack_ns",
    "handshake_ack_unix_ns": "handshake_ack_ns",
    "local_isn": "tx_initial_sequence",
    "remote_isn": "rx_initial_sequence",
    "syn_repeats": "syn_repeats",
    "syn_ack_repeats": "syn_ack_repeats",
    "closed_by": "closed_by",
    "tx_tcp_flags": "tx_tcp_flags",
    "rx_tcp_flags": "rx_tcp_flags",
    "tx_bytes_total": "tx_bytes",
    "rx_bytes_total": "rx_bytes",
    "tx_packets_total": "tx_packets",
    "rx_packets_total": "rx_packets",
    "icmp_error_type": "icmp_error_type",
    "icmp_error_code": "icmp_error_code",
} | {
    f"{way}_{name}": f"{way}_{name}"
    for name in ("zero_window_probes", "fins", "resets", "rtt_min_ns", "rtt_max_ns", "traffic_class", "hop_limit")
    for way in ("tx", "rx")
}
"""Columns that are a member as it stands."""


class FlowHost(Protocol):
    """Who fills the slots."""

    @property
    def slots(self) -> Slots:
        """Every slot."""

    @property
    def capacity(self) -> int:
        """Number of slots."""

    @property
    def high_slot(self) -> int:
        """No slot from this index on was ever used."""

    @property
    def used_slots(self) -> int:
        """Slots that are not free."""

    def retire(self, slots: Indexes) -> None:
        """Let no packet reach these slots any more."""

    def release(self, slots: Indexes) -> None:
        """Zero these slots and give them to other flows."""


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """Records of one batch, in the order of their flow ids. Settle it by FlowTable.accept or refuse."""

    slots: Indexes
    """Handle of each record's flow."""
    columns: dict[str, Array]
    """Every column of proto.columns.RAW."""
    now_unix_ns: int
    """When it was collected, on the packets' clock."""
    final: npt.NDArray[np.bool_] = field(repr=False)
    """Whether a record is the last of its flow."""
    totals: Array = field(repr=False)
    """What the watermarks become."""

    def __len__(self) -> int:
        return len(self.slots)


class FlowTable:
    """Decides which of a host's flows are due and makes their records. Not for two threads at once."""

    def __init__(
        self, host: FlowHost, settings: FlowTableSettings | None = None, observer: Observer = Observer.CAPTURE
    ) -> None:
        self._host = host
        self._settings = settings or FlowTableSettings()
        self._observer = observer
        self._limits, self._reasons, self._opening = time_limits(self._settings)
        capacity = host.capacity
        # Zeroed pages that are touched where a flow has been given a record: short flows touch none of the watermarks.
        self._accepted = np.zeros(capacity, _TOTALS)
        self._records = np.zeros(capacity, np.uint32)
        self._last_record_ns = np.zeros(capacity, np.int64)
        self._reported = np.zeros(capacity, np.uint16)
        self._carried_start_ns = np.zeros(capacity, np.uint64)
        self._carried_max_ns = np.zeros(capacity, np.uint64)
        self._final_reason = np.zeros(capacity, np.uint8)
        self._pending = np.zeros(capacity, np.bool_)

    def drain(self, now_unix_ns: int, final: Reason | None = None) -> Iterator[Emission]:
        """Yield the records that are due at `now_unix_ns`; with `final`, of every flow, as its last.

        Reads each flow when its emission is asked for. Now must not go backwards, unless the table was drained finally before.
        """
        due, reasons = self._due(now_unix_ns, final)
        last = reasons != Reason.ACTIVE_TIMEOUT
        # All at once: a host may have to wait for what is at the slots.
        self._host.retire(due[last])
        self._final_reason[due[last]] = reasons[last]
        for first in range(0, len(due), self._settings.max_rows):
            rows = slice(first, first + self._settings.max_rows)
            emission = self._emit(due[rows], reasons[rows], now_unix_ns)
            if len(emission):
                yield emission

    def accept(self, emission: Emission) -> None:
        """The records are stored: their flows go on from there, or are gone."""
        slots, final = emission.slots, emission.final
        kept = slots[~final]
        self._accepted[kept] = emission.totals[~final]
        self._records[kept] += 1
        self._last_record_ns[kept] = emission.now_unix_ns
        self._reported[kept] = _state_word(emission.columns)[~final]
        self._carried_start_ns[kept] = 0
        self._carried_max_ns[kept] = 0
        self._pending[kept] = False
        self._forget(slots[final])

    def refuse(self, emission: Emission) -> None:
        """The records are stored nowhere and never will be: their flows' next records cover them too."""
        slots, columns = emission.slots, emission.columns
        counted = (columns["tx_packets"] + columns["rx_packets"]) > 0
        self._carried_start_ns[slots[counted]] = columns["start_unix_ns"][counted]
        self._carried_max_ns[slots] = columns["response_time_max_ns"]
        self._pending[slots] = False

    def _due(self, now_ns: int, final: Reason | None) -> tuple[Indexes, Array]:
        """Return slots that are due, ordered by flow id, and the reason of each."""
        end = self._host.high_slot
        slots = self._host.slots[:end]
        state, last_ns = slots["state"], slots["last_ns"].astype(np.int64)
        idle = now_ns - last_ns
        kind = slots["transport"].astype(np.intp) << 5 | slots["outcome"].astype(np.intp) << 2 | slots["closed_by"]
        over = idle >= self._limits[kind]
        self._wait_for_retries(slots, kind, idle, over)
        active_ns = int(self._settings.active_interval_seconds * _NS)
        since = np.maximum(self._last_record_ns[:end], slots["first_ns"].astype(np.int64))
        moved = (slots["interval"] == slots["taken"]) | (self._carried_start_ns[:end] != 0)

        reasons = np.zeros(end, np.uint8)
        # A handshake under way gives its first record when it is over: until then its trace is not known for sure.
        reasons[moved & (now_ns - since >= active_ns) & ~self._opening[kind]] = Reason.ACTIVE_TIMEOUT
        if final is not None:
            reasons[:] = np.where(self._reasons[kind] == Reason.END_OF_FLOW, Reason.END_OF_FLOW, final)
        reasons[over] = self._reasons[kind[over]]
        retired = state == State.RETIRED
        reasons[retired] = np.maximum(self._final_reason[:end][retired], Reason.END_OF_FLOW)
        reasons[(state == State.FREE) | self._pending[:end]] = 0
        self._relieve(slots, reasons)
        due = np.flatnonzero(reasons).astype(np.uint32)
        due = due[np.argsort(slots["id"][due], kind="stable")]
        return due, reasons[due]

    def _wait_for_retries(self, slots: Slots, kind: Array, idle: Array, over: Array) -> None:
        """Take back from `over` the handshakes whose next SYN may still come."""
        opening = np.flatnonzero(over & self._opening[kind])
        if not len(opening):
            return
        begun = np.where(slots["syn_ns"][opening] != 0, slots["syn_ns"][opening], slots["first_ns"][opening])
        taken = (slots["last_ns"][opening] - begun).astype(np.int64)
        wait = np.minimum(taken + taken // 2, int(self._settings.tcp_opening_max_seconds * _NS))
        over[opening] = idle[opening] >= wait

    def _relieve(self, slots: Slots, reasons: Array) -> None:
        """Mark the longest idle flows for eviction where the table is nearly full."""
        used, capacity = self._host.used_slots, self._host.capacity
        if used <= self._settings.high_occupancy * capacity:
            return
        leaving = np.count_nonzero((reasons != 0) & (reasons != Reason.ACTIVE_TIMEOUT))
        excess = used - int(self._settings.low_occupancy * capacity) - leaving
        staying = (reasons == 0) | (reasons == Reason.ACTIVE_TIMEOUT)
        candidates = np.flatnonzero(staying & (slots["state"] == State.LIVE) & ~self._pending[: len(slots)])
        if excess <= 0 or not len(candidates):
            return
        order = np.lexsort((slots["id"][candidates], slots["last_ns"][candidates]))
        reasons[candidates[order[:excess]]] = Reason.TABLE_PRESSURE

    def _emit(self, due: Indexes, reasons: Array, now_ns: int) -> Emission:
        final = reasons != Reason.ACTIVE_TIMEOUT
        rows = self._host.slots[due]
        columns = self._columns(due, rows, reasons, now_ns)
        counted = (columns["tx_packets"] + columns["rx_packets"]) > 0
        told = counted | (self._records[due] == 0) | (_state_word(columns) != self._reported[due])
        if not told.all():
            self._forget(due[~told & final])
            due, rows, final = due[told], rows[told], final[told]
            columns = {name: column[told] for name, column in columns.items()}
        self._host.slots["taken"][due] += 1
        self._pending[due] = True
        return Emission(due, columns, now_ns, final, _totals(rows))

    def _columns(self, due: Indexes, rows: Slots, reasons: Array, now_ns: int) -> dict[str, Array]:
        """Return every raw column for the slots' content `rows`."""
        accepted = self._accepted[due]
        moved = rows["interval"] == rows["taken"]
        known = (rows["tx_known"] & KNOWN_ISN) | (rows["rx_known"] & KNOWN_ISN) << 1
        carried = self._carried_start_ns[due]
        # A record without packets, or one that a packet is just joining, stands at the flow's last packet.
        start = np.where(moved, rows["interval_first_ns"], rows["last_ns"])
        filled = {
            "record": self._records[due],
            "reason": reasons,
            "observer": np.full(len(due), self._observer),
            "local_container": np.full(len(due), NO_INDEX),
            "start_unix_ns": np.where(carried != 0, np.minimum(carried, start), start),
            "isn_seen": known,
            "outcome": self._outcome(rows, reasons, now_ns),
            "response_time_max_ns": np.maximum(np.where(moved, rows["response_time_max_ns"], 0), self._carried_max_ns[due]),
        }
        filled["request_waits"] = rows["request_ns"] != 0
        for what in ("request", "response"):
            filled[f"{what}_transfer_max_ns"] = rows[f"{what}_transfer_max_us"].astype(np.uint64) * 1000
        filled |= {name: rows[name] - accepted[name] for name in _DELTAS}
        filled |= {name: rows[member] for name, member in _STATE_COLUMNS.items()}
        return {name: np.ascontiguousarray(filled[name], kind) for name, kind in _COLUMN_TYPES.items()}

    def _outcome(self, rows: Slots, reasons: Array, now_ns: int) -> Array:
        """Return outcomes; silence is what the engine cannot see: a SYN that was given up on has timed out."""
        waiting = (rows["outcome"] == Outcome.HALF_OPEN) & (rows["closed_by"] == End.NONE)
        waiting &= (rows["syn_ns"] != 0) & (rows["syn_ack_ns"] == 0)
        given_up = (reasons == Reason.IDLE_TIMEOUT) | (reasons == Reason.END_OF_FLOW)
        waited_ns = now_ns - rows["syn_ns"].astype(np.int64)
        given_up |= (reasons == Reason.SHUTDOWN) & (waited_ns >= int(self._settings.given_up_seconds * _NS))
        return np.where(waiting & given_up, np.uint8(Outcome.TIMEOUT), rows["outcome"])

    def _forget(self, slots: Indexes) -> None:
        """Clear what is kept of these slots and give them back."""
        for kept in (self._records, self._last_record_ns, self._reported, self._final_reason, self._pending):
            kept[slots] = 0
        self._carried_start_ns[slots] = 0
        self._carried_max_ns[slots] = 0
        touched = slots[self._accepted["tx_packets"][slots] + self._accepted["rx_packets"][slots] > 0]
        self._accepted[touched] = np.zeros(1, _TOTALS)
        self._host.release(slots)


def _state_word(columns: dict[str, Array]) -> npt.NDArray[np.uint16]:
    """What a record without packets is still emitted for when it changes."""
    return columns["outcome"].astype(np.uint16) | columns["closed_by"].astype(np.uint16) << np.uint16(8)


def _totals(rows: Slots) -> Array:
    totals = np.empty(len(rows), _TOTALS)
    for name in _DELTAS:
        totals[name] = rows[name]
    return totals
