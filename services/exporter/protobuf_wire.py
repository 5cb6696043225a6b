"""OTLP's protobuf encoding, written directly: single messages as bytes, and integer attributes of many spans at once.

A span's integers are written into slots of one width per column, so that all spans of a batch are filled column by column. A
value shorter than its slot is padded with continuation bytes; the protobuf encoding allows that and every parser reads it
(https://protobuf.dev/programming-guides/encoding/#varints).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from proto.flow_batch import Array, AttributeValue

Bytes2D = npt.NDArray[np.uint8]

LEN: Final = 2
"""Wire type of a length-delimited field."""

MAX_INT64: Final = 2**63 - 1
SPAN_ATTRIBUTES: Final = 9
"""Field number of `Span.attributes`."""
RESOURCE_ATTRIBUTES: Final = 1
"""Field number of `Resource.attributes`."""

_WIDTHS: Final = ((7, 1), (14, 2), (28, 4), (56, 8), (63, 9))
"""(bits, bytes) of the slots in use; all but the last are the sizes of machine words."""
_WIDEST: Final = _WIDTHS[-1][1]
_SHORT: Final = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """Return an unsigned integer as a varint of least length."""
    if value < 0x80:
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


def any_value(value: AttributeValue) -> bytes:
    """Return an `AnyValue` message. An integer outside int64 becomes the nearest one inside."""
    match value:
        case bool():
            return bytes((0x10, value))
        case str():
            return field(1, value.encode())
        case int():
            return b"\x18" + varint(max(-(2**63), min(value, MAX_INT64)) % 2**64)
        case float():
            return b"\x21" + struct.pack("<d", value)
        case _:
            return field(5, b"".join(field(1, any_value(item)) for item in value))


def attribute(name: str, value: AttributeValue, number: int = SPAN_ATTRIBUTES) -> bytes:
    """Return one attribute as a repeated `KeyValue` field of its span (or resource)."""
    return field(number, field(1, name.encode()) + field(2, any_value(value)))


def write_slots(rows: Bytes2D, offset: int, width: int, values: Array) -> None:
    """Write one value per row as a varint of `width` bytes at `offset`.

    Seven-bit groups are moved into bytes by halves, a word at a time.
    """
    match width:
        case 1:
            put(rows, offset, "u1", values)
        case 2:
            x: Array = values.astype(np.uint16)
            put(rows, offset, "<u2", x & 0x7F | (x & 0x3F80) << 1 | 0x80)
        case 4:
            x = values.astype(np.uint32)
            x = x & 0x3FFF | (x & 0x0FFFC000) << 2
            put(rows, offset, "<u4", x & 0x007F007F | (x & 0x3F803F80) << 1 | 0x00808080)
        case 8:
            put(rows, offset, "<u8", _spread(values) | np.uint64(0x0080808080808080))
        case _:
            put(rows, offset, "<u8", _spread(values) | np.uint64(0x8080808080808080))
            put(rows, offset + 8, "u1", values >> np.uint64(56))


def _spread(values: Array) -> Array:
    """The low 56 bits of each value, seven to a byte."""
    u8 = np.uint64
    x = values.astype(u8)
    x = x & u8(0x0FFFFFFF) | (x & u8(0x00FFFFFFF0000000)) << u8(4)
    x = x & u8(0x00003FFF00003FFF) | (x & u8(0x0FFFC0000FFFC000)) << u8(2)
    return x & u8(0x007F007F007F007F) | (x & u8(0x3F803F803F803F80)) << u8(1)


def put(rows: Bytes2D, offset: int, dtype: str, values: Array) -> None:
    """Write one machine word of type `dtype` per row at `offset`."""
    np.ndarray(len(rows), dtype, rows, offset, (rows.strides[0],))[...] = values


@dataclass(frozen=True, slots=True)
class Template:
    """The bytes that all rows have in common, with zeros in the slots."""

    data: bytes
    offsets: tuple[int, ...]
    """Where each slot begins."""

    def rows(self, count: int) -> Bytes2D:
        """Return `count` copies as a (count, length) array."""
        rows = np.empty((count, len(self.data)), np.uint8)
        rows[:] = np.frombuffer(self.data, np.uint8)
        return rows


def attribute_rows(columns: Mapping[str, Array], prefix: bytes = b"") -> Bytes2D:
    """Return one row per record: `prefix`, then each column of unsigned integers as an int attribute.

    A column of shape (rows, n) is an array of ints. What does not fit into int64 becomes the largest int64.
    """
    bits = tuple(int(values.max()).bit_length() for values in columns.values())
    widths = tuple(next((width for limit, width in _WIDTHS if size <= limit), _WIDEST) for size in bits)
    sizes = tuple(values.shape[1] if values.ndim == 2 else 0 for values in columns.values())
    template = _attributes_template(tuple(columns), sizes, widths, prefix)
    rows = template.rows(len(next(iter(columns.values()))))
    offsets = iter(template.offsets)
    for values, width, bit in zip(columns.values(), widths, bits, strict=True):
        fitting = values if bit < 64 else np.minimum(values, np.uint64(MAX_INT64))
        for column in fitting.T if values.ndim == 2 else (fitting,):
            write_slots(rows, next(offsets), width, column)
    return rows


@lru_cache(maxsize=4096)
def _attributes_template(names: tuple[str, ...], sizes: tuple[int, ...], widths: tuple[int, ...], prefix: bytes) -> Template:
    """`prefix` and the attributes with slots of these widths; a size above 0 is that of an array."""
    data, offsets = bytearray(prefix), []
    for name, size, width in zip(names, sizes, widths, strict=True):
        item = b"\x18" + bytes(width)
        items = field(1, item) * size
        data += field(SPAN_ATTRIBUTES, field(1, name.encode()) + field(2, field(5, items) if size else item))
        step = len(items) // size if size else 0
        first = len(data) - (step * (size - 1) if size else 0) - width
        offsets += [first + step * at for at in range(size or 1)]
    return Template(bytes(data), tuple(offsets))


def as_list(rows: Bytes2D) -> list[bytes]:
    """Return each row as bytes."""
    pieces: list[bytes] = _as_void(rows).tolist()
    return pieces


def as_objects(rows: Bytes2D) -> Array:
    """Return each row as bytes, in an array of objects."""
    return _as_void(rows).astype(object)


def _as_void(rows: Bytes2D) -> Array:
    return rows.view(f"V{rows.shape[1]}").ravel()
