"""Exemplars: of each workload pair the slowest record since the last reading, by the ids of its span."""

from __future__ import annotations

from typing import Final

import numpy as np

from proto.flow_batch import Array
from services.exporter.metrics.instruments import TIMED, Timed
from services.exporter.spans.identity import TRACE_RECORDS, IdMixer, perspective
from services.exporter.spans.records import Records
from services.exporter.spans.summary import Thinning

EXEMPLAR: Final = np.dtype([(name, "<u8") for name in ("value_ns", "unix_ns", "trace_high", "trace_low", "span")])
"""A row without one is 0 throughout."""


class Exemplars:
    """Keeps them, for as many rows as there is room for."""

    def __init__(self, cluster_name: str, trace_records: int = TRACE_RECORDS, thinning: Thinning | None = None) -> None:
        """`thinning`: which flows have spans of their own; only these are named."""
        self._mixer = IdMixer(cluster_name, trace_records)
        self._thinning = thinning
        self._kept = {metric.name: np.zeros(0, EXEMPLAR) for metric in TIMED}

    def make_room(self, rows: int) -> None:
        """Have room for so many rows."""
        for name, kept in self._kept.items():
            self._kept[name] = np.concatenate([kept, np.zeros(rows - len(kept), EXEMPLAR)])

    def forget(self, row: int) -> None:
        """Keep none for a row."""
        for kept in self._kept.values():
            kept[row] = 0

    def read(self, *, take: bool) -> dict[str, Array]:
        """Return a copy of what there is, by metric; with `take`, the next ones are of what comes then."""
        found = {name: kept.copy() for name, kept in self._kept.items()}
        if take:
            for kept in self._kept.values():
                kept[:] = 0
        return found

    def offer(self, metric: Timed, records: Records, at: Array, rows: Array, values_ns: Array) -> None:
        """Keep of each row the slowest of some records (`at`, an index array), where it is slower than what is there."""
        kept = self._kept[metric.name]
        slower = np.flatnonzero(values_ns > kept["value_ns"][rows])
        if not len(slower):
            return
        slower = slower[np.lexsort((values_ns[slower], rows[slower]))]
        slower = slower[np.append(np.diff(rows[slower]) != 0, True)]  # the last of each row
        few = records.batch.take(at[slower])
        ids = self._mixer.ids(few, perspective(few))
        found = np.zeros(len(slower), EXEMPLAR)
        found["value_ns"], found["unix_ns"] = values_ns[slower], few.column("end_unix_ns")
        found["trace_high"], found["trace_low"], found["span"] = ids.trace_id_high, ids.trace_id_low, ids.span_id
        if self._thinning is not None:
            own = self._thinning.kept(few, self._thinning.drawn(ids))
            found, slower = found[own], slower[own]
        kept[rows[slower]] = found
