"""The socket tap's memory as numpy sees it: `struct slot`, `struct flow_key` and the counters of bpf/tap/socket_tap.c.

Sizes are compared whenever the program is loaded; the kernel tests know what each member has to hold.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.capture.flows.layout import FLOW, MEMBERS, Slots

_SOCKET_MEMBERS: Final[dict[str, tuple[int, str]]] = {
    "cgroup_id": (FLOW.itemsize, "<u8"),
    "srtt_us": (FLOW.itemsize + 8, "<u4"),
    "min_rtt_us": (FLOW.itemsize + 12, "<u4"),
    "socket_retransmits": (FLOW.itemsize + 16, "<u4"),
    "lost": (FLOW.itemsize + 20, "<u4"),
    "congestion_window": (FLOW.itemsize + 24, "<u4"),
    "backend_port": (FLOW.itemsize + 34, "<u2"),
    "socket_read": (FLOW.itemsize + 36, "|u1"),
    "backend_address": (FLOW.itemsize + 40, "|V16"),
}
_ALL: Final = MEMBERS | _SOCKET_MEMBERS

SLOT: Final = np.dtype(
    {
        "names": list(_ALL),
        "offsets": [offset for offset, _ in _ALL.values()],
        "formats": [dtype for _, dtype in _ALL.values()],
        "itemsize": 512,
    }
)
"""`struct slot`: the engine's flow, then what the kernel knows of its socket."""

SLOT_OF_FLOW: Final = 0xFFFF_FFFF
"""Bits of a flow's id that are its slot; the others are the slot's generation."""

FLOW_KEY: Final = np.dtype(
    [
        ("local_address", "|V16"),
        ("remote_address", "|V16"),
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("icmp_kind", "<u2"),
        ("transport", "|u1"),
        ("pad", "|u1"),
    ]
)
"""`struct flow_key`."""

SLOT_COUNTS: Final = np.dtype([("asked", "<u8"), ("refused", "<u8"), ("returned", "<u8")])
"""`struct tap_slots`."""


class TapCounter(enum.IntEnum):
    """What a packet is that is in no flow (`enum tap_counter`); the lower-case names are the counters' names."""

    UNATTRIBUTED_TCP = 0
    """The table was full."""
    UNATTRIBUTED_UDP = 1
    UNATTRIBUTED_OTHER = 2
    LOOPBACK = 3
    EXCLUDED = 4
    """Of capture's own connections."""
    FILTERED = 5
    """Left out by the operator's rules."""
    STRAY_RESET = 6
    """A RST of no connection: a closed port's answer, at the side that refuses."""
    MALFORMED = 7


_ICMP: Final = 1
_ICMPV6: Final = 58


def keys_of(rows: Slots) -> npt.NDArray[Any]:
    """Return the flows' keys as FLOW_KEY rows."""
    keys = np.zeros(len(rows), FLOW_KEY)
    for name in ("local_address", "remote_address", "local_port", "remote_port", "transport"):
        keys[name] = rows[name]
    kind = rows["icmp_type"].astype(np.uint16) << np.uint16(8) | rows["icmp_code"]
    keys["icmp_kind"] = np.where(rows["transport"] == _ICMP, _KINDS[0][kind], 0)
    keys["icmp_kind"] |= np.where(rows["transport"] == _ICMPV6, _KINDS[1][kind], 0)
    return keys


def _kinds(queries: dict[int, int]) -> npt.NDArray[np.uint16]:
    """Return `icmp_kind` of bpf/engine/icmp.h for every type << 8 | code; `queries` maps request type to reply type."""
    kinds = np.arange(65536, dtype=np.uint16)
    for request, reply in queries.items():
        for kind in (request, reply):
            kinds[kind << 8 : (kind + 1) << 8] = request << 8
    return kinds


_KINDS: Final = (_kinds({8: 0, 13: 14, 15: 16, 17: 18}), _kinds({128: 129}))
