"""Ends a process whose event loop turns no more: whoever started it starts it again, and what it held is delivered to others.

A thread beside the loop looks; it counts its own looks instead of reading a clock, so that a process that was stopped (SIGSTOP,
a frozen cgroup, a machine asleep) is not held for stuck when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

import structlog

logger = structlog.get_logger()

_LOOK_SECONDS: Final = 5.0
_LOOKS: Final = 12
"""A minute in all."""


@contextlib.contextmanager
def watched_loop(*, look_seconds: float = _LOOK_SECONDS, looks: int = _LOOKS) -> Iterator[None]:
    """Watch the running loop while the block runs.

    Where it has not turned between `looks` looks in a row, the stacks of all threads go to standard error, functions and lines
    without any value, and the process exits with 1.
    """
    loop = asyncio.get_running_loop()
    left = threading.Event()

    def watch() -> None:
        turned = threading.Event()
        missed = 0
        loop.call_soon_threadsafe(turned.set)
        while not left.wait(look_seconds):
            if not turned.is_set():
                missed += 1
                if missed == looks:
                    _give_up(missed * look_seconds)
                continue
            missed = 0
            turned.clear()
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(turned.set)

    thread = threading.Thread(target=watch, name="loop watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()


def _give_up(seconds: float) -> None:
    logger.critical("loop.stuck", seconds=seconds, advice="the stacks of all threads follow; please report them")
    sys.stdout.flush()
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(1)
