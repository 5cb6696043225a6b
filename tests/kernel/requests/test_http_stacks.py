"""Exchanges of real HTTP stacks (curl, http.client, aiohttp), live at both ends: each with its own request, wait and end."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, web

from proto.columns import ExchangeEnd, Observer, Role
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.support.node.live_capture import reason_to_skip

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
]

MS = 1_000_000
RULES = TapRules(loopback=True)
WAIT_SECONDS = 0.15
ANSWER = b"<html>" + b"x" * 3000 + b"</html>"


def traceparent(number: int) -> str:
    """The context of a request whose caller is span `number`."""
    return f"00-{'ab' * 16}-{number:016x}-01"


async def answer(request: web.Request) -> web.StreamResponse:
    """Wait, then answer; /early before the body is read, /chat as a WebSocket that echoes."""
    if request.path == "/early":
        response = web.StreamResponse(status=413)
        await response.prepare(request)
        await response.write(b"too large")
        await request.read()
        await response.write_eof()
        return response
    if request.path == "/chat":
        chat = web.WebSocketResponse()
        await chat.prepare(request)
        async for message in chat:
            await chat.send_str(message.data)
        return chat
    await request.read()
    await asyncio.sleep(WAIT_SECONDS)
    return web.Response(body=ANSWER)


@contextmanager
def serving() -> Iterator[int]:
    """An aiohttp server in a thread of its own; yields its port."""
    loop, listener, ready = asyncio.new_event_loop(), socket.create_server(("127.0.0.1", 0)), threading.Event()
    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=1)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.SockSite(runner, listener).start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield listener.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def told(talk, served=None):
    """What `talk`, given a server's port, makes of exchanges: role -> rows in order, and the tap's counters."""
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        with (served or serving)() as port:
            talk(port)
        tap.detach()
        counters = tap.counters
        columns = [
            emission.columns
            for emission in ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True)
        ]
    rows = [{name: column[row] for name, column in each.items()} for each in columns for row in range(len(each["role"]))]
    mine = [row for row in rows if port in {row["local_port"], row["remote_port"]}]
    return {role: [row for row in mine if row["role"] == role] for role in (Role.CLIENT, Role.SERVER)}, counters


def callers(rows):
    """Numbers of the callers' spans."""
    return [int.from_bytes(bytes(row["parent_span_id"]), "big") for row in rows]


def times(row):
    """Its four times in milliseconds after the first."""
    names = ("request_first", "request_last", "response_first", "response_last")
    return [(int(row[f"{name}_unix_ns"]) - int(row["request_first_unix_ns"])) / MS for name in names]


class AnyMethod(BaseHTTPRequestHandler):
    """Answers every method, which Python's server calls by its name."""

    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self.reply
        raise AttributeError(name)

    def reply(self) -> None:
        """Wait, then answer."""
        threading.Event().wait(WAIT_SECONDS)
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving_any_method() -> Iterator[int]:
    """Python's own server; yields its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), AnyMethod) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("method", ["GET", "PROPFIND", "M-SEARCH", "VERSION-CONTROL", "purge"])
def test_any_method_of_a_client_is_told(method):
    """Three requests over one kept connection; the server's wait is its own."""

    def talk(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for number in (1, 2, 3):
            connection.request(method, f"/{number}", headers={"TraceParent": traceparent(number)})
            assert connection.getresponse().read() == ANSWER
        connection.close()

    ends, _ = told(talk, serving_any_method)
    for rows in ends.values():
        assert callers(rows) == [1, 2, 3]
        for row in rows:
            first, asked, begun, done = times(row)
            assert first <= asked <= begun - WAIT_SECONDS * 1000 + 1
            assert begun <= done
            assert row["response_bytes"] > len(ANSWER)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_an_upload_that_waits_for_100_continue_is_one_request(tmp_path):
    """The client (curl) keeps the body back until the interim response; the server waits after its last byte, at both ends."""
    body = tmp_path / "body"
    body.write_bytes(b"y" * 300_000)

    def talk(port: int) -> None:
        command = ["curl", "-sS", "--http1.1", "-H", "Expect: 100-continue", "-H", f"traceparent: {traceparent(7)}"]
        subprocess.run([*command, "-T", body, f"http://127.0.0.1:{port}/up"], check=True, capture_output=True)

    ends, _ = told(talk)
    for rows in ends.values():
        (row,) = rows
        _, asked, begun, _ = times(row)
        assert begun - asked >= WAIT_SECONDS * 1000 - 1
        assert asked > 0
        assert row["request_bytes"] > 300_000
        assert row["exchange_end"] in {ExchangeEnd.CLOSED, ExchangeEnd.SHUTDOWN}


def test_a_server_that_answers_before_the_body_waits_for_nothing():
    """The body goes on for as long as the client likes, after the response has begun, and the next request is the next."""

    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as client, client.makefile("rb") as heard:
            head = f"POST /early HTTP/1.1\r\nHost: x\r\ntraceparent: {traceparent(1)}\r\nContent-Length: 5000\r\n\r\n"
            client.sendall(head.encode())
            assert heard.readline().startswith(b"HTTP/1.1 413")
            for _ in range(5):
                client.sendall(b"z" * 1000)
            while heard.readline() != b"0\r\n":
                pass
            heard.readline()
            client.sendall(f"GET / HTTP/1.1\r\nHost: x\r\ntraceparent: {traceparent(2)}\r\n\r\n".encode())
            assert heard.readline().startswith(b"HTTP/1.1 200")

    ends, _ = told(talk)
    for rows in ends.values():
        assert callers(rows) == [1, 2]
        _, asked, begun, done = times(rows[0])
        assert 0 < begun < asked
        assert begun <= done
        assert rows[0]["request_bytes"] > 5000 > rows[1]["request_bytes"]


def test_a_websocket_ends_the_exchange_and_gives_the_connection_up():
    """The exchange ends with 101, at both ends; what is said after it is in none."""

    async def chat(port: int) -> None:
        headers = {"traceparent": traceparent(5)}
        async with ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/chat", headers=headers) as socket:
            for number in range(5):
                await socket.send_str(f"GET /{number} HTTP/1.1\r\ntraceparent: {traceparent(6)}\r\n\r\n")
                await socket.receive_str()

    ends, counters = told(lambda port: asyncio.run(chat(port)))
    for rows in ends.values():
        assert callers(rows) == [5]
        assert rows[0]["exchange_end"] == ExchangeEnd.SWITCHED
        _, asked, begun, done = times(rows[0])
        assert asked <= begun == done
    assert counters["connections_switched"] == 2
    assert counters["requests_unpaired"] == 0


def test_an_unanswered_request_ends_with_the_reset():
    """The server's process resets the connection: at both ends the exchange is over then."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(_port: int) -> None:
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"G")
            accepted, _ = listener.accept()
            assert accepted.recv(1) == b"G"
            client.sendall(f"ET / HTTP/1.1\r\ntraceparent: {traceparent(9)}\r\n\r\n".encode())
            accepted.recv(1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            accepted.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    port = listener.getsockname()[1]
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        talk(port)
        tap.detach()
        (emission,) = ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns() + 10_000 * MS, final=True)
        columns = emission.columns
    listener.close()
    mine = [row for row in range(len(emission)) if port in {columns["local_port"][row], columns["remote_port"][row]}]
    assert len(mine) == 2
    for row in mine:
        assert columns["exchange_end"][row] == ExchangeEnd.RESET
        assert columns["response_first_unix_ns"][row] == 0
        assert columns["request_bytes"][row] == len(f"GET / HTTP/1.1\r\ntraceparent: {traceparent(9)}\r\n\r\n")
        lasted = int(columns["end_unix_ns"][row]) - int(columns["request_first_unix_ns"][row])
        assert 0 < lasted < 10_000 * MS
