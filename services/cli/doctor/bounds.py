"""Keeps `wirespan doctor` within its time where a look-up of a name, which nothing can interrupt, takes longer."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

_Result = TypeVar("_Result")


def run_bounded(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `work` in an event loop of its own, as asyncio.run does, but leave look-ups of names behind that still run."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        if left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def exit_at_once(status: int) -> NoReturn:
    """End the command: in the usual way, unless that would wait for a thread that hangs."""
    if any(thread is not threading.main_thread() for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
