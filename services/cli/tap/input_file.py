"""Batches from a file of JSON lines: records, as `wirespan decode` and `tap -o json` print them, or OTLP/JSON spans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from proto.errors import DecodeError
from proto.flow_batch import FlowBatch
from proto.rows import batches
from services.cli.tap.span_records import records

_LINES_AT_ONCE: Final = 1000


class InputLines:
    """A file's lines. What is neither a record nor a request of spans is counted, and the rest read on."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.read = 0
        self.refused = 0
        self.first_reason = ""
        """Why the first of the refused ones was."""

    def batches(self) -> Iterator[FlowBatch]:
        """Yield the file's records, in its order."""
        rows: list[Mapping[str, Any]] = []
        for line in self._lines:
            if line.strip():
                rows += self._rows(line)
            if len(rows) >= _LINES_AT_ONCE:
                yield from batches(rows)
                rows = []
        yield from batches(rows)

    def _rows(self, line: bytes) -> list[Mapping[str, Any]]:
        """Return the records of a line, each of them known to be one."""
        self.read += 1
        try:
            return _records_of(json.loads(line))
        except (ValueError, DecodeError) as error:
            self.refused += 1
            self.first_reason = self.first_reason or f"line {self.read}: {error}"
            return []


def _records_of(content: object) -> list[Mapping[str, Any]]:
    if not isinstance(content, dict):
        raise DecodeError("no JSON object")
    rows: list[Mapping[str, Any]] = [*records(content)] if "resourceSpans" in content else [content]
    for row in rows:
        next(batches([row]))
    return rows
