"""Requests that go over to HTTP/2, both ends of which go on at the same moment, each on a processor of its own.

`python -m tests.support.calls.switching FIRST COUNT`: over loopback, one connection after the other, numbered from FIRST on.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Final

from tests.support.packets.talks.http2_talk import END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, context, frame

SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
_LONGEST_WAIT_NS: Final = 60_000
"""Of the server behind its 101: about as long as a client takes to have read it and go on."""


def _receive(connection: socket.socket, ending: bytes) -> None:
    heard = b""
    while not heard.endswith(ending):
        heard += connection.recv(65536)


def _serve(listener: socket.socket, count: int) -> None:
    """Answer so many requests, after a wait that differs, on stream 1."""
    for number in range(count):
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _receive(connection, b"\r\n\r\n")
            connection.sendall(SWITCHING)
            until = time.monotonic_ns() + number * 997 % _LONGEST_WAIT_NS
            while time.monotonic_ns() < until:
                pass
            connection.sendall(WELCOME)
            _receive(connection, HELLO)
            connection.sendall(frame(HEADERS, 1, Coder().answers(), END_HEADERS | END_STREAM))
            connection.recv(1)


def _ask(address: tuple[str, int], numbers: range) -> None:
    for number in numbers:
        with socket.create_connection(address) as connection:
            lines = (
                "GET / HTTP/1.1",
                "Host: a",
                "Connection: Upgrade",
                "Upgrade: h2c",
                f"traceparent: {context(number)}",
                "",
                "",
            )
            connection.sendall("\r\n".join(lines).encode())
            connection.recv(len(SWITCHING))
            connection.sendall(HELLO)
            _receive(connection, frame(HEADERS, 1, Coder().answers(), END_HEADERS | END_STREAM))


def main() -> None:
    """Be the client, and in another process the server."""
    first, count = map(int, sys.argv[1:])
    processors = sorted(os.sched_getaffinity(0))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        if not (server := os.fork()):
            os.sched_setaffinity(0, processors[:1])
            _serve(listener, count)
            return
        os.sched_setaffinity(0, processors[-1:])
        _ask(listener.getsockname(), range(first, first + count))
        _, failed = os.waitpid(server, 0)
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
