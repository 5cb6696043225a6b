"""Builds DNS messages (RFC 1035 4.1) byte by byte."""

from __future__ import annotations

import struct

A, AAAA, SRV = 1, 28, 33
_DATA_BYTES = {A: 4, AAAA: 16, SRV: 7}
OPT = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
"""EDNS (RFC 6891), as an additional record."""


def question(number, name, kind=A, *, edns=False) -> bytes:
    """A question for a record of `kind` at `name`."""
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, edns) + _asked(name, kind) + OPT * edns


def answer(number, name, kind=A, *, code=0, records=1) -> bytes:
    """An answer with so many records; with a `code`, without any."""
    data = bytes(_DATA_BYTES.get(kind, 4))
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 30, len(data)) + data
    records = 0 if code else records
    return struct.pack("!HHHHHH", number, 0x8180 | code, 1, records, 0, 0) + _asked(name, kind) + record * records


def refusal(number) -> bytes:
    """What servers that understand nothing answer: a header that says so (FORMERR)."""
    return struct.pack("!HHHHHH", number, 0x8181, 0, 0, 0, 0)


def _asked(name: str, kind: int) -> bytes:
    labels = name.encode().split(b".") if name else []
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", kind, 1)
