"""The meeting of what is asked and what is remembered.

A question waits for a while, so that those of the same application that belong to the same time are there too: they are
answered together. One that is ambiguous then is tried once more with those that came meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proto.columns import Role
from services.capture.flows.exchange_layout import MET_EXCHANGE, Exchanges
from services.capture.flows.layout import Slots
from services.capture.meeting.assignment import NOBODY, Indexes
from services.capture.meeting.clocks import ByConnection, Clocks
from services.capture.meeting.likelihood import Habits
from services.capture.meeting.matching import MOST_IN_A_ROW, TOLERANCE_NS, Windows, match
from services.capture.meeting.memory import Memory
from services.capture.meeting.met import add_series, met_exchanges, met_parts
from services.capture.meeting.parts import (
    MANY,
    MOST_CONNECTIONS,
    only_connections,
    overlapping,
    slices_of,
)
from services.capture.meeting.peers import ANY_ADDRESS, Peers, by_peer, numbered, with_any_peer
from services.capture.meeting.questions import Questions
from services.capture.meeting.questions import Rows as Asked
from services.capture.meeting.reasons import Counts, Reason
from services.capture.meeting.ring import Rows
from services.capture.meeting.turns import Turns

Owners = Callable[[npt.NDArray[np.uint64]], tuple[npt.NDArray[np.uint32], list[dict[str, str]]]]
"""As CgroupIndex.rows."""

HOLD_NS: Final = 8_000_000_000
"""An SDK sends what has ended every 5 s, and collectors gather for a while."""
_MOST_SPANS: Final = 5_000
"""That are matched at one look, some 0.3 s of work: the others at the next."""
_MOST_HABITS: Final = 4_096
_MOST_TOLD: Final = 200_000
_RECENT_NS: Final = 60_000_000_000
"""A connection that has said nothing for so long has no request under way."""
_ANYBODY: Final = ""
_NOTHING_MET: Final[Exchanges] = np.zeros(0, MET_EXCHANGE)


class Meeting:
    """Not for two threads at once, but for `ask`."""

    def __init__(self, size_bytes: int, may_multiplex: Callable[[int], bool], hold_ns: int = HOLD_NS) -> None:
        """`may_multiplex` as `Ring` has it."""
        self.ring = Memory(size_bytes, may_multiplex)
        self._counts = Counts()
        self._questions = Questions(self._counts, hold_ns)
        self._habits: OrderedDict[tuple[int, bool, bytes], Habits] = OrderedDict()
        self._told_spans: set[bytes] = set()
        self._told_order: deque[bytes] = deque()
        self._clocks = Clocks()
        self._lost = 0
        self._lost_ns = 0
        """Before that not all of what connections did is remembered."""
        self.now_ns = 0

    def ask(self, message: bytes) -> None:
        """Take a message of the bus; from any thread."""
        self._questions.ask(message)

    @property
    def counters(self) -> dict[str, int]:
        """What became of questions; cumulative."""
        return self._counts.by_name() | {"turns_unknown": self.ring.unknown}

    @property
    def remembered_seconds(self) -> float:
        """How far back exchanges of connections are remembered."""
        return self.ring.seconds(self.now_ns)

    @property
    def remembered_datagram_seconds(self) -> float:
        """The same of UDP."""
        return self.ring.datagram_seconds(self.now_ns)

    @property
    def clock_offset_seconds(self) -> float:
        """How far the clock of that sender is ahead of this node's that is farthest apart; 0: none is known to be."""
        return self._clocks.largest_seconds

    def tell(self, exchanges: Exchanges) -> None:
        """These were read on the wire with their context, and are told for that, or will be."""
        if not len(exchanges):
            return
        self.ring.tell(exchanges["flow_id"], exchanges["number"])
        for span in exchanges["parent_span_id"].tolist():
            if span not in self._told_spans:
                self._told_spans.add(span)
                self._told_order.append(span)
        while len(self._told_order) > _MOST_TOLD:
            self._told_spans.discard(self._told_order.popleft())

    def note_lost(self, lost: int, now_ns: int) -> None:
        """So many turns were lost on their way by now: of none of that time it is known which connection had nothing to say."""
        lost += self.ring.unknown_of_connections
        if lost > self._lost:
            self._lost, self._lost_ns = lost, now_ns

    def look(self, now_ns: int, offset_ns: int, turns: Turns, slots: Callable[[Any], Slots], owners: Owners) -> Exchanges:
        """Remember these turns; return the exchanges of spans whose time has come."""
        self.now_ns = now_ns
        self.ring.add(turns, slots)
        waiting = self._questions.read(now_ns, offset_ns, self.ring.oldest_ns)
        due = np.unique(waiting["local"][waiting["due"] <= now_ns])
        if not len(due):
            return _NOTHING_MET
        by_wire = np.array([span in self._told_spans for span in waiting["span_id"].tolist()], np.bool_)
        self._settle(waiting["number"][by_wire], Reason.BY_CONTEXT)
        waiting = waiting[~by_wire & np.isin(waiting["local"], due)]
        numbers, facts = self.ring.connections()
        waiting = self._questions.at_other_ends(waiting, facts)
        whose, containers = owners(facts["owner"])
        remembered = self.ring.rows()
        rows = remembered[remembered["told"] == 0]
        by_connection = ByConnection(remembered)
        found = [_NOTHING_MET]
        most = _MOST_SPANS
        names = self._questions.local_names()
        for local in due.tolist():
            here = _of(names[local], whose, containers)
            of_local = waiting[waiting["local"] == local]
            if not here.any():
                self._settle(of_local["number"], Reason.NOT_HERE)
                continue
            if self._clocks.is_apart(names[local], of_local, (numbers[here], facts[here]), by_connection):
                self._settle(of_local["number"], Reason.CLOCK_APART)
                continue
            for server in (False, True):
                asked = of_local[of_local["server"] == server]
                ours: Indexes = np.flatnonzero(here & np.equal(facts["role"], Role.SERVER if server else Role.CLIENT))
                anybodys = with_any_peer(asked)
                for together in by_peer(asked):
                    if not most:
                        break
                    chosen = np.unique(together["number"])[:most]
                    most -= len(chosen)
                    peers = together[together["number"] <= chosen[-1]]
                    is_anybodys = ANY_ADDRESS in peers["peer_address"].tolist()
                    habits = self._habits_of((local, server, min(peers["peer_address"].tolist())))
                    rivals = asked[~anybodys & ~_told(asked, found)] if is_anybodys else asked[anybodys]
                    found.append(self._answer(peers, rivals, (numbers[ours], facts[ours]), rows, habits))
        met = np.concatenate(found)
        self.ring.tell(met["flow_id"], met["number"])
        return met

    def _habits_of(self, key: tuple[int, bool, bytes]) -> Habits:
        habits = self._habits.setdefault(key, Habits())
        self._habits.move_to_end(key)
        if len(self._habits) > _MOST_HABITS:
            self._habits.popitem(last=False)
        return habits

    def _settle(self, numbers: Any, reason: Reason) -> None:
        settled = np.unique(numbers)
        self._counts.add(reason, len(settled))
        self._questions.answered(settled)

    def _answer(self, asked: Asked, rivals: Asked, connections: tuple[Indexes, Rows], rows: Rows, habits: Habits) -> Exchanges:
        """Match spans, whose peers may be the same, with the exchanges of connections: their numbers, and the facts of each.

        `rivals` may have some of the exchanges, and are told none here.
        """
        numbers, facts = connections
        known = Peers(asked, numbered(asked)[1], facts).any_of
        numbers, facts = numbers[known], facts[known]
        both = np.concatenate([asked, rivals])
        first, of_span = numbered(both)
        spans = both[first]
        is_asked = first < len(asked)
        window = Windows(spans["begin"], spans["end"])
        peers = Peers(both, of_span, facts)
        at: Indexes = np.flatnonzero(rows["told"] == 0)
        place: Indexes = np.searchsorted(numbers, rows["connection"][at])
        inside = place < len(numbers)
        inside[inside] = numbers[place[inside]] == rows["connection"][at[inside]]
        at, place = at[inside], place[inside]
        own_window = Windows(spans["begin"][is_asked], spans["end"][is_asked])
        if _have_several(rows[at], facts[place], int(own_window.begin.min()) - _RECENT_NS):
            due = is_asked & (spans["due"] <= self.now_ns)
            return self._parts(spans, due, peers, (numbers, facts), (rows[at], place))
        near = rows["response_last_ns"][at] >= np.uint64(max(int(window.begin.min()) - TOLERANCE_NS, 0))
        near &= rows["request_first_ns"][at] <= np.uint64(max(int(window.end.max()) + TOLERANCE_NS, 0))
        at, place = at[near], place[near]
        exchanges = Windows(rows["request_first_ns"][at].astype(np.int64), rows["response_last_ns"][at].astype(np.int64))
        own, ports = spans["own_port"], facts["local_port"][place]

        def may_be(which: Indexes, found: Indexes) -> npt.NDArray[np.bool_]:
            fits: npt.NDArray[np.bool_] = np.asarray((own[which] == 0) | (own[which] == ports[found]))
            return fits & peers.may_be(which, place[found])

        met = match(window, exchanges, place, habits, may_be)
        told = (met.exchange != NOBODY) & is_asked
        pairs = [(span, int(met.exchange[span])) for span in np.flatnonzero(told).tolist()]
        series = {span: earlier for span, earlier in met.earlier.items() if is_asked[span]}
        pairs += [(span, exchange) for span, earlier in series.items() for exchange in earlier[: MOST_IN_A_ROW - 1]]
        self._settle(spans["number"][told], Reason.MATCHED)
        due = (spans["due"] <= self.now_ns) & is_asked
        ambiguous = ~told & met.candidates & due
        self._settle(spans["number"][~met.candidates & due], Reason.NO_EXCHANGE)
        self._settle(spans["number"][ambiguous & spans["tried"]], Reason.AMBIGUOUS)
        self._questions.try_again(spans["number"][ambiguous & ~spans["tried"]], self.now_ns)
        which, found = (np.array([pair[end] for pair in pairs], np.int64) for end in (0, 1))
        rows["told"][at[found]] = 1
        exchanges_met = met_exchanges(spans[which], rows[at[found]], facts[place[found]])
        add_series(exchanges_met, rows[at], [[exchange, *series.get(span, ())] for span, exchange in pairs[: int(told.sum())]])
        if counted := [exchange for earlier in series.values() for exchange in earlier[MOST_IN_A_ROW - 1 :]]:
            rows["told"][at[counted]] = 1
            self.ring.tell(facts["flow_id"][place[counted]], rows["number"][at[counted]])
        return exchanges_met

    def _parts(
        self,
        spans: Asked,
        due: npt.NDArray[np.bool_],
        peers: Peers,
        connections: tuple[Indexes, Rows],
        said: tuple[Rows, Indexes],
    ) -> Exchanges:
        """Tell of spans that are `due` what their connections did, where these are shared and no others can be theirs.

        `said`: rows, and which of the connections each is of.
        """
        numbers, facts = connections
        rows, place = said
        which = np.flatnonzero(due)
        window = Windows(spans["begin"][which], spans["end"][which])
        of_connection, slices = slices_of(rows, place, window)
        facts = facts[of_connection]
        only: Indexes = np.full(len(which), MANY, np.int64)
        if len(slices) <= MOST_CONNECTIONS:
            ports = spans["own_port"][which][:, None]
            may_be = peers.of(which, of_connection) & ((ports == 0) | (ports == facts["local_port"]))
            # Who names neither its peer nor an end of its connection may have used anything.
            may_be[peers.are_anybody[which] & (spans["own_port"][which] == 0)] = False
            only = only_connections(window, slices, may_be)
        only[window.begin <= self._lost_ns] = MANY
        overlapped = overlapping(window, only)
        self.ring.note_overlapped(numbers[of_connection[overlapped]])
        facts["overlapped"][overlapped] = True
        shared = np.append(facts["several"] & (facts["in_tls"] | facts["streams"] | facts["overlapped"]), False)
        parts = [
            (row, part)
            for row in np.flatnonzero((only >= 0) & shared[np.maximum(only, -1)]).tolist()
            if (part := slices[only[row]].part(int(window.begin[row]), int(window.end[row]))) is not None
        ]
        told = np.array([row for row, _ in parts], np.int64)
        self._settle(spans["number"][which[told]], Reason.CONNECTION)
        left = np.setdiff1d(np.arange(len(which)), told)
        known = peers.are_anybody[which[left]] | (only[left] != NOBODY)
        self._settle(spans["number"][which[left[known]]], Reason.MULTIPLEXED)
        self._settle(spans["number"][which[left[~known]]], Reason.NO_EXCHANGE)
        ordinals = self.ring.count_parts(numbers[of_connection[only[told]]])
        return met_parts(spans[which[told]], facts[only[told]], [part for _, part in parts], ordinals)


def _told(asked: Asked, found: Iterable[Exchanges]) -> npt.NDArray[np.bool_]:
    """Which rows are of spans whose exchanges were found."""
    spans = [each["parent_span_id"].tobytes() for exchanges in found for each in exchanges]
    told: npt.NDArray[np.bool_] = np.isin(asked["span_id"], np.array(spans, asked["span_id"].dtype))
    return told


def _have_several(rows: Rows, facts: Rows, since_ns: int) -> bool:
    """Whether an exchange since then was on a connection that may have several under way: any span may be of one of those."""
    return bool((facts["several"] & (rows["response_last_ns"] >= np.uint64(max(since_ns, 0)))).any())


def _of(local: str, whose: npt.NDArray[np.uint32], containers: list[dict[str, str]]) -> npt.NDArray[np.bool_]:
    """Which connections are somebody's, whom a pod's uid or a container's id names."""
    if local == _ANYBODY:
        return np.ones(len(whose), np.bool_)
    named = [row for row, each in enumerate(containers) if local in {each.get("pod_uid"), each.get("container_id")}]
    found: npt.NDArray[np.bool_] = np.isin(whose, named)
    return found
