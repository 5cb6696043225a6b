"""Publishing to JetStream so that nothing is lost in silence: one message id, sent until the bus answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final, NoReturn

import msgspec
import structlog

from proto.subjects import MESSAGE_ID_HEADER, stream_prefix
from services.runtime.errors import (
    DisconnectedError,
    MessageTooLargeError,
    PermissionDeniedError,
    PublishRefusedError,
    RequestTimeoutError,
    StreamFullError,
)
from services.runtime.nats.connection import NO_RESPONDERS, Connection, Message
from services.runtime.nats.unsynced import Acknowledged, Unsynced
from services.runtime.settings import NatsSettings

logger = structlog.get_logger()

_STORE_FAILED: Final = 10077
_FULL: Final = frozenset({10002, 10023, 10028, 10047, 10053, 10122})
"""Resource limits of account, server and stream. 10077 joins them where its text says that a maximum is reached."""
_FULL_TEXTS: Final = ("maximum", "no space", "insufficient", "exceeded")
_PASSING: Final = frozenset({10004, 10006, 10007, 10008, 10009, 10041, 10077, 10118, 10158, 10167})
"""Leader elections, restarts, a duplicate whose first copy is still being stored, too many requests: ask again."""
_TOO_LARGE: Final = 10054
"""More than `max_msg_size` of the stream, which the answer does not say."""
_FIRST_WAIT_SECONDS: Final = 0.05
_LONGEST_WAIT_SECONDS: Final = 2.0
_SYNCED_LOOK_SECONDS: Final = 0.25
_OUT_OF_ORDER: Final = 256
"""By so much a sequence may be behind the highest one: answers are read in any order. Further behind, the stream is another."""
_LOOK_SECONDS: Final = 5.0
"""How often what is surely on the disk is given up, while nothing is published."""


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_decoder: Final = msgspec.json.Decoder(_PubAck)


class _Stream:
    """What is known of one stream, here named by what its subjects begin with: it may be nowhere, or its answer late."""

    def __init__(self, name: str, server_id: str) -> None:
        self.name = name
        self.server_id = server_id
        """The server that may have been given time to sync: any other one has what is kept published to it again first."""
        self.unanswered = 0
        """Messages under way that were to be sent again."""
        self.perhaps_lost = asyncio.Event()
        """It did not answer for a while, was made anew or went back in time: what it had not synced may be gone."""


class Publisher:
    """Publishes over one connection. `on_no_stream` is awaited when no stream takes the subject: it may make it again."""

    def __init__(self, connection: Connection, settings: NatsSettings, *, on_no_stream: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._timeout_seconds = settings.publish_timeout_seconds
        self._unsynced_seconds = settings.unsynced_seconds
        self._unsynced = Unsynced(settings.unsynced_bytes)
        self._on_no_stream = on_no_stream
        self._without_stream: dict[str, bool] = {}
        """Subjects that no stream took though one was to be made, and whether that was said."""
        self._highest: dict[str, int] = {}
        """The highest sequence that each stream has given out."""
        self._streams: dict[str, _Stream] = {}
        """Those that anything was published to. One of them that is gone holds up nothing of the others."""
        self._another = asyncio.Event()
        """There is one more of them."""
        self._looking: asyncio.Task[None] | None = None
        self.resent = 0
        """Messages sent again because the bus had not answered."""
        self.duplicates = 0
        """Messages that the stream had stored before, under the same id, and did not store again."""

    async def publish_again(self) -> NoReturn:
        """Give each server that comes what the one before it may have lost with its machine, and each stream that comes back or
        is made anew what may have been in it, until cancelled.
        """
        begun = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                for stream in list(self._streams.values())[begun:]:
                    tasks.create_task(self._publish_again_to(stream))
                    begun += 1
                self._another.clear()
                await self._another.wait()

    async def _publish_again_to(self, stream: _Stream) -> NoReturn:
        generation = 0
        while True:
            generation = await self._opened_or_perhaps_lost(stream, generation)
            self._forget_synced()
            # Read once: while these are published again the next server may come, and with it the next turn.
            last_id, stream.server_id = stream.server_id, self._connection.server_id
            perhaps_lost = stream.perhaps_lost.is_set()
            stream.perhaps_lost.clear()
            if perhaps_lost or last_id != stream.server_id:
                messages = self._unsynced.take(stream.name)
                if messages:
                    logger.info(
                        "bus.publishing_again", subjects=stream.name, messages=len(messages), seconds=self._unsynced_seconds
                    )
                while messages:
                    message = messages.popleft()
                    await self._publish_again(message)
                    self._unsynced.done(message)

    async def _opened_or_perhaps_lost(self, stream: _Stream, generation: int) -> int:
        """Return the connection's generation once there is a later one, or something may be lost, or after a while."""
        opened = asyncio.ensure_future(self._connection.opened(after=generation))
        perhaps_lost = asyncio.ensure_future(stream.perhaps_lost.wait())
        try:
            await asyncio.wait({opened, perhaps_lost}, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            return opened.result() if opened.done() else generation
        finally:
            opened.cancel()
            perhaps_lost.cancel()

    async def _publish_again(self, message: Acknowledged) -> None:
        while True:
            try:
                await self._publish(message.subject, message.payload, message.message_id, message.headers, keep=True)
            except StreamFullError:
                await asyncio.sleep(_LONGEST_WAIT_SECONDS)
            except PublishRefusedError as error:
                logger.warning("bus.not_published_again", subject=message.subject, error=str(error))
                return
            else:
                return

    @property
    def given_up(self) -> int:
        """Acknowledged messages that were not kept for as long as they should be: there was no room for them."""
        return self._unsynced.given_up

    @property
    def unsynced_bytes(self) -> int:
        """What is kept of messages that a server may not have on its disk yet."""
        return self._unsynced.bytes

    async def synced(self, message_ids: Collection[str] | None = None) -> None:
        """Return once the server has these messages, published here, on its disk: `unsynced_seconds` after it stored them. With
        none named, all.
        """
        if message_ids is None and (message_ids := self._unsynced.message_ids):
            logger.info("bus.waits_for_sync", messages=len(message_ids), seconds=self._unsynced_seconds)
        for message_id in message_ids or ():
            while self._unsynced.holds(message_id):
                gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._unsynced.tell(message_id, partial(_resolve, gone))
                if self._looking is None:
                    self._looking = asyncio.create_task(self._look(), name="look what is on the disk")
                await gone

    async def _look(self) -> None:
        """Look for all who wait for what is on the disk, for as long as there are any: they may be thousands."""
        try:
            while self._unsynced.awaited:
                try:
                    if asyncio.get_running_loop().time() - self._connection.heard_at > _SYNCED_LOOK_SECONDS:
                        await self._connection.hear()
                    self._forget_synced()
                except Exception:  # whatever trips it up, those who wait would wait for ever
                    logger.exception("bus.not_looked_for_synced")
                await asyncio.sleep(_SYNCED_LOOK_SECONDS)
        finally:
            self._looking = None

    def _forget_synced(self) -> None:
        """Keep no longer what is on the disk of the server that acknowledged it.

        While that server says nothing it has had no time to sync; and that another one speaks, or the same one while a stream
        has no leader, says nothing of those whose machines are without power: of that stream nothing is forgotten.
        """
        for stream in self._streams.values():
            same = self._connection.server_id == stream.server_id
            if same and not stream.unanswered and not stream.perhaps_lost.is_set():
                self._unsynced.forget(stream.name, self._connection.heard_at - self._unsynced_seconds)

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None, keep: bool = True
    ) -> int:
        """Return the message's sequence once it is stored, or was already.

        With `keep` it is published again to the next server, should it be lost before this one has synced it. Raises
        StreamFullError, MessageTooLargeError or PublishRefusedError.
        """
        ack = await self._publish(subject, payload, message_id, headers, keep=keep)
        self.duplicates += ack.duplicate
        return ack.seq

    async def _publish(
        self, subject: str, payload: bytes, message_id: str, headers: Mapping[str, str] | None, *, keep: bool
    ) -> _PubAck:
        all_headers = {**(headers or {}), MESSAGE_ID_HEADER: message_id}
        wait_seconds, unanswered = _FIRST_WAIT_SECONDS, False
        await self._connection.wait_connected()
        stream = self._stream(subject)
        try:
            while True:
                await self._connection.wait_connected()
                try:
                    answer = await self._connection.request(
                        subject, payload, timeout_seconds=self._timeout_seconds, headers=all_headers
                    )
                    if ack := await self._settled(stream, subject, answer, len(payload)):
                        if keep and self._unsynced_seconds:
                            self._keep(stream, subject, payload, message_id, headers)
                        return ack
                except (DisconnectedError, RequestTimeoutError) as error:
                    logger.debug("publish.unanswered", subject=subject, message_id=message_id, error=str(error))
                except PermissionDeniedError as error:
                    raise PublishRefusedError(0, str(error)) from error
                stream.unanswered += not unanswered
                unanswered = True
                self.resent += 1
                await asyncio.sleep(wait_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads clients out
                wait_seconds = min(wait_seconds * 2, _LONGEST_WAIT_SECONDS)
        finally:
            if unanswered:
                stream.unanswered -= 1
                stream.perhaps_lost.set()

    def _stream(self, subject: str) -> _Stream:
        name = stream_prefix(subject)
        if name not in self._streams:
            self._streams[name] = _Stream(name, self._connection.server_id)
            self._another.set()
        return self._streams[name]

    def _keep(self, stream: _Stream, subject: str, payload: bytes, message_id: str, headers: Mapping[str, str] | None) -> None:
        self._forget_synced()
        given_up = self._unsynced.given_up
        self._unsynced.add(stream.name, Acknowledged(self._connection.heard_at, subject, payload, message_id, headers))
        if self._unsynced.given_up and not given_up:
            logger.warning("bus.unsynced_beyond_bound", bytes=self._unsynced.bytes, hint="WIRESPAN_NATS_UNSYNCED_BYTES")

    def _note_place(self, stream: _Stream, ack: _PubAck) -> None:
        """Notice where a stream is another than before: it counts anew."""
        highest = self._highest.get(ack.stream, 0)
        if not ack.duplicate and ack.seq + _OUT_OF_ORDER < highest:
            self._highest[ack.stream] = ack.seq
            stream.perhaps_lost.set()
        else:
            self._highest[ack.stream] = max(ack.seq, highest)

    async def _settled(self, stream: _Stream, subject: str, answer: Message, size: int) -> _PubAck | None:
        """Return the stream's word that the message is stored; None asks for another attempt."""
        if answer.status == NO_RESPONDERS:
            if self._without_stream.get(subject) is False:  # making it did not help
                self._without_stream[subject] = True
                logger.warning("publish.no_stream", subject=subject)
            await self._on_no_stream()
            self._without_stream.setdefault(subject, False)
            return None
        ack = _decode(answer.data)
        if ack.error is None:
            self._without_stream.pop(subject, None)
            self._note_place(stream, ack)
            return ack
        code, description = ack.error.err_code, ack.error.description
        if code in _FULL or (code == _STORE_FAILED and any(text in description for text in _FULL_TEXTS)):
            raise StreamFullError(code, description)
        if code in _PASSING:
            return None
        if code == _TOO_LARGE:
            raise MessageTooLargeError(code, description, limit=size // 2)
        raise PublishRefusedError(code, description)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # whoever waited may have given up
        future.set_result(None)


def _decode(data: bytes) -> _PubAck:
    try:
        ack = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise PublishRefusedError(0, f"the answer is no acknowledgement of a stream: {error}") from error
    if ack.error is None and not ack.stream:
        raise PublishRefusedError(0, "the answer is no acknowledgement of a stream")
    return ack
