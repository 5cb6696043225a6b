"""Raw batches, of any nodes, as one block of columns: what it costs to look at a column, however short, is paid once for all.

A record never meets one of another batch. What is looked up, and each rule of the verdicts, is about one record alone, and what
is about several asks each batch by itself. So a batch comes out of a block as it would by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from proto.flow_batch import Array, FlowBatch


class Block:
    """The records of one or more batches."""

    def __init__(self, batches: Sequence[FlowBatch]) -> None:
        """Take at least one."""
        counts = [batch.count for batch in batches]
        self.batches: Final = batches
        self.bounds: Final = np.cumsum([0, *counts]).tolist()
        """Where the records of each batch begin, and where the last ones end."""
        self.source: Final[Array] = np.repeat(np.arange(len(batches)), counts)
        """Number of each record's batch."""
        self._columns = Columns(batches)
        self.flows: Final = flows_of(batches, self._columns)
        """All records: their columns alone."""
        # Behind the containers of each batch stands one that is none, for the records that have none.
        self.containers: Final[list[Mapping[str, str]]] = [row for batch in batches for row in (*batch.containers, {})]
        self.hosts: Final = [batch.node for batch in batches for _ in range(len(batch.containers) + 1)]
        """The node of each container."""
        sizes = np.array([len(batch.containers) for batch in batches], np.uint32)
        firsts = np.cumsum(sizes + np.uint32(1), dtype=np.uint32) - sizes - np.uint32(1)
        own = np.minimum(self.flows.column("local_container"), sizes[self.source])
        self.container: Final[Array] = own + firsts[self.source]
        """Index into `containers` of each record."""

    def put(self, columns: Mapping[str, Array], rows: Array) -> None:
        """Have other columns in the place of those that came; they are others in `rows` (an index array)."""
        self._columns.put(columns, {number for number, _ in self.by_batch(rows)})

    def own(self, number: int) -> dict[str, Array]:
        """The columns of one of the batches, those that were put among them."""
        return self._columns.own(number, slice(*self.bounds[number : number + 2]))

    def by_batch(self, rows: Array) -> Iterator[tuple[int, Array]]:
        """Yield the number of each batch that some rows (an index array) are of, with those of its rows."""
        source = self.source[rows]
        for number in np.unique(source).tolist():
            yield number, rows[source == number]


def flows_of(batches: Sequence[FlowBatch], columns: Columns | None = None) -> FlowBatch:
    """Return the records of several batches: their columns alone."""
    return FlowBatch("", "", 0, sum(batch.count for batch in batches), (0, 0), columns or Columns(batches))


class Columns(Mapping[str, Array]):
    """Columns of several batches, each put together when it is first asked for."""

    def __init__(self, batches: Sequence[FlowBatch]) -> None:
        self._batches = batches
        self._made: dict[str, Array] = {}
        self._put: dict[str, Array] = {}
        self._changed: set[int] = set()

    def __getitem__(self, name: str) -> Array:
        found = self._made.get(name)
        if found is None:
            if name not in self:
                raise KeyError(name)
            parts = [batch.column(name) for batch in self._batches]
            found = self._made[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._put or any(name in batch.columns for batch in self._batches)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._put, *(name for batch in self._batches for name in batch.columns)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def put(self, columns: Mapping[str, Array], changed: set[int]) -> None:
        """Have others, which differ from those that came in the batches of these numbers."""
        self._put.update(columns)
        self._made.update(columns)
        self._changed |= changed

    def own(self, number: int, rows: slice) -> dict[str, Array]:
        """The columns of one batch, whose rows those are."""
        own = dict(self._batches[number].columns)
        if number in self._changed:
            own |= {name: array[rows] for name, array in self._put.items()}
        return own
