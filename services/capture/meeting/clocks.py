"""Whose clock is apart from this node's, where that is certain.

Times alone show nothing: a span that meets no exchange may have had none. But a server's span names its client's port, and so
its connection, whatever its time. Where such spans last as long as exchanges of their own connections, and all of them are the
same time earlier or later than those, it is their clock. What could as well be another time is said of nobody.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from proto.columns import Role
from services.capture.meeting.assignment import NOBODY, Indexes
from services.capture.meeting.questions import Rows as Asked
from services.capture.meeting.ring import Rows

logger = structlog.get_logger()

ALIKE_NS: Final = 10_000_000
"""A span and its exchange differ by less, and so do two readings of one clock's offset."""
FARTHEST_NS: Final = 60_000_000_000
"""The enricher asks for no span that is farther away."""
LEAST_SPANS: Final = 8
"""Fewer prove nothing."""
_LEAST_SHARE: Final = 0.8
"""Of the spans that have an exchange which lasted as long, at any time."""
_MOST_SPANS: Final = 64
_MOST_FITS: Final = 16
"""A span that so many exchanges last as long as says nothing."""
_MOST_SENDERS: Final = 4_096

Shifts = npt.NDArray[np.int64]


class _Clock:
    """One sender's: by how much it is ahead of the exchanges that the latest of its spans may have had."""

    def __init__(self) -> None:
        self.latest = -1
        """Number of the last question that was looked at."""
        self.offset_ns = 0
        """0: it is this node's, as far as anybody knows."""
        self._shifts: deque[Shifts] = deque(maxlen=_MOST_SPANS)

    def learn(self, shifts: Shifts) -> None:
        if 0 < len(shifts) <= _MOST_FITS:
            self._shifts.append(shifts)

    def judge(self) -> None:
        """Keep what was found as long as too little is known; what contradicts itself is no offset."""
        known = len(self._shifts)
        if known < LEAST_SPANS:
            return
        spans = np.repeat(np.arange(known), [len(each) for each in self._shifts])
        shifts = np.concatenate(self._shifts)
        order = np.argsort(shifts)
        spans, shifts = spans[order], shifts[order]
        most, begin, behind = _densest(spans, shifts)
        offset = int(np.median(shifts[begin:behind]))
        others = np.abs(shifts - offset) > 2 * ALIKE_NS
        second = _densest(spans[others], shifts[others])[0]
        evident = most >= max(LEAST_SPANS, _LEAST_SHARE * known) and 2 * second <= most
        self.offset_ns = offset if evident and abs(offset) > ALIKE_NS else 0


def _densest(spans: Indexes, shifts: Shifts) -> tuple[int, int, int]:
    """Return the most spans that have shifts within ALIKE_NS of each other, and which of the sorted shifts these are."""
    best = (0, 0, 0)
    inside: Counter[int] = Counter()
    begin = 0
    for at, (span, shift) in enumerate(zip(spans.tolist(), shifts.tolist(), strict=True)):
        inside[span] += 1
        while shift - shifts[begin] > ALIKE_NS:
            left = int(spans[begin])
            inside[left] -= 1
            if not inside[left]:
                del inside[left]
            begin += 1
        best = max(best, (len(inside), begin, at + 1))
    return best


class ByConnection:
    """Exchanges by the numbers of their connections; sorted once, when somebody asks."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def of(self, connection: int) -> Rows:
        """Return those of a connection."""
        first, behind = np.searchsorted(self._connections, [connection, connection + 1])
        found: Rows = self._rows[self._order[first:behind]]
        return found

    @cached_property
    def _order(self) -> Indexes:
        return np.argsort(self._rows["connection"], kind="stable")

    @cached_property
    def _connections(self) -> npt.NDArray[np.uint32]:
        found: npt.NDArray[np.uint32] = self._rows["connection"][self._order]
        return found


class Clocks:
    """Of all senders; those that were seen last are remembered."""

    def __init__(self) -> None:
        self._clocks: OrderedDict[str, _Clock] = OrderedDict()

    def is_apart(self, local: str, asked: Asked, connections: tuple[Indexes, Rows], remembered: ByConnection) -> bool:
        """Look at somebody's questions; return whether their clock is known to be apart.

        `connections`: theirs, by their numbers and the facts of each. `remembered`: exchanges, also those that were told.
        """
        clock = self._clocks.setdefault(local, _Clock())
        self._clocks.move_to_end(local)
        if len(self._clocks) > _MOST_SENDERS:
            self._clocks.popitem(last=False)
        asked = asked[asked["number"] > clock.latest]
        if len(asked):
            clock.latest = int(asked["number"].max())
            before = clock.offset_ns
            for span, connection in _named(asked, connections):
                clock.learn(_shifts(span, remembered.of(connection)))
            clock.judge()
            if bool(before) != bool(clock.offset_ns):
                _tell(local, clock.offset_ns)
        return clock.offset_ns != 0

    @property
    def largest_seconds(self) -> float:
        """How far the clock is ahead, or behind where it is negative, that is farthest apart."""
        # A copy: metrics are asked for in one thread while another one looks.
        return max((clock.offset_ns / 1e9 for clock in list(self._clocks.values())), key=abs, default=0.0)


def _named(asked: Asked, connections: tuple[Indexes, Rows]) -> list[tuple[Asked, int]]:
    """Return the latest spans that name one connection of these that has one request at a time, and its number."""
    latest = asked[np.unique(asked["number"], return_index=True)[1]][-_MOST_SPANS:]
    places = [
        (span["peer_address"].tobytes(), int(span["peer_port"])) if span["server"] else (b"", int(span["own_port"]))
        for span in latest
    ]
    named = {place for place in places if place[1]}
    if not named:
        return []
    numbers, facts = connections
    ends: dict[tuple[bytes, int], int] = {}
    columns = (facts[name].tolist() for name in ("role", "remote_address", "remote_port", "local_port", "several"))
    for number, role, address, port, own_port, several in zip(numbers.tolist(), *columns, strict=True):
        end = (address, port) if role == Role.SERVER else (b"", own_port)
        if end in named:
            ends[end] = NOBODY if end in ends or several else number
    connection_of = [ends.get(place, NOBODY) for place in places]
    return [(span, number) for span, number in zip(latest, connection_of, strict=True) if number != NOBODY]


def _shifts(span: Asked, exchanges: Rows) -> Shifts:
    """Return by how much the span is later than the exchanges that lasted as long."""
    begins = span["begin"] - exchanges["request_first_ns"].astype(np.int64)
    ends = span["end"] - exchanges["response_last_ns"].astype(np.int64)
    fits = (np.abs(ends - begins) <= ALIKE_NS) & (np.abs(begins) <= FARTHEST_NS)
    found: Shifts = (begins[fits] + ends[fits]) // 2
    return found


def _tell(local: str, offset_ns: int) -> None:
    if offset_ns:
        logger.warning(
            "sender.clock_apart", sender=local or "this host", ahead_seconds=offset_ns / 1e9,
            advice="its spans meet no exchanges; look at its clock's synchronisation (chronyc tracking)",
        )  # fmt: skip
    else:
        logger.info("sender.clock_agrees", sender=local or "this host")
