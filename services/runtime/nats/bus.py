"""The bus: NATS JetStream as Wirespan uses it. With its neighbours in this package the only user of nats-py.

What is published is stored once or refused aloud; what is consumed is acknowledged when the next stage has it. All of it
outlives lost connections and restarted servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from proto import subjects
from services.runtime.errors import (
    ApiError,
    BusError,
    JournalMovedError,
    MessageTooLargeError,
    PermissionDeniedError,
    PublishRefusedError,
    StreamConfigError,
    StreamFullError,
)
from services.runtime.nats.connection import Connection
from services.runtime.nats.consuming import Consumption, Delivery, StreamConsumption
from services.runtime.nats.jetstream import ConsumerState, JetStream, StreamState
from services.runtime.nats.journal import Journal, JournalEntry
from services.runtime.nats.permissions import asks_of_any_stream, may_publish
from services.runtime.nats.publishing import Publisher
from services.runtime.nats.streams import KeptStreams
from services.runtime.nats.watching import StoredMessage, Watch, WatchedMessage, stored_message
from services.runtime.settings import NatsSettings, StreamSettings

__all__ = [
    "Bus",
    "BusError",
    "ConsumerState",
    "Consumption",
    "Delivery",
    "Journal",
    "JournalEntry",
    "JournalMovedError",
    "MessageTooLargeError",
    "PublishRefusedError",
    "StoredMessage",
    "StreamConfigError",
    "StreamFullError",
    "StreamState",
    "Watch",
    "WatchedMessage",
    "connect",
]

_DETAIL_CHARACTERS: Final = 500
_CUT_CHARACTERS: Final = 64
"""What is added to the detail of a dead letter that is cut."""
_WATCH_MESSAGES: Final = 1000


class Bus:
    """One process's use of the bus. Made by `connect`."""

    def __init__(self, settings: NatsSettings, *, name: str) -> None:
        self._connection = Connection(settings, name=name)
        self._jetstream = JetStream(self._connection, domain=settings.jetstream_domain)
        self._streams = KeptStreams(self._connection, self._jetstream)
        self._publisher = Publisher(self._connection, settings, on_no_stream=self._streams.restore)
        self._consumptions: list[Consumption] = []
        self._watches: list[Watch] = []
        self._journals: list[Journal] = []

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the server now."""
        return self._connection.connected

    @property
    def trouble(self) -> str:
        """Why there is no connection, as far as it is known; empty while there is one."""
        return self._connection.trouble

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and payload that the server takes in one message."""
        return self._connection.max_payload

    @property
    def resent(self) -> int:
        """Messages sent again because the bus had not answered."""
        return self._publisher.resent

    @property
    def duplicates(self) -> int:
        """Messages published here that the stream had stored before, under the same id."""
        return self._publisher.duplicates

    @property
    def unsynced_given_up(self) -> int:
        """Messages published here that a loss of the server's power might take: there was no room to keep them."""
        return self._publisher.given_up

    @property
    def unsynced_bytes(self) -> int:
        """What is kept here of messages that the server may not have on its disk yet."""
        return self._publisher.unsynced_bytes

    @property
    def unconfirmed_acks(self) -> int:
        """Acknowledgements that the server has not confirmed in time."""
        return sum(consumption.unconfirmed_acks for consumption in self._consumptions)

    async def wait_connected(self) -> None:
        """Return once there is a connection."""
        await self._connection.wait_connected()

    async def hear(self) -> None:
        """Say something to the server now and have it answer, where there is a connection."""
        await self._connection.hear()

    async def ensure_streams(self, settings: StreamSettings | None = None, *, cache: bool = False) -> None:
        """Make the streams of flows, with `cache` that of the Kubernetes cache too, or change them to what the settings say.

        Any number of services may do this at once. A user who may not make streams leaves that to the others; so it does with
        the one to look back at, which nothing depends on, wherever that cannot be. Raises StreamConfigError where another
        existing stream cannot be changed.
        """
        await self._streams.ensure(settings, cache=cache)

    def expect_streams(self, settings: StreamSettings | None = None) -> None:
        """Count on somebody else to make the streams; make them where one turns out to be missing, if this user may.

        For users who may do nothing but publish or consume: the server writes down whatever they ask for and may not.
        """
        self._streams.expect(settings)

    def journal(self, stream: str, bell: str) -> Journal:
        """Return the stream as a log with one writer at a time. It republishes what it stores to the subjects `bell`."""
        journal = Journal(
            self._connection, self._jetstream, self._publisher, stream=stream, bell=bell, on_no_stream=self._streams.restore
        )
        self._journals.append(journal)
        return journal

    async def publish(self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None) -> int:
        """Return the message's sequence once the stream has stored it, or says that it has stored this id before.

        While the bus does not answer the message is sent again under the same id, without end. Any number may be awaited at
        once. Raises StreamFullError, or PublishRefusedError for what no repetition would change: MessageTooLargeError where
        parts of the message could be stored.
        """
        return await self._publisher.publish(subject, payload, message_id=message_id, headers=headers)

    async def tell(self, messages: Sequence[tuple[str, bytes]], *, timeout_seconds: float) -> list[bool | None]:
        """Give messages to whoever listens now, by subject, which no stream stores; return of each whether anybody does.

        None of what did not go out: there was no connection or no permission, the server does not take so much in one message,
        or there was no room within this time, which is that of all together.
        """
        return await self._connection.are_heard(messages, timeout_seconds=timeout_seconds)

    async def synced(self, message_ids: Collection[str] | None = None) -> None:
        """Return once the server has these messages, published here, on its disk: `unsynced_seconds` after it stored them. With
        none named, all.
        """
        await self._publisher.synced(message_ids)

    def consume(
        self,
        stream: str,
        durable: str,
        *,
        max_ack_pending: int,
        ack_wait_seconds: float,
        batch: int,
        partitions: int = 1,
    ) -> Consumption:
        """Return an iterator over deliveries of the durable consumer of each partition of the stream; absent ones are made.

        About `batch` messages wait locally, of all partitions together. All consumers of one durable, in any number of
        processes, share its messages. Close it with `aclose` (or `async with`); the end of the connection closes it too.
        """
        arrived = asyncio.Event()
        streams = [
            StreamConsumption(
                self._connection,
                self._jetstream,
                stream=each,
                durable=durable,
                max_ack_pending=max_ack_pending,
                ack_wait_seconds=ack_wait_seconds,
                batch=math.ceil(batch / partitions),
                on_no_stream=self._streams.restore,
                arrived=arrived,
            )
            for each in subjects.partition_streams(stream, partitions)
        ]
        consumption = Consumption(streams, arrived)
        self._consumptions.append(consumption)
        return consumption

    async def dead_letter(self, service: str, delivery: Delivery, *, reason: str, detail: str, records: int | None) -> None:
        """Store the delivery's message as a dead letter of `service`, then acknowledge it.

        `records` is how many records are lost to the backend with it, None where that cannot be known.
        """
        await self.dead_letter_payload(
            service,
            delivery.data,
            message_id=delivery.message_id,
            subject=delivery.subject,
            reason=reason,
            detail=detail,
            records=records,
        )
        await delivery.ack()

    async def dead_letter_payload(
        self,
        service: str,
        payload: bytes,
        *,
        message_id: str,
        subject: str,
        reason: str,
        detail: str,
        records: int | None,
        spans: int | None = None,
    ) -> None:
        """Store `payload`, part of a message of `subject`, as a dead letter. Nothing is acknowledged.

        `message_id` is the part's own: the same part dead again is stored once. What the server does not take in one message
        is cut, and its detail says so. Raises PublishRefusedError where even a dead letter cannot be stored.
        """
        headers = {
            subjects.REASON_HEADER: reason,
            subjects.DETAIL_HEADER: " ".join(detail.split())[:_DETAIL_CHARACTERS],
            subjects.SUBJECT_HEADER: subject,
        }
        if records is not None:
            headers[subjects.RECORDS_HEADER] = str(records)
        if spans is not None and spans != records:
            headers[subjects.SPANS_HEADER] = str(spans)
        subject, message_id = subjects.dead_subject(service), f"dead/{service}/{message_id}"
        try:
            await self.publish(subject, payload, message_id=message_id, headers=headers)
        except MessageTooLargeError as error:
            kept = payload[: max(0, error.limit - _CUT_CHARACTERS)]
            cut = f"(cut: {len(kept)} of {len(payload)} bytes) "
            headers[subjects.DETAIL_HEADER] = cut + headers[subjects.DETAIL_HEADER]
            await self.publish(subject, kept, message_id=message_id, headers=headers)

    async def stream_state(self, stream: str) -> StreamState:
        """Return what the stream holds. Raises ApiError where there is none."""
        return await self._jetstream.stream_state(stream)

    async def may_publish(self) -> tuple[str, ...]:
        """Return where this user may publish, as the server says; empty where it names no subjects, or may not be asked.

        Whoever asks for what it may not have is written down in the server's log, this question as any other.
        """
        return await may_publish(self._connection)

    async def partitions(self, stream: str, allowed: Collection[str] | None = None) -> int:
        """Return how many partitions of the stream there are: 1 where this user may not ask after any stream there may be.

        `allowed` is what `may_publish` has said, where that was asked already.
        """
        allowed = await self.may_publish() if allowed is None else allowed
        if allowed and not any(map(asks_of_any_stream, allowed)):
            return 1
        partitions = 1
        with contextlib.suppress(ApiError, PermissionDeniedError):
            while True:
                await self.stream_state(subjects.partition_stream(stream, partitions))
                partitions += 1
        return partitions

    async def consumer_state(self, stream: str, durable: str) -> ConsumerState:
        """Return where the consumer stands. Raises ApiError where there is none."""
        return await self._jetstream.consumer_state(stream, durable)

    def watch(self, *subject_patterns: str, limit: int = _WATCH_MESSAGES) -> Watch:
        """Return an iterator over messages as they are published, at most `limit` of them waiting."""
        watch = Watch(self._connection, subject_patterns, limit)
        self._watches.append(watch)
        return watch

    async def peek(self, stream: str, subject_pattern: str = ">") -> AsyncIterator[StoredMessage]:
        """Yield what the stream holds now under subjects of the pattern, oldest first, without consuming it."""
        last = (await self.stream_state(stream)).last_sequence
        sequence = 1
        while sequence <= last:
            message = await self._jetstream.next_message(stream, sequence, subject_pattern)
            if message is None:
                return
            found = stored_message(message)
            if found.sequence > last:
                return
            yield found
            sequence = found.sequence + 1

    async def stored(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message of that sequence number; None where there is none any more."""
        message = await self._jetstream.next_message(stream, sequence)
        found = None if message is None else stored_message(message)
        return found if found is not None and found.sequence == sequence else None

    async def first(self, stream: str) -> StoredMessage | None:
        """Return the oldest message of the stream; None where it is empty."""
        message = await self._jetstream.next_message(stream, 1)
        return None if message is None else stored_message(message)

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the stream's last message under that subject; None where there is none. Raises ApiError without a stream."""
        message = await self._jetstream.last_message(stream, subject)
        return None if message is None else stored_message(message)

    async def stream_subjects(self, stream: str, subject_pattern: str) -> dict[str, int]:
        """Return how many messages the stream holds under each subject of the pattern. Raises ApiError where there is none."""
        return await self._jetstream.stream_subjects(stream, subject_pattern)

    async def delete(self, stream: str, sequence: int) -> bool:
        """Take one message out of a stream; return whether it was there. Raises PermissionDeniedError."""
        return await self._jetstream.delete_message(stream, sequence)

    async def run(self) -> None:
        """Keep the connection until cancelled, and the streams that this process had made; `connect` runs this."""
        beside = {
            asyncio.create_task(self._streams.run(), name="keep the streams"),
            asyncio.create_task(self._publisher.publish_again(), name="publish again"),
        }
        try:
            await self._connection.run()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def close(self) -> None:
        """Give back what was delivered and not taken, and end every iterator."""
        for consumption in self._consumptions:
            await consumption.aclose()
        for watch in self._watches:
            await watch.aclose()
        for journal in self._journals:
            await journal.aclose()


@asynccontextmanager
async def connect(settings: NatsSettings, *, name: str) -> AsyncIterator[Bus]:
    """Yield a bus at once; it connects, and connects again, for as long as the block runs. What needs a server waits for it."""
    bus = Bus(settings, name=name)
    task = asyncio.create_task(bus.run(), name="bus")
    try:
        yield bus
    finally:
        with contextlib.suppress(BusError):
            await bus.close()
        task.cancel()
        await asyncio.wait({task})
