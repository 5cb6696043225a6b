"""A node's meeting without its capture: what is exchanged and asked is said, and what is told is there to read."""

from __future__ import annotations

from typing import Any

import numpy as np

from proto.asked.batch import AskedBatch, encode_asked
from proto.asked.columns import ASKED, OTHER_END, SpanKind
from proto.columns import NO_INDEX, Role
from services.capture.flows.layout import KNOWN_ISN, Requests
from services.capture.live.tap.slot_layout import SLOT
from services.capture.meeting.meeting import Meeting
from services.capture.meeting.turns import TURN, TurnFlag

MS = 1_000_000
OFFSET = 1_700_000_000_000_000_000
"""From the packets' clock to Unix time."""
POD, OTHER_POD = "6a1b7c9e-0000-4000-8000-000000000001", "6a1b7c9e-0000-4000-8000-000000000002"
OWNERS = {1: POD, 2: OTHER_POD}
PEER, ANOTHER = bytes(10) + b"\xff\xff\x0a\x00\x00\x09", bytes(10) + b"\xff\xff\x0a\x00\x00\x0a"
RESOLVER = bytes(10) + b"\xff\xff\x0a\x60\x00\x0a"
HERE = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
HOLD = 1_000 * MS
TCP, UDP = 6, 17


class Node:
    """A node whose connections and exchanges are said."""

    def __init__(self, size_bytes: int = 1 << 20) -> None:
        self.several: set[int] = set()
        """Connections whose TLS may hold several requests at once."""
        self.tls_asked: list[int] = []
        self.meeting = Meeting(size_bytes, self._may_multiplex, HOLD)
        self._slots = np.zeros(4_096, SLOT)
        self._turns: list[Any] = []
        self._asked: list[dict[str, Any]] = []
        self.now = 100_000 * MS

    def _may_multiplex(self, flow_id: int) -> bool:
        self.tls_asked.append(flow_id)
        return flow_id in self.several

    def connection(
        self,
        number: int,
        *,
        owner: int = 1,
        peer: bytes = PEER,
        role: Role = Role.CLIENT,
        port: int = 5432,
        begun: bool = True,
        requests: Requests = Requests.OPAQUE,
        transport: int = TCP,
    ) -> None:
        """Open one, from port 40000 + `number`; not `begun`: it is older than capture."""
        slot = self._slots[number]
        slot["tx_known"], slot["requests"] = KNOWN_ISN if begun else 0, requests
        slot["id"], slot["cgroup_id"], slot["role"], slot["remote_address"] = number, owner, role, np.void(peer)
        slot["local_address"], slot["transport"] = np.void(HERE), transport
        slot["local_port"], slot["remote_port"] = (40_000 + number, port) if role == Role.CLIENT else (port, 40_000 + number)

    def exchange(
        self,
        connection: int,
        number: int,
        begin_ms: float,
        end_ms: float,
        flags: int = 0,
        *,
        resent: tuple[int, int] = (0, 0),
        closed: tuple[int, int] = (0, 0),
        srtt_us: int = 0,
    ) -> None:
        """It took place, its server answering in the middle; so often did client and server send again, and close windows."""
        turn = np.zeros(1, TURN)
        times = (begin_ms, begin_ms + 0.1, (begin_ms + end_ms) / 2, end_ms)
        names = ("request_first_ns", "request_last_ns", "response_first_ns", "response_last_ns")
        for name, at in zip(names, times, strict=True):
            turn[name] = int(at * MS)
        turn["flow_id"], turn["number"], turn["flags"], turn["request_bytes"] = connection, number, flags, 70
        turn["retransmits"], turn["zero_windows"], turn["srtt_us"] = resent, closed, srtt_us
        self._turns.append(turn)

    def lookup(self, flow: int, *times_ms: tuple[float, float], peer: bytes = RESOLVER) -> None:
        """A name is looked up, from a socket of its own, by questions from when to when."""
        self.connection(flow, peer=peer, port=53, begun=False, requests=Requests.NUMBERED, transport=UDP)
        for number, (begin, end) in enumerate(times_ms):
            self.exchange(flow, number, begin, end, flags=TurnFlag.DATAGRAM)

    def begin(self, connection: int, flags: int) -> None:
        """A turn of it is open at the next look."""
        turn = np.zeros(1, TURN)
        turn["flow_id"], turn["flags"] = connection, flags
        self.meeting.ring.begin(turn, lambda slots: self._slots[slots])

    def ask(self, begin_ms: float, end_ms: float, **said: Any) -> bytes:
        """Ask for a span; return its id."""
        span = (len(self._asked) + 1).to_bytes(8, "big")
        self._asked.append({
            "begin": int(begin_ms * MS) + OFFSET, "end": int(end_ms * MS) + OFFSET, "span_id": span, "peers": [(PEER, 5432)],
            "kind": SpanKind.CLIENT, "local": POD, "local_port": 0,
        } | said)  # fmt: skip
        return span

    def other_end(self, client: bytes, connection: int) -> None:
        """A server says by which connection it was asked for a client's span."""
        self.ask(0, 1, span_id=client, kind=OTHER_END, peers=[(HERE, 40_000 + connection)])

    def _message(self) -> bytes:
        rows = [(number, each, peer) for number, each in enumerate(self._asked) for peer in each["peers"]]
        locals_ = list(dict.fromkeys(each["local"] for _, each, _ in rows))
        values: dict[str, list[Any]] = {
            "question": [number for number, _, _ in rows],
            "trace_id": [bytes(8) + each["span_id"] for _, each, _ in rows],
            "span_id": [each["span_id"] for _, each, _ in rows],
            "flags": [1] * len(rows),
            "kind": [each["kind"] for _, each, _ in rows],
            "start_ns": [each["begin"] for _, each, _ in rows],
            "end_ns": [each["end"] for _, each, _ in rows],
            "local": [locals_.index(each["local"]) for _, each, _ in rows],
            "local_port": [each["local_port"] for _, each, _ in rows],
            "peer_address": [peer[0] for _, _, peer in rows],
            "peer_port": [peer[1] for _, _, peer in rows],
        }
        columns = {column.name: np.array(values[column.name], column.dtype) for column in ASKED}
        return encode_asked(AskedBatch("node-a", len(rows), locals_, columns))

    def look(self, after_ms: int = 0) -> Any:
        """Let time pass, hand on what there is, and return what is told."""
        if self._asked:
            self.meeting.ask(self._message())
            self._asked = []
        turns = np.concatenate([np.zeros(0, TURN), *self._turns])
        self._turns = []
        self.now += after_ms * MS
        return self.meeting.look(self.now, OFFSET, turns, lambda slots: self._slots[slots], owners)

    def answer(self) -> list[tuple[bytes, int, int]]:
        """Ask, and wait until all is said: span, connection and number of each exchange that is told."""
        told = [self.look(), self.look(1_500), self.look(1_500)]
        return [(row["parent_span_id"].tobytes(), int(row["flow_id"]), int(row["number"])) for each in told for row in each]

    @property
    def reasons(self) -> dict[str, int]:
        """What became of the questions, by `asked_<reason>` without what is 0."""
        counters = self.meeting.counters.items()
        return {name.removeprefix("asked_"): count for name, count in counters if name.startswith("asked_") and count}


def owners(cgroups: np.ndarray) -> tuple[np.ndarray, list[dict[str, str]]]:
    """As CgroupIndex.rows."""
    rows = [{"pod_uid": pod} for pod in OWNERS.values()]
    return np.array([list(OWNERS).index(each) if each in OWNERS else NO_INDEX for each in cgroups.tolist()], np.uint32), rows
