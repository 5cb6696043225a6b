"""Spans into request bodies: pieces are put in order and joined, blocks of fixed width written into the room left for them.

A `SpanSet` holds the spans of one shape. Spans of a resource stand together whatever set they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import accumulate
from typing import Final

import numpy as np

from proto.flow_batch import Array
from services.exporter.otlp import protobuf_wire as wire
from services.exporter.otlp.piece_table import Column

_MOST: Final = 1 << 32
"""More bytes than the spans of a resource ever take."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A part of fixed width that some spans have."""

    parts: Array
    """One opaque value for each span that has it."""
    at: Array | None
    """Which spans of the set those are, ascending; None: all of them."""
    offset: Array | int
    """Where it begins within each of them."""


@dataclass(frozen=True, slots=True, eq=False)
class SpanSet:
    """Encoded spans of one shape in no particular order. A span is its blocks and behind them its pieces."""

    rows: Array
    """The row of the bundle that each span was made of, or the first of several."""
    resources: Array
    """Key of each span's resource, int64."""
    blocks: list[Block]
    room: Array
    """Bytes of each span's blocks."""
    pieces: list[Column]
    lengths: Array
    """Bytes of each span, tag and length included."""
    further: tuple[Array, Array] | None = None
    """Where spans were made of several rows: the others, and of each which span of the set it is in."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What all spans have around them besides their resource."""

    scope: bytes
    """`ScopeSpans.scope`."""
    schema: bytes
    """`ScopeSpans.schema_url` and `ResourceSpans.schema_url`, which have the same field number."""

    def opening(self, resource: bytes, span_bytes: int) -> bytes:
        """What stands before the spans of a resource."""
        scope_spans = b"\x12" + wire.varint(len(self.scope) + span_bytes + len(self.schema)) + self.scope
        length = len(resource) + len(scope_spans) + span_bytes + len(self.closing)
        return b"\x0a" + wire.varint(length) + resource + scope_spans

    @property
    def closing(self) -> bytes:
        """What stands behind them."""
        return self.schema + self.schema


class Assembly:
    """All spans of a bundle, in their resources' order, of which runs become request bodies."""

    def __init__(self, sets: Sequence[SpanSet], scope: Scope, resource: Callable[[int], bytes]) -> None:
        """`resource` returns `ResourceSpans.resource` for a key."""
        self._sets = sets
        self._scope = scope
        keys = np.concatenate([one.resources for one in sets])
        self._order = np.argsort(keys, kind="stable")
        keys = keys[self._order]
        self._rows = np.concatenate([one.rows for one in sets])[self._order]
        self._ends = np.cumsum(np.concatenate([one.lengths for one in sets])[self._order])
        self._starts = np.flatnonzero(np.diff(keys, prepend=-1))
        self._resources = [resource(key) for key in keys[self._starts].tolist()]

    @property
    def count(self) -> int:
        """How many spans there are."""
        return len(self._order)

    def rows(self, first: int, end: int) -> tuple[Array, Array]:
        """The bundle's rows that the spans of a run were made of, and of each which span of the run it is in.

        The first row of each span comes first, in the order of the spans.
        """
        rows, places = [self._rows[first:end]], [np.arange(end - first)]
        for one, offset in zip(self._sets, self._offsets, strict=True):
            if one.further is not None:
                further, span = one.further
                place = self._place[span + offset]
                mine = ((place >= first) & (place < end)).nonzero()[0]
                rows.append(further[mine])
                places.append(place[mine] - first)
        return np.concatenate(rows), np.concatenate(places)

    @cached_property
    def _place(self) -> Array:
        """Where among all each span stands."""
        place = np.empty(self.count, np.int64)
        place[self._order] = np.arange(self.count)
        return place

    def runs(self, max_bytes: int) -> Iterator[tuple[int, int]]:
        """Runs of spans whose bodies take at most `max_bytes`, or hold a single span."""
        scope = self._scope
        around = np.array([len(one) for one in self._resources], np.int64)
        around += len(scope.opening(b"", _MOST)) + len(scope.closing)
        sizes = np.diff(self._ends, prepend=0)
        sizes[self._starts] += around
        ends = np.cumsum(sizes)
        first = 0
        while first < len(sizes):
            group = int(np.searchsorted(self._starts, first, "right")) - 1
            begins_group = self._starts[group] == first
            room = max_bytes + int(ends[first] - sizes[first]) - (0 if begins_group else int(around[group]))
            end = max(int(np.searchsorted(ends, room, "right")), first + 1)
            yield first, end
            first = end

    def body(self, first: int, end: int) -> bytes:
        """The request that holds spans `first` up to `end`."""
        parts, width = self._parts(first, end)
        base = int(self._ends[first - 1]) if first else 0
        begins = np.empty(end - first, np.int64)
        begins[:1], begins[1:] = 0, self._ends[first : end - 1] - base
        group, last_group = np.searchsorted(self._starts, (first, end - 1), "right").tolist()
        bounds = [first, *self._starts[group:last_group].tolist(), end]
        ends = [0, *(self._ends[np.array(bounds[1:]) - 1] - base).tolist()]
        closing = self._scope.closing
        shift, shifts = 0, []
        for at, resource in enumerate(self._resources[group - 1 : last_group]):
            opening = self._scope.opening(resource, ends[at + 1] - ends[at])
            begin, stop = ((row - first) * width for row in bounds[at : at + 2])
            parts[begin] = opening + parts[begin]
            parts[stop - 1] += closing
            shifts.append(shift + len(opening))
            shift = shifts[-1] + len(closing)
        begins += np.repeat(shifts, np.diff(bounds))
        # What BytesIO holds it gives away again without a copy.
        stream = BytesIO(b"".join(parts))
        self._fill(stream, begins, first, end)
        return stream.getvalue()

    def _parts(self, first: int, end: int) -> tuple[list[bytes], int]:
        """What is to be joined: of each span the room for its blocks, then its pieces. And how many that are."""
        width = 1 + max(len(one.pieces) for one in self._sets)
        parts = [b""] * ((end - first) * width)
        for one, offset in zip(self._sets, self._offsets, strict=True):
            chosen = self._order[first:end]
            if len(self._sets) == 1:
                places: list[int] | None = None
            else:
                mine = np.flatnonzero((chosen >= offset) & (chosen < offset + len(one.rows)))
                chosen, places = chosen[mine] - offset, (mine * width).tolist()
            columns = [_room(one.room[chosen]), *(column.take(chosen).tolist() for column in one.pieces)]
            for at, pieces in enumerate(columns):
                if places is None:
                    parts[at::width] = pieces
                else:
                    for place, piece in zip(places, pieces, strict=True):
                        parts[place + at] = piece
        return parts, width

    @cached_property
    def _offsets(self) -> list[int]:
        """Where each set's spans begin among all."""
        return list(accumulate((len(one.rows) for one in self._sets[:-1]), initial=0))

    def _fill(self, stream: BytesIO, begins: Array, first: int, end: int) -> None:
        """Write the blocks of spans `first` up to `end` into their room; each span begins where `begins` says."""
        out = np.frombuffer(stream.getbuffer(), np.uint8)
        all_of_them = end - first == self.count
        begin = np.full(self.count, -1, np.int64)
        begin[self._order[first:end]] = begins
        for one, offset in zip(self._sets, self._offsets, strict=True):
            own = begin[offset : offset + len(one.rows)]
            for block in one.blocks:
                # Every byte begins a value: they overlap, and only those are written that do not.
                places = np.ndarray((len(out) - block.parts.itemsize + 1,), block.parts.dtype, out, 0, (1,))
                at = own if block.at is None else own[block.at]
                if all_of_them:
                    places[at + block.offset] = block.parts
                    continue
                here = np.flatnonzero(at >= 0)
                shift = block.offset[here] if isinstance(block.offset, np.ndarray) else block.offset
                places[at[here] + shift] = block.parts[here]


def _room(lengths: Array) -> list[bytes]:
    """So many bytes for each row, to be written over."""
    room = np.empty(int(lengths.max(initial=0)) + 1, object)
    for length in np.flatnonzero(np.bincount(lengths)).tolist():
        room[length] = bytes(length)
    pieces: list[bytes] = room[lengths].tolist()
    return pieces
