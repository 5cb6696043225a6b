"""OTLP's protobuf encoding, written directly: single messages as bytes, and integer attributes of many spans at once.

A span's integers are written into slots of one width per column, so that all spans of a batch are filled column by column. A
value shorter than its slot is padded with continuation bytes; the protobuf encoding allows that and every parser reads it
(https://protobuf.dev/programming-guides/encoding/#varints).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from proto.flow_batch import Array, AttributeValue
from proto.protobuf import field, varint

Bytes2D = npt.NDArray[np.uint8]

__all__ = ["field", "varint"]  # of proto, for whoever writes a message with what is here

MAX_INT64: Final = 2**63 - 1
SPAN_ATTRIBUTES: Final = 9
"""Field number of `Span.attributes`."""
RESOURCE_ATTRIBUTES: Final = 1
"""Field number of `Resource.attributes`."""

_WIDTHS: Final = ((7, 1), (14, 2), (28, 4), (56, 8), (63, 9))
"""(bits, bytes) of the slots in use; all but the last are the sizes of machine words."""
_WIDEST: Final = _WIDTHS[-1][1]
_TOP: Final = np.uint64(56)
_NO_SLOTS: Final = np.empty(0, np.uint8), None


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


_WIDTH_BY_SIZE: Final = tuple(next((width for limit, width in _WIDTHS if size <= limit), _WIDEST) for size in range(65))
_WORDS: Final = {width: np.dtype(f"<u{min(width, 8)}") for _, width in _WIDTHS}
"""The machine word that a slot is written as; of the widest, all but its last byte."""
_BYTE: Final = np.dtype("u1")


def put(rows: Bytes2D, offset: int, dtype: np.dtype[np.generic], values: Array, step: int = 0) -> None:
    """Write one machine word of type `dtype` per row at `offset`; of values (rows, n), n of them, `step` bytes apart."""
    strides = (rows.strides[0], step)[: values.ndim]
    np.ndarray(values.shape, dtype, rows, offset, strides)[...] = values


def write_slots(rows: Bytes2D, offset: int, width: int, values: Array) -> None:
    """Write one value per row as a varint of `width` bytes, at most 8, at `offset`."""
    put(rows, offset, _WORDS[width], as_slots(width, values))


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


class IntegerColumns:
    """Columns of unsigned integers as varints, all of a column of one width.

    A column of shape (rows, n) is an array of ints for each row. What does not fit into int64 becomes the largest int64.
    """

    def __init__(self, columns: Sequence[Array]) -> None:
        """All columns have the same number of rows."""
        self._slots: list[tuple[Array, Array | None]] = [_NO_SLOTS] * len(columns)
        self._sizes = [values.shape[1] if values.ndim == 2 else 0 for values in columns]
        self._widths = [0] * len(columns)
        single = [at for at, size in enumerate(self._sizes) if not size]
        if single:
            self._convert_single(columns, single)
        for at, size in enumerate(self._sizes):
            if size:
                values = columns[at].astype(np.uint64)
                width = self._widths[at] = _width(int(np.bitwise_or.reduce(values, axis=None)))
                np.minimum(values, np.uint64(MAX_INT64), out=values)
                self._slots[at] = as_slots(width, values), values >> _TOP if width == _WIDEST else None

    def _convert_single(self, columns: Sequence[Array], single: list[int]) -> None:
        stacked = np.empty((len(single), len(columns[single[0]])), np.uint64)
        for row, at in enumerate(single):
            stacked[row] = columns[at]
        bits = np.bitwise_or.reduce(stacked, axis=1).tolist()
        if max(bits) > MAX_INT64:
            np.minimum(stacked, np.uint64(MAX_INT64), out=stacked)
        widths = [_width(value) for value in bits]
        for width in set(widths):
            rows = [row for row, one in enumerate(widths) if one == width]
            chosen = stacked if len(rows) == len(single) else stacked[rows]
            top = chosen >> _TOP if width == _WIDEST else None
            for index, (row, words) in enumerate(zip(rows, as_slots(width, chosen), strict=True)):
                self._slots[single[row]] = words, None if top is None else top[index]
                self._widths[single[row]] = width

    def rows(self, names: tuple[str, ...], columns: slice, at: Array | None = None, prefix: bytes = b"") -> Bytes2D:
        """Return `prefix` and then some of the columns as attributes called `names`, for each row or for those of `at`."""
        sizes, widths, slots = self._sizes[columns], self._widths[columns], self._slots[columns]
        template = _attributes_template(names, tuple(sizes), tuple(widths), prefix)
        rows = template.rows(len(slots[0][0]) if at is None else len(at))
        for offset, width, (words, top) in zip(template.offsets, widths, slots, strict=True):
            put(rows, offset, _WORDS[width], words if at is None else words.take(at, axis=0), _array_step(width))
            if top is not None:
                put(rows, offset + 8, _BYTE, top if at is None else top.take(at, axis=0), _array_step(width))
        return rows


def attribute_rows(columns: Mapping[str, Array], prefix: bytes = b"") -> Bytes2D:
    """Return one row per record: `prefix`, then each column as an int attribute."""
    return IntegerColumns(list(columns.values())).rows(tuple(columns), slice(None), prefix=prefix)


def _width(bits: int) -> int:
    """The width of a column whose values have no other bits than these."""
    return _WIDTH_BY_SIZE[bits.bit_length()]


def _array_step(width: int) -> int:
    """Bytes from one value of an array of ints to the next: two tags, a length, the value."""
    return 3 + width


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
