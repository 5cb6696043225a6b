"""OTLP/HTTP with protobuf bodies: `POST /v1/traces`."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from services.enricher.errors import IntakeError
from services.enricher.intake.certificate import Certificate
from services.enricher.intake.door import Authorization, Door, status_message, unpacked, unpacked_aside
from services.enricher.intake.settings import IntakeSettings

PATH: Final = "/v1/traces"
_PROTOBUF: Final = "application/x-protobuf"
_AT_ONCE: Final = 32
"""Requests in hand; more are refused unread, by a status after which nobody tries again."""
_SMALL_BYTES: Final = 4096
"""A body that is unpacked where it is: no more than a thousand times as much is in it, which takes a few milliseconds."""


@asynccontextmanager
async def serve_http(settings: IntakeSettings, door: Door, authorization: Authorization) -> AsyncIterator[int]:
    """Take requests while the block runs; yields the port. Raises IntakeError where it cannot listen there."""
    app = web.Application(client_max_size=settings.intake_request_bytes)
    app.router.add_post(PATH, _Export(settings, door, authorization).answer)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, handle_signals=False, keepalive_timeout=75)
    await runner.setup()
    where = f"{settings.intake_host}:{settings.intake_http_port}"
    try:
        site = web.TCPSite(runner, settings.intake_host, settings.intake_http_port, ssl_context=_tls(settings))
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise IntakeError(f"the intake cannot listen on {where}: {error.strerror or error}") from error
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _tls(settings: IntakeSettings) -> ssl.SSLContext | None:
    if settings.intake_tls_cert is None or settings.intake_tls_key is None:
        return None
    certificate = Certificate(settings.intake_tls_cert, settings.intake_tls_key)

    def on_hello(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        certificate.look()
        connection.context = certificate.context

    first = certificate.context
    first.sni_callback = on_hello
    return first


class _Export:
    """Answers requests with spans."""

    def __init__(self, settings: IntakeSettings, door: Door, authorization: Authorization) -> None:
        self._most = settings.intake_request_bytes
        self._door = door
        self._authorization = authorization
        self._in_hand = 0

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one request."""
        if not self._authorization.allows(request.headers.get("authorization")):
            return self._refusal(401, "unauthorized", "the authorization header is missing or not one of ours")
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if request.content_type != _PROTOBUF or encoding not in ("identity", "gzip", ""):
            return self._refusal(415, "unsupported", f"only {_PROTOBUF} is taken, as it is or with gzip")
        if self._in_hand >= _AT_ONCE:
            return self._refusal(413, "busy", f"more than {_AT_ONCE} requests at once")
        self._in_hand += 1
        try:
            return await self._take(request, packed=encoding == "gzip")
        finally:
            self._in_hand -= 1

    async def _take(self, request: web.Request, *, packed: bool) -> web.Response:
        try:
            body: bytes | None = await request.read()
            if packed and body is not None:
                body = unpacked(body, self._most) if len(body) < _SMALL_BYTES else await unpacked_aside(body, self._most)
        except (web.HTTPRequestEntityTooLarge, OverflowError):
            return self._refusal(413, "too_large", f"more than {self._most} bytes")
        if body is None:
            return self._refusal(400, "malformed", "not gzip")
        answer = self._door.take(body, request.remote or "")
        if answer.fault:
            return web.Response(status=400, body=status_message(answer.fault), content_type=_PROTOBUF)
        return web.Response(body=answer.body, content_type=_PROTOBUF)

    def _refusal(self, status: int, result: str, message: str) -> web.Response:
        self._door.counts.requests.add(result)
        return web.Response(status=status, body=status_message(message), content_type=_PROTOBUF)
