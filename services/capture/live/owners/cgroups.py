"""The node's cgroups: from the 64-bit id that the kernel gives with a packet to the owner of the socket.

A cgroup's id is the inode number of its directory in the cgroup2 file system (kernfs; the id is also the file handle), and the
kernel counts it up and does not hand it out again, so an id keeps its meaning after its cgroup is gone.

Kept current with inotify, because figures say so (one core, Linux 6.18; 1,000 / 5,000 cgroups):

    walking all of them                              4.3 ms / 30 ms (listing every directory: 12 ms / 64 ms)
    opening the index: walk, watch, parse            18 ms / 92 ms
    taking in what happened, when nothing has        1.3 us
    one cgroup made, one removed                     15 us, 9 us

Walking once a second would cost a node with 5,000 cgroups 3 % of a core and would still never see a container that lives half a
second; inotify costs nothing while nothing happens and tells of it at once. Where the kernel refuses watches (`fs.inotify`
limits are shared by everything that runs as the same user) the index scans now and then instead, and says so once.

A scan lists only directories whose link count says that they have children: listing is most of the cost, since each cgroup
holds dozens of control files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import structlog

from proto.columns import NO_INDEX
from services.runtime.host.cgroup2 import MOUNTS, look_at_tree
from services.runtime.host.identity import Identity, identify
from services.runtime.host.pods import directories

logger = structlog.get_logger()

_IN_CREATE: Final = 0x100
_IN_DELETE: Final = 0x200
_IN_Q_OVERFLOW: Final = 0x4000
_IN_ONLYDIR: Final = 0x0100_0000
_IN_DONT_FOLLOW: Final = 0x0200_0000
_IN_ISDIR: Final = 0x4000_0000
_EVENT: Final = struct.Struct("iIII")
_REFUSALS: Final = (errno.ENOSPC, errno.ENOMEM)
_READ_BYTES: Final = 64 * 1024
_MAX_READS: Final = 32  # of one refresh: about what the kernel queues at the most, so that no storm of cgroups can hold it
_MAX_MISSING: Final = 65_536


class NoCgroup2Error(OSError):
    """There is no tree of control groups (version 2) at whose root the host's packets are seen."""


def find_root(mounts: Path = MOUNTS, *, given: Path | None = None) -> Path:
    """Return where cgroup2 is mounted: on hybrid hosts beside the version 1 controllers (`look_at_tree`).

    Raises NoCgroup2Error where there is none, or where it shows this process's own group and nobody named it.
    """
    tree = look_at_tree(mounts, given=given)
    if tree.root is None or (tree.trouble is not None and not (tree.is_part and given is not None)):
        raise NoCgroup2Error(str(tree.trouble))
    return tree.root


def cgroup_id(path: Path) -> int:
    """Return the id of the cgroup at `path`, as bpf_skb_cgroup_id gives it. Raises OSError."""
    return path.stat().st_ino


@dataclass(frozen=True, slots=True)
class CgroupCounts:
    """The state of an index and what has happened to it since it was opened."""

    live: int
    remembered: int
    """Cgroups that are gone and still known."""
    watching: bool
    """False where the kernel refuses watches and the index scans instead."""
    scans: int
    overflows: int
    """Times that events were lost for being too many; each led to a scan."""
    vanished: int
    """Cgroups that were gone before their id could be read: their flows have no owner."""
    refused: int
    """Cgroups left out because `max_cgroups` were known."""
    unknown: int
    """Ids asked for that no cgroup below the root has or had, each counted once."""


@dataclass(slots=True)
class _Directory:
    id: int
    path: str
    identity: Identity
    watch: int


class CgroupIndex:
    """Who owns each cgroup below `root`, kept current; a context manager, to be used from one thread.

    `refresh` (which `rows` calls) takes in what has happened. To learn of cgroups that live only a moment, have an event loop
    call it whenever `fileno()` is readable. A cgroup that is gone stays known for `remember_seconds`, because the last records
    of its flows come after it; `max_remembered` bounds how many. An id that nobody knows leads to one scan, at most every
    `rescan_seconds`, and is not looked for again.
    """

    def __init__(
        self,
        root: Path,
        *,
        remember_seconds: float = 3600.0,
        max_remembered: int = 8192,
        rescan_seconds: float = 2.0,
        max_cgroups: int = 65_536,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Scan `root` and watch it. Raises OSError where it cannot be read."""
        self._root = os.fspath(root)
        self._remember_seconds = remember_seconds
        self._max_remembered = max_remembered
        self._rescan_seconds = rescan_seconds
        self._max_cgroups = max_cgroups
        self._now = monotonic_seconds
        self._owners: dict[int, Identity] = {}
        self._by_path: dict[str, _Directory] = {}
        self._by_watch: dict[int, _Directory] = {}
        self._gone: dict[int, float] = {}  # id -> when; in order of time
        self._missing: set[int] = set()
        self._scans = self._overflows = self._vanished = self._refused = self._unknown = 0
        self._inotify = _Inotify()
        self._watching = self._said_watching = True
        self._scanned_at = 0.0
        Path(root).stat()
        self._scan()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the watches; what is known stays known."""
        self._inotify.close()
        self._by_watch.clear()

    def fileno(self) -> int:
        """Return what becomes readable when cgroups come and go; -1 where the kernel refuses even that."""
        return self._inotify.descriptor

    @property
    def counts(self) -> CgroupCounts:
        """What the index holds and has met."""
        return CgroupCounts(
            live=len(self._by_path),
            remembered=len(self._gone),
            watching=self._watching,
            scans=self._scans,
            overflows=self._overflows,
            vanished=self._vanished,
            refused=self._refused,
            unknown=self._unknown,
        )

    def owner(self, cgroup: int) -> Identity | None:
        """Return who owns the cgroup with this id, as of the last refresh; None where nobody knows it."""
        return self._owners.get(cgroup)

    def rows(self, cgroup_ids: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint32], list[dict[str, str]]]:
        """Return a FlowBatch's `local_container` column and the `containers` it points into, for one cgroup id per record.

        Ids of one owner share a row. NO_INDEX stands where the owner is not known, and for id 0: no socket.
        """
        self.refresh()
        ids, inverse = np.unique(cgroup_ids, return_inverse=True)
        distinct: list[int] = ids.tolist()
        self._look_for([cgroup for cgroup in distinct if cgroup not in self._owners and cgroup not in self._missing and cgroup])
        numbers: dict[Identity, int] = {}
        found = np.full(len(distinct), NO_INDEX, np.uint32)
        for position, cgroup in enumerate(distinct):
            identity = self._owners.get(cgroup)
            if identity is not None:
                found[position] = numbers.setdefault(identity, len(numbers))
        return found[inverse], [identity.row() for identity in numbers]

    def paths(self) -> dict[int, str]:
        """Return the directories of the cgroups that there are, by their ids, as of the last refresh."""
        return {directory.id: directory.path for directory in self._by_path.values()}

    def pods(self) -> frozenset[str]:
        """Return the uids of the pods that have or had a cgroup, as of the last refresh."""
        return frozenset(identity.pod_uid for identity in self._owners.values() if identity.pod_uid)

    def refresh(self) -> None:
        """Take in what has happened to the cgroups since the last call; about a microsecond where nothing has."""
        for watch, mask, name in self._inotify.events():
            if mask & _IN_Q_OVERFLOW:
                self._overflows += 1
                self._scan()
                continue
            parent = self._by_watch.get(watch)
            if parent is None or not mask & _IN_ISDIR:
                continue
            path = f"{parent.path}/{name}"
            if mask & _IN_CREATE:
                self._add(path)
            elif directory := self._by_path.get(path):
                self._remove(directory)
        if not self._watching and self._now() - self._scanned_at >= self._rescan_seconds:
            self._scan()
        self._forget()

    def _look_for(self, unknown: list[int]) -> None:
        """Scan once for ids that nobody knows, unless that was done just now; what is not found is not looked for again."""
        if not unknown or self._now() - self._scanned_at < self._rescan_seconds:
            return
        self._scan()
        if len(self._missing) + len(unknown) > _MAX_MISSING:
            self._missing.clear()
        absent = [cgroup for cgroup in unknown if cgroup not in self._owners]
        self._unknown += len(absent)
        self._missing.update(absent)

    def _scan(self) -> None:
        """Walk the whole tree: add what is new, remember as gone what is no more, watch what is not watched."""
        self._scans += 1
        self._scanned_at = self._now()
        self._watching = self._inotify.open()
        seen = self._add(self._root)
        for directory in [directory for path, directory in self._by_path.items() if path not in seen]:
            self._remove(directory)
        if self._watching != self._said_watching:
            self._said_watching = self._watching
            if self._watching:
                logger.info("cgroups.watch_resumed", cgroups=len(self._by_path))
            else:
                logger.warning("cgroups.watch_refused", cgroups=len(self._by_path), rescan_seconds=self._rescan_seconds)

    def _add(self, path: str) -> set[str]:
        """Take in the cgroup at `path` and those below it; return their paths.

        Each is watched before it is looked at, so that none made in between is missed.
        """
        seen: set[str] = set()
        waiting = [path]
        while waiting:
            path = waiting.pop()
            known = self._by_path.get(path)
            if known is None and len(self._by_path) >= self._max_cgroups:
                self._refused += 1
                continue
            try:
                watch = self._watch(path, known)
                status = os.lstat(path)
                children = directories(path, status)
            except OSError:
                self._vanished += known is None
                continue
            seen.add(path)
            self._keep(path, status.st_ino, watch)
            waiting.extend(children)
        return seen

    def _watch(self, path: str, known: _Directory | None) -> int:
        """The watch on `path`, made where there is none; -1 where there can be none. Raises OSError where `path` is gone."""
        if self._watching:
            try:
                return self._inotify.watch(path)
            except _WatchesUsedUpError:
                self._watching = False
        return known.watch if known is not None else -1

    def _keep(self, path: str, cgroup: int, watch: int) -> None:
        known = self._by_path.get(path)
        if known is not None and (known.id != cgroup or known.watch != watch):
            self._remove(known)
        elif known is not None:
            return
        identity = identify(path[len(self._root) :])
        parent = self._by_path.get(path.rpartition("/")[0])
        if parent is not None and parent.identity == identity:
            identity = parent.identity  # one object for all sub-cgroups of an owner
        directory = _Directory(cgroup, path, identity, watch)
        self._by_path[path] = directory
        if watch >= 0:
            self._by_watch[watch] = directory
        self._owners[cgroup] = identity
        self._gone.pop(cgroup, None)
        self._missing.discard(cgroup)

    def _remove(self, directory: _Directory) -> None:
        """Remember the cgroup as gone. The kernel keeps a watch on a cgroup that is gone, so it is ended here."""
        del self._by_path[directory.path]
        if self._by_watch.get(directory.watch) is directory:
            del self._by_watch[directory.watch]
            self._inotify.unwatch(directory.watch)
        self._gone[directory.id] = self._now()

    def _forget(self) -> None:
        """Forget what has been gone for long, and the longest gone where there are too many."""
        before = self._now() - self._remember_seconds
        while self._gone:
            cgroup, gone_at = next(iter(self._gone.items()))
            if gone_at > before and len(self._gone) <= self._max_remembered:
                return
            del self._gone[cgroup]
            del self._owners[cgroup]


class _WatchesUsedUpError(OSError):
    """The kernel's limit on watches (`fs.inotify.max_user_watches`) is reached."""


class _Inotify:
    """Linux's inotify through the C library: watches on directories, and the names made and removed in them."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(None, use_errno=True)
        self.descriptor = -1

    def open(self) -> bool:
        """Open it where it is not; False where the kernel refuses (`fs.inotify.max_user_instances`)."""
        if self.descriptor < 0:
            self.descriptor = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        return self.descriptor >= 0

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def watch(self, path: str) -> int:
        """Return the watch on a directory, -1 where we may not read it.

        Raises _WatchesUsedUpError where the kernel gives no more, other OSErrors where there is no such directory.
        """
        mask = _IN_CREATE | _IN_DELETE | _IN_ONLYDIR | _IN_DONT_FOLLOW
        watch: int = self._library.inotify_add_watch(self.descriptor, os.fsencode(path), mask)
        if watch < 0 and (error := ctypes.get_errno()) != errno.EACCES:
            kind = _WatchesUsedUpError if error in _REFUSALS else OSError
            raise kind(error, os.strerror(error), path)
        return watch

    def unwatch(self, watch: int) -> None:
        """End a watch; the kernel may have ended it itself."""
        self._library.inotify_rm_watch(self.descriptor, watch)

    def events(self) -> Iterator[tuple[int, int, str]]:
        """Yield watch, mask and name of what has happened, up to a bound; never waits. More may be left: it stays readable."""
        for _ in range(_MAX_READS if self.descriptor >= 0 else 0):
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size + length
                yield watch, mask, os.fsdecode(data[offset - length : offset].rstrip(b"\0"))
