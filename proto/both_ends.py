"""Which records of a batch are of the two ends of one connection, or of one request: both sockets were on the node that tells.

A connection is known by the initial sequence numbers of its two ends, which no translation of addresses changes; what has none,
or whose handshake was not seen, by addresses and ports; a request besides by the span that made it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from proto.columns import Observer, Reason
from proto.flow_batch import Array, FlowBatch

_TCP: Final = 6
BOTH_SEEN: Final = 3
"""`isn_seen` of a connection whose handshake was seen."""
_MIX: Final = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93))


def other_ends(batch: FlowBatch, rows: Array) -> npt.NDArray[np.intp]:
    """Return for each of `rows` the row that tells of the same from the other end; -1 where there is none, or several."""
    found = np.full(len(rows), -1, np.intp)
    if not len(rows):
        return found
    own, other = _key(batch, "local", "remote"), _key(batch, "remote", "local")[rows]
    column = batch.column
    order = np.argsort(own, kind="stable")
    ordered = own[order]
    first, last = (np.searchsorted(ordered, other, side) for side in ("left", "right"))
    single = last - first == 1
    found[single] = order[first[single]]
    role, transport, at_socket = column("role"), column("transport"), column("observer") == Observer.SOCKET
    alike = (role[found] != role[rows]) & (transport[found] == transport[rows]) & at_socket[found] & at_socket[rows]
    return np.where((found >= 0) & alike, found, -1)


def _key(batch: FlowBatch, first: str, second: str) -> npt.NDArray[np.uint64]:
    """A number for each record that its other end's record has too, with the ends the other way round."""
    column = batch.column
    isns = column(f"{first}_isn").astype(np.uint64) << np.uint64(32) | column(f"{second}_isn").astype(np.uint64)
    ports = column(f"{first}_port").astype(np.uint64) << np.uint64(16) | column(f"{second}_port").astype(np.uint64)
    key = ports ^ column("transport").astype(np.uint64) << np.uint64(32)
    words = [
        word for end in (first, second) for word in np.ascontiguousarray(column(f"{end}_address")).view("<u8").reshape(-1, 2).T
    ]
    for word, odd in zip(words, _MIX, strict=True):
        key = (key ^ word) * odd
        key = key ^ key >> np.uint64(29)
    by_isn = (column("transport") == _TCP) & (column("isn_seen") == BOTH_SEEN)
    key = np.where(by_isn, isns, key)
    spans = np.ascontiguousarray(column("parent_span_id")).view("<u8").reshape(-1)
    return np.where(column("reason") == Reason.EXCHANGE, key ^ spans * _MIX[0], key)
