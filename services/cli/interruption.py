"""Ctrl-C and SIGTERM: the first asks a command to come to its end, the second cuts that short."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class AskedToEndError(Exception):
    """The command is asked to end, where it has nothing to finish."""


class Interruption:
    """Whether the command has been asked to end, and by what."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._signal: signal.Signals | None = None

    @property
    def exit_status(self) -> int:
        """What a shell expects of a command that ended on that signal; 0 where there was none."""
        return 128 + self._signal if self._signal is not None else 0

    async def unless_asked(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` to its end and return True; cancel it and return False where the command is asked to end first."""
        task, asked = asyncio.create_task(work), asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            task.cancel()
            asked.cancel()
            await asyncio.wait({task, asked})

    async def or_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end. Raises AskedToEndError, with the work cancelled, where the command is asked to end first."""
        if not await self.unless_asked(work):
            raise AskedToEndError

    def ask(self, number: signal.Signals) -> bool:
        """Note the signal; return whether it is the first."""
        first = self._signal is None
        self._signal = self._signal or number
        self._asked.set()
        return first


@contextlib.contextmanager
def interruptible(on_second: Callable[[], object]) -> Iterator[Interruption]:
    """Take the two signals for as long as the context lasts; `on_second` is called for each after the first."""
    loop = asyncio.get_running_loop()
    interruption = Interruption()

    def received(number: signal.Signals) -> None:
        if not interruption.ask(number):
            on_second()

    for number in _SIGNALS:
        loop.add_signal_handler(number, received, number)
    try:
        yield interruption
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def run(command: Callable[[Interruption], Coroutine[Any, Any, int]]) -> int:
    """Run an asynchronous command and return its exit status; a second signal cancels it wherever it is."""

    async def main() -> int:
        task = asyncio.current_task()
        with interruptible(lambda: task is not None and task.cancel()) as interruption:
            try:
                return await command(interruption)
            except (asyncio.CancelledError, AskedToEndError):
                return interruption.exit_status or 1

    return asyncio.run(main())
