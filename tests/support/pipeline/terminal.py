"""A command at a terminal: what a person would see of it, and keys for it. The terminal is pyte's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyte
import pytest

PATIENCE_SECONDS = 120


class Terminal:
    """What the command that has the terminal shows."""

    def __init__(self, ours: int, process: subprocess.Popen[bytes], columns: int, lines: int) -> None:
        self.process = process
        self.raw = b""
        self._ours = ours
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def shown(self) -> list[str]:
        """The lines of the screen."""
        return list(self._screen.display)

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(self.shown)

    def lit(self, line: int) -> bool:
        """Whether a line is shown in reverse."""
        return any(cell.reverse for cell in self._screen.buffer[line].values())

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Make the terminal another size, as its window would."""
        self._screen.resize(lines, columns)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, condition: Callable[[str], object]) -> None:
        """Look on until the screen is so; fails where the command ends before, or nothing of it comes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(self.text):
            if not self._look(deadline):
                pytest.fail(f"it did not come:\n{self.text}")

    def ended(self) -> int:
        """Look on until the command has ended; return its exit status."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._look(deadline):
            pass
        return self.process.wait(PATIENCE_SECONDS)

    def _look(self, deadline: float) -> bool:
        """Take in what is drawn; False where nobody will draw any more, or not in time."""
        ready, _, _ = select.select([self._ours], [], [], max(deadline - time.monotonic(), 0))
        try:
            piece = os.read(self._ours, 65536) if ready else b""
        except OSError:  # the last one that had the terminal is gone
            piece = b""
        self.raw += piece
        self._stream.feed(piece)
        return bool(piece)


@contextlib.contextmanager
def at_terminal(
    command: Sequence[str | Path], *, columns: int, lines: int, cwd: Path, environ: Mapping[str, str]
) -> Iterator[Terminal]:
    """Run the command at a terminal of its own; nothing of it is left when the context ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    kept = {name: value for name, value in environ.items() if name not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [*command], cwd=cwd, env=kept, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - the terminal is to be its own
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(ours, process, columns, lines)
    finally:
        os.close(ours)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        process.kill()
        process.wait()
