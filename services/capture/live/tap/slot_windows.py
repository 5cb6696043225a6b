"""The socket tap's slots, seen through a window: mapped where they are looked at, unmapped when the next part is.

Mapped pages count as this process's memory. Whoever looks at every slot in turn has one window of them at a time.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.capture.flows.layout import Slots
from services.capture.live.tap.slot_layout import SLOT

WINDOW_SLOTS: Final = 2048
"""1 MiB. A window begins at a page, whatever pages the kernel has."""

Indexes = npt.NDArray[np.uint32]


class SlotWindows:
    """Maps one window at a time. What it yields is mapped for as long as somebody holds it: let go of it at once."""

    def __init__(self, map_fd: int, capacity: int) -> None:
        self._map_fd = map_fd
        self._capacity = capacity
        self._number = -1
        self._rows: Slots = np.empty(0, SLOT)

    def each(self, high_slot: int) -> Iterator[tuple[int, Slots]]:
        """Yield the slots up to `high_slot` in order, where any is in use: the first one's index, and the slots themselves."""
        for first in range(0, high_slot, WINDOW_SLOTS):
            if self._window(first // WINDOW_SLOTS)["state"].any():
                yield first, self._window(first // WINDOW_SLOTS)[: high_slot - first]

    def parts(self, slots: Indexes) -> Iterator[tuple[npt.NDArray[np.intp], Slots, Indexes]]:
        """Yield `slots` window by window: which of them these are, the window, and their indexes in it."""
        order = np.argsort(slots, kind="stable")
        numbers = slots[order] // WINDOW_SLOTS
        bounds = np.flatnonzero(np.diff(numbers)) + 1
        for which in np.split(order, bounds):
            if len(which):
                number = int(slots[which[0]]) // WINDOW_SLOTS
                yield which, self._window(number), slots[which] - np.uint32(number * WINDOW_SLOTS)

    def copy(self, slots: Indexes) -> Slots:
        """Return the content of `slots`, in their order."""
        found = np.empty(len(slots), SLOT)
        whole = _as_whole(found)
        for which, rows, at in self.parts(slots):
            whole[which] = _as_whole(rows)[at]
        return found

    def clear(self, slots: Indexes) -> npt.NDArray[np.uint64]:
        """Zero `slots`; return the ids of the flows that were in them."""
        ids = np.empty(len(slots), np.uint64)
        for which, rows, at in self.parts(slots):
            ids[which] = rows["id"][at]
            _as_whole(rows)[at] = np.zeros(1, _WHOLE)
        return ids

    def close(self) -> None:
        """Let go of the last window."""
        self._number, self._rows = -1, np.empty(0, SLOT)

    def _window(self, number: int) -> Slots:
        if number != self._number:
            self.close()
            self._rows = map_slots(
                self._map_fd, number * WINDOW_SLOTS, min(WINDOW_SLOTS, self._capacity - number * WINDOW_SLOTS)
            )
            self._number = number
        return self._rows


def map_slots(map_fd: int, first: int, count: int) -> Slots:
    """Return `count` slots from `first` on, which begins a page, as a view that can be written; mapped while it is held."""
    length = -(-count * SLOT.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(map_fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=first * SLOT.itemsize)
    return np.frombuffer(memory, SLOT, count)


_WHOLE: Final = np.dtype(f"V{SLOT.itemsize}")


def _as_whole(rows: Slots) -> npt.NDArray[Any]:
    """Slots as opaque pieces: numpy copies structures member by member."""
    return rows.view(_WHOLE)
