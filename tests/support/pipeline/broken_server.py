"""Servers on loopback that speak no protocol to its end: they drip, or reset while they are being written to."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from tests.support.pipeline.otlp_receiver import reset


class BrokenServer:
    """Accepts connections and treats each in a thread of its own, as its kind does."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._listener.close()

    def treat(self, connection: socket.socket) -> None:
        """What this server does with a connection."""
        raise NotImplementedError

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._treat, args=(connection,), daemon=True).start()

    def _treat(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.treat(connection)
        reset(connection)


class Drip(BrokenServer):
    """Reads all that comes, and answers a byte now and then: a response that never ends, for whoever has the time."""

    def treat(self, connection: socket.socket) -> None:
        """Send a byte every few moments."""
        connection.settimeout(0.02)
        answer = iter(b"HTTP/1.1 200 OK\r\nx-slow: " + b"o" * 60_000)
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1 << 20):
                    return
            connection.sendall(bytes((next(answer),)))


class ResetMidRequest(BrokenServer):
    """Reads the beginning of a request and breaks the connection."""

    def treat(self, connection: socket.socket) -> None:
        """Read some of what comes; the caller resets."""
        connection.recv(64)
