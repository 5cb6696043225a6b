"""Checks of `wirespan doctor`: the control groups, where capture attaches, and which bound its memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from services.cli.doctor.finding import Finding, fail, ok, warn
from services.cli.views import units
from services.runtime.host.cgroup2 import ROOT_SETTING, Mount, hook_trouble, look_at_tree, mounts_of
from services.runtime.host.pods import VERSION_2_FIX, hierarchies_of_version_1, pods_of

CAPTURE_BYTES: Final = 96 << 20
"""What capture and, for half a second, its compiler ask for."""

_SECOND_LOOK_SECONDS: Final = 0.5
_SHOWN: Final = 3
"""Pods that are named."""
_NO_LIMIT: Final = 1 << 60
"""Version 1 says "no limit" with a number near 2^63."""


def check_cgroup2(process: Path = Path("/proc"), environ: Mapping[str, str] = os.environ) -> Finding:
    """Check that the root of the host's cgroup2 tree is there, which is where capture attaches, and that it can."""
    named = environ.get(ROOT_SETTING)
    tree = look_at_tree(process / "mounts", given=Path(named) if named else None)
    if tree.trouble is not None:
        # Capture says it too, and goes on where somebody has chosen that part.
        return (warn if tree.is_part and named else fail)(*tree.trouble)
    held = hook_trouble(tree.root) if tree.root is not None else None
    if held is not None:
        return fail(*held)
    unseen = _pods_of_version_1_alone(tree.root, process / "mounts") if tree.root is not None and tree.hybrid else frozenset()
    if unseen:
        shown = ", ".join([*sorted(unseen)[:_SHOWN], *(["..."] if len(unseen) > _SHOWN else [])])
        found = f"{tree.root}, but {units.counted(len(unseen), 'pod')} have control groups of version 1 alone ({shown})"
        return warn(f"{found}: their connections are told without a pod", VERSION_2_FIX)
    what = "the root of what this machine, a container, has of its host's tree" if tree.is_part else "the root of the tree"
    return ok(f"{tree.root}, {what}{', beside version 1 (hybrid)' if tree.hybrid else ''}")


def _pods_of_version_1_alone(root: Path, mounts: Path) -> frozenset[str]:
    """Return the uids of those that have none of version 2 at a second look either: groups are made one after another."""
    beside = hierarchies_of_version_1(root, mounts)
    missing = pods_of(beside) - pods_of([root])
    if missing:
        time.sleep(_SECOND_LOOK_SECONDS)
        missing &= pods_of(beside) - pods_of([root])
    return missing


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
        for limit in _limits(mount.path, path, "memory.max" if mount.kind == "cgroup2" else "memory.limit_in_bytes")
    ]
    return min(limits, default=None)


def _own_groups(process: Path) -> Iterator[tuple[Mount, str]]:
    """Yield the hierarchies that may limit memory with the path of this process in each."""
    try:
        lines = (process / "self" / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    mounts = list(mounts_of("cgroup", "cgroup2", mounts=process / "mounts"))
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for mount in mounts:
            unified = number == "0" and mount.kind == "cgroup2"
            if unified or ("memory" in controllers.split(",") and mount.kind == "cgroup" and "memory" in mount.options):
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
