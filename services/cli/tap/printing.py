"""How records are printed: a line each, rows of a table, JSON lines, or everything that is known of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.text import Text

from services.cli.errors import NobodyReadsError
from services.cli.tap.held import Row
from services.cli.views.conversations import Tellers
from services.cli.views.flow_columns import FLOW_COLUMNS, FlowColumn, time_cell
from services.cli.views.flow_line import flow_line
from services.cli.views.flow_view import FlowView, flow_view
from services.cli.views.json_line import json_line
from services.cli.views.printable import printable

Format: TypeAlias = Literal["compact", "table", "json", "dict"]


class _Console(Console):
    """Standard output, whose reader may go: rich would end the program from wherever it is, within a loop of events."""

    def on_broken_pipe(self) -> None:
        """Keep the interpreter from writing what is left, and say it to whoever prints."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise NobodyReadsError


class Printer:
    """Prints records on standard output as they come."""

    def __init__(self, form: Format, *, numeric: bool = False) -> None:
        self._form = form
        self._numeric = numeric
        self._console = _Console(highlight=False, soft_wrap=True)
        self._tellers = Tellers()
        self._time_width = 0
        """Of the table's first column; 0: it has no head yet."""

    def show(self, records: Iterable[tuple[Row, Row]]) -> None:
        """Print records, each as it was given and with every column."""
        for given, row in records:
            if self._form == "json":
                self._console.out(json_line(given), highlight=False)
                continue
            view = flow_view(row, numeric=self._numeric)
            match self._form:
                case "compact":
                    self._console.print(flow_line(view, again=self._tellers.heard_from_other_end(view)))
                case "table":
                    self._show_row(view)
                case "dict":
                    self._show_dict(view, given)

    def _show_row(self, view: FlowView) -> None:
        if not self._time_width:
            self._time_width = len(time_cell(view))
            headings = (f"{column.heading:<{self._width(column)}}" for column in FLOW_COLUMNS)
            self._console.print(Text("  ".join(headings).rstrip(), style="bold"))
        cells = [Text(f"{column.cell(view):<{self._width(column)}}", style=column.style(view)) for column in FLOW_COLUMNS]
        line = Text("  ").join(cells)
        line.rstrip()
        self._console.print(line)

    def _width(self, column: FlowColumn) -> int:
        """A time may have a date; the first one decides on all."""
        return max(column.width, self._time_width) if column.cell is time_cell else column.width

    def _show_dict(self, view: FlowView, given: Row) -> None:
        """Everything that is known: what is 0, empty or unknown is left out. A ruled line ends the record."""
        known = {"time": time_cell(view), "source": str(view.source), "destination": str(view.destination)} | dict(_flat(given))
        width = max(map(len, known))
        for name, value in known.items():
            self._console.print(Text(f"{printable(name):>{width}}: {printable(str(value))}"))
        self._console.print(Text("-" * (width + 1), style="dim"))


def _flat(row: Row, prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif value not in (None, 0, "", "unknown", "none") and value != [0] * (len(value) if isinstance(value, list) else 0):
            flat.append((f"{prefix}{name}", value))
    return flat
