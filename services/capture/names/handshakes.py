"""TLS handshakes by their flow, from their pieces to the columns of its records.

What the two hellos say is told in each record of the flow from then on; how the handshake ended, and how long it took, in one:
the next, unless the bus refuses it. bpf/engine/tls.h says which record ends a handshake, and so what its time is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from proto.columns import TLS
from proto.flow_batch import Array
from proto.tls import ALERT, ALERT_BY_SERVER, ALERT_ENCRYPTED, ECH, QUIC, QUIC_2, RESUMED, RESUMPTION_KNOWN
from services.capture.names.pieces import Piece, PieceKind
from services.capture.names.questions import NameList
from services.capture.names.quic import QuicInitials, in_a_row
from services.capture.names.tls_hello import ClientHello, ServerHello, read_hello, read_hello_message

MOST_FLOWS: Final = 32_768
"""Flows whose handshakes are known; beyond it the one that was first is forgotten, and counted."""

_TLS_1_3: Final = 0x0304
_CCM_8: Final = 0x1305
_ALERT: Final = 21
_RECORD_HEADER: Final = 5
_ALERT_BYTES: Final = 7
_ALERT_CONTENT, _CONTENT_TYPE, _TAG, _SHORT_TAG = 2, 1, 16, 8
_LONGEST_OFFER: Final = 255
_ONE_AT_A_TIME: Final = frozenset({"http/1.0", "http/1.1", "postgresql", "imap", "pop3", "ftp"})
"""Protocols (IANA's ALPN ids) whose clients wait for one response before they ask for the next, as nearly all do."""


class Handshake(NamedTuple):
    """What is told of a handshake."""

    client: ClientHello | None = None
    server: ServerHello | None = None
    alert: int | None = None
    """What ended it, if an alert did: its number, and whose it was (bits of `tls_flags`)."""
    alert_flags: int = 0
    time_ns: int = 0

    @property
    def flags(self) -> int:
        """`tls_flags`."""
        resumed = self._resumed
        found = 0 if resumed is None else RESUMPTION_KNOWN | (RESUMED if resumed else 0)
        found |= ECH if self.client and self.client.has_ech else 0
        found |= (QUIC, QUIC | QUIC_2)[self.client.quic - 1] if self.client and self.client.quic else 0
        return found | self.alert_flags

    @property
    def _resumed(self) -> bool | None:
        """Whether a session is resumed; None where nobody knows.

        In TLS 1.3 the server took a key that both had. Before, it sends the session's id back, also to a client that showed a
        ticket (RFC 5077 3.4) and an id of its own with it; to one that showed a ticket alone it may or may not be.
        """
        if self.server is None or self.client is None:
            return None
        if self.server.version >= _TLS_1_3:
            return self.server.has_key
        if self.client.session:
            return self.client.session == self.server.session
        return None if self.client.has_ticket else False

    @property
    def has_end(self) -> bool:
        """Whether it is told how it ended."""
        return self.time_ns != 0 or self.alert is not None

    def without_end(self) -> Handshake:
        """What is told again in later records."""
        return self._replace(alert=None, alert_flags=0, time_ns=0)


_NOTHING: Final = Handshake()


@dataclass(slots=True)
class _Flow:
    handshake: Handshake = _NOTHING
    client: int | None = None
    """The client's direction."""
    parts: dict[int, dict[int, bytes]] | None = None
    """Of hellos that are not all there, by direction and place; None where there are none, which is nearly always."""
    times: tuple[int, int] | None = None
    """From when to when it took place, on the packets' clock; None: it has not ended so far, or failed."""


class HandshakeTable:
    """All flows' handshakes. Not for two threads at once."""

    def __init__(self, without_hidden: Callable[[str], str] = str) -> None:
        """`without_hidden` makes of a server's name what is kept of it."""
        self._without_hidden = without_hidden
        self._flows: dict[int, _Flow] = {}
        self._quic = QuicInitials()
        self._forgotten = 0

    @property
    def forgotten(self) -> int:
        """Flows whose handshakes were given up because too many were known."""
        return self._forgotten + self._quic.forgotten

    def add(self, piece: Piece) -> bool:
        """Take over a piece; return whether it could be read."""
        if piece.kind == PieceKind.QUIC:
            return self._add_quic(piece)
        flow = self._flow(piece.flow_id)
        if piece.since_ns:
            return self._end(flow, piece)
        content = piece.content
        if len(content) < piece.payload_bytes:
            flow.parts = flow.parts or {}
            parts = flow.parts.setdefault(piece.direction, {})
            parts[piece.place] = content
            content = in_a_row(parts)
            if len(content) < piece.payload_bytes:
                return True
            del flow.parts[piece.direction]
        return self._hear(flow, piece.direction, read_hello(content))

    def _add_quic(self, piece: Piece) -> bool:
        heard = self._quic.hear(piece)
        for said in heard or ():
            flow = self._flow(piece.flow_id)
            hello = read_hello_message(said.message)
            if said.alert is not None:
                flags = ALERT | (ALERT_BY_SERVER if said.by_server else 0)
                flow.handshake = flow.handshake._replace(alert=said.alert, alert_flags=flags)
            elif isinstance(hello, ClientHello):
                self._hear(flow, piece.direction, replace(hello, quic=said.version))
            else:
                self._hear(flow, piece.direction, hello)
        return heard is not None

    def take(self, flow_ids: Array, final: npt.NDArray[np.bool_]) -> dict[int, Handshake]:
        """Return what the next record of each of these flows tells, by row. `final` are the flows' last records."""
        if not self._flows:
            return {}
        taken: dict[int, Handshake] = {}
        for row, flow_id in enumerate(flow_ids.tolist()):
            flow = self._flows.get(flow_id)
            if flow is None:
                continue
            if final[row]:
                self._hear_parts(flow)
                self._quic.leave(flow_id)
                del self._flows[flow_id]
            if flow.handshake != _NOTHING:
                taken[row] = flow.handshake
                flow.handshake = flow.handshake.without_end()
        return taken

    def times(self, flow_id: int) -> tuple[int, int] | None:
        """Return from when to when a flow's handshake took place; None where that is not known."""
        flow = self._flows.get(flow_id)
        return None if flow is None else flow.times

    def may_multiplex(self, flow_id: int) -> bool:
        """Whether a flow's TLS may hold a protocol of several requests at once: HTTP/2, or what nobody saw agreed upon.

        In TLS 1.3 the server's choice is encrypted, so what the client offered has to do.
        """
        flow = self._flows.get(flow_id)
        if flow is None or flow.handshake.client is None:
            return True
        server = flow.handshake.server
        agreed = (server.protocol,) if server and server.protocol else flow.handshake.client.protocols
        return not _ONE_AT_A_TIME.issuperset(agreed)

    def put_back(self, flow_ids: Array, taken: Mapping[int, Handshake]) -> None:
        """What `take` returned is stored nowhere and never will be: it is due again."""
        for row, told in taken.items():
            flow = self._flow(int(flow_ids[row]))
            later = flow.handshake
            ended = later if later.has_end else told
            flow.handshake = Handshake(later.client or told.client, later.server or told.server, *ended[2:])

    def _hear(self, flow: _Flow, direction: int, hello: ClientHello | ServerHello | None) -> bool:
        known = flow.handshake
        is_again = known.server is not None and known.server.is_retry
        # What comes later may begin like a hello by chance: it is encrypted.
        if isinstance(hello, ClientHello) and (known.client is None or is_again):
            name = hello.server_name
            # Of names that many ask for one is kept.
            hello = replace(hello, server_name=sys.intern(self._without_hidden(name)) if name else None)
            flow.handshake, flow.client = known._replace(client=hello), direction
        elif isinstance(hello, ServerHello) and (known.server is None or is_again):
            flow.handshake = known._replace(server=hello)
        return hello is not None

    def _hear_parts(self, flow: _Flow) -> None:
        """What there is of the hellos is all that comes."""
        for direction, parts in (flow.parts or {}).items():
            self._hear(flow, direction, read_hello(in_a_row(parts)))
        flow.parts = None

    def _end(self, flow: _Flow, piece: Piece) -> bool:
        record = piece.content
        self._hear_parts(flow)
        known = flow.handshake
        if len(record) < _RECORD_HEADER or (record[0] == _ALERT and len(record) < _ALERT_BYTES):
            return False
        if record[0] == _ALERT:
            by_server = flow.client is not None and piece.direction != flow.client
            flags = ALERT | (ALERT_BY_SERVER if by_server else 0)
            flow.handshake = known._replace(alert=record[_ALERT_BYTES - 1], alert_flags=flags)
        elif _is_alert(record, known.server):
            flow.handshake = known._replace(alert=0, alert_flags=ALERT | ALERT_ENCRYPTED)
        else:
            flow.handshake = known._replace(time_ns=max(piece.time_ns - piece.since_ns, 1))
            flow.times = piece.since_ns, max(piece.time_ns, piece.since_ns + 1)
        return True

    def _flow(self, flow_id: int) -> _Flow:
        flow = self._flows.get(flow_id)
        if flow is None:
            if len(self._flows) >= MOST_FLOWS:
                del self._flows[next(iter(self._flows))]
                self._forgotten += 1
            flow = self._flows[flow_id] = _Flow()
        return flow


def _is_alert(record: bytes, server: ServerHello | None) -> bool:
    """Whether what a client of TLS 1.3 encrypts first is an alert: two bytes and their type. A Finished has 37 or more."""
    if server is None or server.version < _TLS_1_3:
        return False
    tag = _SHORT_TAG if server.cipher == _CCM_8 else _TAG
    return int.from_bytes(record[3:_RECORD_HEADER]) == _ALERT_CONTENT + _CONTENT_TYPE + tag


def handshake_columns(taken: Mapping[int, Handshake], cut_short: Array, names: NameList) -> dict[str, Array]:
    """Return the columns of records, of which some (`taken`, by row) tell of handshakes.

    `cut_short` is where a RST took something from the other end: behind a fatal alert nothing comes (RFC 8446 6.2), so that it
    takes nothing.
    """
    columns = {column.name: np.full(len(cut_short), column.default, column.numpy_dtype) for column in TLS}
    for row, told in taken.items():
        for name, value in _values(told, names).items():
            columns[f"tls_{name}"][row] = value
    columns["cut_short"] = np.where(columns["tls_flags"] & ALERT, 0, cut_short).astype(cut_short.dtype)
    return columns


def _values(told: Handshake, names: NameList) -> dict[str, int]:
    client, server = told.client, told.server
    offered = ",".join(client.protocols)[:_LONGEST_OFFER] if client else ""
    return {
        "version": server.version if server else 0,
        "cipher": server.cipher if server else 0,
        "flags": told.flags,
        "alert": told.alert or 0,
        "handshake_time_ns": told.time_ns,
        "server_name": names.place(client.server_name if client else None),
        "protocol": names.place(server.protocol if server else None),
        "offered_protocols": names.place(offered or None),
    }
