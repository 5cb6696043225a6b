"""Being told to end: at any moment of a run, but not in the middle of taking down what it has set up."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def end(*_signal: object) -> None:
    """End the run, by what leaves every context that it is in. A second time is no reason to leave one half."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1)


def heed() -> None:
    """End when told to."""
    for number in _ENDING:
        signal.signal(number, end)


@contextmanager
def later() -> Iterator[None]:
    """Be told to end when the block is left, whenever it was within it."""
    told: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: told.append(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in told[:1]:
            signal.raise_signal(number)
