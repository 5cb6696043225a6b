"""Lists of rows with what there is to say of the chosen one below: the pairs, and the connections of one pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.suggester import Suggester
from textual.widgets import Footer, Input, Static

from services.cli.screen.pages import ConnectionScreen
from services.cli.screen.pairs import Order, Pairs, Row
from services.cli.screen.rows_view import RowsView
from services.cli.view.asked import QuestionError
from services.cli.view.asked import words as filters
from services.cli.views.conversation_table import totals, words
from services.cli.views.conversations import Conversation, Key
from services.cli.views.printable import printable


class _OfFilters(Suggester):
    """Completes the last word, where it is the beginning of a filter's name."""

    def __init__(self) -> None:
        super().__init__(case_sensitive=True)
        self._words = [*filters(), "not"]

    async def get_suggestion(self, value: str) -> str | None:
        before, space, last = value.rpartition(" ")
        last = last.removeprefix("--")
        found = next((word for word in self._words if word.startswith(last)), None) if last else None
        return f"{before}{space}{found}" if found and not value.rpartition(" ")[2].startswith("--") else None


class Rows(Screen[None]):
    """A list of rows with what there is to say of the chosen one below it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "order(1)", "order"),
        Binding("S", "order(-1)", show=False),
        Binding("r", "turn", show=False),
    ]

    def __init__(self, pairs: Pairs, order: Order) -> None:
        super().__init__()
        self._pairs = pairs
        self._order = order
        self._head = Static(id="head")
        self._view = RowsView(order)
        self._detail = Static(id="detail")
        self._totals = Static(id="totals")

    def compose(self) -> ComposeResult:
        """Put them below each other."""
        yield self._head
        yield self._view
        yield self._detail
        yield self._totals
        yield Footer()

    def on_mount(self) -> None:
        """Show what there is."""
        self._view.focus()
        self.look()

    def on_screen_resume(self) -> None:
        """Show what there is now."""
        self.look()

    def look(self) -> None:
        """Show what there is now."""
        raise NotImplementedError

    def action_order(self, by: int) -> None:
        """Order by another column."""
        self._order.step(by)
        self.look()

    def action_turn(self) -> None:
        """Turn the order round."""
        self._order.turn()
        self.look()

    def show(self, rows: Sequence[Conversation], head: Text, below: Text) -> None:
        """Show rows, what they are, and what they are in all."""
        if self._pairs.paused:
            head = Text("paused  ", style="bold yellow", no_wrap=True, overflow="ellipsis").append_text(head)
        head.append(f"  {self._order.said}", style="dim")
        self._view.show(rows)
        _put(self._head, head)
        _put(self._detail, self.details())
        _put(self._totals, below)

    def on_rows_view_chosen(self) -> None:
        """Say more of the row."""
        _put(self._detail, self.details())

    def details(self) -> Text:
        """Return all that is known of the chosen row, where the table has no room for it."""
        chosen = self.chosen
        if chosen is None:
            return Text()
        said = words(chosen)
        line = Text.assemble((f"{said.pop('source')} -> {said.pop('destination')}", "bold"), f"  {said.pop('protocol')}  ")
        line.append(f"{said.pop('outcome')}")
        for name, value in said.items():
            line.append(f"  {name} ", style="dim")
            line.append(value)
        return line

    @property
    def chosen(self) -> Conversation | None:
        """The chosen row."""
        raise NotImplementedError


class PairsScreen(Rows):
    """Who talks to whom."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Before the table sees it: keys behind it that came in one piece with it are the search's.
        Binding("slash", "search", "search", key_display="/", priority=True),
        Binding("escape", "leave", show=False),
    ]

    def __init__(self, pairs: Pairs, said: str, notes: Callable[[], Sequence[Text]]) -> None:
        super().__init__(pairs, pairs.order)
        self._said = said
        self._notes = notes
        self._search = Input(placeholder="to-service redis slower-than 100ms not port 53", suggester=_OfFilters(), compact=True)
        self._error = Static(id="error")
        self._error.display = False
        self._shown: Sequence[Conversation] = ()

    def compose(self) -> ComposeResult:
        """Put the search above the keys."""
        *above, footer = super().compose()
        yield from above
        yield self._error
        yield self._search
        yield footer

    def look(self) -> None:
        """Show the pairs."""
        self._shown = self._pairs.rows
        head = Text(self._said, style="bold", no_wrap=True, overflow="ellipsis")
        if self._pairs.search:
            head = Text.assemble(("search: ", "bold"), (printable(self._pairs.search), "bold cyan"))
        below = Text("\n").join((totals(self._shown, self._pairs.of), *self._notes()))
        self.show(self._shown, head, below)

    @property
    def chosen(self) -> Conversation | None:
        """The chosen pair."""
        place = self._view.place
        return None if place is None or place >= len(self._shown) else self._shown[place]

    def on_rows_view_opened(self) -> None:
        """Look into the pair."""
        if self.chosen is not None:
            self.app.push_screen(PairScreen(self._pairs, self.chosen.key))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the key to the search where that is open: `/` is in the names of workloads."""
        return super().check_action(action, parameters) and (action != "search" or self.focused is not self._search)

    def action_search(self) -> None:
        """Ask for a search."""
        self._search.value = self._pairs.search
        self._search.display = True
        self.set_focus(self._search)

    def action_leave(self) -> None:
        """Leave the search as it was."""
        self._search.display = False
        _put(self._error, Text())
        self._view.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Search; what cannot be searched is said, and can be mended."""
        try:
            self._pairs.find(event.value)
        except QuestionError as error:
            _put(self._error, Text(printable(str(error)), style="red"))
            return
        self.action_leave()
        self.look()


class PairScreen(Rows):
    """The connections of one pair."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,backspace", "app.pop_screen", "back")]

    def __init__(self, pairs: Pairs, key: Key) -> None:
        super().__init__(pairs, pairs.order_of_connections)
        self._key = key
        self._shown: Sequence[Row] = ()

    def look(self) -> None:
        """Show the connections."""
        source, destination, port, transport = self._key
        self._shown = self._pairs.connections(self._key)
        at = f":{port}" if port else ""
        head = Text(f"{source} -> {destination}{at}  {transport}", style="bold")
        rows = [row.shown for row in self._shown]
        self.show(rows, head, totals(rows, self._pairs.of))

    @property
    def chosen(self) -> Conversation | None:
        """The chosen connection."""
        row = self._row
        return None if row is None else row.shown

    @property
    def _row(self) -> Row | None:
        place = self._view.place
        return None if place is None or place >= len(self._shown) else self._shown[place]

    def on_rows_view_opened(self) -> None:
        """Look into the connection."""
        if self._row is not None:
            self.app.push_screen(ConnectionScreen(self._pairs, self._row))


def _put(where: Static, text: Text) -> None:
    """Show a text, where it is another than what is shown."""
    if where.content != text:
        where.update(text)
        where.display = bool(text)
