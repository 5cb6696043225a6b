"""What calls of HTTP/2 cost live: of the programs and of capture's process, beside a tap that does not look.

    python -m tests.bench.bench_http2 [--rounds N] [--calls N]

Needs root. A client and a server of one process, in a control group of their own, say what gRPC says of a unary call:
HEADERS and DATA there, HEADERS, DATA and trailers back, with a sampled context or without one. Then they upload over
one stream. Measured is what the kernel counts of the programs (kernel.bpf_stats_enabled), and this process's time for
what it reads; each figure is the least of the rounds, for both ends together.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from proto.columns import Observer
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.owners.cgroups import find_root
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.bench.bench_socket_tap import statistics
from tests.support.node import bpf_info
from tests.support.packets.talks.http2_talk import DATA, END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, frame

MEGABYTES = 200
PROGRAMS = ("tap_ingress", "tap_egress")
"""What they call is measured with them."""


@contextmanager
def own_group() -> Iterator[Path]:
    """This process in a control group of its own, so that a tap there sees nobody else."""
    group = find_root() / f"wirespan-bench-{os.getpid()}"
    group.mkdir()
    processes = group / "cgroup.procs"
    try:
        processes.write_text(str(os.getpid()))
        yield group
    finally:
        (find_root() / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def calls(count: int, *, sampled: bool) -> tuple[list[bytes], list[bytes]]:
    """What each end says, call by call."""
    coder, asked, answered = Coder(), [], []
    for number in range(count):
        stream = 2 * number + 1
        head = frame(HEADERS, stream, coder.asks(number if sampled else None), END_HEADERS)
        asked.append(head + frame(DATA, stream, bytes(105), END_STREAM))
        trailers = coder.server.encode([("grpc-status", "0")])
        answered.append(
            frame(HEADERS, stream, coder.answers(), END_HEADERS)
            + frame(DATA, stream, bytes(105))
            + frame(HEADERS, stream, trailers, END_HEADERS | END_STREAM)
        )
    return asked, answered


def converse(asked: list[bytes], answered: list[bytes]) -> None:
    """One call after the other over one connection."""
    _connected(
        lambda client: [
            (client.sendall(said), _receive(client, len(back))) for said, back in zip(asked, answered, strict=True)
        ],
        lambda server: [
            (_receive(server, len(said)), server.sendall(back)) for said, back in zip(asked, answered, strict=True)
        ],
    )


def upload() -> None:
    """Over one stream, in frames of 16 KiB."""
    coder = Coder()
    block = frame(DATA, 1, bytes(16384)) * 4
    times = MEGABYTES * 2**20 // 65536

    def send(client: socket.socket) -> None:
        client.sendall(frame(HEADERS, 1, coder.asks(0), END_HEADERS))
        for _ in range(times):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)

    def take(server: socket.socket) -> None:
        while server.recv(1 << 20):
            pass

    _connected(send, take)


def measure(tap: SocketTap, talk: Callable[[], None]) -> tuple[int, int, int]:
    """Nanoseconds of the programs and of reading, and how many exchanges were told."""
    before = _spent(tap)
    stop, reading = threading.Event(), []

    def read() -> None:
        while not stop.wait(0.2) and tap.exchanges is not None:
            begun = time.thread_time_ns()
            tap.exchanges.read_frames()
            reading.append(time.thread_time_ns() - begun)

    reader = threading.Thread(target=read)
    reader.start()
    talk()
    stop.set()
    reader.join()
    programs = _spent(tap) - before
    begun, told = time.thread_time_ns(), 0
    if tap.exchanges is not None:
        told = sum(map(len, ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True)))
    return programs, sum(reading) + time.thread_time_ns() - begun, told


def _spent(tap: SocketTap) -> int:
    return sum(bpf_info.program_statistics(tap.loaded.programs[name]).run_time_ns for name in PROGRAMS)


def _connected(ask: Callable[[socket.socket], object], serve: Callable[[socket.socket], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(HELLO)
            _receive(server, len(HELLO))
            server.sendall(WELCOME)
            _receive(client, len(WELCOME))
            thread = threading.Thread(target=serve, args=(server,))
            thread.start()
            ask(client)
            thread.join()


def _receive(end: socket.socket, size: int) -> None:
    while size:
        size -= len(end.recv(size))


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description="cost of HTTP/2 live")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=10_000)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    count = arguments.calls
    talks: dict[str, tuple[int, Callable[[], None]]] = {
        f"gRPC call, {'sampled' if sampled else 'no'} context": (
            count,
            partial(converse, *calls(count, sampled=sampled)),
        )
        for sampled in (True, False)
    }
    talks[f"upload of {MEGABYTES} MiB, per MiB"] = (MEGABYTES, upload)
    found: dict[str, list[tuple[int, int, int]]] = {label: [] for label in talks}
    with own_group() as group, statistics():
        for look in (False, True):
            with SocketTap(capacity=1024, cgroup_root=group, rules=TapRules(loopback=True), trace_context=look) as tap:
                for label, (_, talk) in talks.items():
                    found[label].append(min(measure(tap, talk) for _ in range(arguments.rounds)))
    for label, (units, _) in talks.items():
        (without, _, _), (programs, reading, told) = found[label]
        sys.stdout.write(
            f"{label:28} programs {without / units:7.0f} ns -> {programs / units:7.0f} (x{programs / without:.2f}), "
            f"reading {reading / units:6.0f} ns, {told} exchanges told\n"
        )


if __name__ == "__main__":
    main()
