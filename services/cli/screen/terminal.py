"""A terminal lent to the screen, and given back as it was, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final

from rich.text import Text
from textual.drivers.linux_driver import LinuxDriver

from services.cli.screen.app import LiveScreen
from services.cli.screen.pairs import Pairs

_JOB_CONTROL: Final = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class _Driver(LinuxDriver):
    """Draws on standard output: standard error may go to a file, and what else is said goes there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._file = sys.__stdout__


class OnTerminal:
    """The screen while it is there."""

    def __init__(self, app: LiveScreen) -> None:
        self._app = app
        self._running = asyncio.create_task(app.run_async())

    def note(self, notes: Sequence[Text]) -> None:
        """Show these below the totals."""
        self._app.notes = notes

    async def until_ended(self, *beside: Coroutine[Any, Any, None]) -> None:
        """Run these until somebody ends it, whatever they wait for. Raises what the screen or one of them has failed by."""
        tasks = [asyncio.create_task(each) for each in beside]
        try:
            running = {self._running, *tasks}
            while self._running in running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._app.failure is not None:
            raise self._app.failure

    async def give_back(self) -> None:
        """End it, and leave the terminal as it was."""
        self._running.cancel()
        await asyncio.wait({self._running})


@contextlib.asynccontextmanager
async def on_terminal(pairs: Pairs, said: str, told: Sequence[str]) -> AsyncIterator[OnTerminal]:
    """Show the pairs while the block runs; what others print meanwhile is on standard error afterwards."""
    handlers = {number: signal.getsignal(number) for number in _JOB_CONTROL}
    app = LiveScreen(pairs, said, told, driver_class=_Driver)
    screen = OnTerminal(app)
    try:
        yield screen
    finally:
        await screen.give_back()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for line in app.printed:
            print(line, file=sys.stderr)
