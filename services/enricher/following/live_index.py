"""The index of a live cluster as the worker asks for it: waits, within bounds, for the news that a record needs."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from services.enricher.following.indexer import Indexer
from services.enricher.index.claims import FOREVER
from services.enricher.index.source import View
from services.enricher.kubernetes.reflector import State
from services.enricher.settings import KubeSettings
from services.runtime.errors import Stopping
from services.runtime.nats.bus import Bus

logger = structlog.get_logger()

_NS_PER_SECOND: Final = 1_000_000_000
_LOOK_SECONDS: Final = 0.05


class LiveIndex(ABC):
    """An index that follows a cluster. Who tells it, the API server or other enrichers, is its subclasses' matter."""

    def __init__(self, indexer: Indexer, settings: KubeSettings) -> None:
        self._indexer = indexer
        self._settings = settings
        self._said_synced = False

    @property
    def compile_seconds(self) -> float:
        """How long the last index took to make."""
        return self._indexer.compile_seconds

    @property
    @abstractmethod
    def objects(self) -> int:
        """How many objects are known."""

    @abstractmethod
    def missing(self) -> Sequence[str]:
        """Return the resources that may be read and that the index does not hold all of; all where none may be read."""

    @abstractmethod
    def lost_since_unix_ns(self) -> int | None:
        """Return since when a resource cannot be followed, None where all can."""

    @abstractmethod
    def behind_since_unix_ns(self) -> int | None:
        """Return from when on there may be news that has not come yet, None where there is none. It may yet come, and soon."""

    @abstractmethod
    def states(self) -> dict[State, int]:
        """Return how many resources are in each state."""

    @abstractmethod
    def total(self, count: str) -> int:
        """Return how many `lists` this process took, or `faults` it met, or objects it found `malformed` or `oversized`."""

    @abstractmethod
    def start(self, bus: Bus) -> None:
        """Begin to follow the cluster."""

    @abstractmethod
    async def stop(self) -> None:
        """End all threads and tasks."""

    @abstractmethod
    async def until_broken(self) -> None:
        """Raise an error once a thread or task has ended that was not told to."""

    @property
    def behind_seconds(self) -> float:
        """How long ago the last moment was of which the index holds all the news."""
        return max(0.0, (time.time_ns() - self._caught_up_unix_ns()) / _NS_PER_SECOND)

    @property
    def synced(self) -> bool:
        """Whether the index holds all objects of every resource that may be read, and of one at least."""
        return not self.missing()

    def note_synced(self) -> None:
        """Say once that the index is complete, when it is."""
        if self.synced and not self._said_synced:
            self._said_synced = True
            logger.info("index.synced", objects=self.objects, compile_seconds=round(self.compile_seconds, 3))

    async def until_synced(self, stopping: asyncio.Event) -> None:
        """Return once the index is complete, or `wait_seconds` have passed. Raises Stopping."""
        deadline = time.monotonic() + self._settings.wait_seconds
        while not self.synced and time.monotonic() < deadline:
            await _pause(stopping)
        self.note_synced()
        if not self.synced:
            logger.warning("index.incomplete", resources=self.missing(), waited_seconds=self._settings.wait_seconds)

    async def view(self, time_unix_ns: int, stopping: asyncio.Event) -> View:
        """Return an index that holds what there was to know of a time `settle_seconds` after it.

        Where the news stays away that index may never come: `wait_seconds` after it was lost, what there is is returned, with
        the time from which on it may be wrong. Raises Stopping.
        """
        now = time.time_ns()
        wanted = min(time_unix_ns, now) + round(self._settings.settle_seconds * _NS_PER_SECOND)
        patience = round(self._settings.wait_seconds * _NS_PER_SECOND)
        while True:
            lost_since = self.lost_since_unix_ns()
            reached = self._caught_up_unix_ns()
            if self.synced and reached >= wanted:
                return View(self._indexer.index, FOREVER)
            if time.time_ns() > min(now if lost_since is None else lost_since, now) + patience:
                return View(self._indexer.index, reached)
            await _pause(stopping)

    def _caught_up_unix_ns(self) -> int:
        """The time up to which the index holds all the news."""
        bounds = (time.time_ns(), self._indexer.unsettled_since_unix_ns, self.behind_since_unix_ns())
        return min(bound for bound in bounds if bound is not None)


async def _pause(stopping: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_SECONDS):
            await stopping.wait()
        raise Stopping("told to stop before the index was there")
