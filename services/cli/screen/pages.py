"""Texts that may be longer than the screen: what there is to say of one connection, and help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from services.cli.explain.shown import ends, lines
from services.cli.screen.pairs import Pairs, Row
from services.cli.views.flow_line import flow_line

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


class Page(Screen[None]):
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


class ConnectionScreen(Page):
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
        text = [Text("nothing of this connection is kept any more")] if said is None else [*lines(said), Text(), *ends(said)]
        requests = self._pairs.requests(self._row.told)
        if requests:
            text += [Text(), Text("requests and questions on it, the latest last", style="bold"), *map(flow_line, requests)]
        self._text.update(Text("\n").join(text))


class HelpScreen(Page):
    """The keys, and what people have been told."""

    def __init__(self, told: Sequence[str]) -> None:
        super().__init__()
        self._told = told

    def look(self) -> None:
        """Show them."""
        self._text.update(Text("\n".join((HELP, *self._told))))
