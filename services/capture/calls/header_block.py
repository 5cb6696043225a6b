"""A header block of HTTP/2 (HPACK, RFC 7541) as far as it is of interest: the trace context, the method, the status.

Huffman's code and the tables are those of `hpack`. The fields are walked through here: so one that nobody asks for costs a few
steps, a list of headers is never made, however long it would become, and what can be read without the dynamic table is.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from proto.columns import HttpMethod

MOST_TABLE_BYTES: Final = 65_536
"""Of a dynamic table, as RFC 7541 4.1 counts them; one that is to be larger is not followed."""

TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
"""https://www.w3.org/TR/trace-context/; what follows the flags is of a later version than 00."""

logging.getLogger("hpack").setLevel(logging.WARNING)  # at DEBUG it says what stands in its tables

_CONTEXT: Final = b"traceparent"
_STATUS: Final = b":status"
_METHOD: Final = b":method"
_GRPC_STATUS: Final = b"grpc-status"
_KEPT: Final = {_CONTEXT, _STATUS, _METHOD, _GRPC_STATUS}
_CONTEXT_BYTES: Final = 55
_METHODS: Final = {
    method.name.encode(): method for method in HttpMethod if method not in {HttpMethod.UNKNOWN, HttpMethod.OTHER}
}
_STATUS_DIGITS: Final = 3
_STATIC: Final = len(HeaderTable.STATIC_TABLE)
_INDEXED, _INCREMENTAL, _RESIZE = 0x80, 0x40, 0x20
_HUFFMAN: Final = 0x80
_LONGEST_INTEGER: Final = 4
"""Bytes behind the first that an integer may have: none here is larger than 2**28."""
_LONGEST_CACHED: Final = 128


class BlockError(Exception):
    """The block says what HPACK does not."""


@dataclass(slots=True)
class HeaderFields:
    """What is kept of a block."""

    contexts: list[bytes] = field(default_factory=list)
    """Values of its `traceparent` headers."""
    is_request: bool = False
    """It has a pseudo-header and no status: trailers have none (RFC 9113 8.1)."""
    status: int | None = None
    """None: there is none, or it stands in a table that is not known."""
    method: HttpMethod = HttpMethod.UNKNOWN
    grpc_status: int | None = None


class _Cursor:
    """Where reading is in a block."""

    __slots__ = ("at", "block")

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.at = 0

    def integer(self, bits: int) -> int:
        """Return an integer whose first byte has so many bits of it (RFC 7541 5.1)."""
        mask = (1 << bits) - 1
        value = self._byte() & mask
        if value < mask:
            return value
        for place in range(_LONGEST_INTEGER):
            byte = self._byte()
            value += (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise BlockError("an integer is too long")

    def string(self, *, wanted: bool) -> bytes:
        """Return a string (RFC 7541 5.2), empty where it is not wanted."""
        is_huffman = self.at < len(self.block) and self.block[self.at] & _HUFFMAN
        size = self.integer(7)
        begin, self.at = self.at, self.at + size
        if self.at > len(self.block):
            raise BlockError("a string is cut off")
        if not wanted:
            return b""
        text = self.block[begin : self.at]
        if not is_huffman:
            return text
        return _decoded_often(text) if size <= _LONGEST_CACHED else _decoded(text)

    def _byte(self) -> int:
        if self.at >= len(self.block):
            raise BlockError("a field is cut off")
        self.at += 1
        return self.block[self.at - 1]


def read_block(block: bytes, table: HeaderTable | None) -> HeaderFields:
    """Return what a block says, and change the dynamic table as it says. Raises BlockError; the table is not to be used then.

    Without a table only what needs none is read: a trace context is then recognised by its form, where its name is not known.
    """
    found = HeaderFields()
    cursor = _Cursor(block)
    try:
        while cursor.at < len(block):
            _read_field(cursor, table, found)
    except HPACKError as error:
        raise BlockError(str(error)) from None
    return found


def _read_field(cursor: _Cursor, table: HeaderTable | None, found: HeaderFields) -> None:
    kind = cursor.block[cursor.at]
    if kind & _INDEXED:
        name, value = _entry(table, cursor.integer(7))
    elif kind & _INCREMENTAL or not kind & _RESIZE:
        is_kept = bool(kind & _INCREMENTAL) and table is not None
        index = cursor.integer(6 if kind & _INCREMENTAL else 4)
        name = _entry(table, index)[0] if index else cursor.string(wanted=True)
        value = cursor.string(wanted=is_kept or name is None or name in _KEPT)
        if is_kept and table is not None and name is not None:
            table.add(name, value)
    else:
        size = cursor.integer(5)
        if size > MOST_TABLE_BYTES:
            raise BlockError(f"a dynamic table of {size} bytes")
        if table is not None:
            table.maxsize = size
        return
    _keep(found, name, value)


def _entry(table: HeaderTable | None, index: int) -> tuple[bytes | None, bytes]:
    """Return an entry of the tables; its name is None where it stands in the dynamic one and that is not known."""
    if index == 0:
        raise BlockError("index 0")
    if index <= _STATIC:
        return HeaderTable.STATIC_TABLE[index - 1]
    return (None, b"") if table is None else table.get_by_index(index)


def _keep(found: HeaderFields, name: bytes | None, value: bytes) -> None:
    if name == _CONTEXT or (name is None and len(value) == _CONTEXT_BYTES and TRACEPARENT.fullmatch(value)):
        found.contexts.append(value)
    elif name == _STATUS:
        found.status = int(value) if len(value) == _STATUS_DIGITS and value.isdigit() else None
    elif name == _GRPC_STATUS:
        # Codes are 0 to 16 (the gRPC specification's statuscodes.md); beyond that nobody knows what is meant.
        found.grpc_status = int(value) if re.fullmatch(rb"\d|1[0-6]", value) else None
    elif name is not None and name.startswith(b":"):
        found.is_request = True
        if name == _METHOD and value:
            found.method = _METHODS.get(value, HttpMethod.OTHER)


def _decoded(text: bytes) -> bytes:
    return bytes(decode_huffman(text))


_decoded_often = lru_cache(maxsize=4096)(_decoded)
