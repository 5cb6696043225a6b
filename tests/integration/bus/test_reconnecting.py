"""How often a server is tried that lets everybody in and loses them at once."""

from __future__ import annotations

import asyncio
import contextlib

from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings

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
