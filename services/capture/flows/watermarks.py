"""What of each flow is in records that are stored: the totals that its next record's deltas start from.

Most flows have counted packets and little else, in numbers of 32 bits; these are kept for each. A flow that needs more has a
row in a pool: a narrow one for exchanges, a wide one for everything. What no flow ever used takes no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proto.columns import RESPONSE_TIME_BUCKETS
from services.capture.flows.layout import Array, Slots

Indexes = npt.NDArray[np.uint32]

_VOLUME: Final[dict[str, str]] = {
    f"{way}_{name}": "<u8" for name in ("bytes", "packets", "payload_bytes") for way in ("tx", "rx")
}
_EXCHANGES: Final[dict[str, str]] = {
    "responses": "<u4",
    "response_time_sum_ns": "<u8",
    "response_time_histogram": f"({RESPONSE_TIME_BUCKETS},)<u4",
    "questions": "<u4",
    "question_repeats": "<u4",
}
_RARE: Final[dict[str, str]] = {
    "request_transfer_sum_ns": "<u8",
    "response_transfer_sum_ns": "<u8",
    "icmp_errors": "<u2",
} | {
    f"{way}_{name}": dtype
    for name, dtype in (
        ("retransmits", "<u4"),
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
DELTAS: Final = _VOLUME | _EXCHANGES | _RARE
"""Columns that are a member's growth since the last accepted record, and the member's type, in which they wrap."""

_RARE_BYTES: Final = np.dtype(list(_RARE.items())).itemsize
_WIDE: Final = np.dtype(list((_RARE | DELTAS).items()))
_PLAIN: Final = np.dtype([(name, "<u4") for name in _VOLUME])
# How many exchanges there were is the sum of the histogram.
_NARROW: Final = np.dtype([
    ("response_time_sum_ns", "<u8"), ("response_time_histogram", f"({RESPONSE_TIME_BUCKETS},)<u2"), ("questions", "<u4"),
    ("question_repeats", "<u4"),
])  # fmt: skip
_PLAIN_MOST: Final = 0xFFFF_FFFF
_NARROW_MOST: Final = 0xFFFF
_WIDE_BIT: Final = np.uint32(1 << 31)
_ROW_BITS: Final = ~_WIDE_BIT


class Watermarks:
    """Totals by slot, zero at first."""

    def __init__(self, capacity: int) -> None:
        self._plain = np.zeros(capacity, _PLAIN)
        # 0: no row; else the row, and in which pool it is.
        self._place = np.zeros(capacity, np.uint32)
        self._narrow = _Pool(capacity, _NARROW)
        self._wide = _Pool(capacity, _WIDE)

    def deltas(self, slots: Indexes, rows: Slots) -> dict[str, Array]:
        """Return by how much `rows`, the content of `slots`, is above the watermarks."""
        if not self._place[slots].any() and not self._plain[slots].view("<u4").any():
            return {name: rows[name] for name in DELTAS}  # as most have: a connection that is over gives its only record
        before = self._totals(slots)
        return {name: rows[name] - before[name] for name in DELTAS}

    def advance(self, slots: Indexes, deltas: Mapping[str, Array]) -> None:
        """Raise the watermarks of `slots`, each of which is there once, by `deltas`: columns, of the members' width or more."""
        totals = self._totals(slots)
        for name in DELTAS:
            totals[name] += deltas[name].astype(_WIDE[name].base)
        wide = totals.view(np.uint8).reshape(len(slots), _WIDE.itemsize)[:, :_RARE_BYTES].any(axis=1)
        wide |= (totals["response_time_histogram"] > _NARROW_MOST).any(axis=1)
        for name in _VOLUME:
            wide |= totals[name] > _PLAIN_MOST
        narrow = ~wide & ((totals["responses"] | totals["questions"]) != 0)
        self._move(slots[wide], self._wide, _WIDE_BIT)
        self._wide.rows[self._place[slots[wide]] & _ROW_BITS] = totals[wide]
        self._move(slots[narrow], self._narrow, np.uint32(0))
        at = self._place[slots[narrow]]
        for name in _NARROW.names or ():
            self._narrow.rows[name][at] = totals[name][narrow]
        for name in _VOLUME:
            self._plain[name][slots[~wide]] = totals[name][~wide]

    def forget(self, slots: Indexes) -> None:
        """Set `slots` to zero again."""
        self._plain[slots] = np.zeros(1, _PLAIN)
        self._leave(slots)

    def _totals(self, slots: Indexes) -> Array:
        """Return all totals."""
        found = np.zeros(len(slots), _WIDE)
        place = self._place[slots]
        for name in _VOLUME:
            found[name] = self._plain[name][slots]
        narrow = np.flatnonzero((place != 0) & (place <= _ROW_BITS))
        if len(narrow):
            rows = self._narrow.rows[place[narrow]]
            for name in _NARROW.names or ():
                found[name][narrow] = rows[name]
            found["responses"][narrow] = rows["response_time_histogram"].sum(axis=1)
        wide = np.flatnonzero(place > _ROW_BITS)
        found[wide] = self._wide.rows[place[wide] & _ROW_BITS]
        return found

    def _move(self, slots: Indexes, pool: _Pool, bit: np.uint32) -> None:
        """Have all these slots a row in `pool`."""
        place = self._place[slots]
        moving = slots[(place == 0) | ((place & _WIDE_BIT) != bit)]
        if len(moving):
            self._leave(moving)
            self._place[moving] = pool.take(len(moving)) | bit

    def _leave(self, slots: Indexes) -> None:
        place = self._place[slots]
        held = place != 0
        if held.any():
            self._wide.give(place[place > _ROW_BITS] & _ROW_BITS)
            self._narrow.give(place[held & (place <= _ROW_BITS)])
            self._place[slots[held]] = 0


class _Pool:
    """Rows that are taken and given back, the low ones first, so that few pages are ever touched. Row 0 is nobody's."""

    def __init__(self, capacity: int, dtype: np.dtype[Any]) -> None:
        self.rows = np.zeros(capacity + 1, dtype)
        self._next = 1
        self._given: list[Indexes] = []

    def take(self, count: int) -> Indexes:
        """Return rows of unknown content."""
        found: list[Indexes] = []
        while count and self._given:
            last = self._given.pop()
            if len(last) > count:
                self._given.append(last[count:])
            found.append(last[:count])
            count -= len(found[-1])
        found.append(np.arange(self._next, self._next + count, dtype=np.uint32))
        self._next += count
        return np.concatenate(found)

    def give(self, rows: Indexes) -> None:
        """Have them taken by others."""
        if len(rows):
            self._given.append(rows.astype(np.uint32))
