"""Which pods have control groups, and which of them have none of version 2, by which a socket is known."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.runtime.host.cgroup2 import MOUNTS, mounts_of
from services.runtime.host.identity import identify

VERSION_2_FIX: Final = "use the kubelet's systemd cgroup driver, or boot with cgroup v2 alone"
_LEAF_LINKS: Final = 2
_MOST_DIRECTORIES: Final = 65_536


def hierarchies_of_version_1(root: Path, mounts: Path = MOUNTS) -> list[Path]:
    """Return those that are mounted beside the tree of version 2 at `root`."""
    return [each.path for each in mounts_of("cgroup", mounts=mounts) if each.path.parent == root.parent]


def pods_of(hierarchies: list[Path]) -> frozenset[str]:
    """Return the uids of the pods of the hierarchy that has the most."""
    return max((frozenset(_pods_below(path)) for path in hierarchies), key=len, default=frozenset())


def directories(path: str, status: os.stat_result | None = None) -> list[str]:
    """Return the paths of the directories in `path`; none where we may not read it. Raises OSError where it is gone."""
    if (status or os.lstat(path)).st_nlink == _LEAF_LINKS:
        return []
    with contextlib.suppress(PermissionError), os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _pods_below(root: Path) -> Iterator[str]:
    waiting = [os.fspath(root)]
    for _ in range(_MOST_DIRECTORIES):
        if not waiting:
            return
        path = waiting.pop()
        pod = identify(path[len(os.fspath(root)) :]).pod_uid
        if pod:
            yield pod
            continue
        with contextlib.suppress(OSError):  # it is gone
            waiting.extend(directories(path))
