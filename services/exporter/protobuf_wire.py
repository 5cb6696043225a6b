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


def write_slots(rows: Bytes2D, offset: int, width: int, values: Array, step: int = 0) -> None:
    """Write one value per row as a varint of `width` bytes at `offset`; of values (rows, n), n of them, `step` bytes apart."""
    slots = as_slots(width, values)
    put(rows, offset, f"<u{min(width, 8)}", slots, step)
    if width == _WIDEST:
        put(rows, offset + 8, "u1", values >> np.uint64(56), step)


def as_slots(width: int, values: Array) -> Array:
    """Return values as varints of `width` bytes in machine words; of nine bytes, the first eight.

    Seven-bit groups are moved into bytes by halves, a word at a time.
    """
    match width:
        case 1:
            return values.astype(np.uint8)
        case 2:
            x: Array = values.astype(np.uint16)
            return x & 0x7F | (x & 0x3F80) << 1 | 0x80
        case 4:
            x = values.astype(np.uint32)
            x = x & 0x3FFF | (x & 0x0FFFC000) << 2
            return x & 0x007F007F | (x & 0x3F803F80) << 1 | 0x00808080
        case 8:
            return _spread(values) | np.uint64(0x0080808080808080)
        case _:
            return _spread(values) | np.uint64(0x8080808080808080)


def _spread(values: Array) -> Array:
    """The low 56 bits of each value, seven to a byte."""
    u8 = np.uint64
    x = values.astype(u8, copy=False)
    x = x & u8(0x0FFFFFFF) | (x & u8(0x00FFFFFFF0000000)) << u8(4)
    x = x & u8(0x00003FFF00003FFF) | (x & u8(0x0FFFC0000FFFC000)) << u8(2)
    return x & u8(0x007F007F007F007F) | (x & u8(0x3F803F803F803F80)) << u8(1)


def put(rows: Bytes2D, offset: int, dtype: str, values: Array, step: int = 0) -> None:
    """Write one machine word of type `dtype` per row at `offset`; of values (rows, n), n of them, `step` bytes apart."""
    strides = (rows.strides[0], step)[: values.ndim]
    np.ndarray(values.shape, dtype, rows, offset, strides)[...] = values


@dataclass(frozen=True, slots=True)
class Template:
    """The bytes that all rows have in common, with zeros in the slots."""

    data: bytes
    offsets: tuple[int, ...]
    """Where the slot of each attribute begins, of an array its first."""

    def rows(self, count: int) -> Bytes2D:
        """Return `count` copies as a (count, length) array."""
        rows = np.empty((count, len(self.data)), np.uint8)
        rows[:] = np.frombuffer(self.data, np.uint8)
        return rows


def attribute_rows(columns: Mapping[str, Array], prefix: bytes = b"") -> Bytes2D:
    """Return one row per record: `prefix`, then each column of unsigned integers as an int attribute.

    A column of shape (rows, n) is an array of ints. What does not fit into int64 becomes the largest int64.
    """
    count = len(next(iter(columns.values())))
    single = [name for name, values in columns.items() if values.ndim == 1]
    stacked = np.empty((len(single), count), np.uint64)
    for row, name in zip(stacked, single, strict=True):
        row[...] = columns[name]
    largest = dict(zip(single, stacked.max(axis=1).tolist(), strict=True))
    largest |= {name: int(values.max()) for name, values in columns.items() if values.ndim == 2}
    if any(value > MAX_INT64 for value in largest.values()):
        np.minimum(stacked, np.uint64(MAX_INT64), out=stacked)
    widths = tuple(_width(largest[name]) for name in columns)
    sizes = tuple(values.shape[1] if values.ndim == 2 else 0 for values in columns.values())
    template = _attributes_template(tuple(columns), sizes, widths, prefix)
    rows = template.rows(count)
    slots = dict(zip(columns, zip(template.offsets, widths, strict=True), strict=True))
    _write_single(rows, stacked, [slots[name] for name in single])
    for (name, values), size in zip(columns.items(), sizes, strict=True):
        if size:
            offset, width = slots[name]
            fitting = np.minimum(values, np.uint64(MAX_INT64)) if largest[name] > MAX_INT64 else values
            write_slots(rows, offset, width, fitting, _array_step(width))
    return rows


def _width(largest: int) -> int:
    size = largest.bit_length()
    return next((width for limit, width in _WIDTHS if size <= limit), _WIDEST)


def _write_single(rows: Bytes2D, values: Array, slots: list[tuple[int, int]]) -> None:
    """Write columns, one to a row of `values`, to their (offset, width); all of one width are converted at once."""
    for width in {width for _, width in slots}:
        at = [index for index, slot in enumerate(slots) if slot[1] == width]
        chosen = values if len(at) == len(slots) else values[at]
        for index, words in zip(at, as_slots(width, chosen), strict=True):
            put(rows, slots[index][0], f"<u{min(width, 8)}", words)
            if width == _WIDEST:
                put(rows, slots[index][0] + 8, "u1", values[index] >> np.uint64(56))


def _array_step(width: int) -> int:
    """Bytes from one value of an array of ints to the next."""
    return len(field(1, b"\x18" + bytes(width)))


@lru_cache(maxsize=4096)
def _attributes_template(names: tuple[str, ...], sizes: tuple[int, ...], widths: tuple[int, ...], prefix: bytes) -> Template:
    """`prefix` and the attributes with slots of these widths; a size above 0 is that of an array."""
    data, offsets = bytearray(prefix), []
    for name, size, width in zip(names, sizes, widths, strict=True):
        item = b"\x18" + bytes(width)
        items = field(1, item) * size
        data += field(SPAN_ATTRIBUTES, field(1, name.encode()) + field(2, field(5, items) if size else item))
        offsets.append(len(data) - _array_step(width) * max(size - 1, 0) - width)
    return Template(bytes(data), tuple(offsets))


def as_void(rows: Bytes2D) -> Array:
    """Return each row as one opaque value."""
    return rows.view(f"V{rows.shape[1]}").ravel()
