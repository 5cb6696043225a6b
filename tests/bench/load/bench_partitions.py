"""What one NATS server takes of batches as its stream is one, two or four: batches a second, and cores of the server.

    python -m tests.bench.load.bench_partitions [--rounds 3] [--batches 20000] [--partitions 1,2,4]

Publishers that cost next to nothing: each is a connection that sends the same bytes again and again as JetStream messages of
another id and counts the acknowledgements, with no more under way than a stream may have pending. What they use of the machine
is said too: where it and the server have no core left, the machine is the limit, and not the stream's leader.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import structlog

from proto.subjects import RAW_STREAM, partition_of, partition_streams, raw_subject
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings, StreamSettings
from tests.bench.harness import in_turns, processor_seconds, say, table
from tests.support.pipeline.nats_server import NatsServer

BATCH = bytes(2_753 + 20 * 318)
"""As large as one of 20 records (bench_bus)."""
PUBLISHERS = 8
WINDOW = 100
_ANSWER_SECONDS = 60.0


def publish(port: int, subject: str, first: int, batches: int) -> None:
    """Publish so many and return once each is acknowledged."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS) as connection:
        connection.sendall(b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n')
        connection.sendall(f"SUB _INBOX.{first}.* 1\r\n".encode())
        for begin in range(0, batches, WINDOW):
            connection.sendall(b"".join(message(subject, first, begin + number) for number in range(WINDOW)))
            acknowledged, rest = 0, b""
            while acknowledged < WINDOW:
                found = connection.recv(1 << 16)
                if not found:
                    raise ConnectionError("the server closed the connection")
                rest += found
                whole, mark, rest = rest.rpartition(b"\r\n")
                if b'"error"' in whole or b"-ERR" in whole:
                    raise RuntimeError(whole.decode(errors="replace"))
                acknowledged += (whole + mark).count(b'"seq":')


def message(subject: str, first: int, number: int) -> bytes:
    """One message as it goes over the wire, with an id as capture gives it."""
    head = f"NATS/1.0\r\nNats-Msg-Id: node/{first}/{number}\r\n\r\n".encode()
    size = f"{len(head)} {len(head) + len(BATCH)}"
    return f"HPUB {subject} _INBOX.{first}.{number} {size}\r\n".encode() + head + BATCH + b"\r\n"


async def prepared(server: NatsServer, partitions: int) -> None:
    """Make the streams."""
    settings = StreamSettings(partitions=partitions, raw_bytes=4 << 30, raw_node_share=1)
    async with connect(NatsSettings(url=server.url), name="bench") as bus:
        await bus.ensure_streams(settings)


def measure(partitions: int, batches: int) -> tuple[float, float, float, float]:
    """Return batches a second, cores of the server, cores of the publishers, and the server's microseconds a batch."""
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder) / "nats") as server:
        asyncio.run(prepared(server, partitions))
        nodes = [
            next(name for number in count(publisher * 1000) if partition_of(name := f"node-{number}", partitions) == which)
            for publisher in range(PUBLISHERS)
            for which in (publisher % partitions,)
        ]
        port, each = int(server.url.rpartition(":")[2]), batches // PUBLISHERS
        used, own, began = processor_seconds(server.pid), processor_seconds(os.getpid()), time.monotonic()
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            work = [
                pool.submit(publish, port, raw_subject(node, partitions), place * batches, each)
                for place, node in enumerate(nodes)
            ]
            for done in work:
                done.result()
        seconds = time.monotonic() - began
        used, own = processor_seconds(server.pid) - used, processor_seconds(os.getpid()) - own
        asyncio.run(all_there(server, partitions, each * PUBLISHERS))
    return each * PUBLISHERS / seconds, used / seconds, own / seconds, used / (each * PUBLISHERS) * 1e6


async def all_there(server: NatsServer, partitions: int, batches: int) -> None:
    """Check that the streams hold what was published, each its part."""
    async with connect(NatsSettings(url=server.url), name="bench") as bus:
        held = [(await bus.stream_state(stream)).messages for stream in partition_streams(RAW_STREAM, partitions)]
    if sum(held) != batches or max(held) != batches // partitions:
        raise RuntimeError(f"of {batches} batches there are {held}")


def main() -> None:
    """Measure in turns and print the best of each: whatever else the machine does only takes away."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--partitions", default="1,2,4")
    arguments = parser.parse_args()
    numbers = [int(number) for number in arguments.partitions.split(",")]
    batches = arguments.batches // (PUBLISHERS * WINDOW) * PUBLISHERS * WINDOW
    found: dict[int, list[tuple[float, float, float, float]]] = {number: [] for number in numbers}

    def one(number: int) -> float:
        found[number].append(measure(number, batches))
        return 0.0

    in_turns({str(number): (lambda number=number: one(number)) for number in numbers}, arguments.rounds)
    rows = []
    for number in numbers:
        rate, cores, own, cost = max(found[number])
        rows.append((str(number), f"{rate:,.0f}", f"{cores:.2f}", f"{own:.2f}", f"{cost:.0f}"))
    head = ("partitions", "batches/s", "cores of the server", "of the publishers", "µs of the server a batch")
    say(table(head, rows))


if __name__ == "__main__":
    main()
