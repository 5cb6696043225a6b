"""Which flows are due for a record, and why: their time has come, they are over, or the table has no room left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from proto.columns import Reason
from services.capture.flows import connections
from services.capture.flows.host import FlowHost, Indexes
from services.capture.flows.kept import Kept
from services.capture.flows.layout import Array, State, hot_part
from services.capture.flows.timing import FlowTableSettings, time_limits

if TYPE_CHECKING:
    from services.capture.flows.layout import Slots

_NS: Final = 1_000_000_000
_TCP: Final = 6


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    """Slots with why they are due, and what decides in which order: arrays of one length."""

    slots: Indexes
    reasons: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.uint64]
    last_ns: npt.NDArray[np.uint64]

    @classmethod
    def none(cls) -> Due:
        """Return no slots."""
        return cls(np.empty(0, np.uint32), np.empty(0, np.uint8), np.empty(0, np.uint64), np.empty(0, np.uint64))

    @classmethod
    def joined(cls, parts: Sequence[Due]) -> Due:
        """Return the slots of all parts, one part behind the other."""
        return cls(
            np.concatenate([part.slots for part in parts]),
            np.concatenate([part.reasons for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.last_ns for part in parts]),
        )

    def take(self, which: Array) -> Due:
        """Return these of them."""
        return Due(self.slots[which], self.reasons[which], self.ids[which], self.last_ns[which])


class DueFlows:
    """Looks through a host's slots. What is emitted and not settled yet is not due."""

    def __init__(self, host: FlowHost, settings: FlowTableSettings, kept: Kept) -> None:
        self._host = host
        self._settings = settings
        self._kept = kept
        self._limits, self._reasons, self._opening = time_limits(settings)

    def find(self, now_ns: int, final: Reason | None) -> Due:
        """Return the slots that are due at `now_ns`, in order; with `final`, all that are not pending."""
        excess = self._host.used_slots - int(self._settings.high_occupancy * self._host.capacity)
        found, staying = [Due.none()], [Due.none()]
        for first, rows in self._host.windows():
            hot = hot_part(rows)
            reasons = self._reasons_of(first, rows, hot, now_ns, final)
            for which, into in ((np.flatnonzero(reasons), found), (self._evictable(first, hot, reasons, excess), staying)):
                slots = (which + first).astype(np.uint32)
                into.append(Due(slots, reasons[which], hot["id"][which], hot["last_ns"][which]))
            del rows
        due = Due.joined(found)
        return due if excess <= 0 else self._relieved(due, Due.joined(staying))

    def _reasons_of(self, first: int, rows: Slots, hot: Slots, now_ns: int, final: Reason | None) -> Array:
        """Return why each flow of a window is due; 0: it is not."""
        here = slice(first, first + len(hot))
        state = hot["state"]
        idle = now_ns - hot["last_ns"].astype(np.int64)
        kind = hot["transport"].astype(np.intp) << 5 | hot["outcome"].astype(np.intp) << 2 | hot["closed_by"]
        over = idle >= self._limits[kind]
        self._wait_for_retries(rows, kind, idle, over)
        active_ns = int(self._settings.active_interval_seconds * _NS)
        since = np.maximum(self._kept.last_record_ns[here], hot["first_ns"].astype(np.int64))
        moved = (hot["interval"] == hot["taken"]) | (self._kept.carried_start_ns[here] != 0)

        reasons = np.zeros(len(hot), np.uint8)
        # A handshake under way gives its first record when it is over: until then its trace is not known for sure.
        reasons[moved & (now_ns - since >= active_ns) & ~self._opening[kind]] = Reason.ACTIVE_TIMEOUT.value
        reasons[self._answered(rows, hot, moved, idle)] = Reason.ACTIVE_TIMEOUT.value
        if final is not None:
            ended = Reason.END_OF_FLOW.value
            reasons[:] = np.where(self._reasons[kind] == ended, ended, final.value)
        reasons[over] = self._reasons[kind[over]]
        retired = state == State.RETIRED.value
        reasons[retired] = np.maximum(self._kept.final_reason[here][retired], Reason.END_OF_FLOW.value)
        reasons[(state == State.FREE.value) | self._kept.pending[here]] = 0
        return reasons

    def _answered(self, rows: Slots, hot: Slots, moved: Array, idle: Array) -> Array:
        """Return which of the flows that `moved` had their answer and fell quiet, and have no end that would be seen."""
        quiet = moved & (idle >= int(self._settings.answered_quiet_seconds * _NS))
        which = np.flatnonzero(quiet & (hot["transport"] != _TCP) & (hot["responses"] != 0))
        answered: Array = which[connections.waiting(rows[which]) == 0] if len(which) else which
        return answered

    def _wait_for_retries(self, rows: Slots, kind: Array, idle: Array, over: Array) -> None:
        """Take back from `over` the handshakes whose next SYN may still come."""
        opening = np.flatnonzero(over & self._opening[kind])
        if not len(opening):
            return
        begun = np.where(rows["syn_ns"][opening] != 0, rows["syn_ns"][opening], rows["first_ns"][opening])
        taken = (rows["last_ns"][opening] - begun).astype(np.int64)
        wait = np.minimum(taken + taken // 2, int(self._settings.tcp_opening_max_seconds * _NS))
        over[opening] = idle[opening] >= wait

    def _evictable(self, first: int, hot: Slots, reasons: Array, excess: int) -> Array:
        """Return which flows of a window could make room, where room has to be made."""
        if excess <= 0:
            return np.empty(0, np.intp)
        staying = (reasons == 0) | (reasons == Reason.ACTIVE_TIMEOUT.value)
        return np.flatnonzero(staying & (hot["state"] == State.LIVE.value) & ~self._kept.pending[first : first + len(hot)])

    def _relieved(self, due: Due, staying: Due) -> Due:
        """Return `due` and the longest idle flows, which are evicted because the table is nearly full."""
        used, capacity = self._host.used_slots, self._host.capacity
        leaving = np.count_nonzero(due.reasons != Reason.ACTIVE_TIMEOUT.value)
        excess = used - int(self._settings.low_occupancy * capacity) - leaving
        if excess <= 0:
            return due
        longest = np.lexsort((staying.ids, staying.last_ns))[:excess]
        evicted = staying.take(longest)
        evicted.reasons[:] = Reason.TABLE_PRESSURE.value
        both = Due.joined([due.take(~np.isin(due.slots, evicted.slots)), evicted])
        return both.take(np.argsort(both.slots))
