"""Where the worker gets the index from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from services.enricher.index.claims import FOREVER
from services.enricher.index.cluster import Cluster
from services.enricher.index.index import Index
from services.enricher.kubernetes.selection import Selection
from services.enricher.kubernetes.snapshot import read_snapshot

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class View:
    """An index, and the time up to which it holds all the news. Without an index nobody can be named."""

    index: Index | None
    complete_until_unix_ns: int = FOREVER


def index_of_snapshot(path: Path, cluster: Cluster, selection: Selection) -> Index:
    """Return the index of what a file says of a cluster. Raises SnapshotError."""
    snapshot = read_snapshot(path, selection)
    for obj in snapshot.objects:
        cluster.feed(obj)
    logger.info("index.loaded", path=str(path), objects=len(snapshot.objects), skipped=dict(snapshot.skipped))
    missing = snapshot.missing_kinds
    if missing:
        logger.warning("index.incomplete", kinds=missing, hint="an address that nobody holds may be theirs: unresolved")
    return cluster.compile(complete_since_unix_ns=FOREVER if missing else 0)


class IndexSource(Protocol):
    """Gives the index as it has to be to speak of a time."""

    async def view(self, time_unix_ns: int, stopping: asyncio.Event) -> View:
        """Return the index for records that start at `time_unix_ns` or before. Raises Stopping while it is waited for."""


class FixedIndex:
    """An index that stands for all times, or none at all."""

    def __init__(self, index: Index | None) -> None:
        self._view = View(index)

    async def view(self, time_unix_ns: int, stopping: asyncio.Event) -> View:
        """Return it."""
        del time_unix_ns, stopping
        return self._view
