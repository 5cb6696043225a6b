"""Who talked to whom in the last minute: records summed up per source, destination and port, troubles first.

A connection between two sockets that are both looked at is told twice, by each of them: it counts once, as the client's socket
tells it, and each end has the name that its own socket gives it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from services.cli.views.flow_view import FlowView

WINDOW_SECONDS: Final = 60.0
MOST_RECORDS: Final = 50_000
"""Records kept at the most; beyond it the window is shorter than it should be rather than the memory larger."""

SLOW_NS: Final = 100_000_000
"""What a person feels."""

_BOTH_ENDS: Final = 2
_SUMMED: Final = (
    *(
        "flows",
        "bytes_out",
        "bytes_in",
        "connects",
        "connect_sum_ns",
        "responses",
        "response_sum_ns",
        "retransmits",
        "failures",
    ),
)
_LARGEST: Final = ("connect_max_ns", "response_max_ns")

Key: TypeAlias = tuple[str, str, int, str]
"""Source, destination, port of the destination, transport."""


@dataclass(slots=True)
class Conversation:
    """Everything between two ends on one port within the window. Bytes `out` go from source to destination."""

    source: str
    destination: str
    port: int
    transport: str
    flows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Flows by their last known outcome; flows without one are not in it."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """Flows with which something was wrong, by what that was last."""
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
    failures: int = 0
    """Flows that failed, as their last record says."""

    @property
    def key(self) -> Key:
        """What makes it this conversation."""
        return self.source, self.destination, self.port, self.transport

    def take(self, view: FlowView) -> None:
        """Take in the next record of one flow, for whose outcome the last one counts; but not the segments sent again."""
        self.flows = 1
        self.outcomes = Counter([view.outcome] if view.outcome else [])
        if view.verdict_measure:
            self.verdicts = Counter([view.verdict])
        self.failures = int(view.failed)
        self.bytes_out += view.bytes_out
        self.bytes_in += view.bytes_in
        self.responses += view.responses
        self.response_sum_ns += view.response_sum_ns
        self.response_max_ns = max(self.response_max_ns, view.response_max_ns)
        if view.first:  # connecting happens once in a flow, and every record tells of it
            self.retransmits += view.syn_repeats
            if view.connect_ns is not None:
                self.connects += 1
                self.connect_sum_ns += view.connect_ns
                self.connect_max_ns = max(self.connect_max_ns, view.connect_ns)

    def add(self, other: Conversation) -> None:
        """Take in other flows."""
        self.outcomes.update(other.outcomes)
        self.verdicts.update(other.verdicts)
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _LARGEST:
            setattr(self, name, max(getattr(self, name), getattr(other, name)))

    @property
    def slow_ns(self) -> int:
        """The longest that somebody waited for a connection or a response; 0 where nobody would feel it."""
        longest = max(self.connect_max_ns, self.response_max_ns)
        return longest if longest >= SLOW_NS else 0


class Conversations:
    """A sliding window of records. Times are seconds on any monotonic clock."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._records: deque[tuple[float, FlowView]] = deque(maxlen=MOST_RECORDS)

    def add(self, now_seconds: float, view: FlowView) -> None:
        """Take in one record; one of an exchange or a question tells nothing that its flow's do not."""
        if not view.of_flow:
            return
        self._records.append((now_seconds, view))

    def current(self, now_seconds: float) -> list[Conversation]:
        """Return the conversations of the window: those with failures first, then the slow, then those that retransmit, then
        the busiest.
        """
        while self._records and self._records[0][0] <= now_seconds - self._window_seconds:
            self._records.popleft()
        return conversations_of([view for _, view in self._records])


def conversations_of(views: Sequence[FlowView]) -> list[Conversation]:
    """Return the conversations that records of flows tell of, whichever ends have told: troubles first."""
    grouped: dict[Key, list[_Telling]] = {}
    for telling in _tellings(views):
        grouped.setdefault(telling.key, []).append(telling)
    return sorted((_sum(key, tellings) for key, tellings in grouped.items()), key=rank)


class Tellers:
    """Which end told of a connection first, for the most recent connections."""

    def __init__(self) -> None:
        self._first: OrderedDict[Hashable, tuple[str, int]] = OrderedDict()

    def heard_from_other_end(self, view: FlowView) -> bool:
        """Whether the other end of this connection has told of it before this end did. Exchanges are told by each."""
        if not view.of_flow:
            return False
        first = self._first.setdefault(view.connection, view.seen_at)
        self._first.move_to_end(view.connection)
        if len(self._first) > MOST_RECORDS:
            self._first.popitem(last=False)
        return first != view.seen_at


@dataclass(frozen=True, slots=True)
class _Telling:
    """A connection's records from one end, and its names from both."""

    key: Key
    views: Sequence[FlowView]
    retransmits: int


def _tellings(views: Sequence[FlowView]) -> Iterator[_Telling]:
    # Before its handshake is complete a connection goes by another name: that of the flow's last record counts.
    connection_of = {view.flow: view.connection for view in views}
    connections: dict[Hashable, dict[tuple[str, int], list[FlowView]]] = {}
    for view in views:
        connections.setdefault(connection_of[view.flow], {}).setdefault(view.seen_at, []).append(view)
    for ends in connections.values():
        if len(ends) == _BOTH_ENDS:
            told, other = sorted(ends.values(), key=_authority)
            yield _told_by_both(told, other)
        else:
            yield from map(_told_by_one, ends.values())


def _authority(records: Sequence[FlowView]) -> tuple[bool, bool]:
    """Orders the client's records before the server's, and those before what does not know who began."""
    return not records[-1].directed, not records[-1].local_is_source


def _told_by_one(records: Sequence[FlowView]) -> _Telling:
    last = records[-1]
    key = last.source.name, last.destination.name, last.destination.port, last.transport
    return _Telling(key, records, sum(view.retransmits for view in records))


def _told_by_both(told: Sequence[FlowView], other: Sequence[FlowView]) -> _Telling:
    """Bytes and times are those of `told`; a segment sent again counts at the end that sent it: only that one sees each."""
    last, named = told[-1], other[-1].local
    source, destination = last.source.name, last.destination.name
    if not named.is_address:
        source, destination = (source, named.name) if last.local_is_source else (named.name, destination)
    resent = sum(view.local_retransmits for view in (*told, *other))
    return _Telling((source, destination, last.destination.port, last.transport), told, resent)


def _sum(key: Key, tellings: Sequence[_Telling]) -> Conversation:
    flows: dict[Hashable, Conversation] = {}
    for telling in tellings:
        for view in telling.views:
            _flow(flows, view).take(view)
    sums = Conversation(*key)
    for flow in flows.values():
        sums.add(flow)
    sums.retransmits += sum(telling.retransmits for telling in tellings)
    return sums


def _flow(flows: dict[Hashable, Conversation], view: FlowView) -> Conversation:
    """Return what is known of the view's flow, by the name that it goes by now."""
    key = view.source.name, view.destination.name, view.destination.port, view.transport
    flow = flows.setdefault(view.flow, Conversation(*key))
    flow.source, flow.destination, flow.port, flow.transport = key
    return flow


def summed(views: Iterable[FlowView]) -> list[Conversation]:
    """Return the conversations of a whole capture, which tells of each connection once, however many there are, in the same
    order. What is over is summed up at once.
    """
    flows: dict[Hashable, Conversation] = {}
    kept: dict[Key, Conversation] = {}

    def keep(flow: Conversation) -> None:
        kept.setdefault(flow.key, Conversation(*flow.key)).add(flow)

    for view in views:
        if not view.of_flow:
            continue
        flow = _flow(flows, view)
        flow.take(view)
        flow.retransmits += view.retransmits
        if view.over:
            keep(flows.pop(view.flow))
    for flow in flows.values():
        keep(flow)
    return sorted(kept.values(), key=rank)


def rank(each: Conversation) -> tuple[int, int, int, int, str]:
    """What goes first: failures, slowness, what was sent again, then the busiest."""
    return -each.failures, -each.slow_ns, -each.retransmits, -(each.bytes_out + each.bytes_in), each.source
