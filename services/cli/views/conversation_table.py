"""Conversations as a table, on a screen or in a file: what a person should understand at first sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli.views import units
from services.cli.views.conversations import SLOW_NS, Conversation
from services.cli.views.flow_line import OUTCOME_STYLES

_ROWS_AROUND: Final = 8
"""Lines of the screen that are not rows of the table: its head, its frame, totals, notes."""
_SOURCE: Final = "source"
_DESTINATION: Final = "destination"
_OUTCOME: Final = "outcome"
_PROTOCOL: Final = "protocol"
_NAMES: Final = (_SOURCE, _DESTINATION)
_SHARED: Final = (*_NAMES, _OUTCOME)
_MOST_OF_PROTOCOL: Final = 16
_BETWEEN: Final = 3
"""Cells that the table's style puts between two columns."""
_OUTCOMES: Final = tuple(reversed(OUTCOME_STYLES))
"""In the order in which they are shown: what went wrong first."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, the narrowest screen it is shown on, what it shows, what rows are ordered by, and how it shares
    the room.
    """

    heading: str
    screen: int
    cell: Callable[[Conversation], str | Text]
    order: Callable[[Conversation], Any]
    """Numbers have the largest first."""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The heading on one line."""
        return self.heading.replace("\n", " ")


def conversation_table(
    conversations: Sequence[Conversation],
    *,
    width: int | None,
    height: int | None,
    notes: Sequence[Text],
    of: str = "last minute",
) -> Group:
    """Return the table in at most `height` lines, with totals and `notes` below it. A narrow screen has fewer columns.

    Without a height it has all lines, without a width all columns, and nothing is cut: that is for a file. `of` says what the
    totals are of.
    """
    room = len(conversations) if height is None else max(height - _ROWS_AROUND - len(notes), 1)
    table = rows_table(PAIR_COLUMNS, conversations[:room], width=width, edge=True)
    return Group(table, totals(conversations, of, hidden=max(len(conversations) - room, 0)), *notes)


def rows_table(
    columns: Sequence[Column],
    conversations: Sequence[Conversation],
    *,
    width: int | None,
    edge: bool = False,
    marks: Mapping[str, str] | None = None,
    chosen: int | None = None,
) -> Table:
    """Return a table of these and nothing else, as wide as the screen where it has a width. `marks` stand behind headings;
    `chosen` is the row that is lit up.
    """
    shown = [column for column in columns if width is None or width >= column.screen]
    headings = [f"{column.heading}{(marks or {}).get(column.name, '')}" for column in shown]
    rows = [[column.cell(each) for column in shown] for each in conversations]
    widths = _widths(shown, headings, rows, width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=edge)
    for column, heading, cell_width in zip(shown, headings, widths, strict=True):
        table.add_column(Text(heading), no_wrap=True, overflow="ellipsis", width=cell_width, **column.options)
    for number, row in enumerate(rows):
        cells = (
            shortened(str(cell), room) if column.heading in _NAMES else cell
            for column, cell, room in zip(shown, row, widths, strict=True)
        )
        table.add_row(*cells, style="reverse" if number == chosen else "")
    return table


def shortened(name: str, width: int) -> Text:
    """Return a name in so many cells: of one that is too long its beginning and its end, where the port is."""
    if cell_len(name) <= width:
        return Text(name)
    end = (width - 1) // 2
    return Text(f"{set_cell_size(name, width - 1 - end)}…{set_cell_size(name[::-1], end)[::-1]}")


def words(each: Conversation) -> dict[str, str]:
    """Return what the table shows of a conversation, by heading, where there is room for all."""
    return {column.name: str(column.cell(each)) for column in PAIR_COLUMNS}


def _widths(
    shown: Sequence[Column], headings: Sequence[str], rows: Sequence[Sequence[str | Text]], screen: int | None
) -> list[int]:
    """Return how wide each column is: numbers as they are, and what they leave shared by names and outcomes.

    Nothing is cut while there is room. Outcomes are cut only where they would take more than a third of what is shared.
    """
    natural = {
        column.heading: max([*map(cell_len, heading.split("\n")), *(cell_len(str(row[at])) for row in rows)])
        for at, (column, heading) in enumerate(zip(shown, headings, strict=True))
    }
    if screen is None:
        return list(natural.values())
    natural |= {_PROTOCOL: min(natural[_PROTOCOL], _MOST_OF_PROTOCOL)} if _PROTOCOL in natural else {}
    left = screen - _BETWEEN * len(shown) + 1 - sum(natural[name] for name in natural if name not in _SHARED)
    source, destination, outcome = (natural.get(name, 0) for name in _SHARED)
    natural[_OUTCOME] = min(outcome, max(left // 3, left - source - destination))
    names = left - natural[_OUTCOME]
    natural[_SOURCE] = min(source, max(names - destination, names * 4 // 9)) if destination else names
    if destination:
        natural[_DESTINATION] = names - natural[_SOURCE]
    return [max(width, 1) for width in natural.values()]


def _outcomes(each: Conversation) -> Text:
    """The outcomes and what else was wrong, with how often each came; the number is left out where there is only one flow."""
    said = [(outcome, each.outcomes[outcome], OUTCOME_STYLES[outcome]) for outcome in _OUTCOMES if each.outcomes[outcome]]
    said += [(verdict, flows, "yellow") for verdict, flows in each.verdicts.most_common() if verdict not in each.outcomes]
    shown = Text(", ").join(Text(word if each.flows == 1 else f"{flows} {word}", style=style) for word, flows, style in said)
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


def _longest(longest_ns: int, number: int) -> Text:
    if not number:
        return Text("-", style="dim")
    return Text(units.duration(longest_ns), style="yellow" if longest_ns >= SLOW_NS else "")


def totals(conversations: Sequence[Conversation], of: str, *, hidden: int = 0) -> Text:
    """Return what these are in all, in a line."""
    if not conversations:
        return Text("no records yet: a connection is shown when it has ended, a long one now and then before", style="dim")
    failures = sum(each.failures for each in conversations)
    retransmits = sum(each.retransmits for each in conversations)
    line = Text(
        f"{of}: {units.counted(sum(each.flows for each in conversations), 'flow')}",
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


def _mean_ns(each: Conversation) -> int:
    return each.response_sum_ns // each.responses if each.responses else 0


_RIGHT: Final[Mapping[str, Any]] = {"justify": "right"}
_source: Final = Column(_SOURCE, 0, lambda each: Text(each.source), lambda each: each.source)
_outcome: Final = Column(_OUTCOME, 0, _outcomes, lambda each: (each.failures, sum(each.verdicts.values())))
_measured: Final = (
    Column("sent", 120, lambda each: units.byte_count(each.bytes_out), lambda each: each.bytes_out, _RIGHT),
    Column("received", 120, lambda each: units.byte_count(each.bytes_in), lambda each: each.bytes_in, _RIGHT),
    Column(
        "max\nconnect", 80, lambda each: _longest(each.connect_max_ns, each.connects), lambda each: each.connect_max_ns, _RIGHT
    ),
    Column(
        "max\nresponse",
        0,
        lambda each: _longest(each.response_max_ns, each.responses),
        lambda each: each.response_max_ns,
        _RIGHT,
    ),
    Column("mean\nresponse", 150, lambda each: _mean(each.response_sum_ns, each.responses), _mean_ns, _RIGHT),
    Column("resent", 70, _resent, lambda each: each.retransmits, _RIGHT),
)
PAIR_COLUMNS: Final = (
    _source,
    Column(_DESTINATION, 0, lambda each: Text(_destination(each)), lambda each: (each.destination, each.port)),
    Column(_PROTOCOL, 130, lambda each: each.transport, lambda each: each.transport),
    Column("flows", 90, lambda each: units.count(each.flows), lambda each: each.flows, _RIGHT),
    _outcome,
    *_measured,
)
CONNECTION_COLUMNS: Final = (
    Column("time", 0, lambda each: Text(units.moment(each.last_unix_ns)), lambda each: each.last_unix_ns),
    _source,
    _outcome,
    *_measured,
)
"""Of one pair, whose destination is the same in all rows."""
