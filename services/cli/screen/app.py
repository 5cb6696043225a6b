"""The program that has the terminal: its screens one over the other, its keys, and how often it looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import App
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.screen import Screen

from services.cli.screen.lists import PairsScreen, Rows
from services.cli.screen.pages import HelpScreen, Page
from services.cli.screen.pairs import Pairs
from services.cli.views.printable import printable
from services.runtime.privacy.redaction import redacted

_REFRESH_SECONDS: Final = 0.5
_SHARE: Final = 10
"""A look may take one part in so many of the time: where there is much to sum up, the screen is drawn less often ..."""
_SELDOM_SECONDS: Final = 3.0
"""... but not less often than that."""


class LiveScreen(App[None]):
    """The terminal while it is ours. `said` is what is looked at, `told` what people have been told and may be told yet."""

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

    def __init__(self, pairs: Pairs, said: str, told: Sequence[str], *, driver_class: type[Driver] | None = None) -> None:
        super().__init__(driver_class=driver_class)
        self.pairs = pairs
        self.notes: Sequence[Text] = ()
        """What stands below the totals."""
        self.printed: list[str] = []
        """What others printed meanwhile, who know of no screen: the latest is shown, all once the terminal is given back."""
        self._said = said
        self._told = told

    def get_default_screen(self) -> Screen[None]:
        """Begin with the pairs."""
        return PairsScreen(self.pairs, self._said, self._noted)

    def on_mount(self) -> None:
        """Look, and go on looking."""
        # Textual has a factory of its own for the tasks of the whole program, in which others are at work.
        asyncio.get_running_loop().set_task_factory(None)
        self.theme = "ansi-dark"  # the terminal's own colours
        self.begin_capture_print(self)
        self._look()

    def on_print(self, event: events.Print) -> None:
        """Keep what is printed."""
        if event.text.strip():
            self.printed.append(redacted(event.text.strip()))

    def action_pause(self) -> None:
        """Stop looking, or go on."""
        self.pairs.paused = not self.pairs.paused
        self._show()

    def action_help(self) -> None:
        """Show the keys."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self._told))

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
        if shown and isinstance(shown[0], Rows | Page):
            shown[0].look()

    def _noted(self) -> list[Text]:
        plain = (printable(Text.from_ansi(line).plain) for line in self.printed[-1:])
        return [*self.notes, *(Text(line, style="yellow") for line in plain)]
