"""The meeting of application spans and a capture file's exchanges: as live, at the file's times.

A file tells each connection once, as its client's. So servers' spans meet what is the same seen from the other end, and is no
client's span's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from proto.asked.batch import decode_asked, encode_asked
from proto.asked.columns import SpanKind
from proto.columns import Role
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


_ENDS: Final = (("local_address", "remote_address"), ("local_port", "remote_port"), ("local_isn", "remote_isn"))


class ReplayMeeting:
    """Asks when the spans have ended, whatever they are in the file of questions before. Not for two threads at once."""

    def __init__(self, questions: Path, size_bytes: int, source: ReplaySource, names: NameReader) -> None:
        """`source` keeps turns. Raises CaptureError for a file that is none of questions."""
        self._source = source
        self._clients = Meeting(size_bytes, names.may_multiplex)
        self._servers = Meeting(size_bytes, names.may_multiplex)
        try:
            with questions.open("rb") as stream:
                found = [(_last_end(message), message) for message in read_frames(stream)]
        except (OSError, DecodeError) as error:
            raise CaptureError(f"{questions}: {error}") from error
        self._waiting = deque(sorted(found, key=lambda each: each[0]))

    @property
    def counters(self) -> Mapping[str, int]:
        """What became of questions."""
        both = Counter(self._clients.counters)
        both.update({name: count for name, count in self._servers.counters.items() if name.startswith("asked_")})
        return both

    def meet(self, now_ns: int, by_wire: Exchanges, *, final: bool) -> Exchanges:
        """Remember what is over by now, and return what of it spans are told; with `final` all that ever will be."""
        turns = self._source.take_turns(now_ns, final=final)
        self._servers.ring.add(turns, self._seen_by_servers)
        self._servers.ring.take_shared()
        for meeting in (self._clients, self._servers):
            meeting.tell(by_wire)
        moments = [now_ns]
        if final:
            last = max([now_ns, *(end for end, _ in self._waiting)])
            # What is ambiguous is tried once more.
            moments += [last + wait * (HOLD_NS + 1) for wait in range(3)]
        told = []
        for moment in moments:
            while self._waiting and self._waiting[0][0] <= moment:
                self._ask(self._waiting.popleft()[1])
            met = self._clients.look(moment, 0, turns, self._slots, _nobodys)
            self._servers.tell(met)
            turns = turns[:0]
            served = self._servers.look(moment, 0, turns, self._seen_by_servers, _nobodys)
            self._clients.tell(served)
            told += [met, _as_clients(served)]
        self._source.share_turns(self._clients.ring.take_shared())
        return np.concatenate(told)

    def _ask(self, message: bytes) -> None:
        batch = decode_asked(message)
        is_server = batch.columns["kind"] == SpanKind.SERVER
        for meeting, asked in ((self._clients, batch.take(~is_server)), (self._servers, batch.take(is_server))):
            if asked.count:
                meeting.ask(encode_asked(asked))

    def _slots(self, flow_ids: npt.NDArray[np.uint32]) -> Slots:
        slots = self._source.slots_of(flow_ids.astype(np.uint64))
        found = np.zeros(len(slots), _SLOT)
        for name in MEMBERS:
            found[name] = slots[name]
        return found

    def _seen_by_servers(self, flow_ids: npt.NDArray[np.uint32]) -> Slots:
        slots = self._slots(flow_ids)
        found = slots.copy()
        for name in ("address", "port"):
            found[f"local_{name}"], found[f"remote_{name}"] = slots[f"remote_{name}"], slots[f"local_{name}"]
        for name in ("initial_sequence", "known"):
            found[f"tx_{name}"], found[f"rx_{name}"] = slots[f"rx_{name}"], slots[f"tx_{name}"]
        found["role"] = np.where(slots["role"] == Role.CLIENT, Role.SERVER, Role.UNKNOWN)
        return found


def _as_clients(served: Exchanges) -> Exchanges:
    """Return exchanges that were seen from the server's end as the file has their flows."""
    found = served.copy()
    for local, remote in _ENDS:
        found[local], found[remote] = served[remote], served[local]
    found["isn_seen"] = served["isn_seen"] >> 1 | (served["isn_seen"] & 1) << 1
    found["role"] = Role.CLIENT
    return found


def _last_end(message: bytes) -> int:
    return int(decode_asked(message).columns["end_ns"].max(initial=0))


def _nobodys(owners: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint32], list[dict[str, Any]]]:
    return np.zeros(len(owners), np.uint32), []
