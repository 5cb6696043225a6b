"""DNS questions by their flow, from their pieces to the columns of its next record.

An answer comes with the moment at which the engine saw its question first, so nothing is matched here; a question is kept only
until its answer comes, to be told where none does. What a record tells begins anew with the next one, unless the bus refuses
it: then it is put back, and merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from proto.columns import COLUMNS, DNS_CODES, NO_ANSWER, NO_INDEX, OTHER_CODE, UNANSWERED
from proto.flow_batch import Array
from services.capture.names.dns_message import DnsMessage
from services.capture.names.pieces import Piece

MOST_FLOWS: Final = 65_536
"""Flows of which something is to be told; beyond it the one that was first is forgotten, and counted."""
MOST_WAITING: Final = 256
"""Questions of one flow that wait: beyond it the one asked first is not told, and counted."""
PATIENCE_NS: Final = 10_000_000_000
"""A question that has waited so long was never answered: resolvers' libraries ask anew after 5 s at most."""

_TOLD: Final = ("name", "type", "code", "answers", "time_ns")
_LONGEST_TIME_NS: Final = 2**64 - 1


class Told(NamedTuple):
    """What is told of one question."""

    name: str | None
    type: int
    code: int
    answers: int
    time_ns: int

    @property
    def rank(self) -> int:
        """How long it took; one that was never answered took longest."""
        return _LONGEST_TIME_NS if self.code == NO_ANSWER else self.time_ns


class _Waiting(NamedTuple):
    name: str | None
    type: int
    asked_ns: int


@dataclass(slots=True)
class FlowQuestions:
    """What is told of a flow since its last record, and what of it still waits."""

    first: Told | None = None
    slowest: Told | None = None
    codes: list[int] = field(default_factory=lambda: [0] * DNS_CODES)
    waiting: dict[int, _Waiting] = field(default_factory=dict)

    def tell(self, told: Told) -> None:
        """Add one."""
        self.first = self.first or told
        if self.slowest is None or told.rank > self.slowest.rank:
            self.slowest = told
        code = UNANSWERED if told.code == NO_ANSWER else min(told.code, OTHER_CODE)
        self.codes[code] += 1

    def give_up(self, asked_before_ns: int) -> None:
        """Tell what was asked before then, and waits, as never answered."""
        for number, waiting in list(self.waiting.items()):
            if waiting.asked_ns < asked_before_ns:
                del self.waiting[number]
                self.tell(Told(waiting.name, waiting.type, NO_ANSWER, 0, 0))

    def put_before(self, later: FlowQuestions) -> None:
        """Merge what was told later; this one's own waiting questions are gone already."""
        self.first = self.first or later.first
        if later.slowest and (self.slowest is None or later.slowest.rank > self.slowest.rank):
            self.slowest = later.slowest
        self.codes = [one + other for one, other in zip(self.codes, later.codes, strict=True)]
        self.waiting = later.waiting


class QuestionTable:
    """All flows' questions. Not for two threads at once."""

    def __init__(self) -> None:
        self._flows: dict[int, FlowQuestions] = {}
        self.forgotten = 0
        """Flows and questions of which nothing was told, because too many waited."""

    def add(self, piece: Piece, message: DnsMessage) -> None:
        """Add a question, or the answer to one."""
        flow = self._flow(piece.flow_id)
        waiting = flow.waiting.pop(message.number, None)
        if message.is_answer:
            asked = (message.name, message.type)
            if message.name is None and waiting is not None:
                asked = (waiting.name, waiting.type)
            flow.tell(Told(*asked, message.code, message.answers, max(piece.time_ns - piece.since_ns, 1)))
            return
        if waiting is not None:  # the number is used for another question
            flow.tell(Told(waiting.name, waiting.type, NO_ANSWER, 0, 0))
        elif len(flow.waiting) == MOST_WAITING:
            del flow.waiting[next(iter(flow.waiting))]
            self.forgotten += 1
        flow.waiting[message.number] = _Waiting(message.name, message.type, piece.time_ns)

    def take(self, flow_ids: Array, final: npt.NDArray[np.bool_], waits: Array, now_ns: int) -> dict[int, FlowQuestions]:
        """Return what the next record of each of these flows tells, by row; it is told no more.

        `final` are the flows' last records, `waits` whether the record says that a question waits.
        """
        if not self._flows:
            return {}
        taken: dict[int, FlowQuestions] = {}
        for row, flow_id in enumerate(flow_ids.tolist()):
            flow = self._flows.get(flow_id)
            if flow is None:
                continue
            if waits[row]:
                flow.give_up(now_ns if final[row] else now_ns - PATIENCE_NS)
            if flow.first is not None:
                taken[row] = flow
            if final[row] or not flow.waiting:
                del self._flows[flow_id]
            elif flow.first is not None:
                self._flows[flow_id] = FlowQuestions(waiting=flow.waiting)
        return taken

    def put_back(self, flow_ids: Array, taken: Mapping[int, FlowQuestions]) -> None:
        """What `take` returned is stored nowhere and never will be: it is due again."""
        for row, told in taken.items():
            told.put_before(self._flow(int(flow_ids[row])))
            self._flows[int(flow_ids[row])] = told

    def _flow(self, flow_id: int) -> FlowQuestions:
        flow = self._flows.get(flow_id)
        if flow is None:
            if len(self._flows) >= MOST_FLOWS:
                del self._flows[next(iter(self._flows))]
                self.forgotten += 1
            flow = self._flows[flow_id] = FlowQuestions()
        return flow


class NameList:
    """Names by their place in a batch's table, each once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, name: str | None) -> int:
        """Return the index of a name."""
        return NO_INDEX if name is None else self._places.setdefault(name, len(self._places))

    @property
    def names(self) -> tuple[str, ...]:
        """The table."""
        return tuple(self._places)


def question_columns(taken: Mapping[int, FlowQuestions], count: int, names: NameList) -> dict[str, Array]:
    """Return the columns of `count` records, of which some tell of questions."""
    if not taken:
        return {}
    columns: dict[str, Array] = {}
    for which, questions in (
        ("first", [flow.first for flow in taken.values()]),
        ("slowest", [flow.slowest for flow in taken.values()]),
    ):
        filled = _filled(which, count)
        _write(filled, which, list(taken), questions, names)
        columns |= filled
    codes = np.zeros((count, DNS_CODES), COLUMNS["dns_codes"].numpy_dtype.base)
    codes[list(taken)] = [flow.codes for flow in taken.values()]
    return columns | {"dns_codes": codes}


def _filled(which: str, count: int) -> dict[str, Array]:
    """Return one question's columns, which hold their defaults."""
    names = [f"dns_{which}_{what}" for what in _TOLD]
    return {name: np.full(count, COLUMNS[name].default, COLUMNS[name].numpy_dtype) for name in names}


def _write(
    columns: Mapping[str, Array], which: str, rows: list[int], questions: Iterable[Told | None], names: NameList
) -> None:
    for row, told in zip(rows, questions, strict=True):
        if told is not None:
            for what, value in zip(_TOLD, (names.place(told.name), *told[1:]), strict=True):
                columns[f"dns_{which}_{what}"][row] = value
