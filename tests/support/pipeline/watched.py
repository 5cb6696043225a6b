"""Processes that a test waits for: one that fails ends the waiting at once, with what it said; no time limit has to.

with watched(process, log):
batches = await until(lambda: stored(bus))
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

_Found = TypeVar("_Found")
_ENDED_BY_THE_TEST: Final = (0, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGINT)
"""What a process may end with while something is waited for: its work done, or by a signal of the test's."""
_LAST_CHARACTERS: Final = 3000

_processes: dict[subprocess.Popen[Any], Path] = {}


@contextmanager
def watched(process: subprocess.Popen[Any], log: Path) -> Iterator[None]:
    """Have `until` look after a process, whose log goes to this file, while the block runs."""
    _processes[process] = log
    try:
        yield
    finally:
        del _processes[process]


def nobody_failed() -> None:
    """Raise AssertionError, with the end of its log, where a process that is watched has failed."""
    for process, log in _processes.items():
        if (status := process.poll()) is not None and status not in _ENDED_BY_THE_TEST:
            said = log.read_text(errors="replace")[-_LAST_CHARACTERS:]
            raise AssertionError(f"{process.args} has ended with {status} while it was waited for:\n{said}")


async def until(condition: Callable[[], _Found | Awaitable[_Found]], *, pause_seconds: float = 0.05) -> _Found:
    """Return what is found once it is anything. The test's own time limit is the only one."""
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found  # type: ignore[return-value]  # not awaitable any more
        nobody_failed()
        await asyncio.sleep(pause_seconds)
