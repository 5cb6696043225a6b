"""Messages that are seen without being consumed: as they are published, or where a stream holds them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from services.runtime.nats.connection import Connection, Message, Subscription
from services.runtime.nats.jetstream import server_time

_OWN_HEADERS: Final = frozenset({"Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Stream", "Nats-Num-Pending"})


@dataclass(frozen=True, slots=True)
class WatchedMessage:
    """A message seen without consuming it."""

    subject: str
    data: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredMessage(WatchedMessage):
    """A message of a stream, and where it stands in it."""

    sequence: int
    stored: datetime
    """When the server stored it, on the server's clock; UTC, cut to microseconds."""


class Watch:
    """An asynchronous iterator over messages as they are published. Where nobody reads in time, the oldest are dropped."""

    def __init__(self, connection: Connection, subjects: Sequence[str], limit: int) -> None:
        self._connection = connection
        self._subjects = subjects
        self._messages: deque[WatchedMessage] = deque(maxlen=limit)
        self._arrived = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._closed = False
        self.dropped = 0
        """Messages that were dropped because nobody read them in time."""

    async def start(self) -> None:
        """Begin to listen; reading does that too, for what comes after it."""
        for subject in self._subjects[len(self._subscriptions) :]:
            self._subscriptions.append(await self._connection.subscribe(subject, self._received))

    async def aclose(self) -> None:
        """Stop listening. What has arrived can still be read."""
        self._closed = True
        for subscription in self._subscriptions:
            await subscription.close()
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchedMessage:
        await self.start()
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.popleft()

    async def _received(self, message: Message) -> None:
        self.dropped += len(self._messages) == self._messages.maxlen
        self._messages.append(WatchedMessage(message.subject, message.data, message.headers))
        self._arrived.set()


def stored_message(message: Message) -> StoredMessage:
    """Return what JetStream gives of a message by its place in a stream."""
    headers = {name: value for name, value in message.headers.items() if name not in _OWN_HEADERS}
    return StoredMessage(
        message.headers["Nats-Subject"],
        message.data,
        headers,
        int(message.headers["Nats-Sequence"]),
        server_time(message.headers["Nats-Time-Stamp"]),
    )
