"""Several endpoints as one sink: the first that works, in a fixed order.

An endpoint that fails for a while is left for the next one, with the request that showed it. What an endpoint asks for (to
wait, to send less) is no failure of it. From a later endpoint one request now and then tries those before it, and the first
that takes it is in use again. A request whose answer was lost may be at two endpoints then: under the same span ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from services.exporter.delivery.sink import Outcome, Retry, Sink

logger = structlog.get_logger()


class FailoverSink:
    """A sink of sinks. Attempts may run side by side."""

    def __init__(
        self,
        sinks: Sequence[tuple[str, Sink]],
        *,
        failover_seconds: float,
        failback_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sinks` are at least one, each with the name it goes by in logs."""
        self._sinks = sinks
        self._failover_seconds = failover_seconds
        self._failback_seconds = failback_seconds
        self._clock = clock
        self._failing_since: float | None = None
        self._try_earlier_at = 0.0
        self.active = 0
        """Number of the endpoint in use, from 0."""
        self.switches = 0
        """How often another endpoint was taken into use."""

    async def send(self, body: bytes) -> Outcome:
        """Make one attempt to hand over `body`; where the endpoint in use has failed for long, one with each that follows."""
        if self.active and self._clock() >= self._try_earlier_at:
            outcome = await self._send_earlier(body)
            if outcome is not None:
                return outcome
        at = self.active
        outcome = await self._sinks[at][1].send(body)
        for following in range(at + 1, at + len(self._sinks)):
            if not self._has_failed(at, outcome):
                return outcome
            number = following % len(self._sinks)
            outcome = await self._sinks[number][1].send(body)
            if not _is_failure(outcome):
                self._use(number)
        return outcome

    async def close(self) -> None:
        """Close all of them."""
        for _, sink in self._sinks:
            await sink.close()

    async def _send_earlier(self, body: bytes) -> Outcome | None:
        """Try the endpoints before the one in use; None where all of them fail still."""
        self._try_earlier_at = self._clock() + self._failback_seconds
        for number in range(self.active):
            outcome = await self._sinks[number][1].send(body)
            if not _is_failure(outcome):
                self._use(number)
                return outcome
        return None

    def _has_failed(self, at: int, outcome: Outcome) -> bool:
        """Whether, after this outcome, another endpoint should be tried than `at`."""
        if not _is_failure(outcome):
            if at == self.active:
                self._failing_since = None
            return False
        if at != self.active:  # another attempt has moved on already
            return True
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since >= self._failover_seconds

    def _use(self, number: int) -> None:
        self._failing_since = None
        if number == self.active:
            return
        logger.warning("endpoint.switched", unused=self._sinks[self.active][0], used=self._sinks[number][0])
        self.active = number
        self.switches += 1
        self._try_earlier_at = self._clock() + self._failback_seconds


def _is_failure(outcome: Outcome) -> bool:
    """Whether the endpoint is at fault: it does not answer, or says that it cannot and not when it can."""
    return isinstance(outcome, Retry) and outcome.after_seconds is None
