"""Processes of a test, ended with it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_PATIENCE_SECONDS: Final = 60


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Tell the process to end when the block is left, and read what it says until then; one that does not end is killed."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
