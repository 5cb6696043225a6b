"""Clients and servers whose calls an OpenTelemetry SDK traces, plainly: a span for the caller, its context in the headers, and
one for the server under it.

Each call has sizes of its own, by which it is known in what was captured: nothing else that is told of an exchange names it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
from opentelemetry import propagate
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanProcessor
from opentelemetry.trace import SpanKind, Tracer

STEP: Final = 700
"""Bytes by which sizes differ: more than the headers of any two calls do."""
SIZES: Final = 16
"""So many of them each way, so that as many calls as the square of it differ from each other."""
CHANNELS: Final = 4
"""Of a client of gRPC, each with a connection of its own."""
LASTING_MS: Final = 500
"""After so long a server of gRPC sends GOAWAY, and its clients go on over another connection."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as its client's SDK knows it."""

    number: int
    trace_id: int
    span_id: int
    begun_ns: int
    ended_ns: int

    @property
    def sizes(self) -> tuple[int, int]:
        """In steps, of request and response."""
        return sizes(self.number)


def sizes(number: int) -> tuple[int, int]:
    """Those of a call, in steps: 1 at the least."""
    return 1 + number % SIZES, 1 + number // SIZES % SIZES


def tracer(service: str, processor: SpanProcessor) -> tuple[Tracer, TracerProvider]:
    """A service's own SDK, which gives its spans to a processor."""
    provider = TracerProvider(resource=Resource({"service.name": service}))
    provider.add_span_processor(processor)
    return provider.get_tracer("shop"), provider


def traced(caller: Tracer, number: int, send: Callable[[dict[str, str]], None]) -> Call:
    """Make a call within a span of its own; `send` gets the headers that carry its context."""
    with caller.start_as_current_span(f"call {number}", kind=SpanKind.CLIENT) as span:
        headers: dict[str, str] = {}
        propagate.inject(headers)
        send(headers)
    context = span.get_span_context()
    return Call(number, context.trace_id, context.span_id, span.start_time, span.end_time)


@contextmanager
def grpc_server(answering: Tracer, address: str = "127.0.0.1") -> Iterator[int]:
    """A server of gRPC that answers with the size that the request's own asks for, and ends its connections when they are half
    a second old; yields its port.
    """

    def answer(asked: bytes, call: grpc.ServicerContext) -> bytes:
        headers = {key: value for key, value in call.invocation_metadata() if isinstance(value, str)}
        with answering.start_as_current_span("answer", propagate.extract(headers), kind=SpanKind.SERVER):
            return b"r" * (STEP * int.from_bytes(asked[:1]))

    handler = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_connection_age_ms", LASTING_MS)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", {"Ask": handler})])
    port = server.add_insecure_port(f"{address}:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def grpc_calls(caller: Tracer, target: str, count: int, at_once: int) -> list[Call]:
    """So many calls over CHANNELS channels, several at once."""
    own = [("grpc.use_local_subchannel_pool", 1)]  # else channels to one target share a connection
    with ExitStack() as stack, futures.ThreadPoolExecutor(at_once) as pool:
        channels = [stack.enter_context(grpc.insecure_channel(target, options=own)) for _ in range(CHANNELS)]
        asks = [channel.unary_unary("/t.T/Ask") for channel in channels]

        def call(number: int) -> Call:
            request, response = sizes(number)
            content, ask = bytes([response]).ljust(STEP * request, b"q"), asks[number % CHANNELS]
            return traced(caller, number, lambda headers: ask(content, metadata=list(headers.items())))

        return list(pool.map(call, range(count)))


def _received(connection: socket.socket) -> Iterator[tuple[dict[str, str], int]]:
    """Messages of HTTP/1 with a Content-Length, one after the other: headers, and the body's first byte."""
    held = b""
    while True:
        while b"\r\n\r\n" not in held:
            part = connection.recv(65536)
            if not part:
                return
            held += part
        head, _, held = held.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        while len(held) < int(headers["Content-Length"]):
            held += connection.recv(65536)
        first, held = held[0], held[int(headers["Content-Length"]) :]
        yield headers, first


@contextmanager
def http_server(make_socket: Callable[..., Any], address: str, answering: Tracer) -> Iterator[tuple[str, int]]:
    """Likewise one of HTTP/1, whose sockets `make_socket` makes; yields where it listens."""
    listener = make_socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(64)
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            for headers, size in _received(connection):
                with answering.start_as_current_span("answer", propagate.extract(headers), kind=SpanKind.SERVER):
                    body = b"r" * (STEP * size)
                connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()
        for thread in threads:
            thread.join()


def http_calls(
    make_socket: Callable[..., Any], server: tuple[str, int], caller: Tracer, count: int, connections: int
) -> list[Call]:
    """So many calls over some connections at once, each of which stays open."""

    def talk(first: int) -> list[Call]:
        with make_socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.connect(server)
            answers = _received(connection)

            def send(number: int, headers: dict[str, str]) -> None:
                request, response = sizes(number)
                body = bytes([response]).ljust(STEP * request, b"q")
                lines = [f"{name}: {value}" for name, value in headers.items()]
                head = "\r\n".join(["POST /ask HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""])
                connection.sendall(head.encode() + body)
                next(answers)

            return [
                traced(caller, number, lambda headers, number=number: send(number, headers))
                for number in range(first, count, connections)
            ]

    with futures.ThreadPoolExecutor(connections) as pool:
        return [call for calls in pool.map(talk, range(connections)) for call in calls]
