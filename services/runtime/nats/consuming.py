"""Consuming from a durable pull consumer: messages are asked for ahead, acknowledged one by one, and never piled up.

The pull is our own because nats-py's `fetch` costs a task per message and ends with its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec
import structlog

from proto.subjects import MESSAGE_ID_HEADER
from services.runtime.errors import ApiError, BusError, DisconnectedError, RequestTimeoutError
from services.runtime.nats.connection import NO_RESPONDERS, Connection, Message, Subscription
from services.runtime.nats.jetstream import CONSUMER_NOT_CREATED, STREAM_NOT_FOUND, JetStream

logger = structlog.get_logger()

_EXPIRES_SECONDS: Final = 30.0
_HEARTBEAT_SECONDS: Final = 2.0
_ACK_SECONDS: Final = 2.0
_MISSED_SECONDS: Final = 3 * _HEARTBEAT_SECONDS
_RETRY_SECONDS: Final = 0.5
_CHECK_SECONDS: Final = 30.0
"""How often the consumer is looked at: somebody may have changed it by hand."""
_SAY_AGAIN_SECONDS: Final = 30.0
"""How often it is said that there is still no consumer."""
_NS: Final = 1_000_000_000
_IDLE_HEARTBEAT: Final = 100
_SIGNS_OF_LIFE: Final = 3
"""How often within `ack_wait` a message that is worked on says so."""
_ACK, _NAK, _IN_PROGRESS = b"+ACK", b"-NAK", b"+WPI"


@dataclass(frozen=True, slots=True)
class _Position:
    """What the reply subject of a delivered message says of it."""

    attempts: int
    stream_sequence: int
    stored_unix_ns: int


def _position(reply: str) -> _Position:
    """Read `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`.

    Servers with domains put two tokens, domain and account, after the second and may add one at the end (NATS ADR-15).
    """
    tokens = reply.split(".")
    at = 4 if len(tokens) == 9 else 6
    return _Position(attempts=int(tokens[at]), stream_sequence=int(tokens[at + 1]), stored_unix_ns=int(tokens[at + 3]))


class Delivery:
    """A message that is ours until it is acknowledged, given back, or `ack_wait` passes without a sign of life."""

    def __init__(self, consumption: StreamConsumption, message: Message) -> None:
        self._consumption = consumption
        self._reply = message.reply
        self._generation = consumption.connection.generation
        position = _position(message.reply)
        self.data = message.data
        self.subject = message.subject
        self.headers: Mapping[str, str] = message.headers
        self.stream_sequence = position.stream_sequence
        self.stored_unix_ns = position.stored_unix_ns
        """When the stream took it, by the server's clock."""
        self.attempts = position.attempts
        """Deliveries of this message so far, this one included."""

    @property
    def message_id(self) -> str:
        """The id it was published under, else one made of its place in the stream."""
        return self.headers.get(MESSAGE_ID_HEADER) or f"{self._consumption.stream}:{self.stream_sequence}"

    async def ack(self) -> None:
        """Take the message off the queue; returns once the server has confirmed it.

        Where the server does not answer the message may come again; that is counted and never raised.
        """
        await self._consumption.acknowledge(self._reply, self.stream_sequence, self._generation)

    async def nak(self, delay_seconds: float = 0.0) -> None:
        """Give the message back, to be delivered again after the delay. Lost on its way, `ack_wait` does the same."""
        delay = _NAK + b" " + msgspec.json.encode({"delay": int(delay_seconds * _NS)}) if delay_seconds > 0 else _NAK
        await self._tell(delay)

    def forget_content(self) -> None:
        """Keep no more than it takes to acknowledge the message."""
        self.data = b""

    async def in_progress(self) -> None:
        """Say that the message is still being worked on: `ack_wait` begins anew."""
        await self._tell(_IN_PROGRESS)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the message ours while the block runs, however long that takes."""
        with self._consumption.keeping(self):
            yield

    async def _tell(self, word: bytes) -> None:
        with contextlib.suppress(DisconnectedError):
            await self._consumption.connection.send(self._reply, word)


class Consumption:
    """An asynchronous iterator over the deliveries of one or several streams. None of them starves: they take turns.

    What each has waits in its own buffer, so a stream with much is no reason to wait for one with little.
    """

    def __init__(self, streams: Sequence[StreamConsumption], arrived: asyncio.Event) -> None:
        self._streams = deque(streams)
        self._arrived = arrived
        self._closed = False

    @property
    def unconfirmed_acks(self) -> int:
        """Acknowledgements that the server has not confirmed in time: those messages may come again."""
        return sum(stream.unconfirmed_acks for stream in self._streams)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        while not self._closed:
            self._arrived.clear()
            for _ in range(len(self._streams)):
                delivery = self._streams[0].take()
                self._streams.rotate(-1)
                if delivery is not None:
                    return delivery
            await self._arrived.wait()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop asking, and give back what was delivered and not taken. The iterator ends."""
        self._closed = True
        for stream in self._streams:
            await stream.aclose()
        self._arrived.set()


class StreamConsumption:
    """Deliveries of one stream. Survives lost connections, restarts, and a deleted consumer or stream.

    At most `batch` messages wait here to be taken; they are kept alive meanwhile and given back by `aclose`.
    """

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        *,
        stream: str,
        durable: str,
        max_ack_pending: int,
        ack_wait_seconds: float,
        batch: int,
        on_no_stream: Callable[[], Awaitable[None]],
        arrived: asyncio.Event,
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.durable = durable
        self.unconfirmed_acks = 0
        """Acknowledgements that the server has not confirmed in time: those messages may come again."""
        self._jetstream = jetstream
        self._max_ack_pending = max_ack_pending
        self.ack_wait_seconds = ack_wait_seconds
        self._batch = batch
        self._on_no_stream = on_no_stream
        self._buffer: deque[Delivery] = deque()
        self._arrived = arrived
        self._wake = asyncio.Event()
        self._outstanding = 0
        self._pull = 0
        self._generation = -1
        self._warned_generation = -1
        self._ready = False
        self._heard_at = 0.0
        self._looked_at = 0.0
        self._said: set[str] = set()
        self._said_not_made: dict[str, float] = {}
        self._inbox = connection.new_inbox()
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._kept: dict[object, Delivery] = {}
        self._keeping: asyncio.Task[None] | None = None

    def take(self) -> Delivery | None:
        """Return what has arrived, None where nothing has; `arrived` is set once there is more, or this has failed."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run(), name=f"consume {self.stream} {self.durable}")
            self._task.add_done_callback(lambda _task: self._arrived.set())
        if not self._buffer:
            if self._task is not None and self._task.done():
                self._task.result()
            return None
        delivery = self._buffer.popleft()
        if self._outstanding + len(self._buffer) <= self._batch // 2:
            self._wake.set()
        return delivery

    async def aclose(self) -> None:
        """Stop asking, and give back what was delivered and not taken."""
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._subscription is not None:
            await self._subscription.close()
        await self._give_back()
        self._arrived.set()

    @contextlib.contextmanager
    def keeping(self, delivery: Delivery) -> Iterator[None]:
        """Say now and then that the message is still being worked on, while the block runs."""
        key = object()
        self._kept[key] = delivery
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name=f"keep {self.stream} {self.durable}")
        try:
            yield
        finally:
            del self._kept[key]

    async def _keep(self) -> None:
        """Keep all that are worked on, for as long as there are any: they may be thousands."""
        try:
            while self._kept:
                await asyncio.sleep(self.ack_wait_seconds / _SIGNS_OF_LIFE)
                await self._say_in_progress()
        finally:
            self._keeping = None

    async def _say_in_progress(self) -> None:
        failed: Exception | None = None
        for key, delivery in list(self._kept.items()):
            if key in self._kept:  # it may have been given back while the others were kept
                try:
                    await delivery.in_progress()
                except Exception as error:  # noqa: BLE001 - whatever one trips up, the others are kept, now and later
                    failed = error
        if failed is not None:
            logger.error("deliveries.not_kept", stream=self.stream, consumer=self.durable, exc_info=failed)

    async def acknowledge(self, reply: str, stream_sequence: int, generation: int) -> None:
        """Acknowledge and await the server's confirmation, until `ack_wait` is over.

        A delivery of an earlier connection gets one answer or none: a server that was killed has forgotten that it delivered
        the message, delivers it anew, and is silent about the old delivery.
        """
        try:
            # Nearly always it is one question and its answer, for which no further clock is set.
            if self.connection.generation == generation and await self._acknowledge_once(reply):
                return
            async with asyncio.timeout(self.ack_wait_seconds):
                while True:
                    await self.connection.wait_connected()
                    stale = self.connection.generation != generation
                    if await self._acknowledge_once(reply):
                        return
                    if stale:
                        break
                    await asyncio.sleep(_RETRY_SECONDS / 4)
        except TimeoutError:
            pass
        except BusError as error:
            logger.warning("ack.refused", stream=self.stream, error=str(error))
        self.unconfirmed_acks += 1
        if self._warned_generation != self.connection.generation:
            self._warned_generation = self.connection.generation
            logger.warning("acks.unconfirmed", stream=self.stream, first_sequence=stream_sequence, total=self.unconfirmed_acks)

    async def _acknowledge_once(self, reply: str) -> bool:
        try:
            answer = await self.connection.request(reply, _ACK, timeout_seconds=_ACK_SECONDS)
        except (DisconnectedError, RequestTimeoutError):
            return False
        # No responders: the consumer is being restored, or is gone.
        return answer.status != NO_RESPONDERS

    async def _run(self) -> None:
        self._subscription = await self.connection.subscribe(f"{self._inbox}.*", self._received)
        keep_alive_seconds = self.ack_wait_seconds / _SIGNS_OF_LIFE
        loop = asyncio.get_running_loop()
        kept_alive_at = loop.time()
        while True:
            await self._pull_if_needed()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_HEARTBEAT_SECONDS, keep_alive_seconds)):
                    await self._wake.wait()
            if loop.time() - kept_alive_at >= keep_alive_seconds:
                kept_alive_at = loop.time()
                for delivery in list(self._buffer):
                    await delivery.in_progress()

    async def _pull_if_needed(self) -> None:
        await self.connection.wait_connected()
        now = asyncio.get_running_loop().time()
        if self._generation != self.connection.generation:
            # The server may have forgotten that it delivered what waits here: given back, it comes anew either way.
            self._generation = self.connection.generation
            self._outstanding = 0
            self._ready = False
            await self._give_back()
        if self._outstanding and now - self._heard_at > _MISSED_SECONDS:
            # Silence where heartbeats should be: what was asked for will not come.
            self._outstanding = 0
            self._ready = False
        try:
            if not self._ready or now - self._looked_at > _CHECK_SECONDS:
                await self._ensure_consumer()
            wanted = self._batch - self._outstanding - len(self._buffer)
            if wanted > 0 and self._outstanding + len(self._buffer) <= self._batch // 2:
                await self._ask(wanted)
        except DisconnectedError:
            self._wake.set()

    async def _give_back(self) -> None:
        while self._buffer:
            await self._buffer.popleft().nak()

    def _say_not_made(self, why: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._said_not_made.get(why, -math.inf) >= _SAY_AGAIN_SECONDS:
            self._said_not_made[why] = now
            hint = "its disk, or the last one is still being removed: asked again until it can"
            logger.warning("consumer.not_made", stream=self.stream, consumer=self.durable, error=why, hint=hint)

    async def _ensure_consumer(self) -> None:
        while True:
            try:
                done = await self._jetstream.ensure_consumer(
                    self.stream,
                    self.durable,
                    max_ack_pending=self._max_ack_pending,
                    ack_wait_seconds=self.ack_wait_seconds,
                )
            except ApiError as error:
                if error.code == STREAM_NOT_FOUND:
                    await self._on_no_stream()
                elif error.code == CONSUMER_NOT_CREATED and "store" in error.description:
                    # Two may make one again that was just deleted, while the server still removes what was of it.
                    self._say_not_made(error.description)
                else:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._ready = True
                self._said_not_made.clear()
                self._looked_at = asyncio.get_running_loop().time()
                if done and done not in self._said:
                    self._said.add(done)
                    logger.info("consumer.restored", stream=self.stream, consumer=self.durable, done=done)
                return

    async def _ask(self, count: int) -> None:
        self._pull += 1
        body = {"batch": count, "expires": int(_EXPIRES_SECONDS * _NS), "idle_heartbeat": int(_HEARTBEAT_SECONDS * _NS)}
        self._outstanding += count
        self._heard_at = asyncio.get_running_loop().time()
        await self.connection.send(
            f"{self._jetstream.prefix}.CONSUMER.MSG.NEXT.{self.stream}.{self.durable}",
            msgspec.json.encode(body),
            reply=f"{self._inbox}.{self._pull}",
        )

    async def _received(self, message: Message) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        # What a stream delivers says where to acknowledge it, the server's own words do not; headers are the publisher's.
        status = 0 if message.reply else message.status
        if status == 0:
            self._outstanding = max(0, self._outstanding - 1)
            delivery = Delivery(self, message)
            if len(self._buffer) >= self._batch or self._closed:
                await delivery.nak()
                return
            self._buffer.append(delivery)
            self._arrived.set()
            return
        if status == _IDLE_HEARTBEAT:
            return
        # The pull has ended: expired (408), nothing there (404), or the consumer or its server is going away (409, 503).
        left = message.number("Nats-Pending-Messages")
        self._outstanding = 0 if left is None else max(0, self._outstanding - left)
        if status not in {404, 408}:
            logger.debug("pull.ended", stream=self.stream, status=status, description=message.description)
            self._ready = False
            await asyncio.sleep(_RETRY_SECONDS / 10)
        self._wake.set()
