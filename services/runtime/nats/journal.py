"""A log with one writer at a time, in a JetStream stream: its writers fence each other off by where it ends.

Whoever appends says after which message, and the server stores it only if that one is still the last. Of two that both believe
to be the writer one fails, at once and without any clock. A reader reads by sequence, as often as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from nats.nuid import NUID

from services.runtime.errors import ApiError, JournalMovedError, PublishRefusedError
from services.runtime.nats.connection import Connection, Message, Subscription
from services.runtime.nats.jetstream import STREAM_NOT_FOUND, JetStream
from services.runtime.nats.publishing import Publisher

logger = structlog.get_logger()

_T = TypeVar("_T")

_WRONG_LAST_SEQUENCE: Final = frozenset({10070, 10071, 10164})
_EXPECTED_LAST: Final = "Nats-Expected-Last-Sequence"
_ROLLUP: Final = "Nats-Rollup"
_MOST_AHEAD: Final = 16
_RETRY_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A message of the journal. Sequences grow, with gaps."""

    sequence: int
    subject: str
    data: bytes


class Journal:
    """Appends to and reads a stream. Made by `Bus.journal`."""

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        publisher: Publisher,
        *,
        stream: str,
        bell: str,
        on_no_stream: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_no_stream` is awaited where there is no such stream (any more): it may make it again."""
        self._connection = connection
        self._jetstream = jetstream
        self._publisher = publisher
        self._stream = stream
        self._bell = bell
        self._on_no_stream = on_no_stream
        self._missing = False
        self._subscription: Subscription | None = None
        self._written = asyncio.Event()

    @property
    def generation(self) -> int:
        """How many connections to the bus there have been."""
        return self._connection.generation

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and payload that the server takes in one message."""
        return self._connection.max_payload

    async def append(self, subject: str, payload: bytes, *, after: int, only: bool = False) -> int:
        """Store a message behind the one with sequence `after`, 0 for none, and return its sequence.

        With `only` the subject keeps no other message. While the bus does not answer this waits and asks again. Raises
        JournalMovedError where the journal ends elsewhere, StreamFullError, PublishRefusedError.
        """
        headers = {_EXPECTED_LAST: str(after)} | ({_ROLLUP: "sub"} if only else {})
        message_id = f"journal/{NUID().next().decode()}"
        try:
            return await self._publisher.publish(subject, payload, message_id=message_id, headers=headers, keep=False)
        except PublishRefusedError as error:
            if error.code not in _WRONG_LAST_SEQUENCE:
                raise
            raise JournalMovedError(str(error)) from error

    async def entries(self, after: int) -> AsyncIterator[JournalEntry]:
        """Yield the messages behind sequence `after` to the journal's end, in order."""
        ahead = 1
        while True:
            wanted = range(after + 1, after + 1 + ahead)
            found = await asyncio.gather(*(self._message(sequence) for sequence in wanted))
            for message in found:
                # What was found behind a place where nothing was is not taken: more may have come between the two answers.
                if message is None:
                    return
                entry = JournalEntry(*message)
                if entry.sequence > after:
                    after = entry.sequence
                    yield entry
            ahead = min(2 * ahead, _MOST_AHEAD)

    async def last_sequence(self) -> int:
        """Return the sequence of the last message that was ever appended, 0 for none."""
        return (await self._answered(lambda: self._jetstream.stream_state(self._stream))).last_sequence

    async def wait(self, seconds: float) -> None:
        """Return once something may have been appended since the last call, or after so long."""
        if self._subscription is None:
            self._subscription = await self._connection.subscribe(self._bell, self._noted)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._written.wait()
        self._written.clear()

    async def trim(self, before: int) -> None:
        """Delete the messages before a sequence."""
        await self._answered(lambda: self._jetstream.purge(self._stream, before=before))

    async def aclose(self) -> None:
        """Stop listening for what is appended."""
        if self._subscription is not None:
            await self._subscription.close()

    async def _message(self, sequence: int) -> tuple[int, str, bytes] | None:
        return await self._answered(lambda: self._jetstream.leaders_message(self._stream, sequence))

    async def _answered(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Return the answer; while somebody has deleted the stream, wait until it is made again."""
        while True:
            try:
                answer = await ask()
            except ApiError as error:
                if error.code != STREAM_NOT_FOUND:
                    raise
            else:
                self._missing = False
                return answer
            if not self._missing:
                self._missing = True
                logger.warning("journal.no_stream", stream=self._stream)
            await self._on_no_stream()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _noted(self, message: Message) -> None:
        del message
        self._written.set()
