"""OTLP/gRPC: requests as bytes, without a class for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from services.enricher.errors import IntakeError
from services.enricher.intake.certificate import Certificate
from services.enricher.intake.door import Authorization, Door
from services.enricher.intake.settings import IntakeSettings

EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_AT_ONCE: Final = 32
"""Requests in hand; more are refused at once, and so that their senders do not try again (no RetryInfo)."""
_GRACE_SECONDS: Final = 1.0


@asynccontextmanager
async def serve_grpc(settings: IntakeSettings, door: Door, authorization: Authorization) -> AsyncIterator[int]:
    """Take requests while the block runs; yields the port. Raises IntakeError where it cannot listen there."""
    server = grpc.aio.server(
        maximum_concurrent_rpcs=_AT_ONCE,
        options=[
            ("grpc.max_receive_message_length", settings.intake_request_bytes),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_concurrent_streams", _AT_ONCE),
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers((_Handlers(door, authorization),))
    host = f"[{settings.intake_host}]" if ":" in settings.intake_host else settings.intake_host
    address = f"{host}:{settings.intake_grpc_port}"
    try:
        credentials = _credentials(settings)
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except (OSError, RuntimeError, ValueError) as error:
        raise IntakeError(f"the intake cannot listen on {address}: {error}") from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(_GRACE_SECONDS)


def _credentials(settings: IntakeSettings) -> Any:
    if settings.intake_tls_cert is None or settings.intake_tls_key is None:
        return None
    certificate = Certificate(settings.intake_tls_cert, settings.intake_tls_key)

    def shown() -> Any:
        return grpc.ssl_server_certificate_configuration([certificate.contents()])

    def renewed() -> Any:
        return shown() if certificate.look() else None

    return grpc.dynamic_ssl_server_credentials(shown(), renewed)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc, type-arg, unused-ignore]
    """Answers Export. Who may not is refused before the request is read."""

    def __init__(self, door: Door, authorization: Authorization) -> None:
        self._door = door
        self._authorization = authorization
        self._export: Any = grpc.unary_unary_rpc_method_handler(self._take)
        self._refusal: Any = grpc.unary_unary_rpc_method_handler(self._refuse)

    def service(self, handler_call_details: Any) -> Any:
        """Return what answers a call; None for methods that there are not."""
        if handler_call_details.method != EXPORT:
            return None
        given: Mapping[str, str | bytes] = dict(handler_call_details.invocation_metadata or ())
        return self._export if self._authorization.allows(given.get("authorization")) else self._refusal

    async def _take(self, body: bytes, context: Any) -> bytes:
        answer = self._door.take(body, peer_address(context.peer()))
        if answer.fault:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, answer.fault)
        return answer.body

    async def _refuse(self, _body: bytes, context: Any) -> NoReturn:
        self._door.counts.requests.add("unauthorized")
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the authorization header is missing or not one of ours")
        raise asyncio.CancelledError  # abort never returns


def peer_address(peer: str) -> str:
    """Return the address in what gRPC says of a peer (`ipv4:10.0.0.1:5`, `ipv6:%5Bfd00::1%5D:5`), empty where there is none."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    return host.replace("%5B", "").replace("%5D", "").strip("[]") if family in ("ipv4", "ipv6") else ""
