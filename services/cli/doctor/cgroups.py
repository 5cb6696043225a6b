"""Checks of `wirespan doctor`: the control groups, where capture attaches, and which bound its memory."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.doctor.finding import Finding, fail, ok, warn
from services.cli.views import units

CAPTURE_BYTES: Final = 96 << 20
"""What capture and, for half a second, its compiler ask for."""

_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_NO_LIMIT: Final = 1 << 60
"""Version 1 says "no limit" with a number near 2^63."""
_HOST_TREE: Final = "mount the host's /sys/fs/cgroup into the container, read-only (Kubernetes: a hostPath volume)"
_MOUNT: Final = (
    "boot with systemd.unified_cgroup_hierarchy=1, or beside version 1: "
    "mkdir /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
)


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    path: Path
    options: frozenset[str]


def find_cgroup2(process: Path = Path("/proc")) -> Path | None:
    """Return where cgroup2 is mounted, None where it is not.

    Of several mounts the one that shows the most, as capture chooses: an ancestor is older than its descendants, so that the
    inode number of its directory is smaller.
    """
    found: list[tuple[int, Path]] = []
    for mount in _mounts(process):
        with contextlib.suppress(OSError):  # not to be reached from here, or something else is mounted over it
            if mount.version == 2 and (mount.path / "cgroup.procs").exists():
                found.append((mount.path.stat().st_ino, mount.path))
    return min(found, key=lambda candidate: candidate[0])[1] if found else None


def check_cgroup2(process: Path = Path("/proc")) -> Finding:
    """Check that the root of the host's cgroup2 tree is there, which is where capture attaches."""
    root = find_cgroup2(process)
    hybrid = any(mount.version == 1 for mount in _mounts(process))
    if root is None:
        if hybrid:
            return fail("only version 1 control groups are mounted", _MOUNT)
        return fail("no cgroup2 file system is mounted", f"on a host: {_MOUNT}; in a container: {_HOST_TREE}")
    try:
        os.listdir(root)  # noqa: PTH208 - to be able to is all
    except OSError as error:
        return fail(f"{root} cannot be read: {error.strerror}", "run it as root, or add CAP_DAC_READ_SEARCH")
    # The kernel gives this file to every cgroup but the root.
    if (root / "cgroup.events").exists():
        return fail(f"{root} shows a container's own part of the tree: its packets only would be seen", _HOST_TREE)
    return ok(f"{root}, the root of the tree{', beside version 1 (hybrid)' if hybrid else ''}")


def check_memory(process: Path = Path("/proc")) -> Finding:
    """Check that the control group of this process leaves capture room."""
    limit = memory_limit_bytes(process)
    if limit is None:
        return ok("no limit set on this process's control group")
    shown = units.byte_count(limit)
    if limit >= CAPTURE_BYTES:
        return ok(f"limit of {shown}")
    return warn(
        f"limit of {shown}: capture may be killed when it compiles or when its table fills",
        f"{units.byte_count(CAPTURE_BYTES)} or more (Kubernetes: resources.limits.memory; systemd: MemoryMax=)",
    )


def memory_limit_bytes(process: Path = Path("/proc")) -> int | None:
    """Return the smallest limit of the control group of this process and of those above it, None where there is none."""
    limits = [
        limit
        for mount, path in _own_groups(process)
        for limit in _limits(mount.path, path, "memory.max" if mount.version == 2 else "memory.limit_in_bytes")
    ]
    return min(limits, default=None)


def _own_groups(process: Path) -> Iterator[tuple[_Mount, str]]:
    """Yield the hierarchies that may limit memory with the path of this process in each."""
    try:
        lines = (process / "self" / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    mounts = list(_mounts(process))
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for mount in mounts:
            unified = number == "0" and mount.version == 2
            if unified or ("memory" in controllers.split(",") and mount.version == 1 and "memory" in mount.options):
                yield mount, path


def _limits(root: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits from the group at `path` up to `root`, which may be a container's own group, whatever `path` is."""
    parts = [part for part in path.split("/") if part]
    group = root.joinpath(*parts)
    if ".." in parts or not group.is_dir():
        group = root
    while True:
        with contextlib.suppress(OSError, ValueError):  # no such file at the root, or "max"
            limit = int((group / name).read_text(encoding="ascii"))
            if limit < _NO_LIMIT:
                yield limit
        if group == root:
            return
        group = group.parent


def _mounts(process: Path) -> Iterator[_Mount]:
    """Yield the mounted cgroup file systems."""
    try:
        lines = (process / "mounts").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(b" ")
        if len(fields) < 4 or fields[2] not in (b"cgroup", b"cgroup2"):
            continue
        path = Path(os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), fields[1])))
        yield _Mount(2 if fields[2] == b"cgroup2" else 1, path, frozenset(os.fsdecode(fields[3]).split(",")))
