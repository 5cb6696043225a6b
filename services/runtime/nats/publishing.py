"""Publishing to JetStream so that nothing is lost in silence: one message id, sent until the bus answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog

from proto.subjects import MESSAGE_ID_HEADER
from services.runtime.errors import (
    DisconnectedError,
    MessageTooLargeError,
    PermissionDeniedError,
    PublishRefusedError,
    RequestTimeoutError,
    StreamFullError,
)
from services.runtime.nats.connection import NO_RESPONDERS, Connection, Message

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


class Publisher:
    """Publishes over one connection. `on_no_stream` is awaited when no stream takes the subject: it may make it again."""

    def __init__(self, connection: Connection, *, timeout_seconds: float, on_no_stream: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._on_no_stream = on_no_stream
        self._without_stream: dict[str, bool] = {}
        """Subjects that no stream took though one was to be made, and whether that was said."""
        self.resent = 0
        """Messages sent again because the bus had not answered."""
        self.duplicates = 0
        """Messages that the stream had stored before, under the same id, and did not store again."""

    async def publish(self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None) -> int:
        """Return the message's sequence once it is stored, or was already.

        Raises StreamFullError, MessageTooLargeError or PublishRefusedError.
        """
        all_headers = {**(headers or {}), MESSAGE_ID_HEADER: message_id}
        wait_seconds = _FIRST_WAIT_SECONDS
        while True:
            await self._connection.wait_connected()
            try:
                answer = await self._connection.request(
                    subject, payload, timeout_seconds=self._timeout_seconds, headers=all_headers
                )
                if sequence := await self._settled(subject, answer, len(payload)):
                    return sequence
            except (DisconnectedError, RequestTimeoutError) as error:
                logger.debug("publish.unanswered", subject=subject, message_id=message_id, error=str(error))
            except PermissionDeniedError as error:
                raise PublishRefusedError(0, str(error)) from error
            self.resent += 1
            await asyncio.sleep(wait_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads clients out
            wait_seconds = min(wait_seconds * 2, _LONGEST_WAIT_SECONDS)

    async def _settled(self, subject: str, answer: Message, size: int) -> int:
        """Return the sequence under which the message is stored; 0 asks for another attempt."""
        if answer.status == NO_RESPONDERS:
            if self._without_stream.get(subject) is False:  # making it did not help
                self._without_stream[subject] = True
                logger.warning("publish.no_stream", subject=subject)
            await self._on_no_stream()
            self._without_stream.setdefault(subject, False)
            return 0
        ack = _decode(answer.data)
        if ack.error is None:
            self._without_stream.pop(subject, None)
            self.duplicates += ack.duplicate
            return ack.seq
        code, description = ack.error.err_code, ack.error.description
        if code in _FULL or (code == _STORE_FAILED and any(text in description for text in _FULL_TEXTS)):
            raise StreamFullError(code, description)
        if code in _PASSING:
            return 0
        if code == _TOO_LARGE:
            raise MessageTooLargeError(code, description, limit=size // 2)
        raise PublishRefusedError(code, description)


def _decode(data: bytes) -> _PubAck:
    try:
        ack = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise PublishRefusedError(0, f"the answer is no acknowledgement of a stream: {error}") from error
    if ack.error is None and not ack.stream:
        raise PublishRefusedError(0, "the answer is no acknowledgement of a stream")
    return ack
