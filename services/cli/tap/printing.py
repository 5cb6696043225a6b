"""How records are printed: a line each, rows of a table, JSON lines, or everything that is known of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from rich.console import Console
from rich.text import Text

from proto.flow_batch import FlowBatch
from proto.rows import rows
from services.cli.views import units
from services.cli.views.conversations import Tellers
from services.cli.views.flow_line import OUTCOME_STYLES, flow_line
from services.cli.views.flow_view import FlowView, flow_view, flow_views, printable

Format: TypeAlias = Literal["compact", "table", "json", "dict"]


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    width: int
    """What is wider pushes the rest to the right: a name is never cut."""
    cell: Callable[[FlowView], str]
    style: Callable[[FlowView], str] = lambda _: ""


def _time(view: FlowView) -> str:
    at = datetime.fromtimestamp(view.end_unix_ns / 1e9).astimezone()
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"


def _seen_by(view: FlowView) -> str:
    if view.captured:
        return "capture"
    return ("client" if view.local_is_source else "server") if view.directed else "-"


_COLUMNS: Final = (
    _Column("TIME", 12, _time),
    _Column("SOURCE", 34, lambda view: str(view.source)),
    _Column("DESTINATION", 34, lambda view: str(view.destination)),
    _Column("PROTOCOL", 8, lambda view: view.transport),
    _Column("OUTCOME", 11, lambda view: view.outcome or "-", lambda view: OUTCOME_STYLES.get(view.outcome, "")),
    _Column("SENT", 8, lambda view: units.byte_count(view.bytes_out)),
    _Column("RECEIVED", 8, lambda view: units.byte_count(view.bytes_in)),
    _Column("CONNECT", 7, lambda view: "-" if view.connect_ns is None else units.duration(view.connect_ns)),
    _Column("RESPONSE", 8, lambda view: units.duration(view.response_max_ns) if view.responses else "-"),
    _Column("RESENT", 6, lambda view: units.count(view.retransmits + view.syn_repeats)),
    _Column("SEEN BY", 7, _seen_by),
)


class Printer:
    """Prints records on standard output as they come."""

    def __init__(self, form: Format, *, numeric: bool = False) -> None:
        self._form = form
        self._numeric = numeric
        self._console = Console(highlight=False, soft_wrap=True)
        self._tellers = Tellers()
        self._headed = False

    def show(self, batch: FlowBatch) -> None:
        """Print every record of the batch."""
        match self._form:
            case "compact":
                show_batch(batch, self._console, self._tellers, numeric=self._numeric)
            case "table":
                self._show_rows(batch)
            case "json":
                for row in rows(batch):
                    self._console.out(json.dumps(row, ensure_ascii=False, separators=(",", ":")), highlight=False)
            case "dict":
                for row in rows(batch):
                    self._show_dict(row)

    def _show_rows(self, batch: FlowBatch) -> None:
        if not self._headed:
            self._console.print(
                Text("  ".join(f"{column.heading:<{column.width}}" for column in _COLUMNS).rstrip(), style="bold")
            )
            self._headed = True
        for view in flow_views(batch, numeric=self._numeric):
            cells = [Text(f"{column.cell(view):<{column.width}}", style=column.style(view)) for column in _COLUMNS]
            line = Text("  ").join(cells)
            line.rstrip()
            self._console.print(line)

    def _show_dict(self, row: Mapping[str, Any]) -> None:
        """Everything that is known: what is 0, empty or unknown is left out. A ruled line ends the record."""
        view = flow_view(row, numeric=self._numeric)
        known = {"time": _time(view), "source": str(view.source), "destination": str(view.destination)} | dict(_flat(row))
        width = max(map(len, known))
        for name, value in known.items():
            self._console.print(Text(f"{name:>{width}}: {printable(str(value))}"))
        self._console.print(Text("-" * (width + 1), style="dim"))


def show_batch(batch: FlowBatch, console: Console, tellers: Tellers, *, numeric: bool = False) -> None:
    """Print every record of a batch as one line; what `tellers` heard from the other end of a connection is said to be so."""
    for view in flow_views(batch, numeric=numeric):
        console.print(flow_line(view, again=tellers.heard_from_other_end(view)))


def _flat(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        elif value not in (None, 0, "", "unknown", "none") and value != [0] * (len(value) if isinstance(value, list) else 0):
            flat.append((f"{prefix}{name}", value))
    return flat
