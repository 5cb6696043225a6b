"""What became of spans and requests, each by one word, and of how the peers of spans are known."""

from __future__ import annotations

from collections import Counter
from typing import Final

from services.runtime.telemetry import Telemetry

ASKED: Final = "asked"
SPAN_RESULTS: Final = (
    ASKED,
    "kind",
    "malformed",
    "beyond",
    "future",
    "too_old",
    "too_long",
    "unknown_local",
    "queue_full",
    "unheard",
    "unpublished",
)
"""Spans: whose network is asked for; of a kind without; without ids or times; more than are looked at in a request; that end
more than a minute from now; that ended more than a minute ago; that took more than a minute; of whom nobody knows where; for
which the queue has no room; whose node has nobody who listens; for which the bus has no room."""
REQUEST_RESULTS: Final = ("accepted", "malformed", "too_large", "unauthorized", "unsupported", "busy", "queue_full")
PEERS: Final = ("literal", "service", "dns", "unknown")


class IntakeCounts:
    """The metrics of the intake."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.spans = _Counts(telemetry, "spans", "Spans of applications by what became of them", "result", SPAN_RESULTS)
        self.requests = _Counts(
            telemetry, "requests", "Requests with spans by how they were answered", "result", REQUEST_RESULTS
        )
        self.peers = _Counts(telemetry, "peers", "Spans that were asked about by how their peer is known", "known", PEERS)
        self._rows = telemetry.counter("wirespan.enricher.intake.rows", "Rows of the questions", "{row}")
        self._bytes = telemetry.counter("wirespan.enricher.intake.asked", "Bytes of the questions", "By")

    def published(self, rows: int, size: int) -> None:
        """Count a message."""
        self._rows.add(rows)
        self._bytes.add(size)


class _Counts:
    """A counter by one word."""

    def __init__(self, telemetry: Telemetry, name: str, description: str, key: str, words: tuple[str, ...]) -> None:
        series = [{key: word} for word in words]
        self._counter = telemetry.counter(f"wirespan.enricher.intake.{name}", description, f"{{{name[:-1]}}}", series=series)
        self._key = key
        self.total: Counter[str] = Counter()
        """The same, for who has no metrics."""

    def add(self, word: str, amount: int = 1) -> None:
        """Count."""
        if amount:
            self.total[word] += amount
            self._counter.add(amount, {self._key: word})
