"""The host's tree of control groups (version 2), at whose root capture attaches, and what may keep it from seeing anything."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from services.runtime.host import bpf_call

MOUNTS: Final = Path("/proc/mounts")
ROOT_SETTING: Final = "WIRESPAN_CAPTURE_CGROUP_ROOT"

_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_HOST_TREE: Final = "mount the host's /sys/fs/cgroup into the container, read-only is enough (Kubernetes: a hostPath volume)"
_MOUNT: Final = (
    "boot with systemd.unified_cgroup_hierarchy=1, or beside version 1: "
    "mkdir /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
)
_PROG_QUERY: Final = 16
_ALLOW_MULTI: Final = 2
_MOST_PROGRAMS: Final = 64
_HOOKS: Final = {"ingress": 0, "egress": 1, "sock_release": 34, "sendmsg4": 14, "sendmsg6": 15}
"""Where capture attaches: names as bpftool has them, numbers of `enum bpf_attach_type`."""


class Trouble(NamedTuple):
    """What is wrong, and what to do about it."""

    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.found}: {self.fix}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    kind: str
    path: Path
    options: frozenset[str]


@dataclass(frozen=True, slots=True)
class Tree:
    """The tree as it was found."""

    root: Path | None
    hybrid: bool
    """Version 1 is mounted too."""
    is_part: bool = False
    """It is what a container sees of a larger one."""
    trouble: Trouble | None = None
    """Why nothing, or hardly anything, would be seen."""


def mounts_of(*kinds: str, mounts: Path = MOUNTS) -> Iterator[Mount]:
    """Yield the mounted file systems of these types, or all."""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(b" ")
        if len(fields) >= 4 and (not kinds or os.fsdecode(fields[2]) in kinds):
            path = Path(os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), fields[1])))
            yield Mount(os.fsdecode(fields[2]), path, frozenset(os.fsdecode(fields[3]).split(",")))


def look_at_tree(mounts: Path = MOUNTS, *, given: Path | None = None) -> Tree:
    """Find the root of the tree and say whether it is the one that shows the host.

    Of several mounts the one that shows the most: a container that is given the host's tree has its own as well, and an
    ancestor is older than its descendants, so that its id is smaller. A path that is `given` is it, or what it is mounted
    below: a container that is given a hybrid host's /sys/fs/cgroup need not know what it is.
    """
    hybrid = any(mounts_of("cgroup", mounts=mounts))
    root = _root(mounts, given)
    if root is None:
        return Tree(None, hybrid, trouble=_none_found(given, hybrid=hybrid))
    try:
        os.listdir(root)  # noqa: PTH208 - to be able to is all
    except OSError as error:
        fix = "run it as root, or add CAP_DAC_READ_SEARCH"
        return Tree(root, hybrid, trouble=Trouble(f"{root} cannot be read: {error.strerror}", fix))
    # The kernel gives this file to every cgroup but the root.
    is_part = (root / "cgroup.events").exists()
    return Tree(root, hybrid, is_part, _own_group_only(root) if is_part else None)


def hook_trouble(root: Path) -> Trouble | None:
    """Say which programs hold a hook of the root for themselves, so that no other can be attached there.

    None where none does, or where this process may not ask.
    """
    with contextlib.suppress(OSError):
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, hook in _HOOKS.items():
                programs, flags = _attached(directory, hook)
                if programs and not flags & _ALLOW_MULTI:
                    ids = ", ".join(map(str, programs))
                    return Trouble(
                        f"program {ids} holds the hook {name} of {root} for itself (attached without `multi`)",
                        f"see `bpftool cgroup show {root}` and `bpftool prog show id {programs[0]}`; have its owner attach it "
                        "with `multi`, or detach it",
                    )
        finally:
            os.close(directory)
    return None


def _root(mounts: Path, given: Path | None) -> Path | None:
    if given is not None and (given / "cgroup.procs").exists() and _kind_at(given, mounts) != "cgroup":
        return given
    found: list[tuple[int, Path]] = []
    for mount in mounts_of("cgroup2", mounts=mounts):
        with contextlib.suppress(OSError):  # not to be reached from here, or something else is mounted over it
            if (given is None or mount.path.is_relative_to(given)) and (mount.path / "cgroup.procs").exists():
                found.append((mount.path.stat().st_ino, mount.path))
    return min(found, key=lambda candidate: candidate[0])[1] if found else None


def _kind_at(path: Path, mounts: Path) -> str:
    """Type of the file system that a path is on: version 1 has a cgroup.procs too."""
    real = path.resolve()
    above = [mount for mount in mounts_of(mounts=mounts) if real.is_relative_to(mount.path)]
    return max(above, key=lambda mount: len(mount.path.parts)).kind if above else ""


def _none_found(given: Path | None, *, hybrid: bool) -> Trouble:
    if given is not None:
        return Trouble(f"no cgroup2 file system at {given} or below it", f"{_HOST_TREE}, and name it in {ROOT_SETTING}")
    if hybrid:
        return Trouble("only version 1 control groups are mounted", _MOUNT)
    return Trouble("no cgroup2 file system is mounted", f"on a host: {_MOUNT}; in a container: {_HOST_TREE}")


def _own_group_only(root: Path) -> Trouble | None:
    """A container sees its own group as the root. Where its processes are in groups below that, it is a machine of its own,
    such as a node that is a container; where they are in it, there is nobody else to see.
    """
    try:
        alone = str(os.getpid()) in (root / "cgroup.procs").read_text().split()
    except OSError:
        alone = False
    if not alone:
        return None
    fix = f"{_HOST_TREE}; if it is what you want, name it in {ROOT_SETTING}"
    return Trouble(f"{root} shows a container's own part of the tree: its packets only would be seen", fix)


def _attached(directory: int, hook: int) -> tuple[list[int], int]:
    """Ids of the programs at a hook of a group, and the flags they were attached with."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    query = struct.pack("=IIIIQI", directory, hook, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS)
    buffer = ctypes.create_string_buffer(query, bpf_call.ATTRIBUTE_BYTES)
    bpf_call.call_in_place(_PROG_QUERY, buffer)
    flags, count = struct.unpack_from("=I", buffer.raw, 12)[0], struct.unpack_from("=I", buffer.raw, 24)[0]
    return list(ids[:count]), flags
