"""The small facts of a record: what its attributes in words are made of.

A batch holds few distinct combinations of them, so each record's are packed into one integer, by column, and words are made
once per distinct integer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from proto.columns import End, Outcome, Reason
from proto.flow_batch import Array
from services.exporter.records import Records
from services.exporter.spans import Side

TCP: Final = 6
ICMP: Final = (1, 58)
PORTS: Final = (6, 17, 33, 132, 136)
"""Transports whose headers begin with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite."""

TRANSPORTS: Final = {
    1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp",
    136: "udplite",
}  # fmt: skip
"""`network.transport` by IANA protocol number."""

_FLAGS: Final = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_ICMP_TYPES: Final = {
    1: {0: "echo_reply", 3: "destination_unreachable", 5: "redirect", 8: "echo_request", 11: "time_exceeded",
        12: "parameter_problem", 13: "timestamp_request", 14: "timestamp_reply"},
    58: {1: "destination_unreachable", 2: "packet_too_big", 3: "time_exceeded", 4: "parameter_problem", 128: "echo_request",
         129: "echo_reply", 133: "router_solicitation", 134: "router_advertisement", 135: "neighbor_solicitation",
         136: "neighbor_advertisement", 137: "redirect"},
}  # fmt: skip
_REASONS: Final[dict[int, str]] = {reason: reason.name.lower() for reason in Reason}
_OUTCOMES: Final[dict[int, str]] = {outcome: outcome.name.lower() for outcome in Outcome if outcome != Outcome.UNKNOWN}
_ERRORS: Final[dict[int, tuple[str, str]]] = {
    Outcome.REFUSED: ("connection_refused", "SYN answered by RST"),
    Outcome.TIMEOUT: ("timeout", "SYN never answered"),
    Outcome.RESET: ("connection_reset", "connection reset"),
}
_STATES: Final[dict[int, str]] = {
    Outcome.ESTABLISHED: "established",
    Outcome.REFUSED: "closed",
    Outcome.TIMEOUT: "closed",
    Outcome.RESET: "closed",
    Outcome.CLOSED: "closed",
}
_UNSAID: Final = (None, "unknown", "none")


def transport_name(protocol: int) -> str:
    """Return `network.transport` for an IANA protocol number."""
    return TRANSPORTS.get(protocol, f"ip_protocol_{protocol}")


@dataclass(frozen=True, slots=True)
class Facts:
    """The small facts of one record."""

    transport: int
    ipv4: bool
    side: int
    """A `Side`."""
    direction: str
    """`forward`, `reverse` or `unknown`."""
    reason: int
    outcome: int
    syn_ack_seen: bool
    closed_by: str | None
    """`source` or `destination`."""
    forward: int
    """TCP: flags from source to destination. ICMP: the type."""
    reverse: int
    """TCP: flags from destination to source. ICMP: the code."""

    @property
    def transport_name(self) -> str:
        """`network.transport`."""
        return transport_name(self.transport)

    @property
    def observer(self) -> str:
        """`flow.observer`."""
        return Side(self.side).name.lower()

    @property
    def end_reason(self) -> str | None:
        """`flow.end_reason`; None for a reason that this version does not know."""
        return _REASONS.get(self.reason)

    @property
    def connection_outcome(self) -> str | None:
        """`flow.connection.outcome`; None for one that is unknown."""
        return _OUTCOMES.get(self.outcome)

    @property
    def icmp_type_name(self) -> str | None:
        """`flow.icmp.type.name`."""
        return _ICMP_TYPES.get(self.transport, {}).get(self.forward)

    @property
    def error(self) -> tuple[str, str] | None:
        """`error.type` and the status message of a failed connection."""
        if self.outcome == Outcome.RESET and self.closed_by:
            return "connection_reset", f"connection reset by {self.closed_by}"
        return _ERRORS.get(self.outcome)

    @property
    def connection_state(self) -> str | None:
        """`flow.connection.state`."""
        if self.outcome == Outcome.HALF_OPEN:
            return "syn_received" if self.syn_ack_seen else "syn_sent"
        return _STATES.get(self.outcome)

    def icmp(self, value: int) -> int | None:
        """`value` if this is ICMP."""
        return value if self.transport in ICMP else None

    def flags(self, value: int) -> int | None:
        """`value` if this is TCP and there were any."""
        return value if self.transport == TCP and value else None

    def tags(self, value: int) -> list[str] | None:
        """The names of the flags in `value` if this is TCP and there were any."""
        return [name for bit, name in enumerate(_FLAGS) if value >> bit & 1] or None if self.transport == TCP else None


def facts_key(records: Records) -> Array:
    """Return each record's `Facts` packed into an int64."""
    column, seen = records.column, records.seen
    address = np.ascontiguousarray(column("local_address")).view("<u8").reshape(-1, 2)
    ipv4 = (address[:, 0] == 0) & (address[:, 1] & np.uint64(0xFFFFFFFF) == np.uint64(0xFFFF0000))
    transport = column("transport")
    icmp = records.transport_in(ICMP)
    direction = np.where(records.has_initiator(), np.where(records.told_by_source(), 1, 2), 0)
    source_closed, destination_closed = (
        np.where(seen.source_is_local, End.LOCAL, End.REMOTE), np.where(seen.source_is_local, End.REMOTE, End.LOCAL),
    )  # fmt: skip
    closed_by = np.where(column("closed_by") == source_closed, 1, np.where(column("closed_by") == destination_closed, 2, 0))
    forward = np.where(icmp, column("icmp_type"), records.forward("tcp_flags"))
    reverse = np.where(icmp, column("icmp_code"), records.reverse("tcp_flags"))
    key: Array = np.zeros(records.batch.count, np.int64)
    for value, bits in (
        (transport, 8), (ipv4, 1), (seen.side, 2), (direction, 2), (column("reason"), 8), (column("outcome"), 8),
        (column("syn_ack_unix_ns") != 0, 1), (closed_by, 2), (forward, 8), (reverse, 8),
    ):  # fmt: skip
        key <<= bits
        key |= value
    return key


def facts(key: int) -> Facts:
    """Return the `Facts` that `facts_key` packed."""
    values: list[int] = []
    for bits in (8, 8, 2, 1, 8, 8, 2, 2, 1, 8):
        values.append(key & (1 << bits) - 1)
        key >>= bits
    reverse, forward, closed_by, syn_ack_seen, outcome, reason, direction, side, ipv4, transport = values
    return Facts(
        transport, bool(ipv4), side, ("unknown", "forward", "reverse")[direction], reason, outcome, bool(syn_ack_seen),
        (None, "source", "destination")[closed_by], forward, reverse,
    )  # fmt: skip
