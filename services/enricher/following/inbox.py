"""What threads have to say, until it is taken. Bounded: who comes to a full inbox waits, and his stream with him."""

from __future__ import annotations

import threading
from typing import Final, Generic, TypeVar

_MOST_ITEMS: Final = 256

_Item = TypeVar("_Item")


class Inbox(Generic[_Item]):
    """Items in the order in which they came, each with the time at which it was observed. May be used by many threads."""

    def __init__(self) -> None:
        self._items: list[tuple[_Item, int]] = []
        self._waiting: list[int] = []
        """When the items of those were observed who wait for room."""
        self._changed = threading.Condition()
        self._closed = False
        self.unsettled_since_unix_ns: int | None = None
        """When the first item was observed that is not settled yet; None where all are."""

    def put(self, item: _Item, observed_unix_ns: int) -> None:
        """Hand on an item; wait while there is no room. Once closed, it is let go."""
        with self._changed:
            if self.unsettled_since_unix_ns is None:
                self.unsettled_since_unix_ns = observed_unix_ns
            self._waiting.append(observed_unix_ns)
            self._changed.wait_for(lambda: self._closed or len(self._items) < _MOST_ITEMS)
            self._waiting.remove(observed_unix_ns)
            self._items.append((item, observed_unix_ns))
            self._changed.notify_all()

    def take(self, wait_seconds: float) -> list[_Item]:
        """Return all that has come, after `wait_seconds` at the most; nothing where nothing has."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items, wait_seconds)
            items, self._items = self._items, []
            self._changed.notify_all()
            return [item for item, _ in items]

    def settle(self) -> None:
        """Note that all that was taken so far has been dealt with."""
        with self._changed:
            unsettled = [*self._waiting, *(observed for _, observed in self._items[:1])]
            self.unsettled_since_unix_ns = min(unsettled, default=None)

    def close(self) -> None:
        """Let everybody who waits go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
