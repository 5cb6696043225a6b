"""How far a replay is: bars on a terminal, a line now and then elsewhere. On standard error; results go to standard output."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from services.cli.run.pipeline import Status
from services.cli.views import units

_LINE_SECONDS: Final = 5.0


class ProgressView:
    """Shows statuses and single lines until the context ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
        )
        self._reading = self._bars.add_task("reading", total=None, said="")
        self._delivering = self._bars.add_task("delivering", total=None, said="")
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._next_line = time.monotonic() + _LINE_SECONDS
        self._trouble: str | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away: what comes next is not progress. May be called again."""
        self._live.stop()

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        self._console.print(Text(line), soft_wrap=True)

    def show(self, status: Status) -> None:
        """Show how far the run is."""
        if self._console.is_terminal:
            self._show_bars(status)
        else:
            self._show_line(status)

    def _show_bars(self, status: Status) -> None:
        progress = status.progress
        self._bars.update(
            self._reading,
            total=progress.file_bytes_total or None,
            completed=progress.file_bytes_total if progress.finished else progress.file_bytes_read,
            said=units.counted(progress.packets, "packet"),
        )
        said = f"{units.count(status.acknowledged)} of {units.counted(progress.records, 'record')} acknowledged"
        self._bars.update(self._delivering, total=progress.records or None, completed=status.acknowledged, said=said)
        trouble = Text(f"waiting for the backend: {status.trouble}", style="yellow") if status.trouble else Text()
        self._live.update(Group(self._bars, trouble))

    def _show_line(self, status: Status) -> None:
        now = time.monotonic()
        if now < self._next_line and status.trouble == self._trouble:
            return
        self._next_line, self._trouble = now + _LINE_SECONDS, status.trouble
        self.say(status_line(status))


def status_line(status: Status) -> str:
    """Return a status as one line."""
    progress = status.progress
    percent = 100 * progress.file_bytes_read // progress.file_bytes_total if progress.file_bytes_total else 0
    line = (
        f"{units.counted(progress.packets, 'packet')} read ({100 if progress.finished else percent} %), "
        f"{units.count(status.acknowledged)} of {units.counted(progress.records, 'record')} acknowledged"
    )
    return f"{line}; waiting for the backend: {status.trouble}" if status.trouble else line
