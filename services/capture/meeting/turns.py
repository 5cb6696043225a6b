"""`struct turn` of bpf/engine/exchanges/turn.h as a numpy dtype: one exchange of a connection, whatever its protocol.

A test compiles the header and compares every offset, size and number below.
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from services.capture.flows.structure import structure

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
    "shared": (60, "<u4"),
    "srtt_us": (64, "<u4"),
    "retransmits": (68, "(2,)<u2"),
    "resent": (72, "(2,)<u2"),
    "zero_windows": (76, "(2,)|u1"),
    "flags": (78, "|u1"),
}
"""Member -> (offset, dtype string), but for those that only C looks at."""

TURN: Final = structure(MEMBERS, 80)

NO_TURNS: Final[Turns] = np.zeros(0, TURN)


MARK_SHIFT: Final = 32
"""A flow's mark in `shared` (`turn_mark`) is its id without so many bits, and 1."""


def marks(flow_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """Return what `shared` holds where these flows' turns are slices."""
    return ((flow_ids >> np.uint64(MARK_SHIFT)) + np.uint64(1)).astype(np.uint32)


def are_slices(turns: Turns) -> npt.NDArray[np.bool_]:
    """Which are slices of a connection's time."""
    found: npt.NDArray[np.bool_] = turns["shared"] == marks(turns["flow_id"])
    return found


def measured(open_turns: Turns) -> Turns:
    """Return turns that were open as they would be were they over: with how often their segments were sent again by now.

    How often windows were closed nobody has counted.
    """
    found = open_turns.copy()
    found["retransmits"] = open_turns["resent"] - open_turns["retransmits"]
    found["zero_windows"] = 0
    return found


class TurnFlag(enum.IntFlag):
    """Bits of `flags` (`enum turn_flags`)."""

    TLS = 1
    TICKETS = 2
    """What the server says first may be its tickets."""
    DATAGRAM = 4
