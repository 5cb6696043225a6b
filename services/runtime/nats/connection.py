"""One logical connection to NATS that outlives its sockets.

nats-py's own reconnection is off: it gives up for good on several answers of a server, sends again what it had buffered, and
waits without limit for a silent peer's socket to close. Here every socket has a client of its own. When it is lost, whoever
waits for an answer is told at once, the next client is made, and subscriptions are made again on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription
from nats.nuid import NUID

from services.runtime.errors import DisconnectedError, MessageTooLargeError, PermissionDeniedError, RequestTimeoutError
from services.runtime.nats.client import OneSocketClient
from services.runtime.settings import NatsSettings

logger = structlog.get_logger()

NO_RESPONDERS: Final = 503

_HIGH_WATER_BYTES: Final = 8 << 20
_HIGH_WATER_POLL_SECONDS: Final = 0.01
_FLUSH_SECONDS: Final = 2
_CLOSED_POLL_SECONDS: Final = 5.0
_MOST_REASONS: Final = 16
"""Different reasons that are logged between two connections."""
_DETAIL_CHARACTERS: Final = 500
_NO_HEADERS: Final[Mapping[str, str]] = {}
_STATUS: Final = re.compile(r"[1-9][0-9]{2}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_MAPPED_API: Final = re.compile(r"^\$js\.[^.]+\.api\.")
_NO_PERMISSION: Final = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """What a subscription received."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str]

    @property
    def status(self) -> int:
        """The server's status (404, 408, 409, 503 ...), 0 for a message with content. Anybody may publish such a header."""
        text = self.headers.get("Status", "")
        return int(text) if _STATUS.fullmatch(text) else 0

    def number(self, header: str) -> int | None:
        """What a header counts; None where it is not there, or is no number that a server gives."""
        text = self.headers.get(header, "")
        return int(text) if _NUMBER.fullmatch(text) else None

    @property
    def description(self) -> str:
        """What the server says of its status."""
        return self.headers.get("Description", "")


Callback = Callable[[Message], Awaitable[None]]


class Subscription:
    """Interest in a subject that is renewed on every new socket."""

    def __init__(self, connection: Connection, subject: str, callback: Callback) -> None:
        self._connection = connection
        self.subject = subject
        self._callback = callback
        self._current: ClientSubscription | None = None

    async def renew(self, client: Client) -> None:
        """Subscribe on a new client."""
        self._current = await client.subscribe(self.subject, cb=self._received)

    async def close(self) -> None:
        """End the interest, once the callback has seen every message that was on its way."""
        self._connection.forget(self)
        current, self._current = self._current, None
        if current is not None and self._connection.connected:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await current.drain()  # type: ignore[no-untyped-call]

    async def _received(self, msg: Msg) -> None:
        await self._callback(Message(msg.subject, msg.reply, msg.data, msg.headers or _NO_HEADERS))


class Connection:
    """Sends, asks and subscribes over whichever socket there is. Made by `Bus`; `run` keeps it alive."""

    def __init__(self, settings: NatsSettings, *, name: str) -> None:
        self._settings = settings
        self._name = name
        self._client: Client | None = None
        self._connected = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._answers: dict[str, tuple[str, asyncio.Future[Message]]] = {}
        self._tokens = itertools.count()
        self._inbox = self.new_inbox()
        self._said: set[str] = set()
        self._next = asyncio.Event()
        self._last: OneSocketClient | None = None
        self.trouble = ""
        """Why there is no connection, as far as it is known; empty while there is one."""
        self.generation = 0
        """How many sockets there have been."""

    @property
    def connected(self) -> bool:
        """Whether there is a socket now."""
        return self._connected.is_set()

    @property
    def max_payload(self) -> int:
        """Most bytes of headers and payload that the server takes in one message; 1 MiB before it has said so."""
        return self._client.max_payload if self._client is not None else 1 << 20

    @property
    def server_id(self) -> str:
        """Which process of a server there is a socket to, or was last."""
        return self._last.server_id if self._last is not None else ""

    @property
    def heard_at(self) -> float:
        """When a server last said anything, by the event loop's clock."""
        return self._last.heard_at if self._last is not None else 0.0

    async def hear(self) -> None:
        """Have the server say something, if it lives: `heard_at` is then now."""
        client = self._client
        if client is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await client.flush(timeout=_FLUSH_SECONDS)

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        return f"{self._settings.inbox_prefix}.{NUID().next().decode()}"

    async def wait_connected(self) -> None:
        """Return once there is a socket."""
        await self._connected.wait()

    async def opened(self, *, after: int) -> int:
        """Return the generation of the latest socket, once there was one that is later than that."""
        while self.generation <= after:
            await self._next.wait()
        return self.generation

    async def send(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Give a message to the socket. Nothing says that it arrived.

        Raises DisconnectedError, or MessageTooLargeError where the message is larger than the server takes.
        """
        client = self._client
        if client is None:
            raise DisconnectedError("not connected")
        size = len(payload) + headers_size(headers)
        if size > client.max_payload:
            raise MessageTooLargeError(
                0,
                f"{size} bytes, the server takes {client.max_payload} in one message",
                limit=max(0, client.max_payload - headers_size(headers)),
            )
        while client.pending_data_size > _HIGH_WATER_BYTES and not client.is_closed:  # noqa: ASYNC110 - nats-py has no event
            await asyncio.sleep(_HIGH_WATER_POLL_SECONDS)
        try:
            await client.publish(subject, payload, reply=reply, headers=dict(headers) if headers else None)
        except (nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError, OSError) as error:
            raise DisconnectedError("the connection was lost") from error

    async def request(
        self, subject: str, payload: bytes = b"", *, timeout_seconds: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Send a message and return the answer, whatever its status.

        Raises DisconnectedError where there is no connection or it is lost meanwhile, RequestTimeoutError,
        PermissionDeniedError, MessageTooLargeError where the message is larger than the server takes.
        """
        token = str(next(self._tokens))
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[token] = (subject, answer)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.send(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
                return await answer
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer on {subject!r} within {timeout_seconds} s") from error
        finally:
            del self._answers[token]
            answer.cancel()

    async def are_heard(self, messages: Sequence[tuple[str, bytes]], *, timeout_seconds: float) -> list[bool | None]:
        """Give messages to whoever listens now, by subject; return of each whether anybody does, which the server says at once.

        None of what was not given to the server: there was no connection or no permission, it is too large or came to no turn
        within this time. Of what was given, and of which the server has said nothing by then, it is taken that it was heard.
        """
        given: dict[str, asyncio.Future[Message]] = {}
        try:
            with contextlib.suppress(TimeoutError, DisconnectedError):
                async with asyncio.timeout(timeout_seconds):
                    for subject, payload in messages:
                        await self._give(subject, payload, given)
                    # What it has to say of them it says before it answers a later ping; nats-py's first may overtake a message.
                    for _ in range(2):
                        await self.hear()
            found = [_was_heard(answer) for answer in given.values()]
            return found + [None] * (len(messages) - len(found))
        finally:
            for token, answer in given.items():
                del self._answers[token]
                answer.cancel()

    async def _give(self, subject: str, payload: bytes, given: dict[str, asyncio.Future[Message]]) -> None:
        """Send one of many, the answer to which will be among those that were given."""
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        token = str(next(self._tokens))
        self._answers[token] = (subject, answer)
        given[token] = answer
        try:
            await self.send(subject, payload, reply=f"{self._inbox}.{token}")
        except MessageTooLargeError:
            answer.cancel()
        except BaseException:  # it was not given, nor will the rest be
            answer.cancel()
            raise

    async def subscribe(self, subject: str, callback: Callback) -> Subscription:
        """Have `callback` awaited with every message on `subject`, in order, over every socket to come."""
        subscription = Subscription(self, subject, callback)
        self._subscriptions.append(subscription)
        if self._client is not None:
            with contextlib.suppress(nats.errors.ConnectionClosedError):
                await subscription.renew(self._client)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Do not make this subscription again."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def run(self) -> None:
        """Keep a socket open until cancelled."""
        await self.subscribe(f"{self._inbox}.*", self._answered)
        clock = asyncio.get_running_loop().time
        while True:
            client, began, wait_seconds = OneSocketClient(), clock(), self._wait_seconds()
            try:
                await self._open(client)
                await self._until_lost(client)
                # A socket that lasted is replaced at once. One that is lost as soon as it is there (a forwarder without a
                # server behind it, a server that goes down) would be made again without end.
                wait_seconds -= clock() - began
            except Exception as error:  # noqa: BLE001 - whatever the client library trips over, there is another try
                await self._on_error(error)
            finally:
                self._disconnect()
                await self._close(client)
            await asyncio.sleep(max(wait_seconds, 0))

    async def _open(self, client: OneSocketClient) -> None:
        await client.open(self._settings, name=self._name, wait_seconds=self._wait_seconds(), on_error=self._on_error)
        renewed: set[Subscription] = set()
        while left := [each for each in self._subscriptions if each not in renewed]:
            await left[0].renew(client)
            renewed.add(left[0])
        # Whoever subscribes from here on does so on this socket itself.
        self._client = self._last = client
        # The server has seen the subscriptions before anybody sends something that is answered there.
        await client.flush(timeout=_FLUSH_SECONDS)
        self.generation += 1
        self._said.clear()
        self.trouble = ""
        self._connected.set()
        self._next.set()
        self._next = asyncio.Event()
        url = client.connected_url
        logger.info("bus.connected", server=f"{url.hostname}:{url.port}" if url else None, connection=self.generation)

    async def _until_lost(self, client: OneSocketClient) -> None:
        # Either says it: nats-py does not report every end.
        while not (client.is_closed or client.lost.is_set()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSED_POLL_SECONDS):
                    await client.lost.wait()
        logger.warning("bus.disconnected", error=str(client.last_error or "closed by the server"))

    async def _close(self, client: OneSocketClient) -> None:
        """Flush what is buffered, unless the socket is lost or the server takes too long, then close."""
        if client.is_connected:
            lost: asyncio.Future[Any] = asyncio.ensure_future(client.lost.wait())
            flush: asyncio.Future[Any] = asyncio.ensure_future(client.flush(timeout=_FLUSH_SECONDS))
            await asyncio.wait({lost, flush}, return_when=asyncio.FIRST_COMPLETED)
            for task in (lost, flush):
                task.cancel()
            await asyncio.gather(lost, flush, return_exceptions=True)
        with contextlib.suppress(nats.errors.Error, OSError, AssertionError):
            await client.close()

    def _disconnect(self) -> None:
        self._client = None
        self._connected.clear()
        for _subject, answer in self._answers.values():
            if not answer.done():
                answer.set_exception(DisconnectedError("the connection was lost"))

    async def _answered(self, message: Message) -> None:
        _subject, answer = self._answers.get(message.subject.rpartition(".")[2], (None, None))
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        """Say each different reason once until there is a connection. A refused publish fails whoever waits for its answer."""
        refused = _NO_PERMISSION.search(str(error))
        if refused:
            subject = _as_refused(refused[1])
            waiting = [each for each in self._answers.values() if _as_refused(each[0]) == subject and not each[1].done()]
            for subject, answer in waiting:
                answer.set_exception(PermissionDeniedError(subject))
            if waiting:
                return
        text = (str(error) or type(error).__name__)[:_DETAIL_CHARACTERS]
        if not self.connected:
            self.trouble = text
        if text not in self._said and len(self._said) < _MOST_REASONS:
            self._said.add(text)
            logger.warning("bus.failed", error=text)

    def _wait_seconds(self) -> float:
        return self._settings.reconnect_seconds * random.uniform(0.5, 1.5)  # noqa: S311 - only spreads clients out


def _was_heard(answer: asyncio.Future[Message]) -> bool | None:
    if not answer.done():
        return True
    if answer.cancelled() or answer.exception() is not None:
        return None
    return answer.result().status != NO_RESPONDERS


def _as_refused(subject: str) -> str:
    """A subject as a refusal names it: in lower case, by nats-py, and of JetStream's API what the server maps it to."""
    return _MAPPED_API.sub("$js.api.", subject.lower())


def headers_size(headers: Mapping[str, str] | None) -> int:
    """Bytes that headers take of a message, or a few more."""
    return sum(len(name) + len(value.encode()) + 4 for name, value in (headers or {}).items()) + 12
