"""A server that loses every socket at once, and one that is slow alone: when a socket is made again, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from services.runtime.nats import connection
from services.runtime.nats.bus import connect
from services.runtime.nats.connection import Connection
from services.runtime.settings import NatsSettings
from tests.support.pipeline.nats_server import NatsServer

_INFO = b'INFO {"server_id":"S","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576}\r\n'
_LONG_SECONDS = 600.0
"""Between two attempts. Half of it is far beyond what this test may take."""


async def test_a_socket_that_is_lost_at_once_is_not_made_again_at_once() -> None:
    """What a forwarder does whose server is gone while it drains: one attempt for each pause, and nothing meanwhile."""
    attempts, served = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.write(_INFO)
        answered = 0
        while answered < 2 and (line := await reader.readline()):  # what says hello, and the flush after it
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
                answered += 1
        writer.close()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, connect(NatsSettings(url=f"nats://{host}:{port}", reconnect_seconds=_LONG_SECONDS), name="test") as bus:
        await served.wait()
        served.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):  # a loop without a pause has made dozens by then
                await served.wait()
        assert attempts == 1
        assert not bus.connected


async def test_a_server_that_answers_a_flush_too_late_is_heard_on(nats_server: NatsServer, monkeypatch) -> None:
    """Whoever flushed has given up by then; what is asked next is answered over the same socket."""
    slow = Connection(NatsSettings(url=nats_server.url, ping_interval_seconds=_LONG_SECONDS), name="test")
    running = asyncio.create_task(slow.run())
    try:
        await slow.wait_connected()
        nats_server.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(connection, "_FLUSH_SECONDS", 0.05)
        try:
            await slow.hear()
        finally:
            nats_server.send_signal(signal.SIGCONT)
        await slow.request("$SYS.REQ.USER.INFO", timeout_seconds=60)
        assert slow.generation == 1
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_what_went_out_did_so_though_the_server_says_nothing_of_it(nats_server: NatsServer) -> None:
    """Of many messages it is asked once, within one time for all; what it does not take is none of them."""
    async with connect(NatsSettings(url=nats_server.url, ping_interval_seconds=_LONG_SECONDS), name="test") as bus:
        await bus.wait_connected()
        watch = bus.watch("heard.>")
        await watch.start()
        messages = [("heard.a", b""), ("nobody", b""), ("heard.b", bytes(2 * bus.max_payload)), ("heard.c", b"")]
        assert await bus.tell(messages, timeout_seconds=60) == [True, False, None, True]
        nats_server.send_signal(signal.SIGSTOP)
        try:
            assert await bus.tell(messages, timeout_seconds=2) == [True, True, None, True]
        finally:
            nats_server.send_signal(signal.SIGCONT)
        assert await bus.tell(messages, timeout_seconds=60) == [True, False, None, True]
    assert await bus.tell(messages, timeout_seconds=60) == [None] * 4
