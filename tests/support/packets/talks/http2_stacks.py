"""Real clients and servers of HTTP/2 without TLS that talk through a relay: each gives the packets of its talk."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import grpc

from tests.support.packets.talks.http2_talk import context
from tests.support.packets.talks.relay import relay
from tests.support.ports import free_port
from tests.support.tools import ToolUnavailableError, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.packets.pcap import Frame

NODE: Final = """
const http2 = require("http2"), [table, padding, count, pings] = process.argv.slice(1).map(Number);
const options = {settings: {headerTableSize: table}, paddingStrategy: padding, maxDeflateDynamicTableSize: table};
options.maxOutstandingPings = 10_000;
const server = http2.createServer(options);
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  if (headers[":path"] === "/hints") stream.additionalHeaders({":status": 103, link: "</x>"});
  if (headers[":path"] === "/push") stream.pushStream({":path": "/y"}, (error, push) => {
    push.respond({":status": 200});
    push.end("y");
  });
  if (headers[":path"] === "/refused") return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
  stream.on("data", () => {});
  stream.on("end", () => setTimeout(() => {
    stream.respond({":status": 200, "x-long": "v".repeat(headers[":path"].length * 9)}, {waitForTrailers: true});
    stream.on("wantTrailers", () => stream.sendTrailers({"grpc-status": "0"}));
    stream.end("b".repeat(999));
  }, 5));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.once("data", (line) => {
  const client = http2.connect("http://127.0.0.1:" + String(line).trim(), options);
  const hex = (n, size) => n.toString(16).padStart(size, "0");
  client.on("stream", (push) => push.resume());
  let left = count;
  for (let n = 0; n < count; n++) {
    const path = ["/", "/hints", "/push", "/refused"][n % 4], traceparent = `00-${hex(n + 1, 32)}-${hex(n + 1, 16)}-01`;
    const headers = {":method": "POST", ":path": path, traceparent, cookie: "c".repeat(n * 20)};
    if (n % 3 === 0) headers[http2.sensitiveHeaders] = ["traceparent", "cookie"];
    const request = client.request(headers);
    request.on("error", () => {}).on("close", () => { if (!--left) client.close(() => process.exit()); }).resume();
    request.end("u".repeat(n * 50));
    request.on("ready", () => { for (let ping = 0; ping < pings; ping++) client.ping(() => {}); });
  }
});
"""


def grpc_python(_folder: Path, largest: int | None) -> Iterator[Frame]:
    """The C core of gRPC: calls one by one, a hundred at once, streaming both ways, one cancelled and one that fails."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(lambda asked, _context: asked),
        "Fails": grpc.unary_unary_rpc_method_handler(lambda _, call: call.abort(grpc.StatusCode.NOT_FOUND, "no")),
        "Stream": grpc.stream_stream_rpc_method_handler(lambda messages, _context: iter(messages)),
        "Waits": grpc.unary_stream_rpc_method_handler(lambda _, call: (b"." for _ in range(100) if not time.sleep(0.1))),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with relay(port, largest) as between, grpc.insecure_channel(f"127.0.0.1:{between.port}") as channel:
        unary, stream = channel.unary_unary("/t.T/Unary"), channel.stream_stream("/t.T/Stream")
        for number in range(10):
            unary(b"x" * number * 500, metadata=[("traceparent", context(number))])
        at_once = [unary.future(b"y", metadata=[("traceparent", context(number))]) for number in range(10, 110)]
        assert all(call.result() == b"y" for call in at_once)
        assert list(stream(iter([b"a", b"b"]), metadata=[("traceparent", context(110))])) == [b"a", b"b"]
        waits = channel.unary_stream("/t.T/Waits")(b"", metadata=[("traceparent", context(111))])
        assert next(waits) == b"."
        waits.cancel()
        failed = channel.unary_unary("/t.T/Fails").future(b"", metadata=[("traceparent", context(112))])
        assert failed.exception().code() == grpc.StatusCode.NOT_FOUND
        unary(b"", metadata=[("traceparent", context(113, "00"))])
        unary(b"")
        channel.close()
        server.stop(0).wait()
    yield from between.frames


def grpc_goaway(_folder: Path, largest: int | None) -> Iterator[Frame]:
    """A server of gRPC that ends its connections by GOAWAY when they are 50 ms old, under a client that goes on over others."""

    def wait(asked: bytes, _context: grpc.ServicerContext) -> bytes:
        time.sleep(0.01)  # so that calls are open when the GOAWAY comes
        return asked

    server = grpc.server(
        futures.ThreadPoolExecutor(8),
        options=[("grpc.max_connection_age_ms", 50), ("grpc.max_connection_age_grace_ms", 10_000)],
    )
    handler = grpc.unary_unary_rpc_method_handler(wait)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", {"Unary": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with relay(port, largest) as between, grpc.insecure_channel(f"127.0.0.1:{between.port}") as channel:
        unary = channel.unary_unary("/t.T/Unary")
        for first in range(0, 160, 4):
            calls = [
                unary.future(b"x" * number, metadata=[("traceparent", context(number))]) for number in range(first, first + 4)
            ]
            assert [len(call.result()) for call in calls] == [*range(first, first + 4)]
        channel.close()
        server.stop(0).wait()
    yield from between.frames


def node(table: int, padding: int, pings: int = 0) -> Callable[[Path, int | None], Iterator[Frame]]:
    """Node's http2 with interim responses, pushes, refused streams, never-indexed fields, and tables of this size; with so many
    pings around each call.
    """

    def talk(_folder: Path, largest: int | None) -> Iterator[Frame]:
        command = ["node", "-e", NODE, str(table), str(padding), "40", str(pings)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            with relay(int(process.stdout.readline()), largest) as between:
                process.stdin.write(f"{between.port}\n")
                process.stdin.flush()
                assert process.wait() == 0
            yield from between.frames

    return talk


def go(_folder: Path, largest: int | None) -> Iterator[Frame]:
    """Go's net/http2, both ends."""
    with go_server() as port, relay(port, largest) as between:
        subprocess.run([tool("h2c"), "call", str(between.port), "40"], check=True, capture_output=True)
    yield from between.frames


def grpc_go(_folder: Path, largest: int | None) -> Iterator[Frame]:
    """grpc-go, both ends: two hundred calls, a hundred at once, over connections that the server ends by GOAWAY after 50 ms."""
    with go_server("rpc-serve") as port, relay(port, largest) as between:
        subprocess.run([tool("h2c"), "rpc-call", str(between.port), "200"], check=True, capture_output=True)
    yield from between.frames


@contextmanager
def go_server(command: str = "serve") -> Iterator[int]:
    """A server of tests/support/h2c: the one by default takes an upgrade from HTTP/1.1 too. Yields its port."""
    with subprocess.Popen([tool("h2c"), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        yield int(server.stdout.readline())
        server.stdin.close()


def nghttp2(*command: str) -> Callable[[Path, int | None], Iterator[Frame]]:
    """nghttpd, and a client of which `{}` is the server's port."""

    def talk(folder: Path, largest: int | None) -> Iterator[Frame]:
        (folder / "page").write_bytes(b"p" * 300)
        port = free_port()
        command_line = ["nghttpd", "--no-tls", "-v", "-a127.0.0.1", f"-d{folder}", "-b7", str(port)]
        server = subprocess.Popen(["stdbuf", "-oL", *command_line], stdout=subprocess.PIPE)
        said = threading.Thread(target=server.stdout.read)
        try:
            assert b"listen" in server.stdout.readline()
            said.start()
            with relay(port, largest) as between:
                subprocess.run([word.format(between.port) for word in command], check=True, capture_output=True)
            yield from between.frames
        finally:
            server.terminate()
            server.wait()
            said.join()
            server.stdout.close()

    return talk


_TRACED: Final = f"traceparent: {context(0)}"
STACKS: Final[dict[str, tuple[str | None, Callable[[Path, int | None], Iterator[Frame]]]]] = {
    "grpcio": (None, grpc_python),
    "grpcio-goaway": (None, grpc_goaway),
    "node": ("node", node(4096, 0)),
    "node-pings": ("node", node(4096, 0, 4)),
    "node-no-table": ("node", node(0, 1)),
    "node-large-table": ("node", node(65_536, 1)),
    "go": (None, go),
    "grpc-go": (None, grpc_go),
    "h2load": ("h2load", nghttp2("h2load", "-n60", "-c2", "-m100", f"-H{_TRACED}", "http://127.0.0.1:{}/page")),
    "nghttp": ("nghttp", nghttp2("nghttp", "-nv", "-b9", f"-H{_TRACED}", "http://127.0.0.1:{}/page")),
    "curl": ("curl", nghttp2("curl", "--http2-prior-knowledge", f"-H{_TRACED}", "-dx", "http://127.0.0.1:{}/page")),
}
"""By name: a program that is needed, and the talk."""


def is_missing(name: str) -> bool:
    """Whether what a stack needs is not installed; Go's is built now."""
    if STACKS[name][1] in {go, grpc_go}:
        try:
            tool("h2c")
        except ToolUnavailableError:
            return True
    needed = [STACKS[name][0], "nghttpd" if STACKS[name][0] in {"h2load", "nghttp", "curl"} else None]
    return any(each is not None and shutil.which(each) is None for each in needed)
