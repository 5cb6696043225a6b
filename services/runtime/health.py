"""/healthz, /readyz and /metrics over HTTP.

Healthy: the process answers. Ready: every named check passes and the service is not draining. The standard library's server
answers, in a thread for each request: a framework would be 14 MiB on every node.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import structlog

from services.runtime.lifecycle import Lifecycle
from services.runtime.settings import HealthSettings
from services.runtime.telemetry import PROMETHEUS_CONTENT_TYPE, Telemetry

logger = structlog.get_logger()

_TEXT: Final = "text/plain; charset=utf-8"
_REQUEST_SECONDS: Final = 5
_MOST_AT_ONCE: Final = 16
"""Connections that are answered at one time. One more closes the oldest: nobody makes threads for ever, or keeps others out."""
_BACKLOG: Final = 16


class Health:
    """What readiness depends on. Without a check, a service is ready until it drains."""

    def __init__(self, lifecycle: Lifecycle | None = None) -> None:
        self._checks: dict[str, Callable[[], bool]] = {}
        if lifecycle is not None:
            self.check("not_draining", lambda: not lifecycle.stopping.is_set())

    def check(self, name: str, passes: Callable[[], bool]) -> None:
        """Make readiness depend on `passes`, which must answer at once and may be called in any thread."""
        self._checks[name] = passes

    def failing(self) -> list[str]:
        """Return the names of the checks that do not pass now."""
        return [name for name, passes in self._checks.items() if not passes()]


@asynccontextmanager
async def serve(settings: HealthSettings, health: Health, telemetry: Telemetry | None = None) -> AsyncIterator[None]:
    """Serve while the block runs; nothing at all where the port is 0. Raises OSError where the port is taken."""
    if settings.port == 0:
        yield
        return

    def answer(path: str) -> tuple[int, str, bytes]:
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/readyz":
            failing = health.failing()
            return (503, _TEXT, "".join(f"{name}\n" for name in failing).encode()) if failing else (200, _TEXT, b"ok\n")
        if path == "/metrics":
            return 200, PROMETHEUS_CONTENT_TYPE, telemetry.prometheus() if telemetry is not None else b""
        return 404, _TEXT, b"not found\n"

    loop = asyncio.get_running_loop()
    with await asyncio.to_thread(_Server, settings.host, settings.port, answer) as server:
        loop.add_reader(server.fileno(), server.handle_request)
        try:
            logger.info("health.served", host=settings.host, port=settings.port)
            yield
        finally:
            loop.remove_reader(server.fileno())


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Takes connections when the event loop says that there are some; `answer` turns a path into status, type and body."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    timeout = 0
    request_queue_size = _BACKLOG

    def __init__(self, host: str, port: int, answer: Callable[[str], tuple[int, str, bytes]]) -> None:
        self.answer = answer
        self._open: dict[socket.socket, None] = {}
        self._opening = threading.Lock()
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__(address, _Request)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._opening:
            self._open[request] = None
            if len(self._open) > _MOST_AT_ONCE:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):  # its end was under way
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, and make room for the next."""
        with self._opening:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Whoever asked has gone."""


class _Request(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        """Answer, with the body where it was asked for."""
        status, content_type, body = self.server.answer(self.path.partition("?")[0])
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the standard library's name

    def log_message(self, *_arguments: Any) -> None:
        """Probes are no news."""
