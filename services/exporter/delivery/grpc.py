"""OTLP over gRPC: serialized requests in, outcomes out.

The bytes go onto the channel as they are. The rules for what may be sent again are those of the OTLP specification
(https://opentelemetry.io/docs/specs/otlp/#failures).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from services.exporter.delivery.environment import OtlpSettings, Signal
from services.exporter.delivery.sink import MAX_RESPONSE_BYTES, Outcome, Rejected, Retry, read_response, user_agent
from services.runtime.privacy.redaction import redacted
from services.runtime.proxies import grpc_options

_EXPORT_METHODS: Final[Mapping[Signal, str]] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}

_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_UNAUTHORIZED: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
# No status says "too large" and nothing else, so the words have to: of gRPC's C++ and Go, Java, .NET and Rust implementations,
# and of the client itself where a proxy on the way answers with HTTP 413.
_SIZE_CODES: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNKNOWN})
_SIZE_WORDS: Final = re.compile(
    r"message( after decompression)? larger than max|exceeds (the )?(configured )?maximum|message length too large|status: 413",
    re.IGNORECASE,
)
_STATUS_DETAILS: Final = "grpc-status-details-bin"


class GrpcSink:
    """One channel to an OTLP/gRPC backend. Must be made where its event loop runs."""

    def __init__(self, settings: OtlpSettings, signal: Signal = "traces") -> None:
        self._timeout_seconds = settings.timeout_seconds
        # Metadata whose name ends in -bin carries bytes.
        self._metadata = tuple(
            (name, value.encode() if name.endswith("-bin") else value) for name, value in settings.all_headers().items()
        )
        self._channel = _open_channel(settings)
        self._export: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            _EXPORT_METHODS[signal], request_serializer=None, response_deserializer=None
        )

    async def send(self, body: bytes) -> Outcome:
        """Make one attempt to hand over `body`."""
        try:
            response = await self._export(body, timeout=self._timeout_seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            return _failure(error)
        return read_response(response)

    async def close(self) -> None:
        """Close the channel; attempts still running are cancelled."""
        await self._channel.close()


def _open_channel(settings: OtlpSettings) -> grpc.aio.Channel:
    options = (
        ("grpc.primary_user_agent", user_agent()),
        ("grpc.max_send_message_length", -1),  # the size of requests is bounded where they are made
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        # A peer that vanished without a word must not hold the connection: no answer to a ping drops it.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Backing off is done by the delivery; the channel should have reconnected by the time of the next attempt.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # A name that stands for several backends (a headless service) gets its load spread over all of them.
        ("grpc.lb_policy_name", "round_robin"),
        *grpc_options(settings.proxy_url),
    )
    compression = grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression
    if not settings.secure:
        return grpc.aio.insecure_channel(settings.endpoint, options=options, compression=compression)
    files = settings.ca_file, settings.client_key_file, settings.client_certificate_file
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() if file else None for file in files))
    return grpc.aio.secure_channel(settings.endpoint, credentials, options=options, compression=compression)


def _failure(error: grpc.aio.AioRpcError) -> Retry | Rejected:
    """What a status other than OK means for the request."""
    code = error.code()
    name = code.name
    detail = redacted(f"{name}: {error.details() or 'no details'}")  # a server may repeat what it was asked with
    after_seconds = _retry_info_seconds(error)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and after_seconds is not None:
        return Retry(name.lower(), detail, after_seconds)
    if code in _SIZE_CODES and _SIZE_WORDS.search(detail):
        return Rejected(detail, too_large=True)
    if code in _RETRYABLE:
        return Retry(name.lower(), detail, after_seconds, smaller_may_pass=code is grpc.StatusCode.DEADLINE_EXCEEDED)
    return Rejected(detail, unauthorized=code in _UNAUTHORIZED)


def _retry_info_seconds(error: grpc.aio.AioRpcError) -> float | None:
    """Read RetryInfo from the status details; None where there is none, or nothing that can be read.

    RetryInfo without a delay counts as one: its presence alone says that the request may be sent again.
    """
    for name, value in error.trailing_metadata() or ():
        if name != _STATUS_DETAILS or not isinstance(value, bytes):
            continue
        try:
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    seconds: float = info.retry_delay.seconds + info.retry_delay.nanos / 1e9
                    return max(seconds, 0.0)
        except DecodeError:
            return None
    return None
