"""How many attempts go to a sink side by side, and when none do: found out from what came of the earlier ones."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from services.exporter.delivery.sink import Outcome, Retry

logger = structlog.get_logger()

LONGEST_SERVER_DELAY_SECONDS: Final = 600.0
"""What a backend may ask for at the most; a clock gone wrong must not silence the exporter for a year."""
UNAUTHORIZED: Final = "unauthorized"
"""Reason of a `Retry` that stands for an unauthorized rejection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """Bounds of a delivery."""

    concurrency: int = 8
    """Requests in flight at the most."""
    bytes_in_flight: int = 32 * 1024 * 1024
    """Bytes in flight at the most; a single larger request goes alone."""
    first_backoff_seconds: float = 1.0
    longest_backoff_seconds: float = 30.0
    hold_unauthorized: bool = True
    """Hold back everything while the backend rejects the credentials, instead of reporting each request as rejected."""
    unauthorized_seconds: float = 30.0
    """Between two questions whether it takes them now."""


@dataclass(slots=True)
class Attempt:
    """One attempt between entering and leaving the gate."""

    round: int
    """How often the sink had been throttled when the attempt began."""
    outcome: Outcome | None = None


class Gate:
    """Lets attempts through: so many at a time, so many bytes at a time, first come first served, and none while the sink is
    to be left alone.
    """

    def __init__(self, settings: DeliverySettings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()
        self._limit = float(settings.concurrency)
        self._bytes = 0
        self._opens_at = 0.0
        self._round = 0
        self._failures = 0
        self.in_flight = 0
        self.unauthorized = False
        """Whether the last outcome was that the credentials are wrong."""

    @property
    def limit(self) -> int:
        """Attempts let through at a time as things are."""
        return int(self._limit)

    @property
    def throttled(self) -> bool:
        """Whether the last attempts failed."""
        return self._failures > 0

    @asynccontextmanager
    async def attempt(self, size: int) -> AsyncIterator[Attempt]:
        """Wait for a place for `size` bytes. Whoever is let in sets the attempt's `outcome` before leaving."""
        await self._enter(size)
        attempt = Attempt(self._round)
        try:
            yield attempt
        finally:  # no await in here: an attempt that is cancelled leaves too
            self.in_flight -= 1
            self._bytes -= size
            self._left.set()
            if attempt.outcome is not None:
                self.unauthorized = isinstance(attempt.outcome, Retry) and attempt.outcome.reason == UNAUTHORIZED
            if isinstance(attempt.outcome, Retry):
                self._throttle(attempt.round, attempt.outcome)
            elif attempt.outcome is not None:
                self._ease(attempt.round)

    async def _enter(self, size: int) -> None:
        async with self._turn:
            while True:
                closed_seconds = self._opens_at - asyncio.get_running_loop().time()
                if closed_seconds > 0:
                    await asyncio.sleep(closed_seconds)
                elif self._has_room(size):
                    break
                else:
                    self._left.clear()
                    await self._left.wait()
            self.in_flight += 1
            self._bytes += size

    def _has_room(self, size: int) -> bool:
        if self.in_flight == 0:
            return True
        return self.in_flight < self.limit and self._bytes + size <= self._settings.bytes_in_flight

    def _throttle(self, began_in_round: int, outcome: Retry) -> None:
        now = asyncio.get_running_loop().time()
        asked = min(outcome.after_seconds or 0.0, LONGEST_SERVER_DELAY_SECONDS)
        if began_in_round != self._round:
            # It was under way when another one's failure throttled the sink: the same trouble, not more of it.
            self._opens_at = max(self._opens_at, now + asked)
            return
        self._round += 1
        self._failures += 1
        self._limit = max(self._limit / 2, 1.0)
        delay = asked * random.uniform(1.0, 1.1) if asked else self._backoff_seconds()  # noqa: S311 - spreads load, guards nothing
        self._opens_at = max(self._opens_at, now + delay)
        if self._failures == 1:
            logger.warning("sink.throttled", reason=outcome.reason, detail=outcome.detail, seconds=round(delay, 1))

    def _backoff_seconds(self) -> float:
        doubled = self._settings.first_backoff_seconds * 2.0 ** min(self._failures - 1, 30)
        longest = min(doubled, self._settings.longest_backoff_seconds)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - as above

    def _ease(self, began_in_round: int) -> None:
        self._limit = min(self._limit + 1.0 / self._limit, float(self._settings.concurrency))
        if self._failures and began_in_round == self._round:
            logger.info("sink.recovered", failures=self._failures)
            self._failures = 0
