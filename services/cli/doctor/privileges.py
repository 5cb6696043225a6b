"""Checks of `wirespan doctor`: what this process may do."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Final

from services.cli.doctor.finding import Finding, fail, ok
from services.cli.doctor.kernel import MEMORY_CGROUP_ACCOUNTING, kernel_version
from services.cli.views import units

NEEDED_CAPABILITIES: Final = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN")

# Numbers of linux/capability.h.
_NUMBERS: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_PERFMON": 38, "CAP_BPF": 39}
_INITIAL_USER_NAMESPACE: Final = "user:[4026531837]"  # PROC_USER_INIT_INO of linux/proc_ns.h
_MEMLOCK_BYTES: Final = 128 << 20
"""More than the tables take at their default size."""


def effective_capabilities(process: Path = Path("/proc")) -> frozenset[str] | None:
    """Return which of the capabilities that matter here are effective; None where /proc does not tell."""
    try:
        status = (process / "self" / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)", status, re.MULTILINE)
    if found is None:
        return None
    bits = int(found[1], 16)
    return frozenset(name for name, number in _NUMBERS.items() if bits >> number & 1)


def missing_capabilities(process: Path = Path("/proc")) -> tuple[str, ...]:
    """Return what is missing for live capture; all where /proc does not tell. CAP_SYS_ADMIN stands for all of them."""
    held = effective_capabilities(process) or frozenset()
    return () if "CAP_SYS_ADMIN" in held else tuple(name for name in NEEDED_CAPABILITIES if name not in held)


def capability_fix() -> str:
    """Say how a process gets what it needs."""
    names = [name.removeprefix("CAP_") for name in NEEDED_CAPABILITIES]
    return (
        f"run it as root, or with systemd's AmbientCapabilities={' '.join(NEEDED_CAPABILITIES)}, or with Kubernetes' "
        f"securityContext.capabilities.add: [{', '.join(names)}] ([SYS_ADMIN] where the container runtime does not know those)"
    )


def check_capabilities(process: Path = Path("/proc")) -> Finding:
    """Check that this process may load and attach the socket tap."""
    held = effective_capabilities(process)
    if held is None:
        return fail("/proc/self/status does not tell", "mount /proc")
    missing = missing_capabilities(process)
    if missing:
        return fail(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing", capability_fix())
    if not _in_initial_user_namespace(process):
        return fail(
            "this process is in a user namespace of its own, whose capabilities do not count for BPF (a rootless container)",
            "run it outside of it, or in a container of a runtime that runs as root, without hostUsers: false",
        )
    if "CAP_SYS_ADMIN" in held:
        return ok("CAP_SYS_ADMIN, which holds all that is needed")
    return ok(_listed(NEEDED_CAPABILITIES))


def check_memlock(release: str, process: Path = Path("/proc"), soft_limit_bytes: int | None = None) -> Finding:
    """Check that tables may be as large as they are where the kernel still counts them as locked memory.

    `soft_limit_bytes` is RLIMIT_MEMLOCK's soft limit; None asks this process's.
    """
    version = kernel_version(release)
    if version is None or version >= MEMORY_CGROUP_ACCOUNTING:
        return ok("not used for BPF since Linux 5.11")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] if soft_limit_bytes is None else soft_limit_bytes
    if limit == resource.RLIM_INFINITY:
        return ok("no limit")
    shown = units.byte_count(limit)
    if limit >= _MEMLOCK_BYTES:
        return ok(shown)
    if "CAP_SYS_RESOURCE" in (effective_capabilities(process) or ()):
        return ok(f"{shown}, and CAP_SYS_RESOURCE to raise it")
    return fail(
        f"{shown}: Linux {release} counts BPF tables as locked memory, and they take up to {units.byte_count(_MEMLOCK_BYTES)}",
        "ulimit -l unlimited, systemd's LimitMEMLOCK=infinity, or add CAP_SYS_RESOURCE",
    )


def _in_initial_user_namespace(process: Path) -> bool:
    try:
        return str((process / "self" / "ns" / "user").readlink()) == _INITIAL_USER_NAMESPACE
    except OSError:  # a kernel without user namespaces
        return True


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
