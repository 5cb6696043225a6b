"""A batch's columns as its spans need them: by source and destination instead of local and remote."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from proto.columns import COLUMNS
from proto.flow_batch import Array, FlowBatch
from services.exporter.spans.identity import Mask, Perspective


class Records:
    """The columns of a batch, or of some of its rows: by source and destination, forward and reverse.

    Columns are picked when they are asked for, and only in the rows that are wanted.
    """

    def __init__(self, batch: FlowBatch, seen: Perspective, rows: Array | None = None, whole: Records | None = None) -> None:
        """`rows` (an index array) of `whole`, or all rows of `batch`."""
        self.batch = batch
        self.seen = seen
        self._rows = rows
        self._whole = whole or self
        self._columns: dict[str, Array] = {}
        self._pairs: dict[str, Array] = {}

    def at(self, rows: Array) -> Records:
        """The same of some rows (an index array), which must be rows of the whole."""
        return Records(self.batch, self.seen, rows, self._whole)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.batch.count if self._rows is None else len(self._rows)

    @cached_property
    def nobody(self) -> Mask:
        """A mask that holds no row. What is this very object needs no look."""
        return np.zeros(self.count, np.bool_)

    def has(self, *names: str) -> bool:
        """Whether the batch carries any of the columns; those it does not carry hold their default everywhere."""
        return any(name in self.batch.columns for name in names)

    def column(self, name: str) -> Array:
        """A column as it is."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = self._pick(self._whole_column(name))
        return found

    def source(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end is the source."""
        return self._paired("local_", "remote_", name).take(self._source, axis=0)

    def destination(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end is the destination."""
        return self._paired("local_", "remote_", name).take(self._destination, axis=0)

    def ends(self, name: str) -> Array:
        """`source(name)` and behind it `destination(name)`: twice as many rows."""
        return self._paired("local_", "remote_", name).take(self._both, axis=0)

    def forward(self, name: str) -> Array:
        """`tx_<name>` or `rx_<name>`, whichever is from source to destination."""
        return self._paired("tx_", "rx_", name).take(self._source, axis=0)

    def reverse(self, name: str) -> Array:
        """`tx_<name>` or `rx_<name>`, whichever is from destination to source."""
        return self._paired("tx_", "rx_", name).take(self._destination, axis=0)

    def told(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end the span's resource is."""
        return self._paired("local_", "remote_", name).take(self._told, axis=0)

    def peer(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end the span's resource is not."""
        return self._paired("local_", "remote_", name).take(self._peer, axis=0)

    def told_by_source(self) -> Mask:
        """Where the span's resource is the source."""
        return self._pick(self.seen.told_by_source)

    def has_initiator(self) -> Mask:
        """Where it is known which end is the source."""
        return self._pick(self.seen.has_initiator)

    def transport_in(self, transports: Sequence[int]) -> Mask:
        """Where the transport is one of those."""
        return _among(tuple(transports)).take(self.column("transport"))

    def nonzero(self, *names: str) -> Mask:
        """Where any of the columns is not 0."""
        some: Mask | None = None
        for name in names:
            if name in self.batch.columns:
                mask: Mask = self.column(name) != 0
                some = mask if some is None else some | mask
        return self.nobody if some is None else some

    @cached_property
    def has_backend(self) -> Mask:
        """Where remote is the destination, and packets to it went elsewhere."""
        translated = self.nonzero("remote_nat_port")
        return translated if translated is self.nobody else translated & self._pick(self.seen.source_is_local)

    @cached_property
    def has_slowest(self) -> Mask:
        """Where the slowest DNS question is another than the first."""
        other = np.zeros(self.count, np.bool_)
        for what in ("name", "type", "code", "time_ns"):
            other |= self.column(f"dns_slowest_{what}") != self.column(f"dns_first_{what}")
        return other

    @property
    def remote_is_destination(self) -> Mask:
        """Where local is the source."""
        return self._pick(self.seen.source_is_local)

    def either(self, name: str) -> Mask:
        """Where `tx_<name>` or `rx_<name>` is not 0."""
        return self.nonzero(f"tx_{name}", f"rx_{name}")

    def happened_here(self, name: str) -> Mask:
        """Where the moment `name` lies in the record itself, not in an earlier one of the flow."""
        if not self.has(name):
            return self.nobody
        moment = self.column(name)
        here: Mask = (moment != 0) & (moment >= self.column("start_unix_ns"))
        return here

    def elapsed(self, since: str, until: str) -> Array:
        """Nanoseconds between two moments; 0 where they stand the wrong way round."""
        first, last = self.column(since), self.column(until)
        return np.maximum(last, first) - first

    def mean_response_time(self) -> Array:
        """Nanoseconds; 0 where there was no response."""
        return self.column("response_time_sum_ns") // np.maximum(self.column("responses"), 1)

    def _pick(self, whole: Array) -> Array:
        return whole if self._rows is None else whole.take(self._rows, axis=0)

    def _whole_column(self, name: str) -> Array:
        if self._whole is self:
            return self.batch.column(name)
        return self._whole.column(name)

    def _paired(self, local: str, remote: str, name: str) -> Array:
        """Both columns, one behind the other: a row of either end or direction is picked from it by its place."""
        pairs = self._whole._pairs  # noqa: SLF001 - of the same class
        first = local + name
        found = pairs.get(first)
        if found is None:
            columns = [_addressable(self._whole.column(one)) for one in (first, remote + name)]
            found = pairs[first] = np.concatenate(columns)
        return found

    @cached_property
    def _source(self) -> Array:
        """Where in a pair of columns the source's is."""
        if self._whole is not self:
            return self._pick(self._whole._source)  # noqa: SLF001 - of the same class
        rows = np.arange(self.batch.count)
        return np.where(self.seen.source_is_local, rows, rows + self.batch.count)

    @cached_property
    def _destination(self) -> Array:
        if self._whole is not self:
            return self._pick(self._whole._destination)  # noqa: SLF001 - of the same class
        count = self.batch.count
        return 2 * np.arange(count) + count - self._source

    @cached_property
    def _both(self) -> Array:
        return np.concatenate([self._source, self._destination])

    @cached_property
    def _told(self) -> Array:
        return np.where(self.told_by_source(), self._source, self._destination)

    @cached_property
    def _peer(self) -> Array:
        return np.where(self.told_by_source(), self._destination, self._source)


def _addressable(column: Array) -> Array:
    """An address as its two halves, in memory order; anything else as it is."""
    return np.ascontiguousarray(column).view("<u8").reshape(-1, 2) if column.dtype == _ADDRESS else column


_ADDRESS = COLUMNS["local_address"].numpy_dtype


@lru_cache(maxsize=64)
def _among(numbers: tuple[int, ...]) -> Mask:
    """For each number of one byte whether it is one of those."""
    known = np.zeros(256, np.bool_)
    known[list(numbers)] = True
    return known
