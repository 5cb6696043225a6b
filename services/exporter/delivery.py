"""From a request to an answer: tries again for as long as it takes, as slowly as the backend asks.

A `Sink` makes single attempts. `Delivery` decides what follows from their outcomes:

- accepted: done; what the backend refused inside the request (partial success) is reported, never sent again.
- retry: the whole sink is left alone, for as long as the backend asks or else for an exponentially growing time with jitter;
  then this request is sent again as it was. There is no last attempt.
- too large: the request is split and its halves are sent; so too where a large one times out again and again.
- rejected: reported.
- unauthorized: the credentials are wrong, and what comes next would be rejected too, until all that waits is dead. The request
  is not sent again while that lasts: a request without spans asks now and then whether the backend takes one. Once it does, the
  request is sent; rejected once more, it is the request after all.

Requests run side by side. How many is found out: one more per round of successes, half as many after a retry.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from services.exporter.encoder import Request
from services.exporter.otlp_sink import Accepted, Outcome, Rejected, Retry, Sink
from services.runtime.telemetry import Telemetry, by_reason

logger = structlog.get_logger()

LONGEST_SERVER_DELAY_SECONDS: Final = 600.0
"""What a backend may ask for at the most; a clock gone wrong must not silence the exporter for a year."""
_SUSPECTED_IN_A_ROW: Final = 3
"""Attempts that may time out or break their connection in a row before the request's halves are tried."""
_NEVER_TOO_LARGE_BYTES: Final = 512 * 1024
"""Requests up to this size are not split on a suspicion: a long outage would grind everything down to single spans."""
_LOG_INTERVAL_SECONDS: Final = 10.0
_NO_SPANS: Final = b""
"""An ExportTraceServiceRequest without spans, to which OTLP servers answer as to any other."""
UNAUTHORIZED: Final = "unauthorized"
"""Reason of a `Retry` that stands for an unauthorized rejection."""
_USUAL_RETRIES: Final = (
    "unavailable", "resource_exhausted", "deadline_exceeded", "timeout", "connection", "http_429", "http_503",
)  # fmt: skip
"""Reasons for attempts to be repeated that are shown before they are met."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Spans that the backend will never take."""

    request: Request
    """What was sent; of a partial success, the accepted spans are in it too: the protocol does not say which is which."""
    spans: int
    reason: Literal["rejected", "partial_success"]
    detail: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a request's spans: each is either accepted or refused."""

    accepted: int
    refused: tuple[Refused, ...] = ()


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


class Delivery:
    """Delivers requests to one sink, many at a time."""

    def __init__(
        self, sink: Sink, telemetry: Telemetry, settings: DeliverySettings | None = None, *, encoding: Executor | None = None
    ) -> None:
        """`encoding` is where requests are split: the same one thread in which they were encoded."""
        self._sink = sink
        self._encoding = encoding
        self._settings = settings or DeliverySettings()
        self._gate = Gate(self._settings)
        self._requests = telemetry.counter("wirespan.exporter.requests", "Attempts to send a request", "{request}")
        self._retries = telemetry.counter(
            "wirespan.exporter.retries", "Attempts that failed and are repeated", "{request}", series=by_reason(*_USUAL_RETRIES)
        )
        self._splits = telemetry.counter("wirespan.exporter.splits", "Requests split for being too large", "{request}")
        self._accepted = telemetry.counter("wirespan.exporter.spans.accepted", "Spans the backend took", "{span}")
        self._refused = telemetry.counter(
            "wirespan.exporter.spans.refused",
            "Spans the backend will never take",
            "{span}",
            series=by_reason("rejected", "partial_success"),
        )
        telemetry.gauge(
            "wirespan.exporter.requests.in_flight",
            "Requests sent and not yet answered",
            "{request}",
            lambda: self._gate.in_flight,
        )
        self._warnings = RareLog()

    @property
    def backend_answers(self) -> bool:
        """Whether the last answer was one; true before the first attempt."""
        return not self._gate.throttled

    @property
    def authorized(self) -> bool:
        """Whether the backend took our credentials when it last answered; true before the first answer."""
        return not self._gate.unauthorized

    async def deliver(self, request: Request) -> Delivered:
        """Return once every span of `request` is accepted or refused, however long that takes.

        Cancelling is safe: attempts under way are given up, and nothing is counted for them.
        """
        outcome = await self._send_until_answered(request)
        if isinstance(outcome, Accepted):
            return self._on_accepted(request, outcome)
        if outcome.too_large and request.divisible:
            return await self._deliver_halves(request, outcome)
        return self._on_rejected(request, outcome)

    async def _send_until_answered(self, request: Request) -> Accepted | Rejected:
        size_suspected, body, held = 0, request.body, False
        while True:
            async with self._gate.attempt(len(body)) as attempt:
                self._requests.add(1)
                attempt.outcome = outcome = self._judged(
                    await self._sink.send(body), asked_before=held and body is request.body
                )
            if isinstance(outcome, Retry):
                self._retries.add(1, {"reason": outcome.reason})
                if outcome.reason == UNAUTHORIZED:
                    held, body = True, _NO_SPANS
                    self._warnings.error("credentials.rejected", detail=outcome.detail)
                size_suspected = size_suspected + 1 if outcome.smaller_may_pass else 0
                if size_suspected >= _SUSPECTED_IN_A_ROW and request.divisible and len(request.body) > _NEVER_TOO_LARGE_BYTES:
                    return Rejected(outcome.detail, too_large=True)
            elif body is request.body:
                return outcome
            else:  # whatever it says to a request without spans, it is not the credentials any more
                body = request.body

    def _judged(self, outcome: Outcome, *, asked_before: bool) -> Outcome:
        """The outcome, with an unauthorized rejection as a reason to wait where that is wanted.

        `asked_before`: a request without spans was taken just now, so the credentials are not what is wrong.
        """
        if not (isinstance(outcome, Rejected) and outcome.unauthorized and self._settings.hold_unauthorized) or asked_before:
            return outcome
        return Retry(UNAUTHORIZED, outcome.detail, self._settings.unauthorized_seconds)

    async def _deliver_halves(self, request: Request, outcome: Rejected) -> Delivered:
        self._splits.add(1)
        self._warnings.warning("request.split", bytes=len(request.body), spans=request.spans, detail=outcome.detail)
        split = await asyncio.get_running_loop().run_in_executor(self._encoding, request.split)
        halves = [await self.deliver(half) for half in split]
        return Delivered(sum(half.accepted for half in halves), tuple(refused for half in halves for refused in half.refused))

    def _on_accepted(self, request: Request, outcome: Accepted) -> Delivered:
        rejected = min(outcome.rejected_spans, request.spans)
        self._accepted.add(request.spans - rejected)
        if not rejected:
            if outcome.message:
                self._warnings.warning("backend.warned", detail=outcome.message)
            return Delivered(request.spans)
        self._refused.add(rejected, {"reason": "partial_success"})
        self._warnings.error("spans.refused", reason="partial_success", spans=rejected, detail=outcome.message)
        return Delivered(request.spans - rejected, (Refused(request, rejected, "partial_success", outcome.message),))

    def _on_rejected(self, request: Request, outcome: Rejected) -> Delivered:
        self._refused.add(request.spans, {"reason": "rejected"})
        self._warnings.error("spans.refused", reason="rejected", spans=request.spans, detail=outcome.detail)
        return Delivered(0, (Refused(request, request.spans, "rejected", outcome.detail),))


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
