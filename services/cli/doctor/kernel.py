"""Checks of `wirespan doctor`: what the kernel is and how it is set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from services.cli.doctor.finding import Finding, fail, first_line, ok, skipped, warn

OLDEST_KERNEL: Final = (5, 10)
COARSE_CLOCK: Final = (5, 11)
MEMORY_CGROUP_ACCOUNTING: Final = (5, 11)
"""From here on, BPF memory counts against the memory cgroup and not against RLIMIT_MEMLOCK."""

_FEATURES: Final = {
    "socket storage": (5, 2),
    "mapped arrays": (5, 5),
    "cgroup links": (5, 7),
    "CAP_BPF": (5, 8),
    "coarse clock": COARSE_CLOCK,
}
_ARCHITECTURES: Final = {"x86_64": "x86-64", "aarch64": "arm64"}
_NEWER_KERNEL: Final = "Linux 5.10 or newer"


def kernel_version(release: str) -> tuple[int, int] | None:
    """Return version and patch level of `uname -r`; None where it does not begin with them."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else None


def check_kernel(release: str) -> Finding:
    """Check that the kernel has what the socket tap uses."""
    version = kernel_version(release)
    if version is None:
        return fail(f"release {release!r} is no version of Linux", _NEWER_KERNEL)
    lacks = [f"{name} ({since[0]}.{since[1]})" for name, since in _FEATURES.items() if version < since]
    if version < OLDEST_KERNEL:
        without = f", without {', '.join(lacks)}" if lacks else ""
        return fail(f"Linux {release} is older than 5.10{without}", _NEWER_KERNEL)
    if lacks:
        return ok(f"Linux {release}; without {', '.join(lacks)} a packet costs about 30 ns more, nothing else is missing")
    listed = ", ".join(f"{name} ({since[0]}.{since[1]})" for name, since in _FEATURES.items())
    return ok(f"Linux {release} has {listed}")


def check_architecture(machine: str) -> Finding:
    """Check that programs are made for this processor."""
    if machine in _ARCHITECTURES:
        return ok(_ARCHITECTURES[machine])
    return fail(f"{machine or 'unknown'} is not supported", f"a 64-bit machine: {' or '.join(_ARCHITECTURES.values())}")


def check_btf(system: Path = Path("/sys")) -> Finding:
    """Say that type information of the kernel is not used."""
    there = (system / "kernel" / "btf" / "vmlinux").exists()
    return ok(
        f"not needed, nor are kernel headers: no structure of the kernel is read (it {'is' if there else 'is not'} there)"
    )


def check_jit(process: Path = Path("/proc")) -> Finding:
    """Check that the kernel compiles BPF programs."""
    path = process / "sys" / "net" / "core" / "bpf_jit_enable"
    match first_line(path):
        case None:
            return skipped(
                "the setting is shown in the host's network namespace only; `load` tells whether programs are compiled"
            )
        case "1":
            return ok("on")
        case "0":
            return warn(
                "off: each packet costs several times as much",
                "sysctl -w net.core.bpf_jit_enable=1, and the same in /etc/sysctl.d",
            )
        case value:
            return warn(f"net.core.bpf_jit_enable is {value}: for debugging, it writes to the kernel's log", "set it to 1")


def check_lockdown(system: Path = Path("/sys")) -> Finding:
    """Check that the kernel's lockdown leaves BPF alone."""
    line = first_line(system / "kernel" / "security" / "lockdown")
    if line is None:
        return ok("none: this kernel has no lockdown, or does not show it")
    chosen = re.search(r"\[(\w+)\]", line)
    mode = chosen[1] if chosen else line
    if mode == "confidentiality":
        return warn(
            "confidentiality: BPF may not read kernel memory, which the socket tap does not do; `load` tells whether it loads",
            "nothing where `load` is ok, else boot with lockdown=integrity",
        )
    return ok(mode)
