"""Makes an index of what comes, at a bounded rate, in a thread of its own.

An index does not change, so the event loop joins with the last one while the next is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final, TypeVar

import structlog

from services.enricher.following.inbox import Inbox
from services.enricher.following.roster import News
from services.enricher.index.claims import FOREVER
from services.enricher.index.cluster import Cluster
from services.enricher.index.index import Index
from services.enricher.kubernetes.reflector import Scope
from services.enricher.stoppable_thread import StoppableThread

logger = structlog.get_logger()

_T = TypeVar("_T")

_REST_PER_COMPILATION: Final = 3
"""The indexer rests so many times as long as it takes to make an index: a large cluster is indexed less often."""
_IDLE_SECONDS: Final = 1.0


class Indexer(StoppableThread):
    """Owns a cluster: changes it, and compiles it."""

    def __init__(self, cluster: Cluster, *, interval_seconds: float) -> None:
        super().__init__("indexer")
        self._cluster = cluster
        self._interval_seconds = interval_seconds
        self._inbox: Inbox[News | Callable[[], None]] = Inbox()
        self._listed: set[Scope] = set()
        self.complete_since_unix_ns = FOREVER
        """Goes into the next index."""
        self.index: Index | None = None
        self.covered: frozenset[Scope] = frozenset()
        """Scopes that the index holds all objects of."""
        self.compilations = 0
        self.compile_seconds = 0.0

    @property
    def unsettled_since_unix_ns(self) -> int | None:
        """When the first of what no index holds yet was observed; None where the index holds all."""
        return self._inbox.unsettled_since_unix_ns

    def put(self, news: News) -> None:
        """Hand on what is new; wait while there is no room. Once stopped, it is let go."""
        self._inbox.put(news, news.observed_unix_ns)

    def replace(self, cluster: Cluster, listed: Iterable[Scope]) -> None:
        """Go on with another cluster, of which all objects of some scopes are known."""
        scopes = set(listed)

        def exchange() -> None:
            self._cluster, self._listed = cluster, scopes

        self._inbox.put(exchange, time.time_ns())

    def ask(self, question: Callable[[Cluster], _T]) -> Future[_T]:
        """Have the cluster asked when all that was put so far is in it."""
        answer: Future[_T] = Future()

        def run() -> None:
            try:
                answer.set_result(question(self._cluster))
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                answer.set_exception(error)

        self._inbox.put(run, time.time_ns())
        return answer

    def stop(self) -> None:
        """Ask the thread to end; it does so soon."""
        super().stop()
        self._inbox.close()

    def run(self) -> None:
        """Take and compile until told to stop."""
        due, changed = time.monotonic(), False
        while not self._stopping.is_set():
            taken = self._inbox.take(max(0.0, due - time.monotonic()) if changed else _IDLE_SECONDS)
            for item in taken:
                self._apply(item)
            changed = changed or bool(taken)
            if changed and time.monotonic() >= due:
                self._compile()
                changed = False
                due = time.monotonic() + max(self._interval_seconds, self.compile_seconds * _REST_PER_COMPILATION)

    def _apply(self, item: News | Callable[[], None]) -> None:
        if not isinstance(item, News):
            item()
            return
        for key, obj, observed_unix_ns in item.deltas:
            if obj is None:
                self._cluster.remove_key(key, observed_unix_ns=observed_unix_ns)
            else:
                self._cluster.feed(obj, observed_unix_ns=observed_unix_ns)
        if item.listed:
            self._listed.add(item.scope)

    def _compile(self) -> None:
        began = time.monotonic()
        covered = frozenset(self._listed)
        index = self._cluster.compile(complete_since_unix_ns=self.complete_since_unix_ns)
        self.index, self.covered = index, covered
        self._inbox.settle()
        # After the swap: the old index may speak of what is forgotten now.
        self._cluster.expire(time.time_ns())
        self.compilations += 1
        self.compile_seconds = time.monotonic() - began
        if self.compilations == 1:
            logger.info("index.made", targets=len(index), compile_seconds=round(self.compile_seconds, 3))
