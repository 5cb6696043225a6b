"""A TCP relay that writes down what passes as packets: captures of real programs without the rights to capture.

Each piece that it reads becomes a segment, at the time at which it was read. The pieces can be made as small as a test likes.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

from tests.support.packets.pcap import ACK, FIN, PSH, Conversation
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.packets.pcap import Frame

_MOST = 60_000
_OTHER = {"client": "server", "server": "client"}


class Relay:
    """Listens on `port` of the loopback and passes on to `target` there. What is there is a piece, or at random
    a part of it of up to `largest` bytes.
    """

    def __init__(self, target: int, largest: int | None = None) -> None:
        self._target = target
        self._largest = largest
        self._random = random.Random(largest)
        # Below its clients' ports, as servers' are: who joins late has no better sign of who is which.
        self.port = next(port for port in iter(free_port, 0) if port < 32_768)
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.began_unix_ns = time.time_ns()
        """When START, of the packets' clock, was."""
        self._conversations: list[Conversation] = []
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    @property
    def frames(self) -> list[Frame]:
        """All packets so far, in order."""
        with self._lock:
            frames = [frame for talk in self._conversations for frame in talk.frames]
        return sorted(frames, key=lambda frame: frame.time_ns)

    def _start(self, target, *arguments) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, address = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                talk = Conversation(client_port=address[1], server_port=self.port)
                # Each its own, as a kernel chooses them: ports may come again.
                at = {end: 1000 + len(self._conversations) * 2**22 & 0xFFFFFFFF for end in ("client", "server")}
                talk.handshake(self._seconds(), client_isn=at["client"] - 1, server_isn=at["server"] - 1, rtt=0)
                self._conversations.append(talk)
                self._start(self._pass_on, talk, at, "client", near, far)
                self._start(self._pass_on, talk, at, "server", far, near)

    def _pass_on(self, talk: Conversation, at: dict[str, int], sender: str, source: socket.socket, to: socket.socket) -> None:
        content, is_first = b"?", True
        with contextlib.suppress(OSError):
            while content:
                # What either end of HTTP/2 says first no program sends in parts.
                content = source.recv(_MOST if is_first or not self._largest else self._random.randint(1, self._largest))
                is_first = False
                with self._lock:
                    fields = {"seq": at[sender], "ack": at[_OTHER[sender]], "payload": content}
                    talk.tcp(self._seconds(), sender, PSH | ACK if content else FIN | ACK, **fields)
                    at[sender] += len(content) or 1
                if content:
                    to.sendall(content)
            to.shutdown(socket.SHUT_WR)

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def open(self) -> None:
        """Accept from now on."""
        self._start(self._accept)

    def close(self) -> None:
        """Accept no more, and end what is open."""
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def relay(target: int, largest: int | None = None) -> Iterator[Relay]:
    """Return a relay that is open."""
    made = Relay(target, largest)
    made.open()
    try:
        yield made
    finally:
        made.close()
