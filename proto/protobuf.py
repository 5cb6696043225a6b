"""Protobuf's wire format, as far as messages are written by hand (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from typing import Final

LEN: Final = 2
"""Wire type of a length-delimited field."""
_SHORT: Final = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """Return an unsigned integer as a varint of least length. Raises ValueError for a negative one."""
    if 0 <= value < 0x80:
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field: a string, bytes or message."""
    return varint(number << 3 | LEN) + varint(len(payload)) + payload
