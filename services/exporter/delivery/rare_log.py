"""Log lines that many requests have cause for, and that are said once in a while."""

from __future__ import annotations

import logging
import time
from typing import Final

import structlog

logger = structlog.get_logger()

_LOG_INTERVAL_SECONDS: Final = 10.0


class RareLog:
    """Logs an event at most every ten seconds, and how often it was left out in between."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, event: str, **data: object) -> None:
        """Log at level warning."""
        self._log(logging.WARNING, event, data)

    def error(self, event: str, **data: object) -> None:
        """Log at level error."""
        self._log(logging.ERROR, event, data)

    def _log(self, level: int, event: str, data: dict[str, object]) -> None:
        now = time.monotonic()
        if now < self._due.get(event, 0.0):
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return
        self._due[event] = now + _LOG_INTERVAL_SECONDS
        logger.log(level, event, left_out=self._left_out.pop(event, 0), **data)
