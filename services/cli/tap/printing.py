"""How records are printed: a line each, rows of a table, JSON lines, or everything that is known of each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from rich.console import Console
from rich.text import Text

from services.cli.errors import NobodyReadsError
from services.cli.tap.held import Row
from services.cli.views import units
from services.cli.views.conversations import Tellers
from services.cli.views.flow_line import OUTCOME_STYLES, flow_line
from services.cli.views.flow_view import FlowView, flow_view
from services.cli.views.json_line import json_line
from services.cli.views.printable import printable

_TIME_OF_DAY: Final = 12

Format: TypeAlias = Literal["compact", "table", "json", "dict"]


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    width: int
    """What is wider pushes the rest to the right: a name is never cut."""
    cell: Callable[[FlowView], str]
    style: Callable[[FlowView], str] = lambda _: ""


def _time(view: FlowView) -> str:
    return units.moment(view.end_unix_ns)


def _seen_by(view: FlowView) -> str:
    if view.captured:
        return "capture"
    return ("client" if view.local_is_source else "server") if view.directed else "-"


_COLUMNS: Final = (
    _Column("TIME", _TIME_OF_DAY, _time),
    _Column("SOURCE", 34, lambda view: str(view.source)),
    _Column("DESTINATION", 34, lambda view: str(view.destination)),
    _Column("PROTOCOL", 8, lambda view: view.transport),
    _Column("OUTCOME", 11, lambda view: view.outcome or "-", lambda view: OUTCOME_STYLES.get(view.outcome, "")),
    _Column("VERDICT", 15, lambda view: view.verdict or "-", lambda view: "yellow" if view.verdict_measure else ""),
    _Column("SENT", 8, lambda view: units.byte_count(view.bytes_out)),
    _Column("RECEIVED", 8, lambda view: units.byte_count(view.bytes_in)),
    _Column("CONNECT", 7, lambda view: "-" if view.connect_ns is None else units.duration(view.connect_ns)),
    _Column("MAX RESPONSE", 12, lambda view: units.duration(view.response_max_ns) if view.responses else "-"),
    _Column("MEAN", 7, lambda view: units.duration(view.response_sum_ns // view.responses) if view.responses else "-"),
    _Column("RESENT", 6, lambda view: units.count(view.retransmits + view.syn_repeats)),
    _Column("SEEN BY", 7, _seen_by),
)


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
            self._time_width = len(_time(view))
            headings = (f"{column.heading:<{self._width(column)}}" for column in _COLUMNS)
            self._console.print(Text("  ".join(headings).rstrip(), style="bold"))
        cells = [Text(f"{column.cell(view):<{self._width(column)}}", style=column.style(view)) for column in _COLUMNS]
        line = Text("  ").join(cells)
        line.rstrip()
        self._console.print(line)

    def _width(self, column: _Column) -> int:
        """A time may have a date; the first one decides on all."""
        return max(column.width, self._time_width) if column.cell is _time else column.width

    def _show_dict(self, view: FlowView, given: Row) -> None:
        """Everything that is known: what is 0, empty or unknown is left out. A ruled line ends the record."""
        known = {"time": _time(view), "source": str(view.source), "destination": str(view.destination)} | dict(_flat(given))
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
