"""Pods that have control groups of version 1 alone, where both versions are mounted.

A socket has a control group of version 2. A kubelet that manages those of version 1 by itself (its driver `cgroupfs`) leaves
its pods in one of version 2 that is somebody else's, the container runtime's as a rule, and what they do is told as that one's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import structlog

from services.capture.live.cgroups import directories, mounts_of
from services.capture.live.identity import identify

logger = structlog.get_logger()

_MOST_DIRECTORIES: Final = 65_536


class PodsOfVersion1:
    """Counts them, now and then, and says so when there are some."""

    def __init__(
        self,
        root: Path,
        *,
        mounts: Path = Path("/proc/mounts"),
        interval_seconds: float = 60.0,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`root` is version 2's; the hierarchies of version 1 beside it are looked at."""
        self._hierarchies = [path for path in mounts_of("cgroup", mounts) if path.parent == root.parent]
        self._interval_seconds = interval_seconds
        self._now = monotonic_seconds
        self._looked_at = -interval_seconds
        self._suspected: frozenset[str] = frozenset()
        self.unidentified = 0
        """Pods whose connections are told as somebody else's."""

    def look(self, known: Callable[[], AbstractSet[str]]) -> None:
        """Count anew, where it is time to. `known` gives the uids of pods that have a control group of version 2.

        A pod that is being made has its groups one after another, so only what two looks find counts.
        """
        if not self._hierarchies or self._now() - self._looked_at < self._interval_seconds:
            return
        self._looked_at = self._now()
        missing = self._pods() - known()
        unidentified, before = len(missing & self._suspected), self.unidentified
        self._suspected, self.unidentified = missing, unidentified
        if unidentified and not before:
            logger.warning(
                "cgroups.pods_of_version_1",
                pods=unidentified,
                example=min(missing),
                hint="their connections have no pod; use the kubelet's systemd cgroup driver, or boot with cgroup v2 alone",
            )
        elif before and not unidentified:
            logger.info("cgroups.pods_identified")

    def _pods(self) -> frozenset[str]:
        """Uids of the pods of the hierarchy that has the most."""
        return max((frozenset(_pods_below(path)) for path in self._hierarchies), key=len)


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
