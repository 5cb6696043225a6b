"""The sets of compile-time flags that the socket tap is loaded with in guests."""

from __future__ import annotations

from typing import Final

from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.names.pieces import PieceKind
from tests.support.vm.inside.scenes import NO_RULE
from tests.support.vm.kernels import KernelFiles

COARSE_CLOCK: Final = (5, 11)
"""Since this kernel there is bpf_ktime_get_coarse_ns."""

ATTACHED: Final = "default"
"""The set that capture has where nothing is configured: what is attached in a guest."""
LEAST: Final = "no rule, no trace context"
"""The set that is attached under a limit of locked memory."""
MOST: Final = "every rule"
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
    ),
}  # fmt: skip


def flag_sets(files: KernelFiles) -> dict[str, list[str]]:
    """Return the defines of each set as capture asks the loader for them on this kernel, by a name for it.

    The least there is, what is there by default, and the most. That each rule loads alone is tested on this machine's kernel
    (tests/kernel): emulated, a verifier takes most of a minute for a set.
    """
    return {name: tap.defines(files.tick_ns) for name, tap in _TAPS.items()}


def compiled_sets(files: KernelFiles) -> list[list[str]]:
    """Return what the loader compiles for them: on a kernel without the coarse clock it does without."""
    added = ["NO_COARSE_CLOCK"] if files.version < COARSE_CLOCK else []
    return [[*defines, *added] for defines in flag_sets(files).values()]
