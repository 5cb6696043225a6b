"""The meeting of application spans and a capture file's exchanges: as live, at the file's times."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from proto.asked.batch import decode_asked
from proto.errors import DecodeError
from proto.frames import read_frames
from services.capture.errors import CaptureError
from services.capture.flows.exchange_layout import Exchanges
from services.capture.flows.layout import MEMBERS, Slots
from services.capture.meeting.meeting import HOLD_NS, Meeting

if TYPE_CHECKING:
    from services.capture.names.reader import NameReader
    from services.capture.replay.source import ReplaySource

_SLOT: Final = np.dtype(
    [(name, dtype) for name, (_, dtype) in MEMBERS.items()]
    + [("cgroup_id", "<u8"), ("backend_port", "<u2"), ("backend_address", "V16")]
)
"""A flow as the meeting looks at it. In a file sockets are nobody's, and nothing is sent elsewhere than it was meant for."""


class ReplayMeeting:
    """Asks when the spans have ended, whatever they are in the file of questions before. Not for two threads at once."""

    def __init__(self, questions: Path, size_bytes: int, source: ReplaySource, names: NameReader) -> None:
        """`source` keeps turns. Raises CaptureError for a file that is none of questions."""
        self._source = source
        self._meeting = Meeting(size_bytes, names.may_multiplex)
        try:
            with questions.open("rb") as stream:
                found = [(_last_end(message), message) for message in read_frames(stream)]
        except (OSError, DecodeError) as error:
            raise CaptureError(f"{questions}: {error}") from error
        self._waiting = deque(sorted(found, key=lambda each: each[0]))

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of questions."""
        return self._meeting.counters

    def meet(self, now_ns: int, by_wire: Exchanges, *, final: bool) -> Exchanges:
        """Remember what is over by now, and return what of it spans are told; with `final` all that ever will be."""
        turns = self._source.take_turns(now_ns, final=final)
        self._meeting.tell(by_wire)
        moments = [now_ns]
        if final:
            last = max([now_ns, *(end for end, _ in self._waiting)])
            # What is ambiguous is tried once more.
            moments += [last + wait * (HOLD_NS + 1) for wait in range(3)]
        told = []
        for moment in moments:
            while self._waiting and self._waiting[0][0] <= moment:
                self._meeting.ask(self._waiting.popleft()[1])
            told.append(self._meeting.look(moment, 0, turns, self._slots, _nobodys))
            turns = turns[:0]
        return np.concatenate(told)

    def _slots(self, flow_ids: npt.NDArray[np.uint32]) -> Slots:
        slots = self._source.slots_of(flow_ids.astype(np.uint64))
        found = np.zeros(len(slots), _SLOT)
        for name in MEMBERS:
            found[name] = slots[name]
        return found


def _last_end(message: bytes) -> int:
    return int(decode_asked(message).columns["end_ns"].max(initial=0))


def _nobodys(owners: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint32], list[dict[str, Any]]]:
    return np.zeros(len(owners), np.uint32), []
