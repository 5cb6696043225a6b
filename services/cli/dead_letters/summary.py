"""Dead letters in words: each on a line, or by service, reason and detail in a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.cli.dead_letters.letters import Letter
from services.cli.run.ledger import DeadLetter
from services.cli.views import units
from services.cli.views.printable import printable

_HEADINGS: Final = ("SERVICE", "REASON", "LETTERS", "RECORDS", "SIZE", "FIRST", "LAST", "DETAIL")
_NUMERIC: Final = frozenset({"LETTERS", "RECORDS", "SIZE"})


def line(letter: Letter) -> str:
    """Return what is said of one letter: number, time, service, reason, records, subject, detail."""
    said = letter.said
    records = "? records" if said.records is None else units.counted(said.records, "record")
    head = f"{letter.message.sequence}  {_moment(letter.message.stored)}  {said.service}  {said.reason}  {records}"
    return printable(f"{head}  from {letter.origin or 'nowhere known'}  {said.detail}".rstrip())


def table(letters: Sequence[tuple[DeadLetter, datetime, int]]) -> str:
    """Return letters (what is said, when stored, bytes) by service, reason and detail; the most records first."""
    if not letters:
        return "no dead letters"
    groups: dict[tuple[str, str, str], list[tuple[DeadLetter, datetime, int]]] = {}
    for letter in letters:
        groups.setdefault((letter[0].service, letter[0].reason, letter[0].detail), []).append(letter)
    ordered = sorted(groups.items(), key=lambda group: -sum(said.records or 0 for said, _, _ in group[1]))
    cells = [_HEADINGS, *(_row(key, group) for key, group in ordered)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(_HEADINGS))]
    aligned = (
        [
            cell.rjust(width) if name in _NUMERIC else cell.ljust(width)
            for cell, width, name in zip(row, widths, _HEADINGS, strict=True)
        ]
        for row in cells
    )
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def _row(key: tuple[str, str, str], group: Sequence[tuple[DeadLetter, datetime, int]]) -> tuple[str, ...]:
    service, reason, detail = map(printable, key)
    records = sum(said.records or 0 for said, _, _ in group)
    more = "+?" if any(said.records is None for said, _, _ in group) else ""
    stored = [when for _, when, _ in group]
    return (
        service,
        reason,
        units.count(len(group)),
        f"{units.count(records)}{more}",
        units.byte_count(sum(size for _, _, size in group)),
        _moment(min(stored)),
        _moment(max(stored)),
        detail,
    )


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
