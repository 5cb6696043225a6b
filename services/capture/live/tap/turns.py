"""The turns of all connections: what bpf/tap/exchanges/turns.h keeps where it is told to.

Open turns are in an array beside the slots; ended ones come through a ring buffer. A turn whose response has paused is taken
from the array, since its connection may rest for long; when the ring buffer brings it, it is known already.
"""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.loader import LoadedTap
from services.capture.live.tap.ring_buffer import BUSY, DISCARDED, RingBuffer
from services.capture.meeting.turns import NO_TURNS, TURN, Turns

_PAUSE_NS: Final = 500_000_000
"""A response that has paused for so long is over, as far as it is told here."""
_WINDOW_TURNS: Final = 16_384
_RECORD: Final = np.dtype({
    "names": ["length", "turn"], "offsets": [0, 8], "formats": ["<u4", TURN], "itemsize": 8 + TURN.itemsize,
})  # fmt: skip


class TapTurns:
    """Not for two threads at once."""

    def __init__(self, loaded: LoadedTap, capacity: int, cpus: int) -> None:
        """`capacity` slots; `cpus` is how many values a per-CPU map has."""
        self._array_fd = loaded.maps["turns"]
        self._lost_fd = loaded.maps["turns_lost"]
        self._cpus = cpus
        self._ring = _TurnRing(loaded.maps["ended_turns"], loaded.map_descriptions["ended_turns"].max_entries)
        self._capacity = capacity
        self._taken_flow = np.zeros(capacity, np.uint64)
        self._taken_number = np.zeros(capacity, np.uint32)

    def close(self) -> None:
        """Let go of the ring buffer."""
        self._ring.close()

    def take(self, now_ns: int, high_slot: int) -> Turns:
        """Return the turns that are over, each once. No slot from `high_slot` on was ever used."""
        ended = self._ring.take()
        ended = ended[~self._is_taken(ended)]
        paused = self._paused(now_ns, high_slot)
        return np.concatenate([ended, paused]) if len(paused) else ended

    @property
    def lost(self) -> int:
        """Turns that found no room in the ring buffer; cumulative."""
        content = bpf_syscall.lookup(self._lost_fd, bytes(4), 8 * self._cpus)
        return int(np.frombuffer(content or b"", "<u8").sum())

    def _paused(self, now_ns: int, high_slot: int) -> Turns:
        found = [NO_TURNS]
        for first in range(0, high_slot, _WINDOW_TURNS):
            count = min(_WINDOW_TURNS, self._capacity - first)
            length = -(-count * TURN.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
            memory = mmap.mmap(self._array_fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=first * TURN.itemsize)
            turns = np.frombuffer(memory, TURN, count)
            last = turns["response_last_ns"]
            over = np.flatnonzero(
                (turns["response_first_ns"] != 0) & (turns["request_first_ns"] != 0) & (last < now_ns - _PAUSE_NS)
            )
            found.append(turns[over].copy())
            del turns, last
        paused = np.concatenate(found)
        paused = paused[~self._is_taken(paused)]
        slots = (paused["flow_id"] & np.uint64(0xFFFF_FFFF)).astype(np.int64)
        self._taken_flow[slots], self._taken_number[slots] = paused["flow_id"], paused["number"]
        return paused

    def _is_taken(self, turns: Turns) -> npt.NDArray[np.bool_]:
        slots = (turns["flow_id"] & np.uint64(0xFFFF_FFFF)).astype(np.int64) % self._capacity
        taken: npt.NDArray[np.bool_] = self._taken_flow[slots] == turns["flow_id"]
        taken &= self._taken_number[slots] == turns["number"]
        return taken


class _TurnRing(RingBuffer):
    """Ended turns: records of one size, read as an array."""

    def take(self) -> Turns:
        """Return a copy of the records that are whole, and make room for others."""
        memory, at, length = self.unread()
        count = length // _RECORD.itemsize
        if memory is None or not count:
            return NO_TURNS
        records = np.frombuffer(memory, _RECORD, count, at)
        busy = np.flatnonzero(records["length"] & BUSY)
        if len(busy):
            records = records[: busy[0]]
        taken: Turns = records["turn"][(records["length"] & DISCARDED) == 0]
        self.make_room(len(records) * _RECORD.itemsize)
        return taken
