"""What became of every packet, record and span of a run, from what is on disk and on the bus: no process has to be asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from proto.errors import DecodeError
from proto.exchange_phases import span_count
from proto.flow_batch import FlowBatch, decode
from proto.subjects import DETAIL_HEADER, MESSAGE_ID_HEADER, REASON_HEADER, RECORDS_HEADER, SPANS_HEADER, subject_token
from services.cli.views.printable import printable

_COUNT: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
PARTIAL_SUCCESS: Final = "partial_success"
"""Reason of a dead letter whose request the backend took, without some of its spans (OTLP partial success)."""


class CaptureProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What capture writes to its progress file; everything so far."""

    packets: int = 0
    bytes: int = 0
    file_bytes_read: int = 0
    file_bytes_total: int = 0
    flows: int = 0
    records: int = 0
    """Of batches that the bus has stored."""
    exchanges: int = 0
    """Of the records, those of requests in an application's trace."""
    spans: int | None = None
    """What the records become; None where each is one."""
    batches: int = 0
    counters: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Packets that are in no flow, by what they are."""
    refused_waits: int = 0
    """How often a full stream made capture wait."""
    capturing: bool = False
    """The sockets are tapped, or packets are read."""
    finished: bool = False
    faults: Sequence[str] = ()
    """What could not be read of the files, a line for each file."""
    error: str | None = None

    @property
    def expected_spans(self) -> int:
        """Spans that the records become: one for each of a flow, a few for each of an exchange."""
        return self.records if self.spans is None else self.spans


def read_progress(path: Path) -> CaptureProgress:
    """Return what the file says; nothing read yet where there is no file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CaptureProgress)
    except FileNotFoundError:
        return CaptureProgress()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that a service gave up on."""

    service: str
    reason: str
    detail: str
    records: int | None
    """Records lost to the backend with it; None where nobody can say."""
    spans: int | None = None
    """Spans that they are, where that is not as many."""

    @property
    def lost(self) -> int:
        """Spans lost, as far as anybody can say."""
        return (self.records if self.spans is None else self.spans) or 0


def read_dead_letter(subject: str, headers: Mapping[str, str], data: bytes) -> DeadLetter:
    """Return what the message on a `flows.dead.<service>` subject says."""
    records, spans = _number(headers.get(RECORDS_HEADER)), _number(headers.get(SPANS_HEADER))
    held = _held(data) if records is None or spans is None else None
    if held is not None and records in {None, held.count}:
        records, spans = held.count, span_count(held) if spans is None else spans
    return DeadLetter(
        service=subject.rpartition(".")[2],
        reason=headers.get(REASON_HEADER, "unknown"),
        detail=headers.get(DETAIL_HEADER, ""),
        records=records,
        spans=spans,
    )


def is_of_run(headers: Mapping[str, str], node: str, epoch: str) -> bool:
    """Whether a dead letter is of this node and, unless `epoch` is empty, of this epoch of it.

    Ids of batches are `<node>/<epoch>/<sequence>`, and a letter's id has its batch's in it.
    """
    batch = f"/{subject_token(node)}/{epoch}/" if epoch else f"/{subject_token(node)}/"
    return batch in headers.get(MESSAGE_ID_HEADER, "")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The account of a run. `progress.expected_spans == accepted + refused + dead` once nothing is under way."""

    progress: CaptureProgress
    letters: tuple[DeadLetter, ...] = ()
    batches_under_way: int = 0
    """Batches stored on the bus that no service has acknowledged."""

    @property
    def refused(self) -> int:
        """Spans that the backend did not take while it took their request."""
        return sum(letter.lost for letter in self.letters if letter.reason == PARTIAL_SUCCESS)

    @property
    def dead(self) -> int:
        """Spans whose records came to an end in a dead letter for any other reason."""
        return sum(letter.lost for letter in self.letters if letter.reason != PARTIAL_SUCCESS)

    @property
    def uncounted(self) -> int:
        """Dead letters of which nobody knows how many records they held."""
        return sum(letter.records is None for letter in self.letters)

    @property
    def accepted(self) -> int | None:
        """Spans that the backend took; None while some are under way or cannot be counted."""
        if self.batches_under_way or self.uncounted:
            return None
        return self.progress.expected_spans - self.refused - self.dead

    @property
    def complete(self) -> bool:
        """Every record of every packet has been acknowledged by the backend."""
        return self.progress.finished and self.accepted == self.progress.expected_spans and not self.letters

    def faults(self) -> list[str]:
        """One line for each reason for which records are lost, the largest first."""
        return [_fault(key, letters) for key, letters in _grouped(self.letters)]


def _number(header: str | None) -> int | None:
    return int(header) if header is not None and _COUNT.fullmatch(header) else None


def _held(data: bytes) -> FlowBatch | None:
    try:
        return decode(data)
    except DecodeError:
        return None


def _grouped(letters: Iterable[DeadLetter]) -> list[tuple[tuple[str, str], list[DeadLetter]]]:
    groups: dict[tuple[str, str], list[DeadLetter]] = {}
    for letter in letters:
        groups.setdefault((letter.service, letter.reason), []).append(letter)
    return sorted(groups.items(), key=lambda group: -sum(letter.records or 0 for letter in group[1]))


def _fault(key: tuple[str, str], letters: list[DeadLetter]) -> str:
    service, reason = key
    known = sum(letter.records or 0 for letter in letters)
    unknown = sum(letter.records is None for letter in letters)
    amounts = [f"{known} records"] if known or not unknown else []
    amounts += [f"{unknown} messages of unknown content"] if unknown else []
    details = Counter(letter.detail for letter in letters if letter.detail)
    detail = f": {details.most_common(1)[0][0]}" if details else ""
    return printable(f"{service}, {reason.replace('_', ' ')}: {' and '.join(amounts)}{detail}")
