"""DNS questions by their flow, from their pieces to the columns of its next record.

An answer over UDP comes with the moment at which the engine saw its question first. A question is kept until its answer comes,
to be told where none does, and over TCP to be matched by its number. What a record tells begins anew with the next one, unless
the bus refuses it: then it is put back, and merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from proto.columns import COLUMNS, DNS_CODES, MOST_QUESTIONS, NO_ANSWER, NO_INDEX, OTHER_CODE, UNANSWERED
from proto.flow_batch import Array
from services.capture.names.dns_message import DnsMessage
from services.capture.names.pieces import Piece
from services.capture.names.question_records import QuestionRecords, QuestionRules, Told

MOST_FLOWS: Final = 65_536
"""Flows of which something is to be told; beyond it the one that was first is forgotten, and counted."""
MOST_WAITING: Final = 256
"""Questions of one flow that wait: beyond it the one asked first is not told, and counted."""
PATIENCE_NS: Final = 10_000_000_000
"""A question that has waited so long was never answered: resolvers' libraries ask anew after 5 s at most."""

_TOLD: Final = ("name", "type", "code", "answers", "time_ns", "repeats")
_LONGEST_TIME_NS: Final = 2**64 - 1
_MOST_REPEATS: Final = 2**16 - 1


class _Waiting(NamedTuple):
    name: str | None
    type: int
    asked_ns: int
    repeats: int

    def given_up(self, ended_ns: int) -> Told:
        """What is told where no answer came."""
        return Told(self.name, self.type, NO_ANSWER, 0, 0, self.repeats, self.asked_ns, ended_ns)


@dataclass(slots=True)
class FlowQuestions:
    """What is told of a flow since its last record, and what of it still waits."""

    first: Told | None = None
    slowest: Told | None = None
    codes: list[int] = field(default_factory=lambda: [0] * DNS_CODES)
    own: list[Told] = field(default_factory=list)
    """Those that have records of their own."""
    waiting: dict[int, _Waiting] = field(default_factory=dict)

    def tell(self, told: Told) -> None:
        """Add one."""
        self.first = self.first or told
        if self.slowest is None or _rank(told) > _rank(self.slowest):
            self.slowest = told
        code = UNANSWERED if told.code == NO_ANSWER else min(told.code, OTHER_CODE)
        self.codes[code] += 1

    def put_before(self, later: FlowQuestions) -> None:
        """Merge what was told later; this one's own waiting questions are gone already."""
        self.first = self.first or later.first
        if later.slowest and (self.slowest is None or _rank(later.slowest) > _rank(self.slowest)):
            self.slowest = later.slowest
        self.codes = [one + other for one, other in zip(self.codes, later.codes, strict=True)]
        self.own += later.own
        self.waiting = later.waiting


def _rank(told: Told) -> int:
    """How long it took; one that was never answered took longest."""
    return _LONGEST_TIME_NS if told.code == NO_ANSWER else told.time_ns


class QuestionTable:
    """All flows' questions. Not for two threads at once."""

    def __init__(self, rules: QuestionRules | None = None) -> None:
        self._rules = rules or QuestionRules()
        self._flows: dict[int, FlowQuestions] = {}
        self.forgotten = 0
        """Flows and questions of which nothing was told, because too many waited."""
        self.without_record = 0
        """Questions that have no record of their own, because there were too many beside one record."""

    def add(self, piece: Piece, message: DnsMessage) -> Told | None:
        """Add a question, or the answer to one; return what is told of one that was answered."""
        flow = self._flow(piece.flow_id)
        waiting = flow.waiting.pop(message.number, None)
        if message.is_answer:
            since_ns = piece.since_ns or (waiting.asked_ns if waiting else 0)
            if not since_ns:
                return None  # over TCP nobody matched it before: its question was not captured
            asked = (message.name, message.type)
            if message.name is None and waiting is not None:
                asked = (waiting.name, waiting.type)
            took_ns, repeats = max(piece.time_ns - since_ns, 1), waiting.repeats if waiting else 0
            told = Told(*asked, message.code, message.answers, took_ns, repeats, since_ns, piece.time_ns)
            self._tell(flow, told)
            return told
        if piece.since_ns:
            if waiting is not None:
                flow.waiting[message.number] = waiting._replace(repeats=min(waiting.repeats + 1, _MOST_REPEATS))
            return None
        if waiting is not None:  # the number is used for another question
            self._tell(flow, waiting.given_up(piece.time_ns))
        elif len(flow.waiting) == MOST_WAITING:
            del flow.waiting[next(iter(flow.waiting))]
            self.forgotten += 1
        flow.waiting[message.number] = _Waiting(message.name, message.type, piece.time_ns, 0)
        return None

    def _tell(self, flow: FlowQuestions, told: Told) -> None:
        flow.tell(told)
        if not self._rules.has_record(told):
            return
        if len(flow.own) < MOST_QUESTIONS:
            flow.own.append(told)
        else:
            self.without_record += 1

    def _give_up(self, flow: FlowQuestions, now_ns: int, patience_ns: int) -> None:
        """Tell what has waited so long as never answered."""
        for number, waiting in list(flow.waiting.items()):
            if waiting.asked_ns < now_ns - patience_ns:
                del flow.waiting[number]
                self._tell(flow, waiting.given_up(min(now_ns, waiting.asked_ns + PATIENCE_NS)))

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
                self._give_up(flow, now_ns, 0 if final[row] else PATIENCE_NS)
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
            self.without_record += len(told.own[MOST_QUESTIONS:])
            del told.own[MOST_QUESTIONS:]

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


def question_records(taken: Mapping[int, FlowQuestions], names: NameList) -> QuestionRecords:
    """Return the questions that have records of their own, beside those rows."""
    found = [(row, number, told) for row, flow in taken.items() for number, told in enumerate(flow.own)]
    rows, numbers, told = zip(*found, strict=True) if found else ((), (), ())
    return QuestionRecords(rows, numbers, told, [names.place(one.name) for one in told])


def _filled(which: str, count: int) -> dict[str, Array]:
    """Return one question's columns, which hold their defaults."""
    names = [f"dns_{which}_{what}" for what in _TOLD]
    return {name: np.full(count, COLUMNS[name].default, COLUMNS[name].numpy_dtype) for name in names}


def _write(
    columns: Mapping[str, Array], which: str, rows: list[int], questions: Iterable[Told | None], names: NameList
) -> None:
    for row, told in zip(rows, questions, strict=True):
        if told is not None:
            for what, value in zip(_TOLD, (names.place(told.name), *told[1:]), strict=False):
                columns[f"dns_{which}_{what}"][row] = value
