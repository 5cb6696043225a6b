"""From flow slots to records: of the flows that are due (due.py), what each record adds to the ones before it.

The slots are a host's (replay.c's, or the socket tap's array); this module only reads them, a window at a time, but for
`taken`. All work is on columns. What a record holds is fixed when it is emitted; what the next one starts from is fixed when it
is accepted:

- *emitted*: the slot is pending and is left alone until its emission is settled;
- *accepted*: the flow's watermark moves by what the record added;
- *refused*: nothing moved, so the next record of the flow covers what this one would have; the two things a total cannot give
  back, the interval's start and its longest response time, are carried over.

The last record of a flow is taken after its slot was retired, when no packet can reach it any more. So it holds everything, and
always the final outcome: even where no packet came since the last record, one without counts is emitted if outcome or
`closed_by` changed since (a connection attempt that is given up, say), or where a question waited and now never had its answer.
Where nothing changed, the flow leaves without one.

What another capture of the node tells (share.py) is *left*: the watermark moves, no record is given, and the flow's first own
record counts from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from proto.columns import NO_INDEX, RAW, Observer, Reason
from services.capture.flows import connections
from services.capture.flows.due import DueFlows
from services.capture.flows.host import FlowHost, Indexes
from services.capture.flows.kept import Kept
from services.capture.flows.layout import KNOWN_ISN, Array, Requests, State
from services.capture.flows.share import EVERYTHING, Share
from services.capture.flows.timing import FlowTableSettings
from services.capture.flows.watermarks import DELTAS, Watermarks

if TYPE_CHECKING:
    from services.capture.flows.layout import Slots

WITHOUT_ROLE: Final = "connections_of_unknown_role"
"""Counter of TCP connections that ended, and of which nobody could tell which end asks."""

ROLE_METRIC: Final = (
    "connections.unknown_role",
    "TCP connections that ended and of which nobody could tell which end asks: they have no response times",
    "{connection}",
)
"""Name, description and unit of the metric that is made of it."""

_UDP, _UDP_LITE = 17, 136
"""Their ends may take turns."""
_RESPONSES: Final = ("responses", "response_time_sum_ns", "response_time_max_ns", "response_time_histogram")
"""What is told of datagrams only while both ends take turns."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """Records of one batch, in the order of their flow ids. Settle it by FlowTable.accept or refuse.

    Batches of one drain follow each other by slot.
    """

    slots: Indexes
    """Handle of each record's flow."""
    columns: dict[str, Array]
    """Every column of proto.columns.RAW."""
    now_unix_ns: int
    """When it was collected, on the packets' clock."""
    final: npt.NDArray[np.bool_] = field(repr=False)
    """Whether a record is the last of its flow."""

    def __len__(self) -> int:
        return len(self.slots)


class FlowTable:
    """Makes the records of a host's flows that are due. Not for two threads at once."""

    def __init__(
        self, host: FlowHost, settings: FlowTableSettings | None = None, observer: Observer = Observer.CAPTURE
    ) -> None:
        self._host = host
        self._settings = settings or FlowTableSettings()
        self._observer = observer
        self._kept = Kept(host.capacity)
        self._due = DueFlows(host, self._settings, self._kept)
        self._watermarks = Watermarks(host.capacity)
        self._without_role = 0

    @property
    def counters(self) -> dict[str, int]:
        """What no record says: flows that have ended, by what was not known of them."""
        return {WITHOUT_ROLE: self._without_role}

    def drain(
        self, now_unix_ns: int, final: Reason | None = None, share: Share = EVERYTHING, least: int = 0
    ) -> Iterator[Emission]:
        """Yield the records of the share that are due at `now_unix_ns`; with `final`, of every flow, as its last.

        Reads each flow when its emission is asked for. Now must not go backwards, unless the table was drained finally before.
        Where what is due are last records alone, and fewer than `least`, they are due again the next time, as they are now:
        no packet reaches their flows any more.
        """
        due = self._due.find(now_unix_ns, final)
        last = due.reasons != Reason.ACTIVE_TIMEOUT.value
        # All at once: a host may have to wait for what is at the slots.
        self._host.retire(due.slots[last])
        self._kept.final_reason[due.slots[last]] = due.reasons[last]
        if len(due.slots) < least and final is None and last.all():
            return
        for first in range(0, len(due.slots), self._settings.max_rows):
            part = slice(first, first + self._settings.max_rows)
            order = np.argsort(due.ids[part], kind="stable")
            emission = self._emit(due.slots[part][order], due.reasons[part][order], now_unix_ns, share)
            if len(emission):
                yield emission

    def accept(self, emission: Emission) -> None:
        """The records are stored: their flows go on from there, or are gone."""
        slots, final = emission.slots, emission.final
        self._without_role += int(np.count_nonzero(connections.without_role(emission.columns) & final))
        if not final.all():
            self._go_on(emission, ~final)
        self._forget(slots[final])

    def _go_on(self, emission: Emission, which: Array) -> None:
        """Have the flows of these records go on from there."""
        slots = emission.slots[which]
        self._watermarks.advance(slots, {name: emission.columns[name][which] for name in DELTAS})
        self._kept.records[slots] += 1
        self._kept.last_record_ns[slots] = emission.now_unix_ns
        self._kept.reported[slots] = _state_word(emission.columns)[which]
        self._kept.drop_carried(slots)
        self._kept.pending[slots] = False
        self._kept.left[slots] = False

    def refuse(self, emission: Emission) -> None:
        """The records are stored nowhere and never will be: their flows' next records cover them too."""
        slots, columns = emission.slots, emission.columns
        counted = (columns["tx_packets"] + columns["rx_packets"]) > 0
        self._kept.carried_start_ns[slots[counted]] = columns["start_unix_ns"][counted]
        self._kept.carried_max_ns[slots] = columns["response_time_max_ns"]
        self._kept.pending[slots] = False

    def leave(self, share: Share, before_ns: int, now_unix_ns: int) -> None:
        """Leave what began before then and is not of the share to who told it so far: from now on it is told here."""
        for first, rows in self._host.windows():
            which = (rows["state"] != State.FREE.value) & share.untold(rows) & (rows["first_ns"] < np.uint64(before_ns))
            slots = (np.flatnonzero(which & ~self._kept.pending[first : first + len(rows)]) + first).astype(np.uint32)
            del rows
            self._leave(slots, self._host.rows(slots), now_unix_ns)

    def _leave(self, slots: Indexes, rows: Slots, now_ns: int) -> None:
        self._watermarks.advance(slots, self._watermarks.deltas(slots, rows))
        self._kept.last_record_ns[slots] = now_ns
        self._kept.reported[slots] = _state_word({name: rows[name] for name in ("outcome", "closed_by")})
        self._kept.left[slots] = True
        self._host.mark_taken(slots)

    def _emit(self, due: Indexes, reasons: Array, now_ns: int, share: Share) -> Emission:
        final = reasons != Reason.ACTIVE_TIMEOUT.value
        rows = self._host.rows(due)
        if share is not EVERYTHING and (untold := share.untold(rows)).any():
            self._leave(due[untold & ~final], rows[untold & ~final], now_ns)
            self._forget(due[untold & final])
            due, reasons, final, rows = due[~untold], reasons[~untold], final[~untold], rows[~untold]
        columns = self._columns(due, rows, reasons, now_ns)
        counted = (columns["tx_packets"] + columns["rx_packets"]) > 0
        left = self._kept.left[due]
        told = counted | ((self._kept.records[due] == 0) & ~left) | (_state_word(columns) != self._kept.reported[due])
        told |= final & (columns["request_waits"] != 0) & (rows["requests"] == Requests.NUMBERED.value) & ~left
        if not told.all():
            self._forget(due[~told & final])
            due, final = due[told], final[told]
            columns = {name: column[told] for name, column in columns.items()}
        self._host.mark_taken(due)
        self._kept.pending[due] = True
        return Emission(due, columns, now_ns, final)

    def _columns(self, due: Indexes, rows: Slots, reasons: Array, now_ns: int) -> dict[str, Array]:
        """Return every raw column for the slots' content `rows`."""
        moved = rows["interval"] == rows["taken"]
        known = (rows["tx_known"] & KNOWN_ISN) | (rows["rx_known"] & KNOWN_ISN) << 1
        carried = self._kept.carried_start_ns[due]
        # A record without packets, or one that a packet is just joining, stands at the flow's last packet.
        start = np.where(moved, rows["interval_first_ns"], rows["last_ns"])
        filled = {
            "record": self._kept.records[due],
            "reason": reasons,
            "observer": np.full(len(due), self._observer.value),
            "local_container": np.full(len(due), NO_INDEX),
            "start_unix_ns": np.where(carried != 0, np.minimum(carried, start), start),
            "isn_seen": known,
            "outcome": connections.outcome(rows, reasons, now_ns, self._settings),
            "cut_short": connections.cut_short(rows),
            "role_source": connections.role_source(rows, self._observer),
            "response_time_max_ns": np.maximum(
                np.where(moved, rows["response_time_max_ns"], 0), self._kept.carried_max_ns[due]
            ),
        }
        filled["request_waits"] = np.where(connections.unheard(rows, self._observer), 0, connections.waiting(rows))
        for what in ("request", "response"):
            filled[f"{what}_transfer_max_ns"] = rows[f"{what}_transfer_max_us"].astype(np.uint64) * 1000
        filled |= self._watermarks.deltas(due, rows)
        out_of_turn = (rows["transport"] == _UDP) | (rows["transport"] == _UDP_LITE)
        out_of_turn &= rows["requests"] == Requests.OPAQUE.value
        if out_of_turn.any():
            for name in _RESPONSES:
                filled[name] = filled[name].copy()
                filled[name][out_of_turn] = 0
        filled |= {name: rows[member] for name, member in _STATE_COLUMNS.items()}
        return {name: np.ascontiguousarray(filled[name], kind) for name, kind in _COLUMN_TYPES.items()}

    def _forget(self, slots: Indexes) -> None:
        """Clear what is kept of these slots and give them back."""
        self._watermarks.forget(self._kept.forget(slots))
        self._host.release(slots)


def _state_word(columns: dict[str, Array]) -> npt.NDArray[np.uint16]:
    """What a record without packets is still emitted for when it changes."""
    return columns["outcome"].astype(np.uint16) | columns["closed_by"].astype(np.uint16) << np.uint16(8)
