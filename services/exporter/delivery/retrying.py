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
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Literal

from services.exporter.delivery.gate import UNAUTHORIZED, DeliverySettings, Gate
from services.exporter.delivery.rare_log import RareLog
from services.exporter.delivery.sink import Accepted, Outcome, Rejected, Retry, Sink
from services.exporter.encoder import Request
from services.runtime.account import Account
from services.runtime.telemetry import Telemetry, by_reason

_SUSPECTED_IN_A_ROW: Final = 3
"""Attempts that may time out or break their connection in a row before the request's halves are tried."""
_NEVER_TOO_LARGE_BYTES: Final = 512 * 1024
"""Requests up to this size are not split on a suspicion: a long outage would grind everything down to single spans."""
_NO_SPANS: Final = b""
"""An ExportTraceServiceRequest without spans, to which OTLP servers answer as to any other."""
_USUAL_RETRIES: Final = (
    "unavailable", "resource_exhausted", "deadline_exceeded", "timeout", "connection", "http_429", "http_503", UNAUTHORIZED,
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
        self._account = Account("accepted", "rejected", "partial_success")
        self._account.show(telemetry, "exporter", "span")
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
        with self._account.over(request.spans) as spans:
            delivered = await self._deliver(request)
            spans.tell("accepted", delivered.accepted)
            for refused in delivered.refused:
                spans.tell(refused.reason, refused.spans)
            return delivered

    async def _deliver(self, request: Request) -> Delivered:
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
        halves = [await self._deliver(half) for half in split]
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
