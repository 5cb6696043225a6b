"""Where the worker gets the index from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from services.enricher.index.claims import FOREVER
from services.enricher.index.index import Index


@dataclass(frozen=True, slots=True)
class View:
    """An index, and the time up to which it holds all the news. Without an index nobody can be named."""

    index: Index | None
    complete_until_unix_ns: int = FOREVER


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
