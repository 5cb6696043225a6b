"""Which backend a connection through a Service came to, where its client cannot tell: its server can.

What a pod sends is translated outside its network, where no socket sees it. But translation changes addresses, never sequence
numbers: a server's record with the two initial ones of a client's is of the same connection, and has its own address. Only what
this enricher has seen counts, and of two servers that say the same numbers neither does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from proto.both_ends import BOTH_SEEN
from proto.columns import Observer, Role
from proto.flow_batch import Array, FlowBatch

MOST_SERVERS: Final = 32_768
"""Connections whose servers are remembered, those that were told last; the half of it that is older goes at once."""

_TCP: Final = 6
_PLACE: Final = np.dtype([("address", "V16"), ("port", "<u2")])
_NOBODY_KNOWS: Final = b""


class Backends:
    """The servers of connections, by the initial sequence numbers of both ends."""

    def __init__(self, most: int = MOST_SERVERS) -> None:
        self._most_young = most // 2
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}

    def learn(self, batch: FlowBatch) -> None:
        """Take the addresses of a batch's servers."""
        rows = _sockets(batch, Role.SERVER)
        if not len(rows):
            return
        keys = _numbers(batch.column("remote_isn")[rows], batch.column("local_isn")[rows])
        places = _places(batch, "local", rows)
        said = dict(zip(keys, places, strict=True))
        in_doubt = {key for known in (self._young, self._old) for key in said.keys() & known.keys() if known[key] != said[key]}
        if len(said) < len(keys):
            in_doubt |= {key for key, place in zip(keys, places, strict=True) if place != said[key]}
        if len(self._young) + len(said) > self._most_young:
            self._old, self._young = self._young, {}
        self._young |= said | dict.fromkeys(in_doubt, _NOBODY_KNOWS)

    def tell(self, batch: FlowBatch) -> FlowBatch:
        """Return the batch with the backends of those clients whose own records have none; all else is as it was."""
        rows, columns = self.told(batch)
        return replace(batch, columns={**batch.columns, **columns}) if len(rows) else batch

    def told(self, batch: FlowBatch) -> tuple[Array, dict[str, Array]]:
        """Return the rows of those clients, and the columns with the backends in them; nothing where there is none."""
        rows = _sockets(batch, Role.CLIENT)
        rows = rows[batch.column("remote_nat_port")[rows] == 0]
        keys = _numbers(batch.column("local_isn")[rows], batch.column("remote_isn")[rows])
        young, old = self._young, self._old
        found = [(row, at) for row, key in zip(rows.tolist(), keys, strict=True) if (at := young.get(key, old.get(key)))]
        rows = np.array([row for row, _ in found], np.intp)
        asked = _places(batch, "remote", rows)
        went = [(row, place) for (row, place), own in zip(found, asked, strict=True) if place != own]
        rows = np.array([row for row, _ in went], np.intp)
        if not len(rows):
            return rows, {}
        places = np.frombuffer(b"".join(place for _, place in went), _PLACE)
        columns = {name: batch.column(name).copy() for name in ("remote_nat_address", "remote_nat_port")}
        columns["remote_nat_address"][rows], columns["remote_nat_port"][rows] = places["address"], places["port"]
        return rows, columns


def _sockets(batch: FlowBatch, role: Role) -> Array:
    """Rows of TCP connections that a socket of this role tells, both of whose initial sequence numbers are known."""
    known = (batch.column("isn_seen") == BOTH_SEEN) & (batch.column("transport") == _TCP)
    return np.flatnonzero(known & (batch.column("role") == role) & (batch.column("observer") == Observer.SOCKET))


def _numbers(client: Array, server: Array) -> list[int]:
    numbers: list[int] = (client.astype(np.uint64) << np.uint64(32) | server).tolist()
    return numbers


def _places(batch: FlowBatch, end: str, rows: Array) -> list[bytes]:
    """Address and port of an end."""
    places = np.empty(len(rows), _PLACE)
    places["address"], places["port"] = batch.column(f"{end}_address")[rows], batch.column(f"{end}_port")[rows]
    packed: list[bytes] = places.view(f"V{_PLACE.itemsize}").tolist()
    return packed
