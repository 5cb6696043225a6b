"""A list of conversations of which only what is visible is drawn, with one row chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.table import Table
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from services.cli.screen.pairs import Order
from services.cli.views.conversation_table import rows_table
from services.cli.views.conversations import Conversation

_WHEEL: Final = 3
"""Rows that one step of a mouse's wheel is."""


class RowsView(Widget, can_focus=True):
    """The list. What is chosen stays so, wherever it goes in the order; the first row is, as long as nobody has moved."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "to(0)", show=False),
        Binding("end,G", "to(-1)", show=False),
        Binding("enter", "open", "look into"),
    ]

    class Chosen(Message):
        """Another row is chosen."""

    class Opened(Message):
        """The chosen row is to be looked into."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._order = order
        self._rows: Sequence[Conversation] = ()
        self._at = 0
        self._first = 0
        self._moved = False
        self._drawn: tuple[object, ...] = ()

    @property
    def place(self) -> int | None:
        """Which row is chosen."""
        return self._at if self._rows else None

    def show(self, rows: Sequence[Conversation]) -> None:
        """Show these. Nothing is drawn where nothing that is visible is another."""
        before = self._rows[self._at] if self._moved and self._rows else None
        self._rows = rows
        if before is not None:
            # Of a connection only the source tells it from others, of a pair all of its key.
            self._at = next((at for at, each in enumerate(rows) if each.key == before.key), self._at)
        self._settle()

    def render(self) -> Table:
        """Return what is visible."""
        visible = self._rows[self._first : self._first + self._room]
        chosen = self._at - self._first if self.has_focus else None
        return rows_table(self._order.columns, visible, width=self.size.width, marks=self._order.marks, chosen=chosen)

    def action_move(self, by: int) -> None:
        """Choose another row."""
        self._choose(self._at + by)

    def action_page(self, by: int) -> None:
        """Choose a row a screen further."""
        self._choose(self._at + by * max(self._room - 1, 1))

    def action_to(self, place: int) -> None:
        """Choose the first row, or the last; the first stays chosen whatever comes there."""
        self._choose(place if place >= 0 else len(self._rows) - 1)
        self._moved = place < 0

    def action_open(self) -> None:
        """Look into the chosen row."""
        if self._rows:
            self.post_message(self.Opened())

    def on_resize(self) -> None:
        """Keep what is chosen visible."""
        self._settle()

    def on_click(self, event: events.Click) -> None:
        """Choose a row; look into it where it is chosen already."""
        place = self._first + event.y - self._head
        if event.y < self._head or place >= len(self._rows):
            return
        if place == self._at:
            self.action_open()
        self._choose(place)

    def on_mouse_scroll_down(self) -> None:
        """Go on."""
        self.action_move(_WHEEL)

    def on_mouse_scroll_up(self) -> None:
        """Go back."""
        self.action_move(-_WHEEL)

    @property
    def _head(self) -> int:
        """Lines of the table's head and the rule below it."""
        return 3

    @property
    def _room(self) -> int:
        return max(self.size.height - self._head, 1)

    def _choose(self, place: int) -> None:
        self._at, self._moved = place, True
        self._settle()

    def _settle(self) -> None:
        """Bring what is chosen into the list, and the list to where that is visible."""
        self._at = max(min(self._at, len(self._rows) - 1), 0)
        self._first = max(min(self._first, self._at, len(self._rows) - self._room), self._at - self._room + 1, 0)
        visible = tuple(self._rows[self._first : self._first + self._room])
        drawn = (self._at, self._first, self.size, visible, self._order.said)
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh()
            self.post_message(self.Chosen())
