"""The screen over what `wirespan view` keeps, in the place of its page."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Final

from rich.text import Text

from services.cli.screen.pairs import Pairs
from services.cli.screen.terminal import on_terminal
from services.cli.tap.filters import FlowFilter
from services.cli.view.kept import Kept
from services.cli.views.printable import printable

_REFRESH_SECONDS: Final = 1.0


@contextlib.asynccontextmanager
async def shown(kept: Kept, source: str) -> AsyncIterator[None]:
    """Show all that is kept while the block runs; whoever ends the screen asks the command to end, as Ctrl-C does elsewhere."""
    async with on_terminal(Pairs(kept, FlowFilter(), window_seconds=None), source, ()) as screen:

        async def note() -> None:
            while True:
                screen.note([Text(printable(line), style="yellow") for line in kept.notes])
                await asyncio.sleep(_REFRESH_SECONDS)

        looking = asyncio.create_task(screen.until_ended(note()))
        looking.add_done_callback(_interrupt)
        try:
            yield
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking


def _interrupt(looking: asyncio.Task[None]) -> None:
    if not looking.cancelled():
        signal.raise_signal(signal.SIGINT)
