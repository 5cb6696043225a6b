"""The screens: the pairs, the connections of one, what there is to say of one of those, and help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.driver import Driver
from textual.screen import Screen
from textual.suggester import Suggester
from textual.widgets import Footer, Input, Static

from services.cli.explain.shown import lines
from services.cli.screen.pairs import Order, Pairs, Row
from services.cli.screen.rows_view import RowsView
from services.cli.view.asked import QuestionError
from services.cli.view.asked import words as filters
from services.cli.views.conversation_table import totals, words
from services.cli.views.conversations import Conversation, Key
from services.cli.views.flow_line import flow_line
from services.cli.views.printable import printable
from services.runtime.redaction import redacted

_REFRESH_SECONDS: Final = 0.5
_SHARE: Final = 10
"""A look may take one part in so many of the time: where there is much to sum up, the screen is drawn less often ..."""
_SELDOM_SECONDS: Final = 3.0
"""... but not less often than that."""

HELP: Final = """\
Who talks to whom, of connections that ended in the last minute, and long ones now and then before; troubles first.

  arrows, j k, PgUp PgDn, g G    choose a row; also the mouse
  Enter                          look into it: a pair's connections, then what `wirespan explain` says of one
  Esc                            back
  /                              search, by the filters of `wirespan tap`, whose dashes may be left out (Tab completes):
                                   failed · to-service redis slower-than 100ms · not port 53 · namespace shop
                                   Values of one filter are alternatives, different filters must all hold. Nothing: all.
  s S                            order by the next column, or the one before; the first order is troubles first
  r                              turn the order round
  p, Space                       pause, and go on
  q, Ctrl-C                      end: what is under way arrives, then the account of the run is printed
"""


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


class _Rows(Screen[None]):
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


class PairsScreen(_Rows):
    """Who talks to whom."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "search", key_display="/"),
        Binding("escape", "leave", show=False),
    ]

    def __init__(self, pairs: Pairs, said: str) -> None:
        super().__init__(pairs, pairs.order)
        self._said = said
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
        below = totals(self._shown, self._pairs.of)
        for note in self.app.notes if isinstance(self.app, LiveScreen) else ():
            below.append("\n").append_text(note)
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

    def action_search(self) -> None:
        """Ask for a search."""
        self._search.value = self._pairs.search
        self._search.display = True
        self._search.focus()

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


class PairScreen(_Rows):
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


class _Page(Screen[None]):
    """A text that may be longer than the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,backspace", "app.pop_screen", "back")]

    def __init__(self) -> None:
        super().__init__()
        self._text = Static()

    def compose(self) -> ComposeResult:
        """Show the text."""
        with VerticalScroll():
            yield self._text
        yield Footer()

    def on_mount(self) -> None:
        """Show what there is."""
        self.look()
        self.query_one(VerticalScroll).focus()

    def look(self) -> None:
        """Show what there is now."""
        raise NotImplementedError


class ConnectionScreen(_Page):
    """What there is to say of one connection, and its requests."""

    def __init__(self, pairs: Pairs, row: Row) -> None:
        super().__init__()
        self._pairs = pairs
        self._row = row
        self._records = 0

    def look(self) -> None:
        """Say it anew where more has been told of it."""
        records = len(self._row.told.views)
        if self._records == records:
            return
        self._records = records
        said = self._pairs.explained(self._row.told)
        text = [Text("nothing of this connection is kept any more")] if said is None else list(lines(said))
        requests = self._pairs.requests(self._row.told)
        if requests:
            text += [Text(), Text("requests and questions on it, the latest last", style="bold"), *map(flow_line, requests)]
        _put(self._text, Text("\n").join(text))


class HelpScreen(_Page):
    """The keys, and what the command said before the screen was there."""

    def __init__(self, said: Sequence[str]) -> None:
        super().__init__()
        self._said = said

    def look(self) -> None:
        """Show them."""
        _put(self._text, Text("\n".join((HELP, *self._said))))


class LiveScreen(App[None]):
    """The terminal while it is ours. `said` is what was said before, the first line what is looked at."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #detail, #totals, #error, Input { height: auto; max-height: 4; }
    #detail { border-top: solid $surface; max-height: 4; }
    RowsView { height: 1fr; }
    Input { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p,space", "pause", "pause"),
        Binding("question_mark,f1", "help", "help", key_display="?"),
        Binding("q", "quit", "end"),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
    ]

    def __init__(self, pairs: Pairs, said: Sequence[str], *, driver_class: type[Driver] | None = None) -> None:
        super().__init__(driver_class=driver_class)
        self.pairs = pairs
        self.notes: Sequence[Text] = ()
        """What stands below the totals."""
        self.printed: list[str] = []
        """What others printed meanwhile, who know of no screen."""
        self._said = said

    def get_default_screen(self) -> Screen[None]:
        """Begin with the pairs."""
        return PairsScreen(self.pairs, self._said[0])

    def on_mount(self) -> None:
        """Look, and go on looking."""
        # Textual has a factory of its own for the tasks of the whole program, in which others are at work.
        asyncio.get_running_loop().set_task_factory(None)
        self.theme = "ansi-dark"  # the terminal's own colours
        self.begin_capture_print(self)
        self._look()

    def on_print(self, event: events.Print) -> None:
        """Keep what is printed: it is said once the terminal is given back."""
        if event.text.strip():
            self.printed.append(redacted(event.text.strip()))

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self.pairs.paused = not self.pairs.paused
        self._show()

    def action_help(self) -> None:
        """Show the keys."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self._said))

    @property
    def failure(self) -> Exception | None:
        """What ended it, where nobody did."""
        return self._exception

    def _fatal_error(self) -> None:
        """End it. Textual would print a traceback here with the values of all variables, whatever they hold."""
        self._close_messages_no_wait()

    def _look(self) -> None:
        if self._exit:
            return
        begun = time.monotonic()
        self.pairs.hear(begun, lambda: time.monotonic() - begun > _REFRESH_SECONDS / 2)
        heard = time.thread_time()
        self.pairs.look()
        self._show()
        taken = time.thread_time() - heard
        self.set_timer(min(max(_REFRESH_SECONDS, _SHARE * taken), _SELDOM_SECONDS), self._look)

    def _show(self) -> None:
        shown = self.screen_stack[-1:]  # none, where it is about to end
        if shown and isinstance(shown[0], _Rows | _Page):
            shown[0].look()


def _put(where: Static, text: Text) -> None:
    """Show a text, where it is another than what is shown."""
    if where.content != text:
        where.update(text)
        where.display = bool(text)
