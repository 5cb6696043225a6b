"""Who talked to whom in the last minute: records summed up per source, destination and port, troubles first."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.cli.flow_view import FlowView

WINDOW_SECONDS: Final = 60.0
MOST_RECORDS: Final = 50_000
"""Records kept at the most; beyond it the window is shorter than it should be rather than the memory larger."""

_FAILURES: Final = frozenset({"refused", "timeout", "reset"})

Key: TypeAlias = tuple[str, str, int, str]
"""Source, destination, port of the destination, transport."""


@dataclass(slots=True)
class Conversation:
    """Everything between two ends on one port within the window. Bytes `out` go from source to destination."""

    source: str
    destination: str
    port: int
    transport: str
    flows: int
    outcomes: Counter[str]
    """Flows by their last known outcome; flows without one are not in it."""
    bytes_out: int = 0
    bytes_in: int = 0
    connects: int = 0
    connect_sum_ns: int = 0
    connect_max_ns: int = 0
    responses: int = 0
    response_sum_ns: int = 0
    response_max_ns: int = 0
    retransmits: int = 0
    """Segments and SYNs that were sent again."""

    @property
    def failures(self) -> int:
        """Flows that were refused, unanswered or reset."""
        return sum(self.outcomes[outcome] for outcome in _FAILURES)


class Conversations:
    """A sliding window of records. Times are seconds on any monotonic clock."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._records: deque[tuple[float, FlowView]] = deque(maxlen=MOST_RECORDS)

    def add(self, now_seconds: float, view: FlowView) -> None:
        """Take in one record."""
        self._records.append((now_seconds, view))

    def current(self, now_seconds: float) -> list[Conversation]:
        """Return the conversations of the window: those with failures first, then those that retransmit, then the busiest."""
        while self._records and self._records[0][0] <= now_seconds - self._window_seconds:
            self._records.popleft()
        grouped: dict[Key, list[FlowView]] = {}
        for _, view in self._records:
            key = view.source.name, view.destination.name, view.destination.port, view.transport
            grouped.setdefault(key, []).append(view)
        return sorted((_sum(key, views) for key, views in grouped.items()), key=_rank)


def _sum(key: Key, views: list[FlowView]) -> Conversation:
    # A long flow has several records, each with the outcome so far: the last one counts.
    outcome_of = {view.flow: view.outcome for view in views}
    outcomes = Counter(outcome for outcome in outcome_of.values() if outcome)
    sums = Conversation(*key, flows=len(outcome_of), outcomes=outcomes)
    for view in views:
        sums.bytes_out += view.bytes_out
        sums.bytes_in += view.bytes_in
        sums.responses += view.responses
        sums.response_sum_ns += view.response_sum_ns
        sums.response_max_ns = max(sums.response_max_ns, view.response_max_ns)
        sums.retransmits += view.retransmits
        if view.first:  # connecting happens once in a flow, and every record tells of it
            sums.retransmits += view.syn_repeats
            if view.connect_ns is not None:
                sums.connects += 1
                sums.connect_sum_ns += view.connect_ns
                sums.connect_max_ns = max(sums.connect_max_ns, view.connect_ns)
    return sums


def _rank(each: Conversation) -> tuple[int, int, int, str]:
    return -each.failures, -each.retransmits, -(each.bytes_out + each.bytes_in), each.source
