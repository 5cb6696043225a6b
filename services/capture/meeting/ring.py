"""What capture remembers: the latest exchanges of all connections, and whose they are, in so many bytes.

Two rings: exchanges, and what is the same for all of a connection. The oldest of either are overwritten; an exchange whose
connection was is remembered no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from services.capture.flows.layout import KNOWN_ISN, Requests, Slots
from services.capture.meeting.turns import TurnFlag, Turns

Rows: TypeAlias = npt.NDArray[Any]
Indexes = npt.NDArray[np.int64]

FACTS: Final = np.dtype([
    ("flow_id", "<u8"), ("owner", "<u8"), ("first_ns", "<u8"),
    ("local_address", "V16"), ("remote_address", "V16"), ("backend_address", "V16"),
    ("local_isn", "<u4"), ("remote_isn", "<u4"),
    ("local_port", "<u2"), ("remote_port", "<u2"), ("backend_port", "<u2"), ("role", "|u1"), ("isn_seen", "|u1"),
    ("transport", "|u1"), ("several", "?"), ("in_tls", "?"), ("streams", "?"), ("overlapped", "?"), ("parts", "<u4"),
])  # fmt: skip
"""What is known of a connection. `owner`: its socket's cgroup. `several`: requests may be under way on it at once; known is
that they are where it is HTTP/2's, in TLS or in `streams`, or where spans of it `overlapped`. `parts`: how many were told.
"""

EXCHANGE_ROW: Final = np.dtype([
    ("request_first_ns", "<u8"), ("request_last_ns", "<u8"), ("response_first_ns", "<u8"), ("response_last_ns", "<u8"),
    ("connection", "<u4"), ("number", "<u4"), ("request_bytes", "<u4"), ("response_bytes", "<u4"),
    ("retransmits", "<u2", (2,)), ("zero_windows", "|u1", (2,)), ("flags", "|u1"), ("told", "|u1"), ("srtt_us", "<u4"),
    ("pad", "V4"),
])  # fmt: skip
"""One exchange; of a connection that is shared, a slice of its time. `connection`: the number of its facts. `told`: it stands
in an application's trace already."""

_FACTS_SHARE: Final = 0.25
MOST_CONNECTIONS: Final = 1 << 31
"""That have a number; then everything is forgotten, and they are counted anew."""
_DATAGRAMS: Final = (17, 136)
"""UDP and UDP-Lite."""


def is_datagrams(transports: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which are UDP's."""
    return np.isin(transports, _DATAGRAMS)


class Ring:
    """Not for two threads at once."""

    def __init__(self, size_bytes: int, may_multiplex: Callable[[int], bool], facts_share: float = _FACTS_SHARE) -> None:
        """`may_multiplex`: whether what a flow has in TLS may be a protocol of several requests at once, such as HTTP/2."""
        self._may_multiplex = may_multiplex
        self._facts = np.zeros(max(int(size_bytes * facts_share) // FACTS.itemsize, 16), FACTS)
        self._rows = np.zeros(max(int(size_bytes * (1 - facts_share)) // EXCHANGE_ROW.itemsize, 16), EXCHANGE_ROW)
        self._facts_made = 0
        self._rows_made = 0
        self._connection_of: dict[int, int] = {}
        self._to_share: list[int] = []
        self.unknown = 0
        """Exchanges whose connection was gone before anything was known of it."""

    def __len__(self) -> int:
        return min(self._rows_made, len(self._rows))

    def add(self, turns: Turns, slots: Callable[[npt.NDArray[np.uint32]], Slots]) -> None:
        """Remember these; `slots` copies slots by their indexes."""
        if not len(turns):
            return
        if self._facts_made > MOST_CONNECTIONS - len(turns):
            self._facts_made = self._rows_made = 0
            self._connection_of.clear()
        flows, which = np.unique(turns["flow_id"], return_inverse=True)
        known = [self._connection_of.get(flow, -1) for flow in flows.tolist()]
        connections = np.array(known, np.int64)
        new = np.flatnonzero(connections < 0)
        if len(new):
            connections[new] = self._learn(flows[new], slots((flows[new] & np.uint64(0xFFFF_FFFF)).astype(np.uint32)))
        self._note_tls(connections[np.bincount(which, turns["flags"] & np.uint8(TurnFlag.TLS)) > 0])
        of_turn = connections[which]
        self.unknown += int((of_turn < 0).sum())
        turns, of_turn = turns[of_turn >= 0], of_turn[of_turn >= 0]
        self._rows_made += len(turns)
        turns, of_turn = turns[-len(self._rows) :], of_turn[-len(self._rows) :]
        at = (self._rows_made - len(turns) + np.arange(len(turns))) % len(self._rows)
        for name in EXCHANGE_ROW.names or ():
            if name in (turns.dtype.names or ()):
                self._rows[name][at] = turns[name]
        self._rows["connection"][at], self._rows["told"][at] = of_turn, 0

    def begin(self, turns: Turns, slots: Callable[[npt.NDArray[np.uint32]], Slots]) -> None:
        """These connections speak TLS, and no turn of them may be over for long: what they are is known from now on."""
        new = np.unique(turns["flow_id"][[flow not in self._connection_of for flow in turns["flow_id"].tolist()]])
        if len(new):
            self._learn(new, slots((new & np.uint64(0xFFFF_FFFF)).astype(np.uint32)))
        numbers = [self._connection_of.get(flow, -1) for flow in turns["flow_id"].tolist()]
        self._note_tls(np.array(numbers, np.int64))

    def take_shared(self) -> npt.NDArray[np.uint64]:
        """Return the flows whose turns are to be slices from now on, each once."""
        shared, self._to_share = np.array(self._to_share, np.uint64), []
        return shared

    def _learn(self, flows: npt.NDArray[np.uint64], slots: Slots) -> Indexes:
        """Keep the facts of connections; return their numbers, -1 where the slot is another's by now."""
        same = np.flatnonzero(slots["id"] == flows)[-len(self._facts) :]
        numbers: Indexes = np.full(len(flows), -1, np.int64)
        numbers[same] = self._facts_made + np.arange(len(same))
        at = numbers[same] % len(self._facts)
        for gone in self._facts["flow_id"][at].tolist():
            self._connection_of.pop(gone, None)
        kept = slots[same]
        facts = np.zeros(len(same), FACTS)
        for name, member in (
            *((name, name) for name in ("local_address", "remote_address", "local_port", "remote_port", "role", "transport")),
            *(("flow_id", "id"), ("owner", "cgroup_id"), ("first_ns", "first_ns")),
            *(("local_isn", "tx_initial_sequence"), ("remote_isn", "rx_initial_sequence")),
            *((name, name) for name in ("backend_address", "backend_port")),
        ):
            facts[name] = kept[member]
        facts["isn_seen"] = (kept["tx_known"] & KNOWN_ISN) | (kept["rx_known"] & KNOWN_ISN) << 1
        facts["streams"] = kept["requests"] == Requests.STREAMS
        # Of a connection that is older than capture nobody knows what it began with; turns of UDP are one exchange each.
        joined = (facts["isn_seen"] == 0) & ~is_datagrams(facts["transport"])
        facts["several"] = facts["streams"] | joined | (kept["requests"] == Requests.PIPELINED)
        self._facts[at] = facts
        self._to_share += facts["flow_id"][facts["several"]].tolist()
        self._connection_of.update(zip(flows[same].tolist(), numbers[same].tolist(), strict=True))
        self._facts_made += len(same)
        return numbers

    def _note_tls(self, connections: Indexes) -> None:
        """These speak TLS by now: what in it, each is asked once."""
        at = connections[connections >= 0] % len(self._facts)
        for place in at[~self._facts["in_tls"][at]].tolist():
            self._facts["in_tls"][place] = True
            if not self._facts["several"][place] and self._may_multiplex(int(self._facts["flow_id"][place])):
                self._facts["several"][place] = True
                self._to_share.append(int(self._facts["flow_id"][place]))

    def note_overlapped(self, connections: Indexes) -> None:
        """Spans of these connections (numbers) were under way at once."""
        self._facts["overlapped"][connections % len(self._facts)] = True

    def count_parts(self, connections: Indexes) -> npt.NDArray[np.uint32]:
        """Return the number of each part of these connections (numbers) that is told now."""
        numbers = np.zeros(len(connections), np.uint32)
        for row, place in enumerate((connections % len(self._facts)).tolist()):
            numbers[row] = self._facts["parts"][place]
            self._facts["parts"][place] += 1
        return numbers

    def connections(self) -> tuple[Indexes, Rows]:
        """Return the numbers of the connections that are known, and the facts of each."""
        numbers = np.arange(max(self._facts_made - len(self._facts), 0), self._facts_made)
        return numbers, self._facts[numbers % len(self._facts)]

    def rows(self) -> Rows:
        """Return what is remembered, oldest first; a copy."""
        at = np.arange(max(self._rows_made - len(self._rows), 0), self._rows_made) % len(self._rows)
        found = self._rows[at]
        kept: Rows = found[found["connection"] >= max(self._facts_made - len(self._facts), 0)]
        return kept

    def tell(self, flow_ids: npt.NDArray[np.uint64], numbers: npt.NDArray[np.uint32]) -> None:
        """These exchanges stand in a trace: they are not told again. Slices are nobody's, and are told to whoever asks."""
        told = {
            (self._connection_of.get(flow), number) for flow, number in zip(flow_ids.tolist(), numbers.tolist(), strict=True)
        }
        connections = np.array([each for each, _ in told if each is not None], np.uint32)
        connections = connections[~self._facts["several"][connections % len(self._facts)]]
        at = np.flatnonzero(np.isin(self._rows["connection"], connections))
        pairs = zip(self._rows["connection"][at].tolist(), self._rows["number"][at].tolist(), strict=True)
        self._rows["told"][at[np.array([pair in told for pair in pairs], np.bool_)]] = 1

    @property
    def oldest_ns(self) -> int:
        """When the oldest exchange that is remembered began; 0: nothing was forgotten."""
        if self._rows_made <= len(self._rows):
            return 0
        return int(self._rows["request_first_ns"][self._rows_made % len(self._rows)])

    def seconds(self, now_ns: int) -> float:
        """Return how far back it remembers."""
        if not self._rows_made:
            return 0.0
        first = self._rows_made % len(self._rows) if self._rows_made > len(self._rows) else 0
        return max(now_ns - int(self._rows["request_first_ns"][first]), 0) / 1e9
