"""DNS over TCP (RFC 7766): messages out of segments, each behind two bytes that say how long it is.

Segments come in the order in which they were seen, with their sequence numbers and their first bytes. Where bytes are missing
in which a message ends, nobody knows where the next one begins: nothing more is read of that direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from services.capture.names.pieces import Piece

MOST_STREAMS: Final = 4096
"""Directions that are followed; beyond it the one that was first is forgotten."""
MOST_BYTES: Final = 512
"""That are kept of a message: as of a datagram."""

_LENGTH_BYTES: Final = 2
_SEQUENCES: Final = 2**32


class DnsStream:
    """One direction of a connection."""

    __slots__ = ("_begun", "_head", "_left", "_next", "_torn", "lost")

    def __init__(self, sequence: int) -> None:
        """`sequence` is that of a message's first byte."""
        self._next = sequence
        self._begun = b""
        """Of the length, while it is not whole."""
        self._head = bytearray()
        self._torn = False
        """Of the message, bytes behind `_head` were not captured."""
        self._left = 0
        """Bytes of the message that are still to come; 0: a length comes."""
        self.lost = False
        """Nothing more is read."""

    def take(self, sequence: int, payload_bytes: int, content: bytes) -> Iterator[bytes]:
        """Yield the messages that are whole with a segment, of which `content` was captured: what is kept of each."""
        seen_before = (self._next - sequence) % _SEQUENCES
        if seen_before >= _SEQUENCES // 2:
            self.lost = True  # what is between is missing, or comes late
        if self.lost or seen_before >= payload_bytes:
            return
        self._next = (sequence + payload_bytes) % _SEQUENCES
        missing = payload_bytes - max(len(content), seen_before)
        yield from self._bytes(content[seen_before:])
        self._left -= missing
        self._torn = missing > 0
        if self._left < 0:
            self.lost = True
        elif missing and not self._left:
            yield self._whole()

    def _bytes(self, content: bytes) -> Iterator[bytes]:
        while content:
            if not self._left:
                wanted = _LENGTH_BYTES - len(self._begun)
                self._begun, content = self._begun + content[:wanted], content[wanted:]
                if len(self._begun) == _LENGTH_BYTES:
                    self._left, self._begun = int.from_bytes(self._begun, "big"), b""
                continue
            part, content = content[: self._left], content[self._left :]
            self._left -= len(part)
            self._head += part[: 0 if self._torn else MOST_BYTES - len(self._head)]
            if not self._left:
                yield self._whole()

    def _whole(self) -> bytes:
        message, self._head, self._torn = bytes(self._head), bytearray(), False
        return message


class DnsStreams:
    """All connections' directions. Not for two threads at once."""

    def __init__(self) -> None:
        self._streams: dict[tuple[int, int], DnsStream] = {}
        self.lost = 0
        """Directions of which no more is read."""

    def messages(self, piece: Piece) -> Iterator[bytes]:
        """Yield the messages that are whole with a segment."""
        key = piece.flow_id, piece.direction
        stream = self._streams.get(key)
        if stream is None:
            if len(self._streams) >= MOST_STREAMS:
                del self._streams[next(iter(self._streams))]
            stream = self._streams[key] = DnsStream(piece.since_ns)
        was_lost = stream.lost
        yield from stream.take(piece.since_ns, piece.payload_bytes, piece.content)
        self.lost += stream.lost and not was_lost
