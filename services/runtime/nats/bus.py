"""The bus: NATS JetStream as Wirespan uses it. With its neighbours in this package the only user of nats-py.

What is published is stored once or refused aloud; what is consumed is acknowledged when the next stage has it. All of it
outlives lost connections and restarted servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

import msgspec
import structlog

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
from services.runtime.nats.connection import Connection, Message, Subscription
from services.runtime.nats.consuming import Consumption, Delivery, StreamConsumption
from services.runtime.nats.jetstream import ConsumerState, JetStream, StreamState, recent_config, server_time, stream_configs
from services.runtime.nats.journal import Journal, JournalEntry
from services.runtime.nats.publishing import Publisher
from services.runtime.nats.standing import Standing
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
    "asks_of_any_stream",
    "connect",
]

logger = structlog.get_logger()

_DETAIL_CHARACTERS: Final = 500
_CUT_CHARACTERS: Final = 64
"""What is added to the detail of a dead letter that is cut."""
_USER_INFO: Final = "$SYS.REQ.USER.INFO"
_USER_INFO_SECONDS: Final = 2.0
_EVERY_SUBJECT: Final = frozenset({">", "*.>"})
_ASKS_OF_ANY_STREAM: Final = ("API.STREAM.INFO.*", "API.STREAM.>", "API.>", "$JS.>")
"""What others end with under which one may ask after every stream: an account may have JetStream's API under another name."""
_CHECK_SECONDS: Final = 60.0
"""How often the streams are looked at, about."""
_WATCH_MESSAGES: Final = 1000
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


class _Subjects(msgspec.Struct):
    allow: list[str] = msgspec.field(default_factory=list)


class _Permissions(msgspec.Struct):
    publish: _Subjects = msgspec.field(default_factory=_Subjects)


class _User(msgspec.Struct):
    permissions: _Permissions = msgspec.field(default_factory=_Permissions)


class _UserInfo(msgspec.Struct):
    """As a server answers who one is, as far as that is looked at."""

    data: _User = msgspec.field(default_factory=_User)


class Bus:
    """One process's use of the bus. Made by `connect`."""

    def __init__(self, settings: NatsSettings, *, name: str) -> None:
        self._connection = Connection(settings, name=name)
        self._jetstream = JetStream(self._connection, domain=settings.jetstream_domain)
        self._publisher = Publisher(self._connection, settings, on_no_stream=self._restore_streams)
        self._standing = Standing(self._jetstream)
        self._streams: StreamSettings | None = None
        self._cache = False
        self._keeps_streams = False
        """Whether this user may make streams, and this process has."""
        self._restoring = asyncio.Lock()
        self._said: set[tuple[str, ...]] = set()
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

    async def ensure_streams(self, settings: StreamSettings | None = None, *, cache: bool = False) -> None:
        """Make the streams of flows, with `cache` that of the Kubernetes cache too, or change them to what the settings say.

        Any number of services may do this at once. A user who may not make streams leaves that to the others; so it does with
        the one to look back at, which nothing depends on, wherever that cannot be. Raises StreamConfigError where another
        existing stream cannot be changed.
        """
        settings = settings or StreamSettings()
        try:
            await self._ensure(stream_configs(settings, cache=cache))
        except PermissionDeniedError as error:
            logger.info("streams.not_permitted", error=str(error))
            return
        await self._ensure_recent(settings)
        # Last: from here on they are looked at from time to time, and what is made then is said to be made again.
        self._streams, self._cache, self._keeps_streams = settings, cache, True

    async def _ensure_recent(self, settings: StreamSettings) -> None:
        recent = recent_config(settings)
        try:
            if recent is not None:
                await self._ensure([recent])
            elif await self._jetstream.exists(subjects.RECENT_STREAM):
                self._say("stream.left_over", stream=subjects.RECENT_STREAM, hint="no settings ask for it: delete it")
        except (PermissionDeniedError, StreamConfigError) as error:
            self._say("streams.nothing_to_look_back_at", error=str(error))

    async def _ensure(self, configs: Iterable[Mapping[str, Any]]) -> None:
        for config in configs:
            done = await self._jetstream.ensure_stream(config)
            if done:
                logger.info(
                    "stream.restored" if self._restoring.locked() else "stream.ensured", stream=config["name"], done=done
                )

    def _say(self, event: str, **words: str) -> None:
        """Warn, once of each."""
        said = (event, *words.values())
        if said not in self._said:
            self._said.add(said)
            logger.warning(event, **words)

    def expect_streams(self, settings: StreamSettings | None = None) -> None:
        """Count on somebody else to make the streams; make them where one turns out to be missing, if this user may.

        For users who may do nothing but publish or consume: the server writes down whatever they ask for and may not.
        """
        self._streams = settings or StreamSettings()

    def journal(self, stream: str, bell: str) -> Journal:
        """Return the stream as a log with one writer at a time. It republishes what it stores to the subjects `bell`."""
        journal = Journal(
            self._connection, self._jetstream, self._publisher, stream=stream, bell=bell, on_no_stream=self._restore_streams
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
                on_no_stream=self._restore_streams,
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
        try:
            answer = await self._connection.request(_USER_INFO, timeout_seconds=_USER_INFO_SECONDS)
            said = msgspec.json.decode(answer.data, type=_UserInfo)
        except (BusError, msgspec.DecodeError):
            return ()
        return tuple(said.data.permissions.publish.allow)

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
            found = _stored(message)
            if found.sequence > last:
                return
            yield found
            sequence = found.sequence + 1

    async def stored(self, stream: str, sequence: int) -> StoredMessage | None:
        """Return the message of that sequence number; None where there is none any more."""
        message = await self._jetstream.next_message(stream, sequence)
        found = None if message is None else _stored(message)
        return found if found is not None and found.sequence == sequence else None

    async def first(self, stream: str) -> StoredMessage | None:
        """Return the oldest message of the stream; None where it is empty."""
        message = await self._jetstream.next_message(stream, 1)
        return None if message is None else _stored(message)

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the stream's last message under that subject; None where there is none. Raises ApiError without a stream."""
        message = await self._jetstream.last_message(stream, subject)
        return None if message is None else _stored(message)

    async def stream_subjects(self, stream: str, subject_pattern: str) -> dict[str, int]:
        """Return how many messages the stream holds under each subject of the pattern. Raises ApiError where there is none."""
        return await self._jetstream.stream_subjects(stream, subject_pattern)

    async def delete(self, stream: str, sequence: int) -> bool:
        """Take one message out of a stream; return whether it was there. Raises PermissionDeniedError."""
        return await self._jetstream.delete_message(stream, sequence)

    async def run(self) -> None:
        """Keep the connection until cancelled, and the streams that this process had made; `connect` runs this."""
        beside = {
            asyncio.create_task(self._keep_streams(), name="keep the streams"),
            asyncio.create_task(self._publisher.publish_again(), name="publish again"),
        }
        try:
            await self._connection.run()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def _keep_streams(self) -> None:
        """Look at streams and consumers with every new connection, and now and then: what a server has is lost, people change
        things.
        """
        generation = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_SECONDS * random.uniform(0.5, 1.5)):  # noqa: S311 - only spreads clients out
                    generation = await self._connection.opened(after=generation)
            if self._keeps_streams and self._streams is not None:
                await self._restore_streams()
                await self._standing.put_right(self._streams.kept_partitions)

    async def close(self) -> None:
        """Give back what was delivered and not taken, and end every iterator."""
        for consumption in self._consumptions:
            await consumption.aclose()
        for watch in self._watches:
            await watch.aclose()
        for journal in self._journals:
            await journal.aclose()

    async def _restore_streams(self) -> None:
        """Make again, or change back, what this process had made and finds otherwise."""
        if self._streams is None:
            return
        under_way = self._restoring.locked()
        async with self._restoring:
            if under_way:  # somebody else has just done so
                return
            try:
                await self.ensure_streams(self._streams, cache=self._cache)
            except ApiError as error:
                self._say("streams.not_restored", error=str(error))


def asks_of_any_stream(subject: str) -> bool:
    """Whether who may publish there may ask after every stream."""
    return subject in _EVERY_SUBJECT or subject.endswith(_ASKS_OF_ANY_STREAM)


def _stored(message: Message) -> StoredMessage:
    headers = {name: value for name, value in message.headers.items() if name not in _OWN_HEADERS}
    return StoredMessage(
        message.headers["Nats-Subject"],
        message.data,
        headers,
        int(message.headers["Nats-Sequence"]),
        server_time(message.headers["Nats-Time-Stamp"]),
    )


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
