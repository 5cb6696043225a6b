"""Checks of `wirespan doctor`: whether the backend takes spans. It is sent a request without any."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aiohttp
import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from services.cli.doctor.bounds import run_bounded
from services.cli.doctor.finding import Finding, fail, ok, skipped, warn
from services.cli.run.destination import EndpointDestination, FileDestination
from services.runtime.otlp_protocol import suggested_protocol
from services.runtime.proxies import grpc_options, proxy_for

_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_TRACES_PATH: Final = "/v1/traces"
_SECONDS: Final = 4.0
_EMPTY_REQUEST: Final = b""
"""A serialized ExportTraceServiceRequest without spans; backends are to answer it with success."""
_RESPONSE_BYTES: Final = 64 * 1024
_BUSY: Final = frozenset({400, 429, 502, 503, 504})
_BUSY_CODES: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED})
_DENIED_CODES: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_REACH: Final = "start it, or correct --otlp-endpoint or OTEL_EXPORTER_OTLP_ENDPOINT (and _PROTOCOL: grpc or http/protobuf)"
_CREDENTIALS: Final = "credentials: OTEL_EXPORTER_OTLP_HEADERS=authorization=..."


@dataclass(frozen=True, slots=True)
class _Backend:
    """Where an exporter with this environment would send spans."""

    url: str
    http: bool
    secure: bool
    headers: tuple[tuple[str, str], ...]
    certificates: tuple[Path | None, Path | None, Path | None]
    """Authority, key, certificate."""

    def __str__(self) -> str:
        return f"{self.url.rpartition('@')[2]} ({'http/protobuf' if self.http else 'grpc'})"


def check_otlp(destination: EndpointDestination | FileDestination, environ: Mapping[str, str] = os.environ) -> Finding:
    """Check that the backend answers an export."""
    if isinstance(destination, FileDestination):
        return skipped("no endpoint given: spans go to a file (--otlp-endpoint or OTEL_EXPORTER_OTLP_ENDPOINT names one)")
    try:
        backend = _backend(destination.environ(environ))
        return run_bounded(_export_http(backend)) if backend.http else _export_grpc(backend)
    except (OSError, ValueError) as error:  # certificates that cannot be read, an endpoint that is none
        return fail(f"{destination}: {error}", "correct the OTEL_EXPORTER_OTLP_* variables")


def _backend(environ: Mapping[str, str]) -> _Backend:
    def value(name: str) -> str:
        general = environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()
        return environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip() or general

    def file(name: str) -> Path | None:
        return Path(value(name)) if value(name) else None

    endpoint = value("ENDPOINT")
    http = (value("PROTOCOL") or suggested_protocol(endpoint)) == "http/protobuf"
    # A gRPC endpoint without a scheme is secure unless INSECURE says otherwise.
    secure = endpoint.startswith("https://") or ("://" not in endpoint and value("INSECURE").lower() != "true")
    if http and not environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip():
        endpoint = endpoint.rstrip("/") + _TRACES_PATH
    pairs = (item.partition("=") for item in value("HEADERS").split(",") if "=" in item)
    headers = tuple((unquote(name).strip().lower(), unquote(content).strip()) for name, _, content in pairs)
    return _Backend(endpoint, http, secure, headers, (file("CERTIFICATE"), file("CLIENT_KEY"), file("CLIENT_CERTIFICATE")))


def _export_grpc(backend: _Backend) -> Finding:
    target = backend.url
    if "://" in target:
        url = urlsplit(target)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        target = f"{host}:{url.port or (443 if backend.secure else 80)}"
    with _channel(target, backend, grpc_options(f"{'https' if backend.secure else 'http'}://{target}")) as channel:
        export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            _EXPORT, request_serializer=None, response_deserializer=None
        )
        try:
            return _accepted(backend, export(_EMPTY_REQUEST, timeout=_SECONDS, metadata=backend.headers))
        except grpc.RpcError as error:
            return _grpc_failure(backend, error)


def _channel(target: str, backend: _Backend, options: Sequence[tuple[str, int | str]]) -> grpc.Channel:
    if not backend.secure:
        return grpc.insecure_channel(target, options=options)
    authority, key, certificate = (path.read_bytes() if path else None for path in backend.certificates)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority, key, certificate), options=options)


def _grpc_failure(backend: _Backend, error: grpc.RpcError) -> Finding:
    code = error.code()
    said = f"{backend}: {code.name}: {error.details() or 'no details'}"
    if code in _BUSY_CODES:
        return warn(f"{said}, to a request without spans", "it is there; see its own log if spans do not arrive")
    if code in _DENIED_CODES:
        return fail(said, _CREDENTIALS)
    return fail(said, "this is no OTLP trace receiver over gRPC" if code is grpc.StatusCode.UNIMPLEMENTED else _REACH)


async def _export_http(backend: _Backend) -> Finding:
    context: ssl.SSLContext | bool = True
    if backend.secure:
        authority, key, certificate = backend.certificates
        context = ssl.create_default_context(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    headers = {**dict(backend.headers), "content-type": "application/x-protobuf"}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    connector = aiohttp.TCPConnector(ssl=context)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            session.post(
                backend.url, data=_EMPTY_REQUEST, headers=headers, allow_redirects=False, proxy=proxy_for(backend.url)
            ) as response,
        ):
            return _http_answer(backend, response.status, await response.content.read(_RESPONSE_BYTES))
    except TimeoutError:
        return fail(f"{backend}: no answer within {_SECONDS:g} s", _REACH)
    except aiohttp.ClientResponseError:
        return fail(f"{backend} does not answer in HTTP/1.1", _REACH)
    except aiohttp.ClientError as error:
        return fail(f"{backend}: {error or type(error).__name__}", _REACH)


def _http_answer(backend: _Backend, status: int, body: bytes) -> Finding:
    if status // 100 == 2:
        return _accepted(backend, body)
    said = f"{backend}: HTTP {status}"
    if status in _BUSY:
        return warn(f"{said}, to a request without spans", "it is there; see its own log if spans do not arrive")
    if status in (401, 403):
        return fail(said, _CREDENTIALS)
    return fail(said, f"the path is wrong: most receivers take spans at {_TRACES_PATH}" if status == 404 else _REACH)


def _accepted(backend: _Backend, body: bytes) -> Finding:
    try:
        message = ExportTraceServiceResponse.FromString(body).partial_success.error_message
    except DecodeError:
        return warn(f"{backend} answers with something else than OTLP", "is it an OTLP trace receiver?")
    return ok(f"{backend} took a request without spans{f', and says: {message}' if message else ''}")
