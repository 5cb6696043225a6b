"""Several batches as one: what a batch costs however few records it has is then paid once for all of them.

The columns stand one after the other; entities and containers that several batches name are one. A row of the whole finds its
way back to the batch it came from, for it is the batches that are acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final, TypeVar

import numpy as np

from proto.columns import COLUMNS, NAMES, NO_INDEX, TLS
from proto.flow_batch import Array, FlowBatch

MOST_BATCHES: Final = 1 << 12
"""More batches than a bundle ever has; their nodes are numbered."""

Row = TypeVar("Row")

_ENTITY_COLUMNS: Final = ("local_entity", "remote_entity", "local_service", "remote_service")


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Rows of one or more batches."""

    batch: FlowBatch
    """All of their rows; its node is the first one's."""
    nodes: Sequence[str]
    node: Array
    """Index into `nodes` of each row."""
    sources: Sequence[FlowBatch]
    first_rows: Array
    """The row at which each source begins."""

    def take(self, rows: slice | Array) -> Bundle:
        """Return only some rows; they can no longer be traced to their sources."""
        return replace(self, batch=self.batch.take(rows), node=self.node[rows])

    def by_source(self, rows: Array) -> Iterator[tuple[int, Array]]:
        """Yield the number of each source that some rows (an index array) come from, and which of its rows they are."""
        source = np.searchsorted(self.first_rows, rows, "right") - 1
        for number in np.unique(source).tolist():
            yield number, rows[source == number] - self.first_rows[number]


_NAME_COLUMNS: Final = tuple(column.name for column in NAMES + TLS if column.default == NO_INDEX)


def bundle(batches: Sequence[FlowBatch]) -> Bundle:
    """Return the batches (at least one) as one, in their order."""
    counts = [batch.count for batch in batches]
    first_rows = np.cumsum([0, *counts[:-1]])
    if len(batches) == 1:
        return Bundle(batches[0], (batches[0].node,), np.zeros(counts[0], np.int64), batches, first_rows)
    tables = [batch.entities or () for batch in batches]
    entities, entity_maps = _united(tables, attrgetter("packed"))
    containers, container_maps = _united(
        [batch.containers for batch in batches], lambda row: (row.get("pod_uid"), row.get("container_id"))
    )
    files, file_maps = _united([batch.files for batch in batches], lambda row: row.get("name"))
    names, name_maps = _united([batch.names for batch in batches], str)
    nodes, node_maps = _united([(batch.node,) for batch in batches], str)
    renumbered = dict.fromkeys(_ENTITY_COLUMNS, entity_maps) | {"local_container": container_maps, "file": file_maps}
    renumbered |= dict.fromkeys(_NAME_COLUMNS, name_maps)
    columns = {}
    for name in sorted({name for batch in batches for name in batch.columns if name in COLUMNS}):
        parts = [batch.column(name) for batch in batches]
        if name in renumbered:
            parts = [_renumbered(part, numbers) for part, numbers in zip(parts, renumbered[name], strict=True)]
        columns[name] = np.concatenate(parts)
    node = np.repeat([int(numbers[0]) for numbers in node_maps], counts)
    whole = replace(batches[0], count=sum(counts), columns=columns, counters={})
    whole = replace(whole, containers=containers, entities=entities, files=files, names=names)
    return Bundle(whole, nodes, node, batches, first_rows)


def _united(tables: Sequence[Sequence[Row]], key: Callable[[Row], Hashable]) -> tuple[list[Row], list[Array]]:
    """Return the rows of all tables, those of equal keys once, and for each table where its rows went."""
    places: dict[Hashable, int] = {}
    # The same object comes in table after table, and is found again faster than its key is.
    objects: dict[int, int] = {}
    rows: list[Row] = []
    maps = []
    for table in tables:
        numbers = [objects.get(identity, -1) for identity in map(id, table)]
        if -1 in numbers:
            for at, row in enumerate(table):
                if numbers[at] < 0:
                    place = places.setdefault(key(row), len(rows))
                    if place == len(rows):
                        rows.append(row)
                    numbers[at] = objects[id(row)] = place
        maps.append(np.array([*numbers, NO_INDEX], "<u4"))
    return rows, maps


def _renumbered(index: Array, numbers: Array) -> Array:
    """Indexes into one table as indexes into the united one; what points past its end points at nothing."""
    return numbers[np.minimum(index, len(numbers) - 1)]
