"""`struct flow_outer` of bpf/replay/arrival/outer.h as a numpy dtype, and its columns: what was around packets in a file.

Replay keeps one beside each slot. A test compiles the header and compares every offset and number below.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from proto.columns import FILE
from services.capture.flows.layout import Array
from services.capture.flows.structure import structure

Outers: TypeAlias = npt.NDArray[np.void]
"""Structured array of OUTER, one row per slot."""

TUNNEL_DEPTH: Final = 4
"""Tunnels, one in the other, that replay opens."""

_SIDE_MEMBERS: Final = {
    "path": (0, "<u8"),
    "tunnel_bytes": (8, "<u8"),
    "tunnel_id": (16, "<u4"),
    "fragments": (20, "<u4"),
    "overlapping_fragments": (24, "<u4"),
    "incomplete_datagrams": (28, "<u4"),
    "copies": (32, "<u4"),
}
_SIDE_BYTES: Final = 40

OUTER_MEMBERS: Final[dict[str, tuple[int, str]]] = {
    f"{way}_{name}": (start + offset, dtype)
    for way, start in (("tx", 0), ("rx", _SIDE_BYTES))
    for name, (offset, dtype) in _SIDE_MEMBERS.items()
} | {
    "local_tunnel_address": (80, "|V16"),
    "remote_tunnel_address": (96, "|V16"),
    "tunnel": (112, "|u1"),
    "tunnel_depth": (113, "|u1"),
    "translated": (114, "|u1"),
    "joined": (115, "|u1"),
}
"""Member -> (offset, dtype string); `tx_x` and `rx_x` are `sides[0].x` and `sides[1].x`."""

OUTER: Final[np.dtype[Any]] = structure(OUTER_MEMBERS, 120)


def file_columns(outers: Outers) -> dict[str, Array]:
    """Return every column of proto.columns.FILE for these rows but the file itself."""
    columns = {}
    for column in FILE:
        if column.name == "file":
            continue
        member = column.name.removesuffix("_total")
        columns[column.name] = np.ascontiguousarray(outers[member], column.numpy_dtype)
    return columns
