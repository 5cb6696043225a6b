"""`struct piece` of bpf/engine/piece.h: what a host hands on of a payload."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

HEADER: Final = struct.Struct("<QQQQHHBBH")
"""A test compiles the C header and compares it."""

_ALIGNMENT: Final = 8


class PieceKind(enum.IntEnum):
    """What a piece is of (`enum piece_kind`)."""

    DNS = 0
    DNS_TCP = 1
    """A segment to or from a DNS port; `since_ns` is its sequence number."""
    TLS = 2
    """Of a hello, or the record that ends a handshake."""
    QUIC = 3
    """A datagram that begins with an Initial packet."""


Names: TypeAlias = Literal["off", "dns", "tls", "all"]
"""What is read of names, as the setting has it."""

_DNS: Final = (PieceKind.DNS, PieceKind.DNS_TCP)
_TLS: Final = (PieceKind.TLS, PieceKind.QUIC)
KINDS: Final[dict[Names, tuple[PieceKind, ...]]] = {"off": (), "dns": _DNS, "tls": _TLS, "all": (*_DNS, *_TLS)}
"""Which pieces that asks for."""


class Piece(NamedTuple):
    """A bounded piece of one payload."""

    flow_id: int
    time_ns: int
    since_ns: int
    """DNS: when the question was first asked that this answers or repeats; 0: it is a new one. TLS: when the handshake
    began that this ends; 0: it is of a hello."""
    owner: int
    """DNS: whose socket, or which address, asks; 0: nobody knows."""
    payload_bytes: int
    """Of the whole message, or hello; 65535 for more."""
    held: int
    kind: int
    direction: int
    """`enum flow_direction`."""
    content: bytes
    place: int = 0
    """TLS: where in the hello the content is."""


def piece_at(memory: bytes, at: int) -> Piece:
    """Return the piece whose header is at `at`."""
    flow_id, time_ns, since_ns, owner, payload_bytes, held, kind, direction, place = HEADER.unpack_from(memory, at)
    begin = at + HEADER.size
    content = memory[begin : begin + held]
    return Piece(flow_id, time_ns, since_ns, owner, payload_bytes, held, kind, direction, content, place)


def pieces_in(memory: bytes) -> Iterator[Piece]:
    """Yield the pieces that lie in a row, each beginning at a multiple of 8."""
    at = 0
    while at < len(memory):
        piece = piece_at(memory, at)
        yield piece
        at += -(-(HEADER.size + piece.held) // _ALIGNMENT) * _ALIGNMENT
