"""What a connection that several requests share did while a span lasted, where no exchange on it can be told from the others.

HTTP/2 in TLS is so. A span is told the part of a connection that is the only one it can have used: its own port is known, or no
other connection to its peer had anything asked and anything answered in that time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from services.capture.meeting.assignment import NOBODY, Indexes
from services.capture.meeting.likelihood import as_times
from services.capture.meeting.matching import TOLERANCE_NS, Windows
from services.capture.meeting.ring import Rows

Mask = npt.NDArray[np.bool_]

MOST_CONNECTIONS: Final = 1_024
"""With more to one peer it is not looked which of them a span can have used: spans are laid beside each of them."""
MANY: Final = -2
"""Not a connection, but several."""


@dataclass(frozen=True, slots=True)
class Part:
    """Of one connection, in the time of one span. What is counted is of both ends, the client first."""

    begin_ns: int
    end_ns: int
    """From the first to the last payload that was sent."""
    bytes: tuple[int, int]
    retransmits: tuple[int, int]
    zero_windows: tuple[int, int]
    srtt_us: int
    """0: not known."""
    silence_ns: int
    """The longest time in which neither end said anything."""


class Slices:
    """Slices of one connection's time, in their order."""

    def __init__(self, rows: Rows) -> None:
        """`rows` of the connection, in any order."""
        self._rows = rows[np.argsort(rows["request_first_ns"], kind="stable")]
        asked, answered = self._rows["request_bytes"] != 0, self._rows["response_first_ns"] != 0
        self._asked = _said(self._rows[asked], "request")
        self._answered = _said(self._rows[answered], "response")
        self._first = as_times(self._rows["request_first_ns"])
        last = np.maximum(as_times(self._rows["request_last_ns"]), as_times(self._rows["response_last_ns"]))
        self._last = np.maximum.accumulate(last)

    def spoke_within(self, spans: Windows) -> Mask:
        """Return in which spans the client said something, and then the server: no others can have had a request on it."""
        first, behind = _within(self._asked, spans)
        first_answer, behind_answers = _within(self._answered, spans)
        found: Mask = (behind > first) & (behind_answers > first_answer)
        found[found] = self._asked.begin[first[found]] <= self._answered.end[behind_answers[found] - 1]
        return found

    def part(self, begin_ns: int, end_ns: int) -> Part | None:
        """Return what the connection did in that time; None where that is nothing."""
        rows = self._rows[np.searchsorted(self._last, begin_ns) : np.searchsorted(self._first, end_ns, "right")]
        asked = rows[_overlaps(rows, "request", begin_ns, end_ns) & (rows["request_bytes"] != 0)]
        answered = rows[_overlaps(rows, "response", begin_ns, end_ns) & (rows["response_first_ns"] != 0)]
        if not len(asked) + len(answered):
            return None
        begins = np.concatenate([as_times(asked["request_first_ns"]), as_times(answered["response_first_ns"])])
        ends = np.concatenate([as_times(asked["request_last_ns"]), as_times(answered["response_last_ns"])])
        order = np.argsort(begins, kind="stable")
        until = np.maximum.accumulate(ends[order])
        resent, closed = rows["retransmits"].sum(0, np.int64).tolist(), rows["zero_windows"].sum(0, np.int64).tolist()
        known = rows["srtt_us"][rows["srtt_us"] != 0]
        return Part(
            int(begins.min()),
            int(ends.max()),
            (int(asked["request_bytes"].sum(dtype=np.int64)), int(answered["response_bytes"].sum(dtype=np.int64))),
            (resent[0], resent[1]),
            (closed[0], closed[1]),
            int(known[-1]) if len(known) else 0,
            int((begins[order][1:] - until[:-1]).max(initial=0)),
        )


def _said(rows: Rows, who: str) -> Windows:
    return Windows(as_times(rows[f"{who}_first_ns"]), as_times(rows[f"{who}_last_ns"]))


def _overlaps(rows: Rows, who: str, begin_ns: int, end_ns: int) -> Mask:
    found: Mask = (as_times(rows[f"{who}_first_ns"]) <= end_ns) & (as_times(rows[f"{who}_last_ns"]) >= begin_ns)
    return found


def _within(said: Windows, spans: Windows) -> tuple[Indexes, Indexes]:
    """Return from where to where in each span something was said. What one end says follows what it said before."""
    first = np.searchsorted(said.end, spans.begin - TOLERANCE_NS)
    return first, np.searchsorted(said.begin, spans.end + TOLERANCE_NS, "right")


def only_connections(spans: Windows, slices: list[Slices], may_be: npt.NDArray[np.bool_]) -> Indexes:
    """Return of each span which connection is the only one that it can have used; NOBODY where none can be, or MANY.

    `may_be`: whether a span (row) may have used a connection (column) by anything but what was said on it when.
    """
    found: Indexes = np.full(len(spans), NOBODY, np.int64)
    for connection, each in enumerate(slices):
        which = np.flatnonzero(may_be[:, connection])
        which = which[each.spoke_within(Windows(spans.begin[which], spans.end[which]))]
        found[which] = np.where(found[which] == NOBODY, connection, MANY)
    return found


def overlapping(spans: Windows, connection: Indexes) -> Indexes:
    """Return the connections on which two of their spans were under way at once."""
    order = np.lexsort((spans.begin, connection))
    of, begin, end = connection[order], spans.begin[order], spans.end[order]
    same = (of[1:] == of[:-1]) & (of[1:] >= 0) & (begin[1:] < end[:-1] - TOLERANCE_NS)
    return np.unique(of[1:][same])


def slices_of(rows: Rows, place: Indexes, spans: Windows) -> tuple[Indexes, list[Slices]]:
    """Return which connections said something while one of the spans lasted, and what.

    `place`: the connection of each row.
    """
    if not len(spans):
        return np.zeros(0, np.int64), []
    until = np.maximum(rows["request_last_ns"], rows["response_last_ns"])
    near = until >= np.uint64(max(int(spans.begin.min()) - TOLERANCE_NS, 0))
    near &= rows["request_first_ns"] <= np.uint64(max(int(spans.end.max()) + TOLERANCE_NS, 0))
    order = np.argsort(place[near], kind="stable")
    rows, place = rows[near][order], place[near][order]
    connections, first = np.unique(place, return_index=True)
    return connections, [Slices(each) for each in np.split(rows, first[1:])] if len(rows) else []
