"""The turns of capture files: those that have ended, and open ones whose response has paused, as live."""

from __future__ import annotations

import ctypes
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from services.capture.meeting.turns import NO_TURNS, TURN, Turns, are_slices, marks, measured
from services.capture.replay.library import TurnsKept

_PAUSE_NS: Final = 500_000_000
"""As services/capture/live/tap/turns.py."""


class ReplayTurns:
    """Valid for as long as the library's handle is."""

    def __init__(self, address: int, capacity: int) -> None:
        self._kept = TurnsKept.from_address(address)
        self._ended_at = address + ctypes.sizeof(TurnsKept)
        memory = (ctypes.c_char * (capacity * TURN.itemsize)).from_address(int(self._kept.of_slot))
        self._of_slot: Turns = np.frombuffer(cast("Any", memory), TURN)

    def take(self, now_ns: int, high_slot: int, *, final: bool) -> Turns:
        """Return those that are over, each once; with `final` all that have a response. Slots from `high_slot` on are fresh."""
        ended = NO_TURNS
        if self._kept.ended_count:
            content = ctypes.string_at(self._ended_at, self._kept.ended_count * TURN.itemsize)
            ended = np.frombuffer(content, TURN)
            self._kept.ended_count = 0
        open_ = self._of_slot[:high_slot]
        answered = ((open_["response_first_ns"] != 0) | are_slices(open_)) & (open_["request_first_ns"] != 0)
        last = np.maximum(open_["response_last_ns"], open_["request_last_ns"])
        over = np.flatnonzero(answered & (final | (last < max(now_ns - _PAUSE_NS, 0))))
        paused = measured(open_[over])
        # What its response has still to say is no part of it: no turn is open there until the client asks again.
        open_["request_first_ns"][over] = 0
        open_["response_first_ns"][over] = 0
        return np.concatenate([ended, paused])

    def share(self, flow_ids: npt.NDArray[np.uint64], slots: npt.NDArray[np.uint32]) -> None:
        """From now on turns of these flows, which are in these slots, are slices."""
        same = self._of_slot["flow_id"][slots] == flow_ids
        self._of_slot["shared"][slots[same]] = marks(flow_ids[same])
