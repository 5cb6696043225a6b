"""What QUIC's Initial packets say (RFC 9000, RFC 9369): the two hellos of their TLS handshake, and what ended one that failed.

A hello may lie in several packets, in pieces of any order; a datagram may hold other packets behind an Initial one. Whatever is
sent more than once, or comes behind the hellos, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from services.capture.names.pieces import Piece
from services.capture.names.quic_keys import SAMPLE_BYTES, VERSIONS, InitialKeys, initial_keys

MOST_CONNECTIONS: Final = 4096
"""Connections whose handshakes are under way; beyond it the one that was first is forgotten, and counted."""

_MOST_PACKETS: Final = 4
"""In one datagram."""
_MOST_FRAMES: Final = 256
"""In one packet: some clients cut their hello to shreds."""
_LONGEST_ID: Final = 20
_LONG_HEADER, _NUMBER_BITS, _HEADER_BITS, _TYPE = 0x80, 0x03, 0x0F, 4
_INITIAL: Final = {1: 0, 2: 1}
_SAMPLE_AT: Final = 4
_PADDING, _PING, _ACK, _ACK_ECN, _CRYPTO, _CLOSE = 0, 1, 2, 3, 6, 0x1C
_CRYPTO_ERROR: Final = range(0x100, 0x200)
_MESSAGE_HEADER: Final = 4


class QuicSaid(NamedTuple):
    """What a datagram adds to what is known of a handshake."""

    version: int
    """Of QUIC, as it is called."""
    by_server: bool
    message: bytes = b""
    """A whole hello, without records; nothing where there is none."""
    alert: int | None = None
    """What ended the handshake, where the packet says so."""


class _Initial(NamedTuple):
    """A packet as it stands in its datagram."""

    version: int
    connection: bytes
    header: bytes
    """All before the packet's number, as it is on the wire."""
    rest: bytes
    """From the packet's number on."""


class _MalformedError(Exception):
    """It is no QUIC, or not all there."""


class _Reader:
    """Reads what lies one behind the other. Raises _MalformedError where it ends."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        taken = self.content[self.at : self.at + size]
        if len(taken) < size:
            raise _MalformedError
        self.at += size
        return taken

    def number(self) -> int:
        """Return the next number (RFC 9000 16)."""
        first = self.take(1)[0]
        size = 1 << (first >> 6)
        return (first & 0x3F) << 8 * (size - 1) | int.from_bytes(self.take(size - 1))


@dataclass(slots=True)
class _Connection:
    """One whose handshake is under way."""

    client: int
    """The client's direction."""
    connection: bytes
    keys: dict[tuple[int, bool], InitialKeys] = field(default_factory=dict)
    parts: dict[bool, dict[int, bytes]] = field(default_factory=lambda: {False: {}, True: {}})
    """Of what each end is about to say, by their place in it; the server's is True."""
    said: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    """Bytes of the hellos that are over: there are two of a client that the server asked for another."""

    def open(self, packet: _Initial, *, of_server: bool) -> bytes | None:
        """Return what a packet holds; None where these are not its keys."""
        key = packet.version, of_server
        if key not in self.keys:
            self.keys[key] = initial_keys(packet.version, self.connection, of_server=of_server)
        return _opened(packet, self.keys[key])


class QuicInitials:
    """All connections whose handshakes are under way. Not for two threads at once."""

    def __init__(self) -> None:
        self._connections: dict[int, _Connection] = {}
        self.forgotten = 0

    def hear(self, piece: Piece) -> list[QuicSaid] | None:
        """Return what a datagram adds; None where it cannot be read."""
        found: list[QuicSaid] = []
        is_read = False
        for packet in _packets(piece.content):
            opened = self._open(piece, packet)
            if opened is None:
                continue
            is_read = True
            connection, content = opened
            said = self._take(piece, connection, packet.version, content)
            found += [said] if said else []
        return found if is_read else None

    def leave(self, flow_id: int) -> None:
        """The flow is over."""
        self._connections.pop(flow_id, None)

    def _open(self, piece: Piece, packet: _Initial) -> tuple[_Connection, bytes] | None:
        known = self._connections.get(piece.flow_id)
        if known is not None:
            content = known.open(packet, of_server=piece.direction != known.client)
            if content is not None:
                return known, content
        # The first of a client, or the first behind a server's Retry, which renews the keys.
        fresh = _Connection(piece.direction, packet.connection)
        if known is not None and piece.direction != known.client:
            return None
        content = fresh.open(packet, of_server=False)
        if content is None:
            return None
        if known is None and len(self._connections) >= MOST_CONNECTIONS:
            del self._connections[next(iter(self._connections))]
            self.forgotten += 1
        self._connections[piece.flow_id] = fresh
        return fresh, content

    def _take(self, piece: Piece, connection: _Connection, version: int, content: bytes) -> QuicSaid | None:
        by_server = piece.direction != connection.client
        parts = connection.parts[by_server]
        try:
            for place, part in _frames(content):
                if place is None:
                    return QuicSaid(version, by_server, alert=part[0])
                ahead = place - connection.said[by_server]
                if ahead + len(part) > 0:
                    parts[max(ahead, 0)] = max(part[max(-ahead, 0) :], parts.get(max(ahead, 0), b""), key=len)
        except _MalformedError:
            pass  # what stands before it is said
        message = in_a_row(parts)
        size = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER])
        if len(message) < _MESSAGE_HEADER or len(message) < size:
            return None
        connection.said[by_server] += size
        parts.clear()
        return QuicSaid(version, by_server, message[:size])


def in_a_row(parts: Mapping[int, bytes]) -> bytes:
    """Return the beginning of what lies in parts, by their place, as far as it is there."""
    content = b""
    for place in sorted(parts):
        if place > len(content):
            break
        content += parts[place][len(content) - place :]
    return content


def _packets(datagram: bytes) -> Iterator[_Initial]:
    """Yield the Initial packets of a datagram, up to what cannot be read."""
    reader = _Reader(datagram)
    try:
        for _ in range(_MOST_PACKETS):
            begin = reader.at
            first = reader.take(1)[0]
            version = VERSIONS.get(int.from_bytes(reader.take(4)))
            if not first & _LONG_HEADER or version is None:
                return
            connection = reader.take(reader.take(1)[0])
            reader.take(reader.take(1)[0])
            is_initial = first >> _TYPE & 3 == _INITIAL[version]
            if is_initial:
                reader.take(reader.number())  # a token
            length = reader.number()
            header = datagram[begin : reader.at]
            rest = reader.take(length)
            if is_initial and len(connection) <= _LONGEST_ID:
                yield _Initial(version, connection, header, rest)
    except _MalformedError:
        return


def _opened(packet: _Initial, keys: InitialKeys) -> bytes | None:
    sample = packet.rest[_SAMPLE_AT : _SAMPLE_AT + SAMPLE_BYTES]
    if len(sample) < SAMPLE_BYTES:
        return None
    mask = keys.mask(sample)
    first = packet.header[0] ^ mask[0] & _HEADER_BITS
    size = (first & _NUMBER_BITS) + 1
    number = bytes(one ^ other for one, other in zip(packet.rest[:size], mask[1:], strict=False))
    return keys.open(int.from_bytes(number), bytes((first,)) + packet.header[1:] + number, packet.rest[size:])


def _frames(content: bytes) -> Iterator[tuple[int | None, bytes]]:
    """Yield parts of the handshake's messages by their place, and an alert's number at None. Raises _MalformedError."""
    reader = _Reader(content.rstrip(b"\0"))
    for _ in range(_MOST_FRAMES):
        while reader.content[reader.at : reader.at + 1] == bytes((_PADDING,)):
            reader.at += 1
        if reader.at == len(reader.content):
            return
        kind = reader.number()
        if kind == _CRYPTO:
            place, size = reader.number(), reader.number()
            yield place, content[reader.at : reader.at + size]
            reader.at = min(reader.at + size, len(reader.content))
        elif kind in {_ACK, _ACK_ECN}:
            reader.number(), reader.number()
            for _ in range(2 * reader.number() + 1 + (3 if kind == _ACK_ECN else 0)):
                reader.number()
        elif kind == _CLOSE:
            error = reader.number()
            if error in _CRYPTO_ERROR:
                yield None, bytes((error - _CRYPTO_ERROR.start,))
            return
        elif kind != _PING:
            raise _MalformedError
