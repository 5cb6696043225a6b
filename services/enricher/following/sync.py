"""Follows a cluster's API server: reflectors, a thread each, tell the indexer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Final

from services.enricher.following.indexer import Indexer
from services.enricher.following.live_index import LiveIndex
from services.enricher.following.roster import Roster
from services.enricher.index.cluster import Cluster
from services.enricher.kubernetes.api import KubeApi
from services.enricher.kubernetes.identity import ClusterIdentity
from services.enricher.kubernetes.reflector import Reflector, State, Update
from services.enricher.kubernetes.resources import followed
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import KubeSettings
from services.runtime.errors import TaskFailedError
from services.runtime.nats.bus import Bus

_IDLE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0


class KubeSync(LiveIndex):
    """The index of a live cluster whose API server this process follows itself."""

    def __init__(self, api: KubeApi, cluster: Cluster, settings: KubeSettings) -> None:
        super().__init__(Indexer(cluster, interval_seconds=settings.index_interval_seconds), settings)
        self._roster = Roster()
        self._delivering = threading.Lock()
        self._began_unix_ns = time.time_ns()
        selection, identity = Selection(settings), ClusterIdentity(api)
        self.reflectors = [
            Reflector(
                api,
                resource,
                namespace,
                self._deliver,
                selection=selection,
                watch_seconds=settings.watch_seconds,
                longest_wait_seconds=settings.longest_backoff_seconds,
                identity=identity,
            )
            for resource, namespace in followed(settings)
        ]
        self._stopped = False

    @property
    def objects(self) -> int:
        """How many objects are known."""
        return len(self._roster)

    def missing(self) -> Sequence[str]:
        """Return the resources that may be read and that the index does not hold all of; all where none may be read."""
        covered = self._indexer.covered
        if not covered:
            return sorted({each.resource.name for each in self.reflectors})
        return sorted(
            {each.resource.name for each in self.reflectors if each.scope not in covered and each.state is not State.DENIED}
        )

    def lost_since_unix_ns(self) -> int | None:
        """Return since when a resource cannot be followed, None where all can."""
        if not self.synced:
            return self._began_unix_ns
        # Listed, for a reflector may be followed again between two looks.
        times = [each.failing_since_unix_ns for each in self.reflectors if each.lists or each.state is not State.DENIED]
        return min((each for each in times if each is not None), default=None)

    def behind_since_unix_ns(self) -> int | None:
        """Return from when on there may be news that has not come yet, None where there is none."""
        if not self.synced:
            return self._began_unix_ns
        times = [each.behind_since_unix_ns for each in self.reflectors if each.lists or each.state is not State.DENIED]
        return min((each for each in times if each is not None), default=None)

    def states(self) -> dict[State, int]:
        """Return how many resources are in each state."""
        states = [each.state for each in self.reflectors]
        return {state: states.count(state) for state in State}

    def total(self, count: str) -> int:
        """Return the sum of a count of all reflectors: `lists`, `faults` or `malformed`."""
        return sum(getattr(each, count, 0) for each in self.reflectors)

    def start(self, bus: Bus | None = None) -> None:
        """Begin to follow the cluster; nothing of it goes over the bus."""
        del bus
        self._indexer.start()
        for reflector in self.reflectors:
            reflector.start()

    async def stop(self) -> None:
        """End all threads."""
        self._stopped = True
        self._indexer.stop()
        await end_reflectors(self.reflectors)
        if self._indexer.ident is not None:
            await asyncio.to_thread(self._indexer.join, _STOP_SECONDS)

    async def until_broken(self) -> None:
        """Raise TaskFailedError once a thread has ended that was not told to."""
        while not self._stopped:
            await asyncio.sleep(_IDLE_SECONDS)
            self.note_synced()
            if ended := [thread.name for thread in (self._indexer, *self.reflectors) if thread.broken]:
                raise TaskFailedError(f"threads have ended: {', '.join(ended)}")

    def _deliver(self, update: Update) -> None:
        """Take an update; called by the reflectors' threads."""
        with self._delivering:
            news = self._roster.news(update)
            self._roster.take(news)
            self._indexer.complete_since_unix_ns = self._roster.complete_since_unix_ns
            if news.deltas or news.listed:
                self._indexer.put(news)


async def end_reflectors(reflectors: Sequence[Reflector]) -> None:
    """Stop reflectors and wait for their threads, for a few seconds at the most."""
    for reflector in reflectors:
        reflector.stop()
    deadline = time.monotonic() + _STOP_SECONDS
    for reflector in reflectors:
        if reflector.ident is not None:
            await asyncio.to_thread(reflector.join, max(0.0, deadline - time.monotonic()))
