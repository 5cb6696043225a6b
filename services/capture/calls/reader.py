"""Calls of HTTP/2 by their streams, from pieces of header blocks to the trace contexts of exchanges.

The engine knows when a stream's request and response began and ended, and not what they say (bpf/engine/http2/streams.h). Here
it is known which of them belong to an application's trace; the others are dropped when the host gives them out.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from hpack.table import HeaderTable

from proto.columns import HttpMethod
from services.capture.calls.header_block import TRACEPARENT, BlockError, HeaderFields, read_block
from services.capture.flows.exchange_layout import Exchanges, RequestCounter
from services.capture.names.pieces import Piece, PieceKind

MOST_CONNECTIONS: Final = 8192
"""Whose tables are kept: beyond it the one that was quiet for longest is forgotten, and counted. Each has two dynamic tables
of 4 KiB, where its ends ask for no others, and of `header_block.MOST_TABLE_BYTES` at the most."""
MOST_CALLS: Final = 131_072
"""Which are part of a trace and were not given out yet: those that are open, and those that ended since the host was asked."""

_INTERIM: Final = range(100, 200)


class _Block(enum.IntFlag):
    """What a piece of a header block is of it (`enum piece_block`)."""

    BEGINS = 1
    ENDS = 2
    ENDS_STREAM = 4
    PROMISED = 8
    CUT = 16
    OVER = 32
    ASKS = 64
    FIRST = 128


@dataclass(slots=True)
class _Call:
    """One whose context is sampled."""

    trace_id: bytes
    parent_span_id: bytes
    flags: int
    method: HttpMethod = HttpMethod.UNKNOWN
    status: int = 0
    grpc_status: int | None = None
    response_first_ns: int = 0
    """0: none came, or interim ones only."""
    unclear: bool = False
    """Whether what came was an interim response cannot be told."""

    def answer(self, fields: HeaderFields, begun_ns: int, *, ends: bool) -> None:
        """Take over headers of the server's: of a response, or behind one. `ends`: nothing follows them."""
        self.grpc_status = fields.grpc_status if fields.grpc_status is not None else self.grpc_status
        if self.response_first_ns:
            return
        if fields.status is None and not ends:
            self.unclear = True
        elif fields.status not in _INTERIM:
            self.response_first_ns, self.status = begun_ns, fields.status or 0


@dataclass(slots=True)
class _Side:
    """One direction: what HPACK knows of it, and the block that is under way."""

    table: HeaderTable | None = None
    block: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    begun_ns: int = 0


@dataclass(slots=True)
class _Connection:
    sides: tuple[_Side, _Side] = field(default_factory=lambda: (_Side(), _Side()))
    calls: dict[int, _Call] = field(default_factory=dict)


class CallReader:
    """Reads pieces of header blocks and keeps what they say until their exchanges are over. Not for two threads at once."""

    def __init__(self) -> None:
        self.kinds: tuple[PieceKind, ...] = (PieceKind.HTTP2,)
        """Of which pieces are asked for."""
        self.requests = dict.fromkeys(RequestCounter, 0)
        """What became of requests, besides those that the engine counts."""
        self._unreadable = 0
        self._forgotten = 0
        self._connections: dict[int, _Connection] = {}
        self._over: list[int] = []
        self._kept = 0

    @property
    def counters(self) -> dict[str, int]:
        """Header blocks that could not be read, behind each of which no table of its direction is known, and connections that
        were forgotten because there were too many.
        """
        return {"pieces_block_unreadable": self._unreadable, "pieces_connection_forgotten": self._forgotten}

    def read(self, pieces: Iterable[Piece]) -> None:
        """Take over what pieces say."""
        for piece in pieces:
            if piece.block & _Block.OVER:
                self._over.append(piece.flow_id)
            else:
                self._read(piece)

    def of_traces(self, ended: Exchanges) -> Exchanges:
        """Return those of exchanges that are over which belong to a trace, with their contexts."""
        kept = np.ones(len(ended), np.bool_)
        for row in np.flatnonzero(ended["is_stream"]).tolist():
            exchange = ended[row]
            connection = self._connections.get(int(exchange["flow_id"]))
            call = None if connection is None else connection.calls.pop(int(exchange["number"]), None)
            self._kept -= call is not None
            kept[row] = call is not None and self._complete(exchange, call)
        for flow_id in self._over:
            self.requests[RequestCounter.UNPAIRED] += self._forget(flow_id)
        self._over = []
        return ended[kept]

    def time_responses(self, open_ones: Exchanges) -> None:
        """Put the time of the response into those of a trace whose final response has not begun, whatever came before it."""
        for row in np.flatnonzero(open_ones["is_stream"]).tolist():
            connection = self._connections.get(int(open_ones[row]["flow_id"]))
            call = None if connection is None else connection.calls.get(int(open_ones[row]["number"]))
            if call is not None:
                open_ones[row]["response_first_ns"] = call.response_first_ns

    def _complete(self, exchange: np.void, call: _Call) -> bool:
        """Write what is known of a call into its exchange. Returns whether that is enough to tell of it."""
        if call.unclear:
            self.requests[RequestCounter.UNPAIRED] += 1
            return False
        exchange["trace_id"], exchange["parent_span_id"] = call.trace_id, call.parent_span_id
        exchange["trace_flags"] = call.flags
        exchange["method"], exchange["status"] = call.method, call.status
        exchange["grpc_status"] = 0 if call.grpc_status is None else call.grpc_status + 1
        exchange["response_first_ns"] = call.response_first_ns
        if not call.response_first_ns:
            exchange["response_last_ns"] = 0
        return True

    def _read(self, piece: Piece) -> None:
        connection = self._connection(piece.flow_id)
        side = connection.sides[piece.direction & 1]
        if piece.block & _Block.FIRST:
            side.table = HeaderTable()
        if piece.block & _Block.BEGINS:
            side.block.clear()
            side.is_whole, side.begun_ns = True, piece.time_ns
        side.block += piece.content
        side.is_whole &= piece.held == piece.payload_bytes and not piece.block & _Block.CUT
        if not side.is_whole:
            side.table = None
            self._unreadable += bool(side.begun_ns)
            side.begun_ns = 0
        elif piece.block & _Block.ENDS:
            self._take(connection, side, piece)

    def _take(self, connection: _Connection, side: _Side, piece: Piece) -> None:
        try:
            fields = read_block(bytes(side.block), side.table)
        except BlockError:
            side.table = None
            self._unreadable += 1
            return
        finally:
            side.block.clear()
        if piece.block & _Block.PROMISED:
            return
        call = connection.calls.get(piece.stream)
        if piece.block & _Block.ASKS:
            # What a client sends behind its request's body are trailers.
            if call is None and fields.is_request:
                self._begin(connection, piece.stream, fields)
        elif call is not None:
            call.answer(fields, side.begun_ns, ends=bool(piece.block & _Block.ENDS_STREAM))

    def _begin(self, connection: _Connection, stream: int, fields: HeaderFields) -> None:
        found, call = _context(fields.contexts)
        if call is not None and self._kept >= MOST_CALLS:
            found = RequestCounter.NO_ROOM
        elif call is not None:
            call.method = fields.method
            connection.calls[stream] = call
            self._kept += 1
        self.requests[found] += 1

    def _forget(self, flow_id: int) -> int:
        """Forget a connection; return how many of its calls were kept."""
        gone = self._connections.pop(flow_id, None)
        calls = 0 if gone is None else len(gone.calls)
        self._kept -= calls
        return calls

    def _connection(self, flow_id: int) -> _Connection:
        """Return what is known of a connection, which was the last to speak."""
        connection = self._connections.pop(flow_id, None)
        if connection is None:
            if len(self._connections) >= MOST_CONNECTIONS:
                self._forget(next(iter(self._connections)))
                self._forgotten += 1
            connection = _Connection()
        self._connections[flow_id] = connection
        return connection


def _context(values: list[bytes]) -> tuple[RequestCounter, _Call | None]:
    """Return what becomes of a request with these contexts; its call where it is told."""
    if not values:
        return RequestCounter.ABSENT, None
    if len(values) > 1:
        return RequestCounter.REPEATED, None
    match = TRACEPARENT.fullmatch(values[0].strip(b" \t"))
    if match is None or (match[4] is not None and values[0].startswith(b"00")):
        return RequestCounter.MALFORMED, None
    flags = int(match[3], 16)
    if not flags & 1:
        return RequestCounter.UNSAMPLED, None
    return RequestCounter.SAMPLED, _Call(bytes.fromhex(match[1].decode()), bytes.fromhex(match[2].decode()), flags)
