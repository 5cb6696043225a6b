"""`struct turn` of bpf/engine/exchanges/turn.h as a numpy dtype: one exchange of a connection, whatever its protocol.

A test compiles the header and compares every offset, size and number below.
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Turns: TypeAlias = npt.NDArray[Any]
"""Structured array of TURN, one row per exchange. Times are on the host's clock."""

MEMBERS: Final[dict[str, tuple[int, str]]] = {
    "flow_id": (0, "<u8"),
    "owner": (8, "<u8"),
    "request_first_ns": (16, "<u8"),
    "request_last_ns": (24, "<u8"),
    "response_first_ns": (32, "<u8"),
    "response_last_ns": (40, "<u8"),
    "number": (48, "<u4"),
    "request_bytes": (52, "<u4"),
    "response_bytes": (56, "<u4"),
    "retransmits": (68, "(2,)<u2"),
    "flags": (72, "|u1"),
}
"""Member -> (offset, dtype string), but for those that only C looks at."""

TURN: Final = np.dtype(
    {
        "names": list(MEMBERS),
        "offsets": [offset for offset, _ in MEMBERS.values()],
        "formats": [dtype for _, dtype in MEMBERS.values()],
        "itemsize": 80,
    }
)

NO_TURNS: Final[Turns] = np.zeros(0, TURN)


class TurnFlag(enum.IntFlag):
    """Bits of `flags` (`enum turn_flags`)."""

    TLS = 1
    TICKETS = 2
    """What the server says first may be its tickets."""
    DATAGRAM = 4
