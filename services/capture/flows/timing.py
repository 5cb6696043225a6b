"""When a flow gives a record and when it is over: the times, and what they come to for each state a flow can be in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proto.columns import End, Outcome, Reason

_NS: Final = 1_000_000_000
_TCP: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTableSettings:
    """When records are emitted. Seconds are of the packets' clock."""

    active_interval_seconds: float = 30
    """A flow that lives and moves gives a record this often."""
    answered_quiet_seconds: float = 2
    """A flow of datagrams (all but TCP) that was answered and has been quiet this long gives a record. Nothing says that it is
    over, and it may go on; but whoever waits for the span of a name lookup must not wait for the active interval."""
    linger_seconds: float = 1
    """Quiet time after which a closed, reset or refused connection is over: the last ACKs belong to it, and whoever waits
    for the record waits this long."""
    tcp_idle_seconds: float = 7440
    """An open connection without a packet: RFC 5382's 2 hours and 4 minutes, within which a keep-alive comes. It costs a slot,
    and where slots are few the longest idle make room. If it wakes up later, a flow without handshake continues it."""
    tcp_closing_seconds: float = 60
    """A connection with one FIN: as long as Linux keeps FIN-WAIT-2."""
    tcp_opening_seconds: float = 10
    """The least wait for an answer to a SYN, counted from the last one. SYNs back off by powers of two, so the wait is also one
    and a half times what they have taken so far: a retry then joins its own attempt."""
    tcp_opening_max_seconds: float = 100
    """The longest wait for an answer to a SYN: beyond Linux's last pause (64 s)."""
    udp_idle_seconds: float = 60
    """UDP and all other transports. Well above resolvers' and QUIC's pauses; conntrack's is 30 s, or 120 s for a stream."""
    icmp_idle_seconds: float = 30
    """ICMP: a ping that pauses this long is another ping."""
    exchange_pause_seconds: float = 2
    """A traced response that pauses this long is over: whoever looks at the trace does not wait for the connection's next
    request."""
    given_up_seconds: float = 3
    """When capture itself ends, a SYN unanswered for this long counts as timed out, a younger one as still waiting: answered
    SYNs are answered within the first repeat (1 s) or second (3 s)."""
    high_occupancy: float = 0.9
    """Share of used slots above which the longest idle flows are evicted."""
    low_occupancy: float = 0.85
    """Share of used slots to evict down to."""
    max_rows: int = 950
    """Records per emission: what stays below 512 KiB as a message with every column filled (about 480 bytes each)."""


def time_limits(settings: FlowTableSettings) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return, for each transport << 5 | outcome << 2 | closed_by: idle limit in ns, its reason, whether a handshake waits."""
    limits = np.full((256, 8, 4), settings.udp_idle_seconds, np.float64)
    reasons = np.full(limits.shape, Reason.IDLE_TIMEOUT, np.uint8)
    opening = np.zeros(limits.shape, np.bool_)
    limits[[1, 58]] = settings.icmp_idle_seconds
    tcp, why = limits[_TCP], reasons[_TCP]
    tcp[:, End.NONE] = settings.tcp_idle_seconds
    tcp[:, End.LOCAL :] = settings.tcp_closing_seconds
    tcp[Outcome.HALF_OPEN, End.NONE] = settings.tcp_opening_seconds
    opening[_TCP, Outcome.HALF_OPEN, End.NONE] = True
    ended: list[Any] = [(Outcome.REFUSED, slice(None)), (Outcome.RESET, slice(None)), (Outcome.CLOSED, slice(None))]
    for where in [*ended, (Outcome.HALF_OPEN, slice(End.LOCAL, None))]:
        tcp[where] = settings.linger_seconds
        why[where] = Reason.END_OF_FLOW
    return (limits * _NS).astype(np.int64).ravel(), reasons.ravel(), opening.ravel()
