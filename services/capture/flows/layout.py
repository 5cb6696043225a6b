"""`struct flow` of bpf/engine/flow.h as a numpy dtype, and the words that C and Python share.

One slot is one flow. A test compiles the header and compares every offset, size and number below.
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from proto.columns import RESPONSE_TIME_BUCKETS
from services.capture.flows.structure import structure

Slots: TypeAlias = npt.NDArray[np.void]
"""Structured array of FLOW, one row per slot."""

Array: TypeAlias = npt.NDArray[Any]


class State(enum.IntEnum):
    """What a slot holds (`enum flow_state`)."""

    FREE = 0
    LIVE = 1
    RETIRED = 2
    """No packet reaches it any more; its last record is still to be taken."""


class Requests(enum.IntEnum):
    """How a flow's requests are told apart (`enum flow_requests`)."""

    UNKNOWN = 0
    OPAQUE = 1
    """No HTTP/1, or datagrams that do not take turns."""
    TRACED = 2
    NUMBERED = 3
    """Each has a number, and its answer the same: DNS, ICMP's queries."""
    NEW = 4
    """Of datagrams, whose first one is just being looked at."""
    STREAMS = 7
    """Of HTTP/2, whose frames are followed."""
    WHOLE = 11
    """A request waits behind which another may come."""
    PIPELINED = 15
    """Of HTTP/1, whose messages are followed."""


class Disposition(enum.IntEnum):
    """What a packet is (`enum packet_disposition`); the lower-case names are the counters' names."""

    FLOW = 0
    ARP = 1
    NOT_IP = 2
    TRUNCATED = 3
    """The capture holds too little of the packet."""
    MALFORMED = 4
    """The packet contradicts itself."""
    FRAGMENT = 5
    """A fragment whose datagram's first fragment was not seen."""
    UNKNOWN_LINK = 6
    NESTED = 7
    """In more tunnels, one in the other, than replay opens."""
    COPY = 8
    """Counted already, at another point of its way."""


_SIDE: Final = (64, 64)
_RARE: Final = (256, 32)
"""Where the first of two sides is, and how long one is."""

_MEMBERS: Final[dict[str, tuple[int, str]]] = {
    "last_ns": (0, "<u8"),
    "first_ns": (8, "<u8"),
    "interval_first_ns": (16, "<u8"),
    "request_ns": (24, "<u8"),
    "id": (32, "<u8"),
    "interval": (40, "<u4"),
    "taken": (44, "<u4"),
    "responses": (48, "<u4"),
    "gap_at": (52, "<u4"),
    "state": (56, "|u1"),
    "transport": (57, "|u1"),
    "role": (58, "|u1"),
    "outcome": (59, "|u1"),
    "closed_by": (60, "|u1"),
    "requests": (61, "|u1"),
    "abandoned": (62, "|u1"),
    "dns": (63, "|u1"),
    "local_address": (192, "|V16"),
    "remote_address": (208, "|V16"),
    "syn_ns": (224, "<u8"),
    "syn_ack_ns": (232, "<u8"),
    "handshake_ack_ns": (240, "<u8"),
    "local_port": (248, "<u2"),
    "remote_port": (250, "<u2"),
    "syn_repeats": (252, "<u2"),
    "syn_ack_repeats": (254, "<u2"),
    "response_time_sum_ns": (320, "<u8"),
    "response_time_max_ns": (328, "<u8"),
    "response_time_histogram": (336, f"({RESPONSE_TIME_BUCKETS},)<u4"),
    "questions": (416, "<u4"),
    "question_repeats": (420, "<u4"),
    "request_transfer_sum_ns": (424, "<u8"),
    "response_transfer_sum_ns": (432, "<u8"),
    "request_transfer_max_us": (440, "<u4"),
    "response_transfer_max_us": (444, "<u4"),
    "icmp_errors": (448, "<u2"),
    "icmp_error_type": (450, "|u1"),
    "icmp_error_code": (451, "|u1"),
    "icmp_type": (452, "|u1"),
    "icmp_code": (453, "|u1"),
}

_SIDE_MEMBERS: Final = {
    "bytes": (0, "<u8"),
    "packets": (8, "<u8"),
    "payload_bytes": (16, "<u8"),
    "initial_sequence": (24, "<u4"),
    "next_sequence": (28, "<u4"),
    "acknowledged": (32, "<u4"),
    "retransmits": (36, "<u4"),
    "retransmit_bytes": (40, "<u4"),
    "out_of_order": (44, "<u4"),
    "duplicate_acks": (48, "<u4"),
    "ecn_ce": (52, "<u4"),
    "window": (56, "<u2"),
    "tcp_flags": (58, "|u1"),
    "known": (59, "|u1"),
    "traffic_class": (60, "|u1"),
    "hop_limit": (61, "|u1"),
    "fins": (62, "|u1"),
    "duplicate_run": (63, "|u1"),
}

_RARE_MEMBERS: Final = {
    "rtt_sum_ns": (0, "<u8"),
    "rtt_samples": (8, "<u4"),
    "rtt_min_ns": (12, "<u4"),
    "rtt_max_ns": (16, "<u4"),
    "spurious_retransmits": (20, "<u4"),
    "zero_windows": (24, "<u2"),
    "window_full": (26, "<u2"),
    "keep_alives": (28, "<u2"),
    "resets": (30, "|u1"),
    "zero_window_probes": (31, "|u1"),
}

MEMBERS: Final = _MEMBERS | {
    f"{side}_{name}": (start + number * size + offset, dtype)
    for number, side in enumerate(("tx", "rx"))
    for (start, size), members in ((_SIDE, _SIDE_MEMBERS), (_RARE, _RARE_MEMBERS))
    for name, (offset, dtype) in members.items()
}
"""Member -> (offset, dtype string); `tx_x` and `rx_x` are of `sides[0]` and `sides[1]`, or of `rare` likewise."""

FLOW: Final = structure(MEMBERS, 456)

_HOT_BYTES: Final = 64
_HOT: Final = structure({name: member for name, member in MEMBERS.items() if member[0] < _HOT_BYTES}, _HOT_BYTES)


def hot_part(slots: Slots) -> Slots:
    """Return a copy of the first 64 bytes of each slot: what a look at every flow needs, close together."""
    pieces = slots.view(np.uint8).reshape(len(slots), slots.dtype.itemsize)
    return np.ascontiguousarray(pieces[:, :_HOT_BYTES]).view(_HOT).reshape(len(slots))


KNOWN_NEXT: Final = 2
"""Bit of `tx_known` and `rx_known`: something the side sent was seen (`FLOW_KNOWN_NEXT`)."""

KNOWN_ACKNOWLEDGED: Final = 4
"""Bit of the same: the other end acknowledged something (`FLOW_KNOWN_ACKNOWLEDGED`)."""

KNOWN_ROLE: Final = 0x70
"""Bits of `tx_known` that hold a RoleSource (`FLOW_KNOWN_ROLE`); none where it is one that other things say."""

KNOWN_ROLE_SHIFT: Final = 4
"""Where they begin (`FLOW_KNOWN_ROLE_SHIFT`)."""

KNOWN_ISN: Final = 1
"""Bit of `tx_known` and `rx_known`: the side's initial sequence number was seen (`FLOW_KNOWN_ISN`)."""
