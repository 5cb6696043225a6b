"""The columns of an AskedBatch: one row for each span and each address that its peer may have had."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np


class SpanKind(enum.IntEnum):
    """Kinds of spans that have a network below them, by OTLP's numbers."""

    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


OTHER_END: Final = 6
"""A `kind` that is no span's, and no question: what a server's span says of its client's, whose id is `span_id`."""


@dataclass(frozen=True, slots=True)
class AskedColumn:
    """One field of a question."""

    name: str
    dtype: np.dtype[np.generic]
    meaning: str


def _column(name: str, dtype: str, meaning: str) -> AskedColumn:
    return AskedColumn(name, np.dtype(dtype), meaning)


_KINDS: Final = ", ".join(f"{kind.value} {kind.name.lower()}" for kind in SpanKind)

ASKED: Final = (
    _column("question", "<u4", "number of the question; rows of one question follow each other, and numbers do not descend"),
    _column("trace_id", "|V16", "of the application's span"),
    _column("span_id", "|V8", "as trace_id"),
    _column("flags", "|u1", "the span's W3C trace flags; bit 0 is sampled"),
    _column(
        "kind",
        "|u1",
        f"of the span ({_KINDS}); {OTHER_END}: no question",
    ),
    _column("start_ns", "<u8", "Unix nanoseconds, as the application's clock read"),
    _column("end_ns", "<u8", "as start_ns"),
    _column("local", "<u4", "index into `locals`: who made the span"),
    _column("local_port", "<u2", "0 where it is not known"),
    _column("peer_address", "|V16", "IPv6, or IPv4 mapped into ::ffff:0:0/96, network order; all zero where it is not known"),
    _column("peer_port", "<u2", "0 where it is not known"),
)
"""All columns, in the order in which they are written. Every message has each of them."""

ROW_BYTES: Final = sum(column.dtype.itemsize for column in ASKED)
