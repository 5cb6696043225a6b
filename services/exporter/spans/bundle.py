"""Several batches as one: what a batch costs however few records it has is then paid once for all of them.

The columns stand one after the other; entities and containers that several batches name are one. A row of the whole finds its
way back to the batch it came from, for it is the batches that are acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from proto.columns import COLUMNS, NAMES, NO_INDEX, TLS
from proto.flow_batch import Array, Entity, FlowBatch

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
    source = np.repeat(np.arange(len(batches)), counts)
    entities, of_entities = _united([batch.entities or () for batch in batches], _packed)
    containers, of_containers = _united([batch.containers for batch in batches], _identities)
    files, of_files = _united([batch.files for batch in batches], _file_names)
    names, of_names = _united([batch.names for batch in batches], iter)
    nodes, of_nodes = _united([(batch.node,) for batch in batches], iter)
    renumbered = dict.fromkeys(_ENTITY_COLUMNS, of_entities) | {"local_container": of_containers, "file": of_files}
    renumbered |= dict.fromkeys(_NAME_COLUMNS, of_names)
    columns = {}
    for name in sorted({name for batch in batches for name in batch.columns if name in COLUMNS}):
        column = np.concatenate([batch.column(name) for batch in batches])
        columns[name] = renumbered[name].apply(column, source) if name in renumbered else column
    node = of_nodes.apply(np.zeros(len(source), np.uint32), source).astype(np.int64)
    whole = replace(batches[0], count=sum(counts), columns=columns, counters={})
    whole = replace(whole, containers=containers, entities=entities, files=files, names=names)
    return Bundle(whole, nodes, node, batches, first_rows)


class _Renumbering:
    """Where the rows of several tables went in the united one."""

    def __init__(self, sizes: Sequence[int], numbers: Sequence[int]) -> None:
        """`numbers` are those of all rows; behind those of each table stands one for what points past its end: at nothing."""
        self._numbers = np.array(numbers, "<u4")
        self._sizes = np.array(sizes, "<u4")
        self._firsts = np.cumsum(self._sizes + np.uint32(1), dtype="<u4") - self._sizes - np.uint32(1)

    def apply(self, indexes: Array, source: Array) -> Array:
        """Indexes into the tables of these numbers, as indexes into the united one."""
        united: Array = self._numbers[np.minimum(indexes, self._sizes[source]) + self._firsts[source]]
        return united


def _packed(table: Sequence[Entity]) -> Iterable[Hashable]:
    return [entity.packed for entity in table]


def _identities(table: Sequence[Mapping[str, str]]) -> Iterable[Hashable]:
    return [(row.get("pod_uid"), row.get("container_id")) for row in table]


def _file_names(table: Sequence[Mapping[str, str]]) -> Iterable[Hashable]:
    return [row.get("name") for row in table]


def _united(
    tables: Sequence[Sequence[Row]], keys: Callable[[Sequence[Row]], Iterable[Hashable]]
) -> tuple[list[Row], _Renumbering]:
    """Return the rows of all tables, those of equal keys once, and where they went."""
    places: dict[Hashable, int] = {}
    rows: list[Row] = []
    numbers: list[int] = []
    for table in tables:
        found = [places.setdefault(key, len(places)) for key in keys(table)]
        if len(places) > len(rows):
            for row, place in zip(table, found, strict=True):
                if place == len(rows):
                    rows.append(row)
        numbers += found
        numbers.append(NO_INDEX)
    return rows, _Renumbering([len(table) for table in tables], numbers)
