"""What every way out of the exporter has in common: one attempt in, one of three outcomes out.

A sink makes one attempt and says what came of it; whether to try again is decided in one place only, `retrying.py`.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from services.runtime.privacy.redaction import redacted

MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
"""Longest response that is read; the OTLP specification recommends this limit."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The backend took the request. It is never sent again, even where the backend refused some of its spans."""

    rejected_spans: int = 0
    """Spans the backend says it did not take (partial success)."""
    message: str = ""
    """What the backend said about it; with no span rejected, a warning."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed in a way that says nothing about the request: it can be sent again as it is."""

    reason: str
    """One of a few constant words, fit to be the label of a metric."""
    detail: str
    after_seconds: float | None = None
    """How long the backend asks to be left alone; None where it does not say."""
    smaller_may_pass: bool = False
    """It timed out, or the connection broke under it. Once is an accident; again and again a large request may be the cause:
    too much for the link, or for a server that closes before it has read it all, so that its 413 never gets here."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The backend will never take this request as it is."""

    detail: str
    too_large: bool = False
    """It is only its size: the halves may be taken."""
    unauthorized: bool = False
    """It may be the credentials and not the request: 401, 403, UNAUTHENTICATED, PERMISSION_DENIED."""


Outcome: TypeAlias = Accepted | Retry | Rejected


class Sink(Protocol):
    """Where serialized requests go. Attempts may run side by side."""

    async def send(self, body: bytes) -> Outcome:
        """Make one attempt to hand over `body`. Every failure is an outcome; only cancellation is raised."""
        ...

    async def close(self) -> None:
        """Release connections and files. Nothing is sent afterwards; closing twice is fine."""
        ...


def user_agent() -> str:
    """Return how the exporter names itself to a backend."""
    try:
        version = importlib.metadata.version("wirespan")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        version = "0"
    return f"Wirespan/{version}"


def read_response(body: bytes) -> Accepted:
    """Return what a serialized ExportTraceServiceResponse says; one to metrics is the same on the wire.

    By the time there is a response the backend has said yes, so one that cannot be read is an acceptance with a warning:
    sending again what was taken would be worse.
    """
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError as error:
        return Accepted(message=f"the response is no ExportTraceServiceResponse: {error}")
    return Accepted(max(partial.rejected_spans, 0), redacted(partial.error_message))
