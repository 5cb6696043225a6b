"""FlowBatches one after another, as a pipe between two processes has them: each behind four bytes that are its length."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, Final

from proto.errors import DecodeError
from proto.flow_batch import MAX_DECODE_BYTES

_LENGTH: Final = struct.Struct(">I")


def write_frame(stream: IO[bytes], message: bytes) -> None:
    """Write one message."""
    stream.write(_LENGTH.pack(len(message)))
    stream.write(message)


def read_frames(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield messages to the end of the stream. Raises DecodeError where it ends within one, or one is too long for any."""
    while head := stream.read(_LENGTH.size):
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        if length > MAX_DECODE_BYTES:
            raise DecodeError(f"a message of {length} bytes, more than the {MAX_DECODE_BYTES} a reader accepts")
        message = stream.read(length)
        if not length or len(message) < length:
            raise DecodeError("the stream ends within a message")
        yield message
