"""A DNS message (RFC 1035 4.1) as far as it was captured: what is asked, the code, the addresses that answer.

Names are read by dnspython, which knows what a hostile one can look like. Records are only stepped over: to read a whole
message with dnspython takes many times as long (docs/performance.md), and no more of them is kept than addresses and times.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MAPPED: Final = bytes(10) + b"\xff\xff"
"""What stands before an IPv4 address of 16 bytes."""

_HEADER: Final = struct.Struct("!HHHHHH")
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_RESPONSE: Final = 0x8000
_A, _AAAA, _OPT = 1, 28, 41
_ADDRESS_BYTES: Final = {_A: 4, _AAAA: 16}
_POINTER: Final = 0xC0
_LONGEST_NAME: Final = 255
_MOST_RECORDS: Final = 64
"""That are looked at in one message; a piece of 512 bytes holds 42 at the most."""


class _CutOffError(Exception):
    """The piece ends, or is no DNS from here on."""


@dataclass(frozen=True, slots=True)
class DnsMessage:
    """What is kept of a message."""

    number: int
    is_answer: bool
    name: str | None
    """What is asked, in lower case and without the last dot, escaped as in master files; None where the message has no
    question, or none that can be read."""
    type: int
    code: int
    """Of an answer: the response code, with EDNS's part of it as far as the message was captured."""
    answers: int
    """Records that the header claims."""
    addresses: tuple[tuple[bytes, int], ...]
    """Addresses (16 bytes) that answer, with their times to live in seconds."""


def read_message(content: bytes) -> DnsMessage | None:
    """Return what a message says; None where not even its header is there."""
    if len(content) < _HEADER.size:
        return None
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(content)
    is_answer = bool(flags & _RESPONSE)
    name, kind, at = None, 0, _HEADER.size
    addresses: list[tuple[bytes, int]] = []
    code = flags & 0xF
    try:
        for place in range(min(questions, _MOST_RECORDS)):
            begin, at = at, _behind_name(content, at)
            if place == 0:
                (kind, _), name = _unpack(_QUESTION, content, at), _name(content, begin, at)
            at += _QUESTION.size
        for place in range(min(answers + authorities + additional, _MOST_RECORDS) if is_answer else 0):
            at = _behind_name(content, at)
            record, _, time_to_live, length = _unpack(_RECORD, content, at)
            at += _RECORD.size
            if record == _OPT:
                code |= time_to_live >> 24 << 4
            elif place < answers and _ADDRESS_BYTES.get(record) == length <= len(content) - at:
                addresses.append(((MAPPED if record == _A else b"") + content[at : at + length], time_to_live))
            at += length
    except _CutOffError:
        pass
    return DnsMessage(number, is_answer, name, kind, code, answers, tuple(addresses))


def _unpack(form: struct.Struct, content: bytes, at: int) -> tuple[int, ...]:
    if at + form.size > len(content):
        raise _CutOffError
    return form.unpack_from(content, at)


def _behind_name(content: bytes, at: int) -> int:
    """Return where a name ends: behind a pointer, or behind the root. Every step goes on, so it ends with the piece."""
    while at < len(content):
        length = content[at]
        if length & _POINTER:
            return at + 2
        at += length + 1
        if not length:
            return at
    raise _CutOffError


def _name(content: bytes, begin: int, end: int) -> str:
    """Return the name between these places; one that has a pointer needs what is before it too."""
    plain = content[begin:end]
    return _written(plain) if plain.endswith(b"\0") and end - begin <= _LONGEST_NAME else _read(content, begin)


@lru_cache(maxsize=4096)
def _written(plain: bytes) -> str:
    return _read(plain, 0)


def _read(content: bytes, at: int) -> str:
    # As long to load as all of this package: many a capture has no name, and somebody waits for it.
    import dns.exception  # noqa: PLC0415
    import dns.name  # noqa: PLC0415
    import dns.wire  # noqa: PLC0415

    try:
        name = dns.name.from_wire_parser(dns.wire.Parser(content, at))
    except dns.exception.DNSException:
        raise _CutOffError from None
    return name.to_text(omit_final_dot=True).lower()
