"""Records of the live table, finished: the node's wall clock, whose sockets they are, what the kernel says of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from proto.columns import COLUMNS, Role
from services.capture.live.owners.container_names import with_name
from services.capture.live.owners.processes import Flow

if TYPE_CHECKING:
    from services.capture.flows.exchange_table import ExchangeEmission
    from services.capture.flows.layout import Array, Slots
    from services.capture.flows.table import Emission
    from services.capture.live.owners.cgroups import CgroupIndex
    from services.capture.live.owners.processes import Processes

_OF_FLOW: Final = ("flow_start_unix_ns", "syn_unix_ns", "syn_ack_unix_ns", "handshake_ack_unix_ns")
"""Times that are the same in every record of a flow, once they are known."""
_OF_RECORD: Final = ("start_unix_ns", "end_unix_ns")
_US: Final = 1000
_FACTS: Final = {"socket_retransmits": "socket_retransmits", "lost_segments": "lost", "congestion_window": "congestion_window"}
_UNKNOWN_MIN_RTT_US: Final = 0xFFFF_FFFF


def monotonic_ns() -> int:
    """Return the clock that the socket tap's times are on."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def unix_offset_ns() -> int:
    """Return what to add to a CLOCK_MONOTONIC time, now, to have Unix time: the best of three looks, good to a microsecond."""
    looks = []
    for _ in range(3):
        before, unix, after = monotonic_ns(), time.time_ns(), monotonic_ns()
        looks.append((after - before, unix - (before + after) // 2))
    return min(looks)[1]


@dataclass(frozen=True, slots=True)
class LiveRecords:
    """An emission's columns as they are sent."""

    columns: dict[str, Array]
    containers: Sequence[dict[str, str]]


class LiveClock:
    """Turns monotonic times into Unix times, by an offset that is estimated again for every drain.

    So a stepped or disciplined clock and a suspended machine show in the next record. A flow's own times (its start, its
    handshake) keep the offset of its first record, or of the first word of it, because trace ids are derived from them.
    """

    def __init__(self, capacity: int, offset_ns: Callable[[], int] = unix_offset_ns) -> None:
        self._offset_ns = offset_ns
        self._of_flow = np.zeros(capacity, np.int64)
        self._flow_ids = np.full(capacity, np.iinfo(np.uint64).max)
        """Whose offset that is, by slot."""
        self.now_offset_ns = offset_ns()
        """Of the drain that runs, or the last."""

    def begin_drain(self) -> int:
        """Estimate the offset anew; return now on the monotonic clock."""
        self.now_offset_ns = self._offset_ns()
        return monotonic_ns()

    def of_flows(self, slots: Array, flow_ids: Array) -> Array:
        """Return the offsets that the times of these flows have from now on."""
        new = self._flow_ids[slots] != flow_ids
        self._flow_ids[slots[new]], self._of_flow[slots[new]] = flow_ids[new], self.now_offset_ns
        return self._of_flow[slots]

    def convert(self, emission: Emission) -> dict[str, Array]:
        """Return the emission's columns with Unix times; the emission keeps its own, which the table settles by."""
        columns = dict(emission.columns)
        of_flow = self.of_flows(emission.slots, columns["flow_id"])
        for name in _OF_FLOW:
            columns[name] = _shifted(columns[name], of_flow)
        for name in _OF_RECORD:
            columns[name] = _shifted(columns[name], np.int64(self.now_offset_ns))
        # A clock that was set back must not have a record begin before its flow.
        for name in _OF_RECORD:
            columns[name] = np.maximum(columns[name], columns["flow_start_unix_ns"])
        return columns


def finish(
    emission: Emission, rows: Slots, clock: LiveClock, cgroups: CgroupIndex, processes: Processes | None = None
) -> LiveRecords:
    """Return the records of a live table's emission, which is not settled yet. `rows` are its slots.

    With `processes`, sockets outside pods and containers have the name of their program, where it can be known.
    """
    columns = clock.convert(emission)
    columns["local_container"], containers = cgroups.rows(rows["cgroup_id"])
    if processes is not None:
        columns["local_container"], containers = _with_programs(columns, containers, rows["cgroup_id"], processes)
    asked = rows["socket_read"] != 0
    min_rtt_us = np.where(rows["min_rtt_us"] == _UNKNOWN_MIN_RTT_US, 0, rows["min_rtt_us"])
    columns["smoothed_rtt_ns"] = _as_column("smoothed_rtt_ns", rows["srtt_us"].astype(np.uint64) * _US, asked)
    columns["min_rtt_ns"] = _as_column("min_rtt_ns", min_rtt_us.astype(np.uint64) * _US, asked)
    for name, member in _FACTS.items():
        columns[name] = _as_column(name, rows[member], asked)
    if rows["backend_port"].any():
        columns["remote_nat_address"] = np.ascontiguousarray(rows["backend_address"])
        columns["remote_nat_port"] = np.ascontiguousarray(rows["backend_port"])
    return LiveRecords(columns, containers)


def _with_programs(
    columns: dict[str, Array], containers: Sequence[dict[str, str]], cgroup_ids: Array, processes: Processes
) -> tuple[Array, list[dict[str, str]]]:
    """Return `local_container` and its table with a row of its own for each program, and the names of containers."""
    owners = columns["local_container"]
    bare = np.array([*(not (row.get("pod_uid") or row.get("container_id")) for row in containers), False])
    which = np.flatnonzero(bare[np.minimum(owners, len(containers))])
    ends = (columns[name][which].tolist() for name in ("flow_id", "transport"))
    addresses = ([bytes(each) for each in columns[f"{end}_address"][which]] for end in ("local", "remote"))
    ports = (columns[f"{end}_port"][which].tolist() for end in ("local", "remote"))
    (ids, transports), (local, remote), (local_port, remote_port) = ends, addresses, ports
    servers = (columns["role"][which] == Role.SERVER).tolist()
    flows = map(Flow, ids, transports, local, local_port, remote, remote_port, servers, cgroup_ids[which].tolist())
    names = processes.names(flows)
    rows, owners, places = list(map(with_name, containers)), owners.copy(), dict[tuple[int, str], int]()
    for row, flow in zip(which.tolist(), ids, strict=True):
        if flow in names:
            place = places.setdefault((int(owners[row]), names[flow]), len(rows))
            if place == len(rows):
                rows.append({**containers[owners[row]], "process": names[flow]})
            owners[row] = place
    return owners, rows


def finish_exchanges(emission: ExchangeEmission, clock: LiveClock, cgroups: CgroupIndex) -> LiveRecords:
    """Return the records of a live table's exchanges. All their times have the offset of now: they are seconds old at most."""
    offset = np.int64(clock.now_offset_ns)
    columns = {
        name: _shifted(column, offset) if name.endswith("_unix_ns") else column for name, column in emission.columns.items()
    }
    columns["local_container"], containers = cgroups.rows(emission.exchanges["owner"])
    return LiveRecords(columns, containers)


def _shifted(times: Array, offsets: Any) -> npt.NDArray[np.uint64]:
    """Times plus offsets, which may be below 0, where a time is known: modulo 2^64 that is the same."""
    shifted: npt.NDArray[np.uint64] = times + np.asarray(offsets).astype(np.uint64)
    shifted[times == 0] = 0
    return shifted


def _as_column(name: str, values: Array, known: Array) -> Array:
    return np.where(known, values, 0).astype(COLUMNS[name].numpy_dtype)
