"""An OTLP backend for tests: a real gRPC server and a real HTTP server that accept, refuse, stall and lie as told.

Both run in threads of their own, so synchronous and asynchronous tests use it alike. Each request takes the next answer of the
script; when the script is empty, the request is accepted.

    with OtlpReceiver() as receiver:
        receiver.script(Refuse(grpc.StatusCode.UNAVAILABLE), Accept())
        ...
        receiver.wait_for(lambda: len(receiver.spans) == 23)
"""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.support.certificates import Certificates
from tests.support.ports import free_ports

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PATH = "/v1/traces"
MAX_REQUEST_BYTES = 4 * 1024 * 1024

SpanId: TypeAlias = tuple[bytes, bytes]


@dataclass(frozen=True)
class Accept:
    """Take the spans, and say so at once, or after so long or when `release` is called."""

    after_seconds: float = 0.0


@dataclass(frozen=True)
class PartialSuccess:
    """Take all but the first `rejected` spans and say so. With 0 it is a warning."""

    rejected: int
    message: str = "no"


@dataclass(frozen=True)
class Refuse:
    """Answer with a status: a gRPC code, or an HTTP number with headers. `retry_seconds` adds RetryInfo or Retry-After."""

    status: grpc.StatusCode | int
    detail: str = "as told"
    retry_seconds: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True)
class Stall:
    """Say nothing until `release` is called or the receiver stops, then drop the request."""


@dataclass(frozen=True)
class Garbage:
    """Take the spans and answer OK with a body that is no response."""

    body: bytes = b"\xff\xff\xff not protobuf"


@dataclass(frozen=True)
class TakeAndDrop:
    """Take the spans and break the connection before the answer is out (HTTP: reset; gRPC: UNAVAILABLE)."""


@dataclass(frozen=True)
class ResetMidResponse:
    """Break the connection with half of the response sent, nothing taken (HTTP only)."""


Answer: TypeAlias = Accept | PartialSuccess | Refuse | Stall | Garbage | TakeAndDrop | ResetMidResponse


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    protocol: str
    headers: Mapping[str, str]
    body: bytes
    answer: Answer
    at: float
    """When, on the monotonic clock."""

    @property
    def spans(self) -> int:
        """How many spans were in it."""
        return sum(1 for _ in _spans(ExportTraceServiceRequest.FromString(self.body)))


class Conflict(NamedTuple):
    """A span that came again with another content."""

    told: str
    """What each of them says and the other does not."""
    attributes: frozenset[str]
    """Names of those that differ; `name`, where the span's own does."""
    only_attributes: bool
    """Whether nothing else does."""


class OtlpReceiver:
    """A backend on loopback, or where it is told. Its ports stay the same over `stop` and `start`."""

    def __init__(self, *, tls: Certificates | None = None, client_certificates: bool = False, host: str = "127.0.0.1") -> None:
        self._host = host
        self._tls = tls
        self._client_certificates = client_certificates
        self._changed = threading.Condition()
        self._script: deque[Answer] = deque()
        self._released = threading.Event()
        self._grpc: grpc.Server | None = None
        self._http: _HttpServer | None = None
        self.default: Answer = Accept()
        self.max_http_bytes = MAX_REQUEST_BYTES
        """Larger bodies get 413 and a closed connection, unread. gRPC's limit is always 4 MiB."""
        self.requests: list[Received] = []
        self.spans: dict[SpanId, Span] = {}
        """Every span taken, each once."""
        self.resources: dict[SpanId, ResourceSpans] = {}
        """The resource a span came with; its scopes are empty."""
        self.taken = 0
        """Spans taken, repeats included."""
        self.conflicts: list[Conflict] = []
        """Spans that came again with another content: there must never be any."""
        self.grpc_port, self.http_port = free_ports(2)

    @property
    def grpc_endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT is for gRPC."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT is for HTTP."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.http_port}"

    def script(self, *answers: Answer) -> None:
        """Add answers, one for each request to come."""
        with self._changed:
            self._script.extend(answers)

    def release(self) -> None:
        """End every stall that is under way."""
        with self._changed:
            self._released.set()
            self._released = threading.Event()

    def wait_for(self, condition: Callable[[], bool], timeout_seconds: float = 60.0) -> None:
        """Return once `condition` holds; it is looked at after every request. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_seconds):
                raise TimeoutError(f"{len(self.requests)} requests, {len(self.spans)} spans")

    def start(self) -> None:
        """Listen."""
        self._released.clear()
        self._grpc = self._start_grpc()
        self._http = _HttpServer((self._host, self.http_port), self)
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._tls.server_certificate, self._tls.server_key)
            if self._client_certificates:
                context.load_verify_locations(self._tls.authority)
                context.verify_mode = ssl.CERT_REQUIRED
            self._http.tls = context
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close every connection at once and listen no more."""
        self._released.set()
        if self._grpc:
            self._grpc.stop(grace=None).wait()
        if self._http:
            self._http.shutdown()
            self._http.close_connections()
            self._http.server_close()
        self._grpc = self._http = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def receive(self, protocol: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take in one request and return the answer it gets. A stall is over when this returns."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            answer = self._script.popleft() if self._script else self.default
            self.requests.append(Received(protocol, headers, body, answer, time.monotonic()))
            if isinstance(answer, Accept | PartialSuccess | Garbage | TakeAndDrop):
                self._take(request, answer.rejected if isinstance(answer, PartialSuccess) else 0)
            self._changed.notify_all()
            released = self._released
        if isinstance(answer, Stall):
            released.wait()
        if isinstance(answer, Accept) and answer.after_seconds:
            released.wait(answer.after_seconds)
        return answer

    def _take(self, request: ExportTraceServiceRequest, leave_out: int) -> None:
        for number, (resource, span) in enumerate(_spans(request)):
            if number < leave_out:
                continue
            key = (span.trace_id, span.span_id)
            span.attributes.sort(key=lambda attribute: attribute.key)  # their order means nothing in OTLP
            self.taken += 1
            if (first := self.spans.setdefault(key, span)) != span:
                self.conflicts.append(_conflict(first, span))
            self.resources[key] = ResourceSpans(resource=resource.resource, schema_url=resource.schema_url)

    def _start_grpc(self) -> grpc.Server:
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ]
        server = grpc.server(ThreadPoolExecutor(32), options=options)
        export = grpc.unary_unary_rpc_method_handler(self._answer_grpc)
        service, method = EXPORT.strip("/").split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: export}),))
        address = f"{self._host}:{self.grpc_port}"
        if self._tls:
            pair = self._tls.server_key.read_bytes(), self._tls.server_certificate.read_bytes()
            trusted = self._tls.authority.read_bytes() if self._client_certificates else None
            server.add_secure_port(address, grpc.ssl_server_credentials([pair], trusted, self._client_certificates))
        else:
            server.add_insecure_port(address)
        server.start()
        return server

    def _answer_grpc(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        answer = self.receive("grpc", headers, body)
        match answer:
            case Refuse():
                if answer.retry_seconds is not None:
                    context.set_trailing_metadata((("grpc-status-details-bin", _status_details(answer)),))
                context.abort(answer.status, answer.detail)
            case Stall() | TakeAndDrop() | ResetMidResponse():
                context.abort(grpc.StatusCode.UNAVAILABLE, "connection dropped")
        return _response_body(answer)


class _HttpServer(ThreadingHTTPServer):
    """Keeps its connections at hand, to be able to break them. Closed, it answers over none: it waits for their threads, which
    else may be as late as to take one request more.
    """

    daemon_threads = False

    def __init__(self, address: tuple[str, int], receiver: OtlpReceiver) -> None:
        super().__init__(address, _Handler)
        self.receiver = receiver
        self.tls: ssl.SSLContext | None = None
        self._connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls:
            # The handshake happens in the connection's own thread.
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(connection)
        return connection, address

    def close_connections(self) -> None:
        for connection in self._connections:
            reset(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    """Answers POST /v1/traces as the receiver says."""

    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if length > self.server.receiver.max_http_bytes:
            # Answers without reading, as servers do; the rest of the body meets a closed connection.
            self.close_connection = True
            self._respond(413, b"", {"Connection": "close"})
            return
        body = self.rfile.read(length)
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if self.path != PATH:
            self._respond(404, b"no such path", {"Content-Type": "text/plain"})
            return
        headers = {key.lower(): value for key, value in self.headers.items()}
        answer = self.server.receiver.receive("http", headers, body)
        match answer:
            case Refuse():
                self._refuse(answer)
            case Stall() | TakeAndDrop():
                self._reset()
            case ResetMidResponse():
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100\r\n\r\nhalf")
                self._reset()
            case _:
                self._respond(200, _response_body(answer), {"Content-Type": "application/x-protobuf"})

    def _refuse(self, answer: Refuse) -> None:
        headers = {"Content-Type": "application/x-protobuf", **answer.headers}
        if answer.retry_seconds is not None:
            headers["Retry-After"] = f"{answer.retry_seconds:.0f}"
        body = Status(message=answer.detail).SerializeToString() if answer.body is None else answer.body
        assert isinstance(answer.status, int)
        self._respond(answer.status, body, headers)

    def _respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        if "Date" not in headers:
            self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.close_connection = True
        reset(self.connection)

    def log_message(self, *_: Any) -> None:
        """Say nothing on standard error."""


def export_request(spans: int, *, padding: int = 0) -> bytes:
    """A serialized request with so many spans, each padded by so many bytes."""
    return ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                scope_spans=[
                    ScopeSpans(
                        spans=[
                            Span(
                                trace_id=(number + 1).to_bytes(16),
                                span_id=(number + 1).to_bytes(8),
                                name="flow",
                                trace_state="x" * padding,
                            )
                            for number in range(spans)
                        ]
                    )
                ]
            )
        ]
    ).SerializeToString()


def span_ids(body: bytes) -> list[SpanId]:
    """The trace and span ids in a serialized request."""
    return [(span.trace_id, span.span_id) for _, span in _spans(ExportTraceServiceRequest.FromString(body))]


def reset(connection: socket.socket) -> None:
    """Break a TCP connection with RST."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass
    connection.close()


def _spans(request: ExportTraceServiceRequest) -> Iterator[tuple[ResourceSpans, Span]]:
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield resource_spans, span


def _conflict(first: Span, again: Span) -> Conflict:
    said, says = ({(item.key, str(item.value).strip()) for item in span.attributes} for span in (first, again))
    times = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in (first, again)]
    ends = sorted(f"{name}={value}" for name, value in said & says if name.startswith(("source.", "destination.")))
    told = f"{first.name} {ends}: {sorted(said - says)} {times[0]}, and again {again.name} {sorted(says - said)} {times[1]}"
    other = {name for name, _ in said ^ says} | ({"name"} if first.name != again.name else set())
    first, again = (type(span).FromString(span.SerializeToString()) for span in (first, again))
    for span in (first, again):
        del span.attributes[:]
        span.name = ""
    return Conflict(told, frozenset(other), first == again)


def _response_body(answer: Answer) -> bytes:
    if isinstance(answer, Garbage):
        return answer.body
    if isinstance(answer, PartialSuccess):
        partial = ExportTracePartialSuccess(rejected_spans=answer.rejected, error_message=answer.message)
        return ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    return ExportTraceServiceResponse().SerializeToString()


def _status_details(answer: Refuse) -> bytes:
    assert isinstance(answer.status, grpc.StatusCode)
    assert answer.retry_seconds is not None
    seconds = int(answer.retry_seconds)
    delay = Duration(seconds=seconds, nanos=round((answer.retry_seconds - seconds) * 1e9))
    packed = AnyMessage()
    packed.Pack(RetryInfo(retry_delay=delay))
    return Status(code=answer.status.value[0], message=answer.detail, details=[packed]).SerializeToString()
