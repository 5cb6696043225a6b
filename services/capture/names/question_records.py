"""Records of DNS questions of their own, beside that of their flow: which questions have one, and what it holds.

A record tells a flow's first question and its slowest. What failed or was slow between them is what people look for, so each of
those is a record too: between its flow's ends, from when it was asked to its answer. All that is summed up over records is 0 in
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np

from proto.columns import COLUMNS, FIRST_EXCHANGE, MOST_QUESTIONS, Reason
from proto.flow_batch import Array

QuestionSpans: TypeAlias = Literal["off", "failed_or_slow", "all"]

_NOERROR, _NXDOMAIN = 0, 3
_NO_FAILURE: Final = (_NOERROR, _NXDOMAIN)
"""Codes of names that there are, and of names that there are not: resolvers try search domains."""

_OF_FLOW: Final = (
    "flow_id", "observer", "role", "transport", "local_address", "remote_address", "local_port", "remote_port", "isn_seen",
    "local_isn", "remote_isn", "local_container", "flow_start_unix_ns", "remote_nat_address", "remote_nat_port", "remote_name",
    "file",
)  # fmt: skip
_TOLD: Final = ("type", "code", "answers", "time_ns", "repeats")


class Told(NamedTuple):
    """What is told of one question. Its times are on the packets' clock."""

    name: str | None
    type: int
    code: int
    answers: int
    time_ns: int
    """From when it was first asked to its answer; 0: there is none."""
    repeats: int
    asked_ns: int
    ended_ns: int
    """When it was answered, or given up."""


@dataclass(frozen=True, slots=True)
class QuestionRules:
    """Which questions have a record of their own."""

    spans: QuestionSpans = "failed_or_slow"
    slow_ns: int = 100_000_000
    """One that takes as long is slow."""

    def has_record(self, told: Told) -> bool:
        """Whether a question has one."""
        if self.spans != "failed_or_slow":
            return self.spans == "all"
        return told.code not in _NO_FAILURE or told.time_ns >= self.slow_ns


@dataclass(frozen=True, slots=True, eq=False)
class QuestionRecords:
    """Questions that have records of their own, beside the records of an emission."""

    rows: Sequence[int]
    """Beside which record each is."""
    numbers: Sequence[int]
    """Which of those beside it, from 0."""
    told: Sequence[Told]
    names: Sequence[int]
    """Their names as indexes."""

    def behind(self, columns: Mapping[str, Array], offset_ns: int = 0) -> Mapping[str, Array]:
        """Return a batch's columns with these records behind its own; `offset_ns` is added to the packets' clock."""
        if not self.told:
            return columns
        own, count = self._columns(columns, offset_ns), len(columns["flow_id"])
        mine = {name: own[name] if name in own else _default(name, len(self.told)) for name in columns}
        joined = {name: np.concatenate([values, mine[name]]) for name, values in columns.items()}
        return joined | {
            name: np.concatenate([_default(name, count), values]) for name, values in own.items() if name not in columns
        }

    def _columns(self, columns: Mapping[str, Array], offset_ns: int) -> dict[str, Array]:
        """Return what these records hold that is not a column's default."""
        rows = np.array(self.rows)
        own = {name: columns[name][rows] for name in _OF_FLOW if name in columns}
        times = np.array([(told.asked_ns, told.ended_ns) for told in self.told]) + offset_ns
        asked, ended = np.maximum(times, own["flow_start_unix_ns"].astype(np.int64)[:, None]).T
        record = columns["record"][rows].astype(np.int64) * MOST_QUESTIONS + np.array(self.numbers)
        values = {
            "record": FIRST_EXCHANGE + record % FIRST_EXCHANGE,
            "reason": np.full(len(rows), Reason.EXCHANGE),
            "start_unix_ns": asked,
            "end_unix_ns": ended,
            "dns_first_name": self.names,
            **{f"dns_first_{what}": [getattr(told, what) for told in self.told] for what in _TOLD},
        }
        return own | {name: np.array(column).astype(COLUMNS[name].numpy_dtype) for name, column in values.items()}


def _default(name: str, count: int) -> Array:
    column = COLUMNS[name]
    return np.full(count, column.default, column.dtype) if column.default else np.zeros(count, column.dtype)
