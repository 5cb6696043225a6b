"""nats-py's client, one for each socket: how it is opened by the settings, what it leaves out, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from nats.aio.client import Client

from services.runtime.privacy.redaction import hide
from services.runtime.settings import NatsSettings

_PENDING_BYTES: Final = 64 << 20
"""What nats-py may buffer. Never reached: `Connection.send` waits earlier, as nats-py swallows a cancellation at this limit."""
_CANCEL_AGAIN_SECONDS: Final = 0.1


class MalformedHeaderError(Exception):
    """What stands around a message's content cannot be read. The message passes without it."""


class OneSocketClient(Client):
    """nats-py's client, which ends with its socket, at once.

    `lost` is its own: the end of a socket is reported late where the event loop was held up, and by then there may be the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost = asyncio.Event()
        self.heard_at = 0.0

    async def open(
        self, settings: NatsSettings, *, name: str, wait_seconds: float, on_error: Callable[[Exception], Awaitable[None]]
    ) -> None:
        """Connect to one of the servers of the settings, `wait_seconds` from one attempt to the next."""
        options = _options(settings, name=name) | {
            "reconnect_time_wait": wait_seconds,
            "error_cb": on_error,
            "closed_cb": self.on_closed,
        }
        await _cancellable(self.connect(**options))

    @property
    def server_id(self) -> str:
        """The server's process: one that starts again has another."""
        return str(self._server_info.get("server_id", ""))

    async def on_closed(self) -> None:
        """nats-py's callback."""
        self.lost.set()

    def _connect_command(self) -> bytes:
        # nats-py sends what a URL says of the user as it is written there.
        command, server = super()._connect_command(), self._current_server
        if server is None or server.uri.username is None or any(self.options[name] for name in ("user", "token")):
            return command
        verb, _, text = command.partition(b" ")
        options = json.loads(text)
        options |= {name: unquote(options[name]) for name in ("user", "pass", "auth_token") if name in options}
        return verb + b" " + json.dumps(options, sort_keys=True).encode() + b"\r\n"

    async def _process_headers(self, headers: bytes) -> Any:
        # A publisher writes any bytes it likes into its header block; they must not end the loop that reads the socket.
        try:
            return await super()._process_headers(headers)
        except Exception as error:  # noqa: BLE001 - the parser raises what its slips raise
            await self._error_cb(MalformedHeaderError(f"a message has a malformed header: {error!r}"))
            return None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        # Nor must a subject that is no UTF-8.
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except UnicodeDecodeError as error:
            await self._error_cb(MalformedHeaderError(f"a message has a malformed subject: {error}"))

    async def _process_pong(self) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        if self._pongs and self._pongs[0].done():
            # Whoever flushed has given up. nats-py would answer him all the same, and stop reading the socket by that.
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        # What is buffered has waited for a `flush`, or is sent again under its id on the next socket. nats-py would write it
        # now and wait for a peer that may never read.
        self._pending = []
        self._pending_data_size = 0
        # Nor is the end of the socket awaited: after a TLS handshake that was cut off, asyncio never reports it.
        transport, self._transport = self._transport, None
        for writer in (getattr(transport, name, None) for name in ("_io_writer", "_bare_io_writer")):
            if writer is not None:
                writer.transport.abort()
        with contextlib.suppress(OSError):
            await super()._close(status, do_cbs)


async def _cancellable(attempt: Coroutine[Any, Any, None]) -> None:
    """Await nats-py's attempt to connect such that a cancellation ends it.

    It goes from server to server with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes together with
    an answer.
    """
    task = asyncio.ensure_future(attempt)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_AGAIN_SECONDS)
        await asyncio.gather(task, return_exceptions=True)
        raise
    task.result()


def _options(settings: NatsSettings, *, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "servers": [url.strip() for url in settings.url.split(",") if url.strip()],
        "name": name,
        "allow_reconnect": False,
        "max_reconnect_attempts": -1,
        "connect_timeout": settings.connect_timeout_seconds,
        "ping_interval": settings.ping_interval_seconds,
        "max_outstanding_pings": 2,
        "pending_size": _PENDING_BYTES,
        "user": settings.user,
        "password": settings.password,
        "token": settings.token,
        "tls_handshake_first": settings.tls_first,
        "user_credentials": str(settings.creds_file) if settings.creds_file else None,
        "nkeys_seed": str(settings.nkey_file) if settings.nkey_file else None,
    }
    for file in (settings.creds_file, settings.nkey_file):
        if file is not None:
            _hide_content(file)
    if settings.tls_ca or settings.tls_cert or settings.tls_first or "tls://" in settings.url:
        options["tls"] = _tls_context(settings)
    return options


def _hide_content(file: Path) -> None:
    """Let no text have what a file of credentials holds. It is read with each attempt to connect, for it may be renewed."""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # whoever connects says so
        hide(*(line for line in file.read_text().splitlines() if not line.startswith("-")))


def _tls_context(settings: NatsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.tls_ca)
    if settings.tls_cert is not None:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context
