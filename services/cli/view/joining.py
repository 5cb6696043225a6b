"""Batches of one capture as one, so that to look at them costs what is in them and not how they came."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Final

import numpy as np

from proto.columns import COLUMNS, NO_INDEX
from proto.flow_batch import SIDE_TABLE_INDEXES, Array, FlowBatch

_TABLES: Final = {column: table for table, columns in SIDE_TABLE_INDEXES.items() for column in columns}


def kind(batch: FlowBatch) -> Hashable:
    """Return what batches must have in common to be one: capture, and what columns are not the schema's own."""
    foreign = {(name, each.dtype.str, each.shape[1:]) for name, each in batch.columns.items() if not _is_own(name, each)}
    return batch.node, batch.epoch, batch.entities is None, frozenset(foreign)


def _is_own(name: str, values: Array) -> bool:
    return name in COLUMNS and values.dtype == COLUMNS[name].numpy_dtype.base and values.ndim == 1


def joined(some: Sequence[FlowBatch]) -> FlowBatch:
    """Return the records of all, which are of one kind, in their order."""
    columns = {}
    for name in dict.fromkeys(name for batch in some for name in batch.columns):
        parts = [batch.column(name) for batch in some]
        if name in _TABLES:
            sizes = [len(getattr(batch, _TABLES[name]) or ()) for batch in some]
            shifted = zip(parts, accumulate(sizes, initial=0), strict=False)
            parts = [np.where(part == NO_INDEX, part, part + np.uint32(shift)) for part, shift in shifted]
        columns[name] = np.concatenate(parts)
    tables: dict[str, Any] = {
        table: None if getattr(some[0], table) is None else [each for batch in some for each in getattr(batch, table)]
        for table in SIDE_TABLE_INDEXES
    }
    begin, end = min(batch.interval[0] for batch in some), max(batch.interval[1] for batch in some)
    return replace(some[-1], count=sum(batch.count for batch in some), columns=columns, interval=(begin, end), **tables)
