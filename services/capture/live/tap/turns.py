"""The turns of all connections: what bpf/tap/exchanges/turns.h keeps where it is told to.

Open turns are in an array beside the slots; ended ones come through a ring buffer. A turn whose response has paused is taken
from the array, since its connection may rest for long; when the ring buffer brings it, it is known already. Into the array
goes which connections are shared, by the marks of their flows.
"""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.loader import LoadedTap
from services.capture.live.tap.ring_buffer import BUSY, DISCARDED, RingBuffer
from services.capture.live.tap.slot_layout import SLOT_OF_FLOW
from services.capture.meeting.turns import NO_TURNS, TURN, TurnFlag, Turns, are_slices, marks, measured

_PAUSE_NS: Final = 500_000_000
"""A response that has paused for so long is over, as far as it is told here."""
_SLICE_PAUSE_NS: Final = 5_000_000_000
"""A slice is over when its connection has been silent for so long: longer than what is sent again waits for, and shorter than
questions do."""
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
        self._known_tls = np.zeros(capacity, np.uint64)
        self.begun_tls: Turns = NO_TURNS
        """Turns of connections of TLS, each connection once, that were open at the look before: whose handshakes have been read
        by now, and of which no turn may be over for long."""
        self._just_begun: Turns = NO_TURNS

    def close(self) -> None:
        """Let go of the ring buffer."""
        self._ring.close()

    def take(self, now_ns: int, high_slot: int) -> Turns:
        """Return the turns that are over, each once. No slot from `high_slot` on was ever used."""
        ended = self._ring.take()
        ended = ended[~self._is_taken(ended)]
        paused = self._paused(now_ns, high_slot)
        return np.concatenate([ended, paused]) if len(paused) else ended

    def share(self, flow_ids: npt.NDArray[np.uint64]) -> None:
        """From now on turns of these flows are slices. One whose slot is another's by now has a mark that nobody looks at."""
        shared = TURN.fields["shared"][1] if TURN.fields else 0
        for slot, mark in zip((flow_ids & np.uint64(SLOT_OF_FLOW)).tolist(), marks(flow_ids).tolist(), strict=True):
            at = slot * TURN.itemsize + shared
            page = at // mmap.PAGESIZE * mmap.PAGESIZE
            # Turns are aligned to 16 bytes, and so no mark lies across two pages.
            with mmap.mmap(self._array_fd, mmap.PAGESIZE, mmap.MAP_SHARED, offset=page) as memory:
                words = np.frombuffer(memory, "<u4")
                words[(at - page) // 4] = mark
                del words

    @property
    def lost(self) -> int:
        """Turns that found no room in the ring buffer; cumulative."""
        return int(bpf_syscall.counts(self._lost_fd, 1, self._cpus)[0, 0])

    def _paused(self, now_ns: int, high_slot: int) -> Turns:
        found, begun = [NO_TURNS], [NO_TURNS]
        for first in range(0, high_slot, _WINDOW_TURNS):
            count = min(_WINDOW_TURNS, self._capacity - first)
            length = -(-count * TURN.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
            memory = mmap.mmap(self._array_fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=first * TURN.itemsize)
            turns = np.frombuffer(memory, TURN, count)
            last = np.maximum(turns["response_last_ns"], turns["request_last_ns"])
            is_slice, is_open = are_slices(turns), turns["request_first_ns"] != 0
            over = (turns["response_first_ns"] != 0) & ~is_slice & (turns["response_last_ns"] < now_ns - _PAUSE_NS)
            over |= is_slice & (last < now_ns - _SLICE_PAUSE_NS)
            found.append(measured(turns[over & is_open]))
            in_tls = is_open & (turns["flags"] & np.uint8(TurnFlag.TLS) != 0)
            new = in_tls & (turns["flow_id"] != self._known_tls[first : first + count])
            self._known_tls[first : first + count][new] = turns["flow_id"][new]
            begun.append(turns[new].copy())
            del turns
        self.begun_tls, self._just_begun = self._just_begun, np.concatenate(begun)
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
