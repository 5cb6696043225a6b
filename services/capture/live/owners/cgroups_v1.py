"""Pods that have control groups of version 1 alone, where both versions are mounted.

A socket has a control group of version 2. A kubelet that manages those of version 1 by itself (its driver `cgroupfs`) leaves
its pods in one of version 2 that is somebody else's, the container runtime's as a rule, and what they do is told as that one's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import structlog

from services.runtime.host.cgroup2 import MOUNTS
from services.runtime.host.pods import VERSION_2_FIX, hierarchies_of_version_1, pods_of

logger = structlog.get_logger()

_SECOND_LOOK_SECONDS: Final = 2.0


class PodsOfVersion1:
    """Counts them, now and then, and says so when there are some."""

    def __init__(
        self,
        root: Path,
        *,
        mounts: Path = MOUNTS,
        interval_seconds: float = 60.0,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`root` is version 2's; the hierarchies of version 1 beside it are looked at."""
        self._hierarchies = hierarchies_of_version_1(root, mounts)
        self._interval_seconds = interval_seconds
        self._now = monotonic_seconds
        self._looked_at = -interval_seconds
        self._wait_seconds = min(interval_seconds, _SECOND_LOOK_SECONDS)
        self._has_looked = False
        self._suspected: frozenset[str] = frozenset()
        self.unidentified = 0
        """Pods whose connections are told as somebody else's."""

    def look(self, known: Callable[[], AbstractSet[str]]) -> None:
        """Count anew, where it is time to. `known` gives the uids of pods that have a control group of version 2.

        A pod that is being made has its groups one after another, so only what two looks find counts; the second is soon after
        the first, so that a node whose pods cannot be told is said to be one when capture starts.
        """
        if not self._hierarchies or self._now() - self._looked_at < self._wait_seconds:
            return
        self._looked_at = self._now()
        self._wait_seconds = _SECOND_LOOK_SECONDS if not self._has_looked else self._interval_seconds
        self._has_looked = True
        missing = pods_of(self._hierarchies) - known()
        unidentified, before = len(missing & self._suspected), self.unidentified
        self._suspected, self.unidentified = missing, unidentified
        if unidentified and not before:
            logger.warning(
                "cgroups.pods_of_version_1",
                pods=unidentified,
                example=min(missing),
                hint=f"their connections have no pod; {VERSION_2_FIX}",
            )
        elif before and not unidentified:
            logger.info("cgroups.pods_identified")
