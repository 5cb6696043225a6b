"""The tasks that closed flows' sockets: `closers` of bpf/tap/socket.h, beside the slots."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Final

import numpy as np

from services.capture.live.owners.processes import Closer
from services.capture.live.tap.loader import LoadedTap
from services.capture.live.tap.slot_layout import SLOT_OF_FLOW

_CLOSER: Final = np.dtype([("flow", "<u8"), ("closed_ns", "<u8"), ("process", "<u4"), ("thread", "<u4"), ("name", "|S16")])


class TapClosers:
    """Not for two threads at once."""

    def __init__(self, loaded: LoadedTap, capacity: int) -> None:
        """`capacity` slots."""
        length = -(-capacity * _CLOSER.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(loaded.maps["closers"], length, mmap.MAP_SHARED, mmap.PROT_READ)
        self._capacity = capacity

    def close(self) -> None:
        """Let go of the map."""
        self._memory.close()

    def of(self, flow_ids: Iterable[int]) -> dict[int, Closer]:
        """Return who closed the sockets of these flows, of those whose socket was closed by who had made it."""
        closers = np.frombuffer(self._memory, _CLOSER, self._capacity)
        ids = np.fromiter(flow_ids, np.uint64)
        places = (ids & np.uint64(SLOT_OF_FLOW)).astype(np.int64) % self._capacity
        found = closers[places]
        # Of the slot's next flow it may be written while it is read: then it is not this flow's any more.
        told = found[(found["flow"] == ids) & (closers["flow"][places] == ids)]
        return {
            flow: Closer(process, thread, name.decode(errors="replace"), closed_ns)
            for flow, closed_ns, process, thread, name in told.tolist()
        }
