"""Questions that wait for their answer: spans of applications, each with the addresses that its peer may have had."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from proto.asked.batch import AskedBatch, decode_asked
from proto.asked.columns import OTHER_END, SpanKind
from proto.errors import DecodeError
from services.capture.meeting.other_ends import OtherEnds
from services.capture.meeting.reasons import Counts, Reason

Rows: TypeAlias = npt.NDArray[Any]

QUESTION: Final = np.dtype([
    ("number", "<i8"), ("begin", "<i8"), ("end", "<i8"), ("due", "<i8"), ("local", "<i8"),
    ("trace_id", "V16"), ("span_id", "V8"), ("peer_address", "V16"),
    ("peer_port", "<u2"), ("local_port", "<u2"), ("own_port", "<u2"), ("flags", "|u1"),
    ("server", "?"), ("tried", "?"), ("messages", "?"),
])  # fmt: skip
"""A span and one of its peer's addresses; rows of one question have one number. Times on the packets' clock. `due`: from when
on it is to be answered; `tried`: it was ambiguous once. `own_port`: of a client's connection, as its server's span has it.
`messages`: it is a queue's, whose clients do not wait for answers."""

_NONE: Final = np.zeros(0, QUESTION)
_MOST_ROWS: Final = 200_000
_MOST_BATCHES: Final = 256
_MOST_LOCALS: Final = 65_536
_LONGEST_NS: Final = 24 * 3_600_000_000_000
_AHEAD_NS: Final = 2_000_000_000
"""A span that ends so far in the future was read from another clock than this node's."""


class Questions:
    """`ask` may be called from another thread than the rest."""

    def __init__(self, counts: Counts, hold_ns: int) -> None:
        """Questions wait for `hold_ns` before they are due."""
        self._hold_ns = hold_ns
        self._inbox: deque[bytes] = deque()
        self._counts = counts
        self._numbers = 0
        self._locals: dict[str, int] = {}
        self._locals_made = 0
        self._waiting = _NONE
        self._other_ends = OtherEnds(2 * hold_ns)

    def ask(self, message: bytes) -> None:
        """Take a message of the bus."""
        if len(self._inbox) >= _MOST_BATCHES:
            self._counts.add(Reason.NO_ROOM, 1)
            return
        self._inbox.append(message)

    def read(self, now_ns: int, offset_ns: int, oldest_ns: int) -> Rows:
        """Return all questions that wait, those of the messages that have arrived among them.

        `offset_ns`: from the packets' clock to Unix time. `oldest_ns`: what began before is remembered no more.
        """
        arrived = [self._waiting]
        while self._inbox:
            try:
                batch = decode_asked(self._inbox.popleft())
            except DecodeError:
                self._counts.add(Reason.MALFORMED, 1)
                continue
            is_question = batch.columns["kind"] != OTHER_END
            self._other_ends.learn(batch.take(~is_question), now_ns)
            arrived.append(self._checked(self._rows(batch.take(is_question), now_ns, offset_ns), now_ns, oldest_ns))
        self._waiting = np.concatenate(arrived)
        over = len(self._waiting) - _MOST_ROWS
        if over > 0:
            self._counts.add(Reason.NO_ROOM, len(np.unique(self._waiting["number"][:over])))
            self._waiting = self._waiting[over:]
        return self._waiting

    def at_other_ends(self, rows: Rows, connections: Rows) -> Rows:
        """As `OtherEnds.applied`."""
        return self._other_ends.applied(rows, connections)

    def local_names(self) -> dict[int, str]:
        """Return who is meant by the numbers in `local`."""
        return {number: name for name, number in self._locals.items()}

    def answered(self, numbers: npt.NDArray[np.int64]) -> None:
        """These questions wait no more."""
        self._waiting = self._waiting[~np.isin(self._waiting["number"], numbers)]

    def try_again(self, numbers: npt.NDArray[np.int64], now_ns: int) -> None:
        """These questions wait once more."""
        again = np.isin(self._waiting["number"], numbers)
        self._waiting["due"][again], self._waiting["tried"][again] = now_ns + self._hold_ns, True

    def _rows(self, batch: AskedBatch, now_ns: int, offset_ns: int) -> Rows:
        columns = batch.columns
        rows = np.zeros(batch.count, QUESTION)
        if not batch.count:
            return rows
        if len(self._locals) + len(batch.locals) > _MOST_LOCALS:
            waiting = set(self._waiting["local"].tolist())
            self._locals = {name: number for name, number in self._locals.items() if number in waiting}
        for name in batch.locals:
            if name not in self._locals:
                self._locals[name] = self._locals_made
                self._locals_made += 1
        locals_ = np.array([self._locals[name] for name in batch.locals], np.int64)
        steps = np.concatenate(([0], np.diff(columns["question"].astype(np.int64)) != 0))
        rows["number"] = self._numbers + np.cumsum(steps)
        self._numbers = int(rows["number"][-1]) + 1
        latest = np.uint64(1 << 62)
        for name, source in (("begin", "start_ns"), ("end", "end_ns")):
            rows[name] = np.minimum(columns[source], latest).astype(np.int64) - offset_ns
        rows["due"] = now_ns + self._hold_ns
        rows["local"] = locals_[columns["local"]]
        for name in ("trace_id", "span_id", "peer_address", "peer_port", "local_port", "flags"):
            rows[name] = columns[name]
        rows["server"] = columns["kind"] == SpanKind.SERVER
        rows["messages"] = np.isin(columns["kind"], (SpanKind.PRODUCER, SpanKind.CONSUMER))
        known = np.isin(columns["kind"], [kind.value for kind in SpanKind]) & (columns["end_ns"] < latest)
        rows["begin"] = np.where(known, rows["begin"], rows["end"] + 1)
        return rows

    def _checked(self, rows: Rows, now_ns: int, oldest_ns: int) -> Rows:
        """Leave out what cannot be answered, and count it."""
        checks: tuple[tuple[Reason, Callable[[Rows], npt.NDArray[np.bool_]]], ...] = (
            (Reason.MALFORMED, lambda rows: (rows["end"] < rows["begin"]) | (rows["end"] - rows["begin"] > _LONGEST_NS)),
            (Reason.CLOCK_APART, lambda rows: rows["end"] > now_ns + _AHEAD_NS),
            (Reason.TOO_OLD, lambda rows: rows["begin"] < oldest_ns),
            (Reason.MULTIPLEXED, lambda rows: rows["messages"].astype(np.bool_)),
        )
        for reason, is_bad in checks:
            bad = np.unique(rows["number"][is_bad(rows)])
            self._counts.add(reason, len(bad))
            rows = rows[~np.isin(rows["number"], bad)]
        return rows
