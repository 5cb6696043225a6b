"""What the socket tap is told in guests: the sets that are tried."""

from __future__ import annotations

from typing import Final

from services.capture.live.tap.loader import TapConstants
from services.capture.live.tap.socket_tap import SocketTap, TapRules, tick_ns
from services.capture.names.pieces import PieceKind

ATTACHED: Final = "default"
"""The set that capture has where nothing is configured, but that its own connections are told: what is attached in a guest,
whose traffic comes from the process that has it attached.
"""
LEAST: Final = "no rule, no trace context"
"""The set that is attached under a limit of locked memory."""
MOST: Final = "every rule"
NO_RULE: Final = TapRules(loopback=True)
_TAPS: Final = {
    LEAST: SocketTap(rules=NO_RULE),
    ATTACHED: SocketTap(trace_context=True, pieces=tuple(PieceKind)),
    MOST: SocketTap(
        rules=TapRules(
            allow_networks=("10.0.0.0/8",), deny_networks=("10.9.0.0/16",), allow_ports=(80,), deny_ports=(81,),
            transports=(6, 17),
        ),
        trace_context=True,
        pieces=tuple(PieceKind),
        meeting=True,
        closers=True,
        leave_out_own=True,
    ),
}  # fmt: skip


SETS: Final = tuple(_TAPS)
"""The least there is, what is there by default, and the most.

That each rule loads alone is tested on this machine's kernel (tests/kernel): emulated, a verifier takes most of a minute for a
set.
"""


def constants(name: str) -> TapConstants:
    """Return what the tap is told with this set, as capture tells it on this kernel."""
    return _TAPS[name].constants(tick_ns())
