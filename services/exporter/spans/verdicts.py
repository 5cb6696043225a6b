"""`flow.verdict` and `flow.verdict.measure`: what the enricher found wrong with a record, and what decided it."""

from __future__ import annotations

import numpy as np

from proto.verdicts.names import MEASURE_ATTRIBUTES, Verdict
from services.exporter.otlp.piece_table import Column, Table
from services.exporter.otlp.protobuf_wire import attribute
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection

_VERDICTS = {int(verdict): verdict.name.lower() for verdict in Verdict if verdict != Verdict.UNKNOWN}
_MEASURE = 8


class Verdicts:
    """The piece of each record's verdict."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._table = Table(self._make)

    def columns(self, records: Records) -> tuple[Column, ...]:
        """Return the piece of each record; none where nobody judged."""
        if not records.has("verdict"):
            return ()
        measure = records.column("verdict_measure").astype(np.uint64) << np.uint64(_MEASURE)
        return (self._table.column(records.column("verdict").astype(np.uint64) | measure),)

    def _make(self, key: tuple[int, ...]) -> bytes:
        verdict, measure = key[0] & 0xFF, key[0] >> _MEASURE
        values = {"flow.verdict": _VERDICTS.get(verdict)}
        if values["flow.verdict"]:
            values["flow.verdict.measure"] = MEASURE_ATTRIBUTES.get(measure)
        return b"".join(attribute(name, value) for name, value in values.items() if value and self._selection.has(name))
