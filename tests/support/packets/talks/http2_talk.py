"""Frames of HTTP/2, made by hand: what no library would send, and when."""

from __future__ import annotations

import struct
from typing import Final

from hpack import Encoder

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = 1, 4, 8, 32


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


HELLO: Final = PREFACE + frame(SETTINGS, 0)
"""What a client says first."""
WELCOME: Final = frame(SETTINGS, 0)
"""What a server does."""


def context(number: int, flags: str = "01") -> str:
    """A `traceparent` whose trace id ends in `number`."""
    return f"00-{number + 1:032x}-{number + 1:016x}-{flags}"


class Coder:
    """Both ends' compression of headers."""

    def __init__(self) -> None:
        self.client, self.server = Encoder(), Encoder()

    def asks(self, number: int | None, *more: tuple[str, str]) -> bytes:
        """The header block of a request; None: without a context."""
        headers = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), (":authority", "b"), ("te", "trailers")]
        headers += [] if number is None else [("traceparent", context(number))]
        return self.client.encode([*headers, *more])

    def answers(self, status: int = 200, *more: tuple[str, str]) -> bytes:
        """That of a response."""
        return self.server.encode([(":status", str(status)), ("content-type", "application/grpc"), *more])
