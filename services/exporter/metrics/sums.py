"""The sums themselves: columns of many records added to those of their workload pairs, without a step per record.

A pair has a row. Rows are bounded in number: what has none is counted in the first. Sums are cumulative from when a pair got
its row, so that whoever misses one reading has it in the next. Where there is no row left, pairs of which nothing was heard for
an hour make room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from proto.columns import Outcome, Reason, Resolution
from proto.flow_batch import Array, FlowBatch
from services.exporter.metrics import instruments
from services.exporter.metrics.exemplars import Exemplars
from services.exporter.metrics.instruments import COUNTED, OUTCOMES, TIMED, VERDICTS, Counted, Timed
from services.exporter.metrics.pairs import Pair, Pairs
from services.exporter.spans.bundle import bundle
from services.exporter.spans.facts import TCP
from services.exporter.spans.identity import perspective
from services.exporter.spans.records import Records

_IDLE_SECONDS: Final = 3600.0
_BETWEEN_EVICTIONS_SECONDS: Final = 60.0
_FIRST_ROWS: Final = 64
_ENDS_PER_PAIR: Final = 4
_COLUMNS: Final = """
    reason observer role record transport icmp_type icmp_code outcome cut_short verdict remote_name
    local_address remote_address local_port remote_port isn_seen local_isn remote_isn
    start_unix_ns end_unix_ns flow_start_unix_ns syn_unix_ns handshake_ack_unix_ns tls_handshake_time_ns
    tx_bytes rx_bytes tx_packets rx_packets tx_retransmits rx_retransmits tx_spurious_retransmits rx_spurious_retransmits
    responses response_time_sum_ns response_time_max_ns response_time_histogram request_waits
    icmp_errors question_repeats dns_codes tls_flags tls_alert
    local_entity remote_entity local_service remote_service local_resolution remote_resolution
"""
_ENDED: Final = (Outcome.REFUSED, Outcome.TIMEOUT, Outcome.RESET, Outcome.CLOSED)
_TAKEN: Final = frozenset(_COLUMNS.split())
"""The columns that are looked at, those of ids and of what makes a flow one with spans of its own among them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The sums at one moment."""

    at_unix_ns: int
    pairs: Sequence[Pair | None]
    """Of each row; None for what is beyond the bound. What `live` does not name is nobody's."""
    start_unix_ns: Array
    """Since when each row counts."""
    live: Sequence[int]
    cells: dict[str, Array]
    """By metric: (rows, cells) of what is counted, (rows, buckets) of what is timed."""
    sums_ns: dict[str, Array]
    """By metric: (rows,) of what is timed."""
    exemplars: dict[str, Array]
    """By metric of what is timed: the slowest of each row since the last reading that took them."""


class FlowSums:
    """The sums of one exporter since it started. Threads may share them; they take turns."""

    def __init__(
        self,
        most_pairs: int,
        *,
        exemplars: Exemplars,
        looked_up: bool = False,
        unix_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`looked_up`: a name that was looked up for a destination that nobody knows is its name."""
        self._most_rows = most_pairs + 1
        self._pairs = Pairs(most_pairs * _ENDS_PER_PAIR, looked_up=looked_up)
        self._exemplars = exemplars
        self._unix_ns, self._monotonic = unix_ns, monotonic
        self._lock = threading.Lock()
        self._rows: dict[int, int] = {0: 0}
        self._free: list[int] = []
        self._named: list[Pair | None] = [None]
        self._read_unix_ns = unix_ns()
        self._room = 0
        self._cells: dict[str, Array] = {}
        self._sums: dict[str, Array] = {}
        self._start, self._heard = np.zeros(0, np.int64), np.zeros(0)
        self._make_room()
        self._evicted_at = monotonic()
        self._overflowed_then = 0
        self.overflowed = 0
        """Records counted where those are that have no row of their own."""

    @property
    def pairs(self) -> int:
        """How many pairs have a row."""
        return len(self._rows) - 1

    def add(self, batches: Sequence[FlowBatch]) -> None:
        """Count every record of the batches (at least one)."""
        taken = [replace(batch, columns=_chosen(batch), containers=(), files=()) for batch in batches]
        batch = bundle(taken).batch
        of_flows = batch.column("reason") != Reason.EXCHANGE
        if not of_flows.all():
            batch = batch.take(of_flows)
        if not batch.count:
            return
        records = Records(batch, perspective(batch))
        with self._lock:
            self._evict()
            distinct, place = np.unique(self._pairs.keys(records), return_inverse=True)
            rows = self._rows_of(distinct.tolist())[place]
            self.overflowed += int(np.count_nonzero(rows == 0))
            self._count(records, rows)
            self._time(records, rows)

    def read(self, *, take_exemplars: bool = True) -> Reading:
        """Return the sums as they stand. The exemplars that are taken give way to new ones."""
        with self._lock:
            self._read_unix_ns = self._unix_ns()
            return Reading(
                self._read_unix_ns,
                list(self._named),
                self._start.copy(),
                sorted(self._rows.values()),
                {name: cells.copy() for name, cells in self._cells.items()},
                {name: sums.copy() for name, sums in self._sums.items()},
                self._exemplars.read(take=take_exemplars),
            )

    def _count(self, records: Records, rows: Array) -> None:
        forward, reverse = records.forward("bytes"), records.reverse("bytes")
        for metric, values in (
            (instruments.BYTES, forward),
            (instruments.REVERSE_BYTES, reverse),
            (instruments.PACKETS, records.forward("packets")),
            (instruments.REVERSE_PACKETS, records.reverse("packets")),
        ):
            self._add(metric, rows, values)
        if records.has("tx_retransmits", "rx_retransmits"):
            self._add(instruments.RETRANSMITS, rows, records.forward("retransmits"))
            self._add(instruments.REVERSE_RETRANSMITS, rows, records.reverse("retransmits"))
        outside = records.ends("resolution") == Resolution.EXTERNAL
        source, destination = outside[: records.count], outside[records.count :]
        self._add(instruments.EGRESS, rows, forward * (destination & ~source) + reverse * (source & ~destination))
        self._add(instruments.CROSS_ZONE, rows, (forward + reverse) * self._pairs.cross_zones(records))
        verdict = records.column("verdict").astype(np.int64)
        verdict *= verdict < len(instruments.RECORDS.labels)
        self._add(instruments.RECORDS, rows * VERDICTS + verdict, np.uint64(1))
        at = _over(records).nonzero()[0]
        outcome = records.column("outcome")[at].astype(np.int64)
        outcome *= outcome < OUTCOMES - 1
        self._add(instruments.CONNECTIONS, (rows[at] * OUTCOMES + outcome) * VERDICTS + verdict[at], np.uint64(1))
        if records.has("dns_codes"):
            self._add_each(instruments.DNS, rows, records.column("dns_codes"))

    def _time(self, records: Records, rows: Array) -> None:
        if records.has("responses"):
            at = records.column("responses").nonzero()[0]
            metric = instruments.RESPONSE_TIME
            self._add_each(metric, rows[at], records.column("response_time_histogram")[at])
            np.add.at(self._sums[metric.name], rows[at], records.column("response_time_sum_ns")[at])
            self._exemplars.offer(metric, records, at, rows[at], records.column("response_time_max_ns")[at])
        if records.has("syn_unix_ns"):
            shaken = records.nonzero("syn_unix_ns") & records.happened_here("handshake_ack_unix_ns")
            at = shaken.nonzero()[0]
            metric = instruments.CONNECT_TIME
            took = records.elapsed("syn_unix_ns", "handshake_ack_unix_ns")[at]
            self._add(metric, rows[at] * metric.buckets + bucket_of(metric, took), np.uint64(1))
            np.add.at(self._sums[metric.name], rows[at], took)
            self._exemplars.offer(metric, records, at, rows[at], took)

    def _add(self, metric: Counted | Timed, places: Array, values: Array | np.uint64) -> None:
        """Add to cells, each of which is named by its pair's row times the cells of a row, and its place in the row."""
        added = values if isinstance(values, np.uint64) else values.astype(np.uint64, copy=False)
        np.add.at(self._cells[metric.name].reshape(-1), places, added)

    def _add_each(self, metric: Counted | Timed, rows: Array, values: Array) -> None:
        """Add a record's array of numbers to the cells of its row."""
        record, cell = values.nonzero()
        self._add(metric, rows[record] * values.shape[1] + cell, values[record, cell])

    def _rows_of(self, keys: Sequence[int]) -> Array:
        """The row of each pair; made where there is none yet, as far as there is room."""
        rows = np.array([self._rows.get(key, -1) for key in keys], np.int64)
        now = self._monotonic()
        self._heard[rows[rows >= 0]] = now
        missing = np.flatnonzero(rows < 0).tolist()
        for at in missing[: self._unused]:
            rows[at] = self._new_row(keys[at])
            self._heard[rows[at]] = now
        return np.maximum(rows, 0)

    @property
    def _unused(self) -> int:
        """How many rows are nobody's."""
        return len(self._free) + self._most_rows - len(self._named)

    def _new_row(self, key: int) -> int:
        if self._free:
            row = self._free.pop()
            self._named[row] = self._pairs.pair(key)
        else:
            row = len(self._named)
            self._named.append(self._pairs.pair(key))
            self._make_room()
        self._rows[key] = row
        self._start[row] = self._read_unix_ns
        return row

    def _evict(self) -> None:
        """Where records had no row of late, make room for what comes."""
        now = self._monotonic()
        if self.overflowed == self._overflowed_then or now - self._evicted_at < _BETWEEN_EVICTIONS_SECONDS:
            return
        self._evicted_at, self._overflowed_then = now, self.overflowed
        for key, row in list(self._rows.items()):
            if row and self._heard[row] < now - _IDLE_SECONDS:
                del self._rows[key]
                self._free.append(row)
                self._heard[row] = 0
                for cells in (*self._cells.values(), *self._sums.values()):
                    cells[row] = 0
                self._exemplars.forget(row)
        self._pairs.forget_all_but(self._rows)

    def _make_room(self) -> None:
        """Have the arrays hold every row that there is."""
        if len(self._named) <= self._room:
            return
        self._room = min(max(2 * self._room, _FIRST_ROWS), self._most_rows)
        for metric in COUNTED:
            self._cells[metric.name] = _grown(self._cells.get(metric.name), (self._room, metric.cells))
        for timed in TIMED:
            self._cells[timed.name] = _grown(self._cells.get(timed.name), (self._room, timed.buckets))
            self._sums[timed.name] = _grown(self._sums.get(timed.name), (self._room,))
        start, self._start = self._start, np.full(self._room, self._read_unix_ns)
        self._start[: len(start)] = start
        self._heard = np.concatenate([self._heard, np.zeros(self._room - len(self._heard))])
        self._exemplars.make_room(self._room)


def bucket_of(metric: Timed, nanoseconds: Array) -> Array:
    """Return the bucket of each time; what is below the first or above the last is in that."""
    bounds = _BOUNDS_NS[metric.name]
    return np.minimum(np.searchsorted(bounds, nanoseconds), len(bounds) - 1)


_BOUNDS_NS: Final = {metric.name: np.array(metric.bounds()) * 1e9 for metric in TIMED}


def _over(records: Records) -> Array:
    """Where a record is the last of its TCP connection.

    One whose flow ended because capture ended, or needed room, goes on and is told again: unless it had ended itself, and
    capture only waited for its last packets.
    """
    reason = records.column("reason")
    last = np.isin(reason, (Reason.END_OF_FLOW, Reason.IDLE_TIMEOUT))
    last |= (reason != Reason.ACTIVE_TIMEOUT) & np.isin(records.column("outcome"), _ENDED)
    return np.asarray((records.column("transport") == TCP) & last)


def _chosen(batch: FlowBatch) -> dict[str, Array]:
    return {name: column for name, column in batch.columns.items() if name in _TAKEN}


def _grown(old: Array | None, shape: tuple[int, ...]) -> Array:
    new = np.zeros(shape, np.uint64)
    if old is not None:
        new[: len(old)] = old
    return new
