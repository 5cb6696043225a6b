"""A TLS server that says at its end which connection brought which call: the truth that tests of the meeting are held to.

    python -m tests.support.meeting.tls_server <certificate> <key> <least ms> <most ms>

Prints its port; each line of a client is a call's id, answered after a while. When standard input ends it prints one line of
JSON: id -> [client's port, how many calls that connection had brought before].
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys


async def main() -> None:
    """Serve until standard input ends."""
    certificate, key, least_ms, most_ms = sys.argv[1:5]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    served: dict[str, tuple[int, int]] = {}
    draw = random.Random(7)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        count = 0
        while line := await reader.readline():
            served[line.decode().strip()] = (port, count)
            count += 1
            await asyncio.sleep(draw.uniform(float(least_ms), float(most_ms)) / 1e3)
            writer.write(b"x" * draw.randrange(20, 4_000) + b"\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    sys.stdout.write(json.dumps(served) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
