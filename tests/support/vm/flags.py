"""The sets of compile-time flags that the socket tap is loaded with, by what an operator asks for."""

from __future__ import annotations

from typing import Final

from services.capture.live.socket_tap import SocketTap, TapRules
from services.capture.names.pieces import PieceKind
from tests.support.vm.kernels import KernelFiles

COARSE_CLOCK: Final = (5, 11)
"""Since this kernel there is bpf_ktime_get_coarse_ns."""

ATTACHED: Final = "default, trace context"
"""The set that capture has where nothing is configured: what is attached in a guest."""
RULES: Final = {
    "no rule": TapRules(loopback=True),
    "default": TapRules(),
    "every rule": TapRules(
        allow_networks=("10.0.0.0/8",), deny_networks=("10.9.0.0/16",), allow_ports=(80,), deny_ports=(81,), transports=(6, 17)
    ),
}


def flag_sets(files: KernelFiles) -> dict[str, list[str]]:
    """Return the defines of each set for this kernel, by a name for it.

    None of the rules, what is there by default, all of them; the last two with the look for trace contexts and names too. That
    each rule loads alone is tested on this machine's kernel (tests/kernel): emulated, a verifier takes a minute for a set.
    Where the kernel has no coarse clock, each set with that and without: the loader tries the first and takes the second.
    """
    found = {name: SocketTap(rules=rules).defines(files.tick_ns) for name, rules in RULES.items()}
    for name in ("default", "every rule"):
        everything = SocketTap(rules=RULES[name], trace_context=True, pieces=tuple(PieceKind))
        found[f"{name}, trace context"] = everything.defines(files.tick_ns)
    if files.version < COARSE_CLOCK:
        found |= {f"{name}, no coarse clock": [*defines, "NO_COARSE_CLOCK"] for name, defines in found.items()}
    return found


def loaded_sets(files: KernelFiles) -> dict[str, list[str]]:
    """Return those of the sets that capture asks the loader for."""
    return {name: defines for name, defines in flag_sets(files).items() if "NO_COARSE_CLOCK" not in defines}
