"""Pieces of payload read, and what the records of their flows say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from proto.flow_batch import Array
from services.capture.flows.table import Emission
from services.capture.names.dns_message import read_message
from services.capture.names.pieces import Piece, PieceKind
from services.capture.names.questions import FlowQuestions, NameList, QuestionTable, question_columns

Names: TypeAlias = Literal["off", "dns", "all"]

_KINDS: Final[dict[Names, tuple[PieceKind, ...]]] = {"off": (), "dns": (PieceKind.DNS,), "all": tuple(PieceKind)}
"""Which pieces a setting asks for."""


@dataclass(frozen=True, slots=True, eq=False)
class NamesTold:
    """What an emission's records say of names. Put it back where the records are refused."""

    columns: Mapping[str, Array]
    names: tuple[str, ...]
    """What index columns point at."""
    questions: Mapping[int, FlowQuestions]


class NameReader:
    """Reads pieces and keeps what they say until it is told. Not for two threads at once."""

    def __init__(self, names: Names = "all") -> None:
        self.kinds: tuple[PieceKind, ...] = _KINDS[names]
        """Of which pieces are asked for."""
        self._questions = QuestionTable()
        self._read = 0
        self._unreadable = 0

    def read(self, pieces: Iterable[Piece]) -> None:
        """Take over what pieces say."""
        for piece in pieces:
            message = read_message(piece.content) if piece.kind == PieceKind.DNS else None
            if message is None:
                self._unreadable += 1
                continue
            self._read += 1
            self._questions.add(piece, message)

    def tell(self, emission: Emission) -> NamesTold:
        """Return what the records of an emission say of names."""
        columns, names = emission.columns, NameList()
        waits = columns["request_waits"] != 0
        questions = self._questions.take(columns["flow_id"], emission.final, waits, emission.now_unix_ns)
        return NamesTold(question_columns(questions, len(emission), names), names.names, questions)

    def put_back(self, emission: Emission, told: NamesTold) -> None:
        """The records are stored nowhere and never will be: what they said is due again."""
        self._questions.put_back(emission.columns["flow_id"], told.questions)

    @property
    def counters(self) -> dict[str, int]:
        """Pieces that came, by what became of them."""
        return {
            "pieces_read": self._read,
            "pieces_unreadable": self._unreadable,
            "pieces_forgotten": self._questions.forgotten,
        }
