"""The small facts of a record: what its attributes in words are made of.

A batch holds few distinct combinations of them, so each record's are packed into one integer, by column, and words are made
once per distinct integer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from proto.columns import End, Outcome, Reason, RoleSource, Tunnel
from proto.flow_batch import Array
from services.exporter.spans.identity import Side
from services.exporter.spans.records import Records

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
}
_STATES: Final[dict[int, str]] = {
    Outcome.ESTABLISHED: "established",
    Outcome.REFUSED: "closed",
    Outcome.TIMEOUT: "closed",
    Outcome.RESET: "closed",
    Outcome.CLOSED: "closed",
}
_TUNNELS: Final[dict[int, str]] = {tunnel: tunnel.name.lower() for tunnel in Tunnel if tunnel != Tunnel.NONE}
_CARRIERS: Final[dict[int, str]] = {Tunnel.VXLAN: "udp", Tunnel.GENEVE: "udp", Tunnel.GTPU: "udp", Tunnel.GRE: "gre"}
_ROLE_SOURCES: Final[dict[int, str]] = {source: source.name.lower() for source in RoleSource if source != RoleSource.UNKNOWN}
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
    tunnel: int = Tunnel.NONE
    """A `Tunnel`, or 127 for what is beyond."""
    tunnel_ipv4: bool = False
    role_source: int = RoleSource.UNKNOWN
    cut_short: bool = False
    """Whether a RST came while something was under way."""

    @property
    def transport_name(self) -> str:
        """`network.transport`."""
        return transport_name(self.transport)

    @property
    def observer(self) -> str:
        """`flow.observer`."""
        return Side(self.side).name.lower()

    @property
    def unseen(self) -> str | None:
        """`flow.unseen`; None for neither end."""
        if self.transport == TCP and not self.forward and self.reverse & _SYN_ACK == _SYN_ACK:
            return "source"
        return "destination" if self.transport == TCP and not self.reverse and self.forward & _SYN_ACK == _SYN_ACK else None

    @property
    def end_reason(self) -> str | None:
        """`flow.end_reason`; None for a reason that this version does not know."""
        return _REASONS.get(self.reason)

    @property
    def connection_outcome(self) -> str | None:
        """`flow.connection.outcome`; None for one that is unknown."""
        return _OUTCOMES.get(self.outcome)

    @property
    def direction_source(self) -> str | None:
        """`flow.direction_source`; None where nobody said."""
        return _ROLE_SOURCES.get(self.role_source)

    @property
    def icmp_type_name(self) -> str | None:
        """`flow.icmp.type.name`."""
        return _ICMP_TYPES.get(self.transport, {}).get(self.forward)

    @property
    def error(self) -> tuple[str, str] | None:
        """`error.type` and the status message of a failed connection. A RST that cut nothing short closed one."""
        if self.cut_short:
            return "connection_reset", f"connection reset by {self.closed_by}" if self.closed_by else "connection reset"
        return _ERRORS.get(self.outcome)

    @property
    def connection_state(self) -> str | None:
        """`flow.connection.state`."""
        if self.outcome == Outcome.HALF_OPEN:
            return "syn_received" if self.syn_ack_seen else "syn_sent"
        return _STATES.get(self.outcome)

    @property
    def tunnel_type(self) -> str | None:
        """`tunnel.type`; None for one that this version does not know."""
        return _TUNNELS.get(self.tunnel)

    @property
    def tunnel_network_type(self) -> str | None:
        """`tunnel.network.type`."""
        return ("ipv4" if self.tunnel_ipv4 else "ipv6") if self.tunnel else None

    @property
    def tunnel_transport(self) -> str | None:
        """`tunnel.network.transport`; None where IP carries IP."""
        return _CARRIERS.get(self.tunnel)

    def icmp(self, value: int) -> int | None:
        """`value` if this is ICMP."""
        return value if self.transport in ICMP else None

    def flags(self, value: int) -> int | None:
        """`value` if this is TCP and there were any."""
        return value if self.transport == TCP and value else None

    def tags(self, value: int) -> list[str] | None:
        """The names of the flags in `value` if this is TCP and there were any."""
        return [name for bit, name in enumerate(_FLAGS) if value >> bit & 1] or None if self.transport == TCP else None


_SYN_ACK: Final = 0x12
_SIDE, _DIRECTION, _SYN_ACK_SEEN, _CLOSED_BY = 1, 3, 5, 6
"""Where in the second byte of a key; bit 0 is whether it is IPv4."""

_TUNNEL_MASK: Final = 0x7F
"""Of a key's seventh byte; bit 7 is whether the tunnel's own packets are IPv4."""

_CUT_SHORT: Final = 0x80
"""Of a key's last byte; the others are the role's source."""

_CLOSERS: Final = np.zeros((2, 256), np.uint8)
"""Who closed, by whether the source is local and by `closed_by`: 1 the source, 2 the destination."""
_CLOSERS[1, [End.LOCAL, End.REMOTE]] = 1, 2
_CLOSERS[0, [End.LOCAL, End.REMOTE]] = 2, 1


def facts_key(records: Records) -> Array:
    """Return each record's `Facts` packed into a uint64, a byte each but for the smallest."""
    column, seen = records.column, records.seen
    ipv4 = is_ipv4(column("local_address"))
    direction = records.has_initiator() * (np.uint8(2) - records.told_by_source())
    closed_by = _CLOSERS[seen.source_is_local.view(np.uint8), column("closed_by")]
    small = ipv4 | seen.side << _SIDE | direction << _DIRECTION | closed_by << _CLOSED_BY
    if records.has("syn_ack_unix_ns"):
        small |= (column("syn_ack_unix_ns") != 0) * np.uint8(1 << _SYN_ACK_SEEN)
    icmp = records.transport_in(ICMP).nonzero()[0]
    key = np.zeros((records.count, 8), np.uint8)
    values = column("transport"), small, column("reason"), column("outcome")
    for at, value in enumerate((*values, records.forward("tcp_flags"), records.reverse("tcp_flags"))):
        key[:, at] = value
    if len(icmp):
        key[icmp, 4], key[icmp, 5] = column("icmp_type")[icmp], column("icmp_code")[icmp]
    if records.has("tunnel"):
        outer_ipv4 = is_ipv4(column("local_tunnel_address"))
        key[:, 6] = np.minimum(column("tunnel"), _TUNNEL_MASK) | outer_ipv4 * np.uint8(_TUNNEL_MASK + 1)
    key[:, 7] = np.minimum(column("role_source"), _CUT_SHORT - 1) | (column("cut_short") != 0) * np.uint8(_CUT_SHORT)
    return key.view("<u8").ravel()


def is_ipv4(address: Array) -> Array:
    """Where an address is an IPv4-mapped one."""
    halves = np.ascontiguousarray(address).view("<u8").reshape(-1, 2)
    ipv4: Array = (halves[:, 0] == 0) & (halves[:, 1].astype(np.uint32) == np.uint32(0xFFFF0000))
    return ipv4


def facts(key: int) -> Facts:
    """Return the `Facts` that `facts_key` packed."""
    transport, small, reason, outcome, forward, reverse, tunnel, last = key.to_bytes(8, "little")
    return Facts(
        transport,
        bool(small & 1),
        small >> _SIDE & 3,
        ("unknown", "forward", "reverse")[small >> _DIRECTION & 3],
        reason,
        outcome,
        bool(small >> _SYN_ACK_SEEN & 1),
        (None, "source", "destination")[small >> _CLOSED_BY],
        forward,
        reverse,
        tunnel & _TUNNEL_MASK,
        tunnel > _TUNNEL_MASK,
        last & ~_CUT_SHORT,
        last >= _CUT_SHORT,
    )
