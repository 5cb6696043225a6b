"""What a server has acknowledged and may not have on its disk yet.

JetStream acknowledges a message when it has written it, and syncs its files later (`sync_interval`): a machine that loses power
forgets what its server acknowledged last. Whoever published it still has it, and publishes it again to the next server.
Message ids are derived from what is in the message, so one that was not lost is a duplicate.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple


class Acknowledged(NamedTuple):
    """A message that a server has acknowledged."""

    at: float
    """When, by the event loop's clock."""
    subject: str
    payload: bytes
    message_id: str
    headers: Mapping[str, str] | None


class Unsynced:
    """The latest acknowledged messages, bounded in bytes: beyond them the oldest is given up, and counted."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._messages: deque[Acknowledged] = deque()
        self._ids: Counter[str] = Counter()
        self.bytes = 0
        """Of the payloads that are kept."""
        self.given_up = 0
        """Messages that were young enough to be kept, and did not fit."""

    def add(self, message: Acknowledged) -> None:
        """Keep one more."""
        self._messages.append(message)
        self._ids[message.message_id] += 1
        self.bytes += len(message.payload)
        while self.bytes > self._most_bytes:
            self._drop()
            self.given_up += 1

    def forget(self, before: float) -> None:
        """Give up what was acknowledged before then: it is on the disk."""
        while self._messages and self._messages[0].at < before:
            self._drop()

    def take(self) -> list[Acknowledged]:
        """Return all that is kept, oldest first, and keep it no longer. Each is to be `done`."""
        taken = list(self._messages)
        self._messages.clear()
        self.bytes = 0
        return taken

    def done(self, message: Acknowledged) -> None:
        """What was taken is stored again, and kept anew, or never will be."""
        self._ids[message.message_id] -= 1
        if not self._ids[message.message_id]:
            del self._ids[message.message_id]

    def holds(self, message_id: str) -> bool:
        """Whether the message may be in no server's disk yet: it is kept, or taken and not done."""
        return message_id in self._ids

    def _drop(self) -> None:
        message = self._messages.popleft()
        self.bytes -= len(message.payload)
        self.done(message)
