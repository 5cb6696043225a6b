"""Who talked to whom in the last minute: records summed up per source, destination and port, troubles first.

A connection between two sockets that are both looked at is told twice, by each of them: it counts once, as the client's socket
tells it, and each end has the name that its own socket gives it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from services.cli.views.flow_view import FAILURES, FlowView

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
_LARGEST: Final = ("connect_max_ns", "response_max_ns", "last_unix_ns")

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
    """Flows that failed, as their last record says, or what is said to have been wrong with them."""
    last_unix_ns: int = 0
    """When its last packet came, of those that records tell of."""

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
        self.failures = int(view.failed or not FAILURES.isdisjoint(self.verdicts))
        self.last_unix_ns = max(self.last_unix_ns, view.end_unix_ns)
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
        if other.outcomes:
            self.outcomes.update(other.outcomes)
        if other.verdicts:
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


@dataclass(slots=True)
class Told:
    """All that the window holds of one connection."""

    name: Hashable
    """`FlowView.connection`, of the latest records."""
    views: dict[int, FlowView] = field(default_factory=dict)
    """By the order in which they came."""
    sums: list[Conversation] = field(default_factory=list)
    """What it counts for: one conversation, or several where nobody can say which ends belong together."""


class Conversations:
    """A sliding window of records. Times are seconds on any monotonic clock.

    What did not change between two looks is not summed up again: what a look costs depends on what came and went.
    """

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._records: deque[tuple[float, int, FlowView]] = deque()
        self._number = 0
        self._told: dict[Hashable, Told] = {}
        self._name_of: dict[tuple[str, str, int], Hashable] = {}
        """By which name each flow's connection goes now."""
        self._changed: dict[Hashable, None] = {}
        self._parts: dict[Key, dict[Hashable, Conversation]] = {}
        self._sums: dict[Key, Conversation] = {}
        self._ranked: list[Conversation] = []

    def add(self, now_seconds: float, view: FlowView) -> None:
        """Take in one record; one of an exchange or a question tells nothing that its flow's do not."""
        if not view.of_flow:
            return
        if len(self._records) == MOST_RECORDS:
            self._forget_oldest()
        self._number += 1
        self._records.append((now_seconds, self._number, view))
        known = self._name_of.setdefault(view.flow, view.connection)
        told = self._told.setdefault(view.connection, Told(view.connection))
        told.views[self._number] = view
        self._changed[view.connection] = None
        if known != view.connection:
            self._name_of[view.flow] = view.connection
            self._move(self._told[known], told, view)

    def current(self, now_seconds: float) -> list[Conversation]:
        """Return the conversations of the window: those with failures first, then the slow, then those that retransmit, then
        the busiest.
        """
        while self._records and self._records[0][0] <= now_seconds - self._window_seconds:
            self._forget_oldest()
        changed = {key for name in self._changed for key in self._summed_anew(name)}
        self._changed.clear()
        for key in changed:
            parts = self._parts[key]
            if not parts:
                del self._parts[key], self._sums[key]
                continue
            self._sums[key] = Conversation(*key)
            for part in parts.values():
                self._sums[key].add(part)
        if changed:
            self._ranked = sorted(self._sums.values(), key=rank)
        return self._ranked

    @property
    def summed(self) -> Iterable[Conversation]:
        """The conversations as of the last look, in no order."""
        return self._sums.values()

    def connections(self, key: Key) -> list[tuple[Conversation, Told]]:
        """Return the connections of a conversation, as of the last look: each summed up, and all that was told of it."""
        return [(part, self._told[name]) for name, part in self._parts.get(key, {}).items()]

    def _forget_oldest(self) -> None:
        _, number, view = self._records.popleft()
        name = self._name_of[view.flow]
        views = self._told[name].views
        del views[number]
        self._changed[name] = None
        if not any(view.flow == other.flow for other in views.values()):
            del self._name_of[view.flow]

    def _move(self, known: Told, told: Told, view: FlowView) -> None:
        """Before its handshake is complete a connection goes by another name: that of the flow's last record counts."""
        moved = {number: each for number, each in known.views.items() if each.flow == view.flow}
        for number in moved:
            del known.views[number]
        told.views = dict(sorted((told.views | moved).items()))
        self._changed[known.name] = None

    def _summed_anew(self, name: Hashable) -> Iterator[Key]:
        """Sum up one connection; yield the conversations that it counted for and counts for now."""
        told = self._told[name]
        for each in told.sums:
            yield each.key
        told.sums, before = conversations_of(list(told.views.values())) if told.views else [], told.sums
        for each in told.sums:
            self._parts.setdefault(each.key, {})[name] = each
            self._sums.setdefault(each.key, each)
            yield each.key
        for key in {each.key for each in before} - {each.key for each in told.sums}:
            del self._parts[key][name]
        if not told.views:
            del self._told[name]


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
