"""What a server has acknowledged and may not have on its disk yet.

JetStream acknowledges a message when it has written it, and syncs its files later (`sync_interval`): a machine that loses power
forgets what its server acknowledged last. Whoever published it still has it, and publishes it again to the next server.
Message ids are derived from what is in the message, so one that was not lost is a duplicate.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
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
    """The latest messages of all streams, bounded in bytes all together: beyond that the oldest is given up, and counted."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._messages: defaultdict[str, deque[Acknowledged]] = defaultdict(deque)
        self._ids: Counter[str] = Counter()
        self._told: dict[str, list[Callable[[], None]]] = {}
        self._kept_bytes = self._taken_bytes = 0
        self.given_up = 0
        """Messages that were young enough to be kept, and did not fit."""

    @property
    def bytes(self) -> int:
        """Of the payloads that are kept, or taken and not done."""
        return self._kept_bytes + self._taken_bytes

    def add(self, stream: str, message: Acknowledged) -> None:
        """Keep one more."""
        self._messages[stream].append(message)
        self._ids[message.message_id] += 1
        self._kept_bytes += len(message.payload)
        while self._kept_bytes > self._most_bytes:
            self._drop(min(filter(None, self._messages.values()), key=lambda messages: messages[0].at))
            self.given_up += 1

    def forget(self, stream: str, before: float) -> None:
        """Give up what the stream acknowledged before then: it is on the disk."""
        messages = self._messages[stream]
        while messages and messages[0].at < before:
            self._drop(messages)

    def take(self, stream: str) -> deque[Acknowledged]:
        """Return all that is kept of the stream, oldest first, and keep it no longer. Each is to be `done`.

        It is the first that may be lost: what is added meanwhile does not drive it out.
        """
        taken = self._messages.pop(stream, deque())
        size = sum(len(message.payload) for message in taken)
        self._kept_bytes -= size
        self._taken_bytes += size
        return taken

    def done(self, message: Acknowledged) -> None:
        """What was taken is stored again, and kept anew, or never will be."""
        self._taken_bytes -= len(message.payload)
        self._hold_no_longer(message)

    @property
    def message_ids(self) -> list[str]:
        """Of the messages that are held."""
        return list(self._ids)

    def holds(self, message_id: str) -> bool:
        """Whether the message may be in no server's disk yet: it is kept, or taken and not done."""
        return message_id in self._ids

    @property
    def awaited(self) -> bool:
        """Whether anybody is to be told of a message."""
        return bool(self._told)

    def tell(self, message_id: str, told: Callable[[], None]) -> None:
        """Call `told` once the message, which is held, is held no longer."""
        self._told.setdefault(message_id, []).append(told)

    def _drop(self, messages: deque[Acknowledged]) -> None:
        message = messages.popleft()
        self._kept_bytes -= len(message.payload)
        self._hold_no_longer(message)

    def _hold_no_longer(self, message: Acknowledged) -> None:
        self._ids[message.message_id] -= 1
        if not self._ids[message.message_id]:
            del self._ids[message.message_id]
            for told in self._told.pop(message.message_id, ()):
                told()
