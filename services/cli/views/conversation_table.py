"""The live table of `wirespan up`: what a person should understand at first sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli.views import units
from services.cli.views.conversations import Conversation
from services.cli.views.flow_line import OUTCOME_STYLES

_ROWS_AROUND: Final = 7
"""Lines of the screen that are not rows of the table: its head, its frame, totals, notes."""
_OUTCOMES: Final = tuple(reversed(OUTCOME_STYLES))
"""In the order in which they are shown: what went wrong first."""
_SLOW_NS: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its heading, the narrowest screen it is shown on, what it shows, and how it shares the room."""

    heading: str
    screen: int
    cell: Callable[[Conversation], str | Text]
    options: Mapping[str, Any]


def conversation_table(conversations: Sequence[Conversation], *, width: int, height: int, notes: Sequence[Text]) -> Group:
    """Return the table in at most `height` lines, with totals and `notes` below it. A narrow screen has fewer columns."""
    room = max(height - _ROWS_AROUND - len(notes), 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    shown = [column for column in _COLUMNS if width >= column.screen]
    for column in shown:
        table.add_column(column.heading, no_wrap=True, overflow="ellipsis", **column.options)
    for each in conversations[:room]:
        table.add_row(*(column.cell(each) for column in shown))
    return Group(table, _totals(conversations, hidden=max(len(conversations) - room, 0)), *notes)


def _outcomes(each: Conversation) -> Text:
    """The outcomes with how often each came; the number is left out where there is only one flow."""
    shown = Text(", ").join(
        Text(outcome if each.flows == 1 else f"{each.outcomes[outcome]} {outcome}", style=OUTCOME_STYLES[outcome])
        for outcome in _OUTCOMES
        if each.outcomes[outcome]
    )
    return shown or Text("-", style="dim")


def _destination(each: Conversation) -> str:
    """Name and port; an IPv6 address in brackets."""
    if not each.port:
        return each.destination
    name = f"[{each.destination}]" if ":" in each.destination else each.destination
    return f"{name}:{each.port}"


def _resent(each: Conversation) -> Text:
    return Text(units.count(each.retransmits), style="yellow") if each.retransmits else Text("-", style="dim")


def _mean(total_ns: int, number: int) -> Text:
    return Text(units.duration(total_ns // number)) if number else Text("-", style="dim")


def _slowest(each: Conversation) -> Text:
    """The longest response time, in colour from a tenth of a second: that is what a person feels."""
    if not each.responses:
        return Text("-", style="dim")
    return Text(units.duration(each.response_max_ns), style="yellow" if each.response_max_ns >= _SLOW_NS else "")


def _totals(conversations: Sequence[Conversation], *, hidden: int) -> Text:
    if not conversations:
        return Text("no records yet: a connection is shown when it has ended, a long one now and then before", style="dim")
    failures = sum(each.failures for each in conversations)
    retransmits = sum(each.retransmits for each in conversations)
    line = Text(
        f"last minute: {units.counted(sum(each.flows for each in conversations), 'flow')}",
        style="bold",
        no_wrap=True,
        overflow="ellipsis",
    )
    line.append(f", {units.byte_count(sum(each.bytes_out + each.bytes_in for each in conversations))}")
    line.append(f", {units.count(failures)} failed", style="red" if failures else "green")
    line.append(f", {units.count(retransmits)} resent", style="yellow" if retransmits else "green")
    if hidden:
        line.append(f"  +{units.counted(hidden, 'line')}", style="dim")
    return line


_RIGHT: Final[Mapping[str, Any]] = {"justify": "right"}
_COLUMNS: Final = (
    _Column("source", 0, lambda each: Text(each.source), {"ratio": 4}),
    _Column("destination", 0, lambda each: Text(_destination(each)), {"ratio": 5}),
    _Column("protocol", 120, lambda each: each.transport, {"max_width": 16}),
    _Column("flows", 90, lambda each: units.count(each.flows), _RIGHT),
    _Column("outcome", 0, _outcomes, {"ratio": 3, "min_width": 13}),
    _Column("sent", 100, lambda each: units.byte_count(each.bytes_out), _RIGHT),
    _Column("received", 100, lambda each: units.byte_count(each.bytes_in), _RIGHT),
    _Column("connect", 80, lambda each: _mean(each.connect_sum_ns, each.connects), _RIGHT),
    _Column("response", 0, lambda each: _mean(each.response_sum_ns, each.responses), _RIGHT),
    _Column("slowest", 110, _slowest, _RIGHT),
    _Column("resent", 70, _resent, _RIGHT),
)
