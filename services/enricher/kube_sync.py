"""Keeps an index of a live cluster.

Reflectors follow the resources, a thread each; the indexer, one more, feeds what they bring to the cluster, compiles an index
at a bounded rate and puts it in the place of the last one. An index does not change, so the event loop joins with it while the
next is made.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog

from services.enricher.claims import FOREVER, unix_ns
from services.enricher.cluster import Cluster
from services.enricher.index import Index
from services.enricher.index_source import View
from services.enricher.kube_api import KubeApi
from services.enricher.kube_inbox import Inbox
from services.enricher.kube_reflector import Change, Reflector, State, Update
from services.enricher.kube_resources import ADDRESSED, RESOURCES
from services.enricher.object_meta import KubeObject
from services.enricher.settings import KubeSettings
from services.runtime.errors import Stopping, TaskFailedError

logger = structlog.get_logger()

_NS_PER_SECOND: Final = 1_000_000_000
_REST_PER_COMPILATION: Final = 3
"""The indexer rests so many times as long as it takes to make an index: a large cluster is indexed less often."""
_IDLE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 5.0


class KubeSync:
    """The index of a live cluster, as it is now."""

    def __init__(self, api: KubeApi, cluster: Cluster, settings: KubeSettings) -> None:
        self._settings = settings
        self._cluster = cluster
        self._inbox = Inbox()
        self._stopped = threading.Event()
        self._began_unix_ns = time.time_ns()
        namespaces = settings.namespaces
        self.reflectors = [
            Reflector(
                api,
                resource,
                namespace,
                self._inbox.put,
                watch_seconds=settings.watch_seconds,
                longest_wait_seconds=settings.longest_backoff_seconds,
            )
            for resource in RESOURCES
            for namespace in (namespaces if namespaces and resource.namespaced else ("",))
        ]
        self._known: dict[Reflector, dict[str, KubeObject]] = {}
        """Objects by key of each reflector that has listed."""
        self._complete_since_unix_ns = FOREVER
        self._index: Index | None = None
        self._covered: frozenset[Reflector] = frozenset()
        """Reflectors whose first list the index holds."""
        self.compilations = 0
        self.compile_seconds = 0.0
        self._indexer = threading.Thread(target=self._index_until_stopped, name="indexer", daemon=True)

    @property
    def synced(self) -> bool:
        """Whether the index holds a list of every resource that may be read, and of one at least."""
        covered = self._covered
        return bool(covered) and all(each in covered or each.state is State.DENIED for each in self.reflectors)

    @property
    def objects(self) -> int:
        """How many objects are known."""
        return sum(len(known) for known in list(self._known.values()))

    def states(self) -> dict[State, int]:
        """Return how many resources are in each state."""
        states = [each.state for each in self.reflectors]
        return {state: states.count(state) for state in State}

    def total(self, count: str) -> int:
        """Return the sum of a count of all reflectors: `lists`, `faults` or `malformed`."""
        return sum(getattr(each, count) for each in self.reflectors)

    def start(self) -> None:
        """Begin to follow the cluster."""
        self._indexer.start()
        for reflector in self.reflectors:
            reflector.start()

    async def stop(self) -> None:
        """End all threads."""
        self._stopped.set()
        for reflector in self.reflectors:
            reflector.stop()
        self._inbox.close()
        await asyncio.to_thread(self._join)

    async def until_broken(self) -> None:
        """Raise TaskFailedError once a thread has ended that was not told to."""
        while not self._stopped.is_set():
            await asyncio.sleep(_IDLE_SECONDS)
            ended = [thread.name for thread in (self._indexer, *self.reflectors) if not thread.is_alive()]
            if ended and not self._stopped.is_set():
                raise TaskFailedError(f"threads have ended: {', '.join(ended)}")

    async def until_synced(self, stopping: asyncio.Event) -> None:
        """Return once the index is complete, or `wait_seconds` have passed. Raises Stopping."""
        deadline = time.monotonic() + self._settings.wait_seconds
        while not self.synced and time.monotonic() < deadline:
            await _pause(stopping)
        if not self.synced:
            missing = sorted({each.resource.name for each in self.reflectors if each not in self._covered})
            logger.warning("index.incomplete", resources=missing, waited_seconds=self._settings.wait_seconds)

    async def view(self, time_unix_ns: int, stopping: asyncio.Event) -> View:
        """Return an index that holds what there was to know of a time `settle_seconds` after it.

        Where the API server cannot be reached that index may never come: `wait_seconds` after the server was lost, what there
        is is returned, with the time from which on it may be wrong. Raises Stopping.
        """
        now = time.time_ns()
        wanted = min(time_unix_ns, now) + round(self._settings.settle_seconds * _NS_PER_SECOND)
        patience = round(self._settings.wait_seconds * _NS_PER_SECOND)
        while True:
            reached = self._caught_up_unix_ns()
            if self.synced and reached >= wanted:
                return View(self._index, FOREVER)
            lost_since = self._lost_since_unix_ns()
            if time.time_ns() > min(now if lost_since is None else lost_since, now) + patience:
                return View(self._index, reached)
            await _pause(stopping)

    def _lost_since_unix_ns(self) -> int | None:
        if not self.synced:
            return self._began_unix_ns
        # Listed, for a reflector may be followed again between two looks.
        times = [each.failing_since_unix_ns for each in self.reflectors if each.lists or each.state is not State.DENIED]
        return min((each for each in times if each is not None), default=None)

    def _caught_up_unix_ns(self) -> int:
        """The time up to which the index holds all the news."""
        bounds = (time.time_ns(), self._inbox.unsettled_since_unix_ns, self._lost_since_unix_ns())
        return min(bound for bound in bounds if bound is not None)

    def _index_until_stopped(self) -> None:
        due, changed = time.monotonic(), False
        while not self._stopped.is_set():
            updates = self._inbox.take(max(0.0, due - time.monotonic()) if changed else _IDLE_SECONDS)
            for update in updates:
                self._apply(update)
            changed = changed or bool(updates)
            if changed and time.monotonic() >= due:
                took = self._compile()
                changed = False
                due = time.monotonic() + max(self._settings.index_interval_seconds, took * _REST_PER_COMPILATION)

    def _apply(self, update: Update) -> None:
        known = self._known.setdefault(update.reflector, {})
        missing = known.keys() - {change.obj.key for change in update.changes} if update.whole else ()
        self._feed(update.changes, known, update.observed_unix_ns)
        # Last: how long before the list these ended is not known, and who followed says when he began.
        for key in missing:
            self._cluster.remove(known.pop(key), observed_unix_ns=update.observed_unix_ns)

    def _feed(self, changes: Iterable[Change], known: dict[str, KubeObject], observed_unix_ns: int) -> None:
        for obj, deleted in changes:
            if deleted:
                self._cluster.remove(known.pop(obj.key, obj), observed_unix_ns=observed_unix_ns)
                continue
            # One that is new here may be old: it was there before the first list, or came while nobody could see it.
            since = 0 if obj.key in known else unix_ns(obj.metadata.creation_timestamp)
            known[obj.key] = obj
            self._cluster.feed(obj, observed_unix_ns=min(since or observed_unix_ns, observed_unix_ns))

    def _compile(self) -> float:
        """Make an index of all that was taken; return how long it took."""
        began = time.monotonic()
        covered = frozenset(self._known)
        if self._complete_since_unix_ns == FOREVER and self._all_addresses(covered):
            self._complete_since_unix_ns = time.time_ns()
        index = self._cluster.compile(complete_since_unix_ns=self._complete_since_unix_ns)
        first = not self.synced
        self._index, self._covered = index, covered
        self._inbox.settle()
        # After the swap: the old index may speak of what is forgotten now.
        self._cluster.expire(time.time_ns())
        self.compilations += 1
        self.compile_seconds = time.monotonic() - began
        if first and self.synced:
            logger.info("index.synced", objects=self.objects, compile_seconds=round(self.compile_seconds, 3))
        return self.compile_seconds

    def _all_addresses(self, covered: frozenset[Reflector]) -> bool:
        return {each.resource.name for each in covered if not each.namespace} >= ADDRESSED

    def _join(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in (self._indexer, *self.reflectors):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))


async def _pause(stopping: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_SECONDS):
            await stopping.wait()
        raise Stopping("told to stop before the index was there")
