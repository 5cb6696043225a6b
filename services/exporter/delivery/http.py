"""OTLP over HTTP with binary protobuf: serialized requests in, outcomes out.

The rules for what may be sent again are those of the OTLP specification (https://opentelemetry.io/docs/specs/otlp/#failures-1).
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import time
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from services.exporter.delivery.environment import OtlpSettings
from services.exporter.delivery.sink import MAX_RESPONSE_BYTES, Accepted, Outcome, Rejected, Retry, read_response, user_agent
from services.runtime.privacy.redaction import redacted
from services.runtime.proxies import proxy_for

PROTOBUF: Final = "application/x-protobuf"

_RETRYABLE: Final = frozenset({429, 502, 503, 504})
_UNAUTHORIZED: Final = frozenset({401, 403})
_TOO_LARGE: Final = 413
_COMPRESS_IN_THREAD_BYTES: Final = 64 * 1024
"""Bodies from this size on are compressed in a thread: below it, handing over costs more than it spares the event loop."""


class HttpSink:
    """One client session to an OTLP/HTTP backend. Must be made where its event loop runs."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._url = settings.endpoint
        self._gzip = settings.compression == "gzip"
        # Responses are small: asking for them uncompressed makes their size what it seems to be.
        headers = {"user-agent": user_agent()} | settings.all_headers()
        headers |= {"accept-encoding": "identity", "content-type": PROTOBUF}
        if self._gzip:
            headers["content-encoding"] = "gzip"
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds),
            connector=aiohttp.TCPConnector(limit=0, ssl=settings.ssl_context() if settings.secure else True),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        self._proxy = proxy_for(settings.proxy_url)

    async def send(self, body: bytes) -> Outcome:
        """Make one attempt to hand over `body`."""
        payload = await self._compressed(body) if self._gzip else body
        try:
            # From a stream, a large body is written piece by piece and the event loop runs in between.
            async with self._session.post(
                self._url, data=io.BytesIO(payload), allow_redirects=False, proxy=self._proxy
            ) as response:
                return _outcome(response, await _read_bounded(response))
        except TimeoutError:
            return Retry("timeout", f"no answer from {self._url} in time", smaller_may_pass=True)
        except (aiohttp.ClientError, OSError) as error:
            torn = isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ECONNRESET)
            return Retry("connection", redacted(f"{type(error).__name__}: {error}"), smaller_may_pass=torn)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _compressed(self, body: bytes) -> bytes:
        # Level 1: half the time of the default for nearly the same size, as spans repeat themselves a lot.
        if len(body) < _COMPRESS_IN_THREAD_BYTES:
            return gzip.compress(body, 1, mtime=0)
        return await asyncio.to_thread(gzip.compress, body, 1, mtime=0)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body, or the beginning of one that is longer than a response may be (the rest is left unread)."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_RESPONSE_BYTES:
            response.close()
            break
    return b"".join(chunks)


def _outcome(response: aiohttp.ClientResponse, body: bytes) -> Outcome:
    status = response.status
    if 200 <= status < 300:
        if len(body) > MAX_RESPONSE_BYTES:
            return Accepted(message=f"the response is longer than {MAX_RESPONSE_BYTES} bytes")
        return read_response(body)
    # A server may repeat what it was asked with.
    detail = redacted(f"HTTP {status} {response.reason or ''}".rstrip() + f": {_explanation(response, body)}")
    if status in _RETRYABLE:
        return Retry(f"http_{status}", detail, _retry_after_seconds(response))
    if status == _TOO_LARGE:
        return Rejected(detail, too_large=True)
    if 300 <= status < 400:
        # Following would turn the POST into a GET, or send spans and credentials where nobody configured them to go.
        return Rejected(f"{detail} (redirect to {response.headers.get('Location', 'nowhere')!r}, not followed)")
    return Rejected(detail, unauthorized=status in _UNAUTHORIZED)


def _explanation(response: aiohttp.ClientResponse, body: bytes) -> str:
    """What the body of a failure says: a google.rpc.Status in protobuf by the specification, text from everybody else."""
    if response.content_type == PROTOBUF:
        try:
            message: str = Status.FromString(body).message
        except DecodeError:
            return f"{len(body)} bytes that are no google.rpc.Status"
        return message
    return " ".join(body[:400].decode(errors="replace").split())


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float | None:
    """Retry-After in either of its forms (RFC 9110 10.2.3); None where it is absent or neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    at = _unix_seconds(value)
    if at is None:
        return None
    # Measured on the server's own clock where it says what time it is there.
    now = _unix_seconds(response.headers.get("Date", ""))
    return max(at - (time.time() if now is None else now), 0.0)


def _unix_seconds(http_date: str) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except (ValueError, OverflowError):
        return None
