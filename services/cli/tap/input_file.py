"""Batches from a file of JSON lines: records, as `wirespan decode` and `tap -o json` print them, or OTLP/JSON spans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from proto.errors import DecodeError
from proto.rows import batches
from services.cli.tap.held import Held, Row
from services.cli.tap.span_records import records
from services.cli.views import units
from services.cli.views.printable import printable

_LINES_AT_ONCE: Final = 1000


class InputLines:
    """A file's lines. What is neither a record nor a request of spans is counted, and the rest read on."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.read = 0
        self.refused = 0
        self.first_reason = ""
        """Why the first of the refused ones was."""

    @property
    def said(self) -> str:
        """What was left out of it, and why; empty for nothing."""
        if not self.refused:
            return ""
        return f"{units.counted(self.refused, 'line')} left out: neither records nor spans ({printable(self.first_reason)})"

    def held(self) -> Iterator[Held]:
        """Yield the file's records, in its order, with what the file says of each and no more."""
        rows: list[Row] = []
        for line in self._lines:
            if line.strip():
                rows += self._rows(line)
            if len(rows) >= _LINES_AT_ONCE:
                yield from _held(rows)
                rows = []
        yield from _held(rows)

    def _rows(self, line: bytes) -> list[Row]:
        """Return the records of a line, each of them known to be one."""
        self.read += 1
        try:
            return _records_of(json.loads(line))
        except (ValueError, DecodeError) as error:
            self.refused += 1
            self.first_reason = self.first_reason or f"line {self.read}: {error}"
            return []


def _held(rows: Sequence[Row]) -> Iterator[Held]:
    first = 0
    for batch in batches(rows):
        yield Held(batch, rows[first : first + batch.count])
        first += batch.count


def _records_of(content: object) -> list[Row]:
    if not isinstance(content, dict):
        raise DecodeError("no JSON object")
    rows: list[Row] = [*records(content)] if "resourceSpans" in content else [content]
    for row in rows:
        next(batches([row]))
    return rows
