"""A batch's columns as its spans need them: by source and destination instead of local and remote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proto.columns import Role
from proto.flow_batch import Array, FlowBatch
from services.exporter.spans import Mask, Perspective, oriented, swapped


class Records:
    """The columns of a batch as its spans' attributes need them: by source and destination, forward and reverse."""

    def __init__(self, batch: FlowBatch, seen: Perspective) -> None:
        self.batch = batch
        self.seen = seen
        self._columns: dict[str, Array] = {}
        self._pairs: dict[tuple[str, str], tuple[Array, Array]] = {}
        self._told_by_source: Mask = seen.told_by_local == seen.source_is_local
        role = self.column("role")
        self._has_initiator: Mask = (role == Role.CLIENT) | (role == Role.SERVER)

    def column(self, name: str) -> Array:
        """A column as it is."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = self.batch.column(name)
        return found

    def source(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end is the source."""
        return self._oriented("end", name)[0]

    def destination(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end is the destination."""
        return self._oriented("end", name)[1]

    def forward(self, name: str) -> Array:
        """`tx_<name>` or `rx_<name>`, whichever is from source to destination."""
        return self._oriented("way", name)[0]

    def reverse(self, name: str) -> Array:
        """`tx_<name>` or `rx_<name>`, whichever is from destination to source."""
        return self._oriented("way", name)[1]

    def told(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end the span's resource is."""
        return np.where(self._told_by_source, self.source(name), self.destination(name))

    def peer(self, name: str) -> Array:
        """`local_<name>` or `remote_<name>`, whichever end the span's resource is not."""
        return np.where(self._told_by_source, self.destination(name), self.source(name))

    def told_by_source(self) -> Mask:
        """Where the span's resource is the source."""
        return self._told_by_source

    def has_initiator(self) -> Mask:
        """Where it is known which end is the source."""
        return self._has_initiator

    def transport_in(self, transports: Sequence[int]) -> Mask:
        """Where the transport is one of those."""
        known = np.zeros(256, np.bool_)
        known[list(transports)] = True
        return known[self.column("transport")]

    def nonzero(self, *names: str) -> Mask:
        """Where any of the columns is not 0."""
        some: Mask = np.logical_or.reduce([self.column(name) != 0 for name in names])
        return some

    def happened_here(self, name: str) -> Mask:
        """Where the moment `name` lies in the record itself, not in an earlier one of the flow."""
        moment = self.column(name)
        here: Mask = (moment != 0) & (moment >= self.column("start_unix_ns"))
        return here

    def elapsed(self, since: str, until: str) -> Array:
        """Nanoseconds between two moments; 0 where they stand the wrong way round."""
        first, last = self.column(since), self.column(until)
        return np.where(last > first, last - first, np.uint64(0))

    def _oriented(self, sort: str, name: str) -> tuple[Array, Array]:
        key = (sort, name)
        if key not in self._pairs:
            if sort == "end":
                self._pairs[key] = oriented(self.batch, name, self.seen.source_is_local)
            else:
                pair = self.column(f"tx_{name}"), self.column(f"rx_{name}")
                self._pairs[key] = swapped(*pair, self.seen.source_is_local)
        return self._pairs[key]

    def mean_response_time(self) -> Array:
        """Nanoseconds; 0 where there was no response."""
        return self.column("response_time_sum_ns") // np.maximum(self.column("responses"), 1)
