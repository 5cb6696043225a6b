"""What reflectors have to say, until the indexer takes it. Bounded: who comes to a full one waits, and his stream with him."""

from __future__ import annotations

import threading
from typing import Final

from services.enricher.kube_reflector import Update

_MOST_UPDATES: Final = 256


class Inbox:
    """Updates in the order in which they came. May be used by many threads."""

    def __init__(self) -> None:
        self._updates: list[Update] = []
        self._changed = threading.Condition()
        self._closed = False
        self.unsettled_since_unix_ns: int | None = None
        """When the first update was observed that no index holds yet; None where the index holds all."""

    def put(self, update: Update) -> None:
        """Hand on an update; wait while there is no room. Once closed, it is let go."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._updates) < _MOST_UPDATES)
            if self.unsettled_since_unix_ns is None:
                self.unsettled_since_unix_ns = update.observed_unix_ns
            self._updates.append(update)
            self._changed.notify_all()

    def take(self, wait_seconds: float) -> list[Update]:
        """Return all that has come, after `wait_seconds` at the most; nothing where nothing has."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._updates, wait_seconds)
            updates, self._updates = self._updates, []
            self._changed.notify_all()
            return updates

    def settle(self) -> None:
        """Note that an index holds all that was taken so far."""
        with self._changed:
            self.unsettled_since_unix_ns = self._updates[0].observed_unix_ns if self._updates else None

    def close(self) -> None:
        """Let everybody who waits go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
