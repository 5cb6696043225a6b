"""A reading as Prometheus scrapes it: its text format knows histograms of fixed bounds alone, here one for each doubling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.exporter.metrics.instruments import COUNTED, OVERFLOW, PAIR_LABELS, TIMED, Counted, Timed
from services.exporter.metrics.pairs import Pair
from services.exporter.metrics.sums import FlowSums, Reading

_LABELS: Final = tuple(name.replace(".", "_") for name in (*PAIR_LABELS, OVERFLOW))
_NOBODY: Final = ("",) * len(PAIR_LABELS)


class FlowCollector(Collector):
    """What a registry asks for the metrics of flows."""

    def __init__(self, sums: FlowSums) -> None:
        self._sums = sums

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand: a registry would otherwise ask for all of it."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with all its series."""
        reading = self._sums.read(take_exemplars=False)
        yield from (_counter(reading, metric) for metric in COUNTED)
        yield from (_histogram(reading, metric) for metric in TIMED)


def _counter(reading: Reading, metric: Counted) -> Metric:
    labels = [*_LABELS, *(name.replace(".", "_") for name in metric.label_names)]
    family = CounterMetricFamily(metric.name.replace(".", "_"), metric.meaning, labels=labels)
    cells = reading.cells[metric.name]
    for row, cell in zip(*(place.tolist() for place in cells.nonzero()), strict=True):
        family.add_metric([*_values(reading.pairs[row]), *metric.labels[cell].values()], int(cells[row, cell]))
    return family


def _histogram(reading: Reading, metric: Timed) -> Metric:
    family = HistogramMetricFamily(f"{metric.name.replace('.', '_')}_seconds", metric.meaning, labels=_LABELS)
    cells, sums = reading.cells[metric.name], reading.sums_ns[metric.name]
    step = 1 << metric.scale
    bounds = [*map(str, metric.bounds()[step - 1 : -1 : step]), "+Inf"]
    for row in np.flatnonzero(cells.any(axis=1)).tolist():
        up_to = cells[row].cumsum()[step - 1 :: step].tolist()
        family.add_metric(_values(reading.pairs[row]), list(zip(bounds, up_to, strict=True)), int(sums[row]) / 1e9)
    return family


def _values(pair: Pair | None) -> tuple[str, ...]:
    return (*_NOBODY, "true") if pair is None else (*pair, "")
