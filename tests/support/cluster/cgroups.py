"""The control groups of a node that is made of namespaces: one in every hierarchy, which is the root of what the node sees."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_TOP: Final = Path("/sys/fs/cgroup")
_DRAIN_SECONDS: Final = 20
_LEAF: Final = "node"
_INHERITED: Final = ("cpuset.cpus", "cpuset.mems")
"""What a new control group of version 1 has to be told before it takes a process."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One hierarchy as it is mounted."""

    path: Path
    kind: str
    """`cgroup`, of version 1, or `cgroup2`."""
    options: str


def hierarchies() -> list[Hierarchy]:
    """All that are mounted at the usual place: version 1's, with version 2 beside them (hybrid), or version 2 alone."""
    found = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        if kind in {"cgroup", "cgroup2"} and Path(path).is_relative_to(_TOP):
            own = [each for each in options.split(",") if each not in {"rw", "ro", "relatime", "nosuid", "nodev", "noexec"}]
            chosen = [("none," + each) if each.startswith("name=") else each for each in own] if kind == "cgroup" else []
            found.append(Hierarchy(Path(path), kind, ",".join(chosen)))
    return found


class ControlGroups(AbstractContextManager["ControlGroups"]):
    """A control group of this name at the top of every hierarchy. Left, they are gone, with all that was made below them.

    What runs in them has to be ended before.
    """

    def __init__(self, name: str) -> None:
        found = hierarchies()
        self.paths = [hierarchy.path / name for hierarchy in found]
        self._leaves = [hierarchy.path / name / _LEAF for hierarchy in found if hierarchy.kind == "cgroup2"]
        self._is_unified = len(found) == 1

    def __enter__(self) -> Self:
        for path in self.paths:
            if self._is_unified:
                _hand_on_controllers(path.parent)
            path.mkdir()
            for name in _INHERITED:
                if (path.parent / name).exists():
                    (path / name).write_text((path.parent / name).read_text())
        return self

    def __exit__(self, *_exc_info: object) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        for path in self.paths:
            while path.exists() and time.monotonic() < deadline:
                for folder, _, _ in os.walk(path, topdown=False):
                    with suppress(OSError):
                        Path(folder).rmdir()
                time.sleep(0.02)  # its last process is still on its way out

    def joined(self, *command: str) -> list[str]:
        """A command that joins them all, sees them as the roots of all there is, and then is `command`.

        In version 2 it goes on to a leaf: a group with processes of its own cannot hand on controllers to those below it.
        """
        for path in self._leaves:
            command = ("sh", "-c", 'mkdir "$0" && echo 0 > "$0/cgroup.procs" && exec "$@"', str(path), *command)
        command = ("unshare", "--cgroup", *command)
        for path in self.paths:
            command = ("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(path), *command)
        return list(command)


def _hand_on_controllers(parent: Path) -> None:
    """Let the groups below one of version 2 have its controllers, as far as it has them and may."""
    for controller in (parent / "cgroup.controllers").read_text().split():
        with suppress(OSError):
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
