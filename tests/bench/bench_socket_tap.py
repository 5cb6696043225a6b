"""What the socket tap costs: per packet beside an empty program, and per look at the table.

    python -m tests.bench.bench_socket_tap [--rounds N] [--flows 1000,10000,100000] [--trace-context] [--spread]

Needs root. Packets: the kernel's own measure (kernel.bpf_stats_enabled) of both programs, in turns with an empty one in the
same run; each figure is the least of the rounds, because whatever else the machine does only adds. It holds the clock readings
of the measure itself. Both ends of a connection run on one processor. `--spread` leaves that to the scheduler, which on an idle
machine wakes the other end on another processor: then each packet also fetches what that one has just written, of the
kernel's own socket as of ours. Flows: a fresh process per size; a tick is one drain of a table in which nothing, or
everything, is due.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from services.capture.live.owners.cgroups import find_root
from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.exchanges import TapExchanges
from services.capture.live.tap.loader import (
    QUESTION_PROGRAMS,
    LoadedTap,
    Switch,
    TapConstants,
    connect_calls,
    load_tap,
    write_bits,
)
from services.capture.live.tap.slot_layout import SLOT
from services.capture.live.tap.socket_tap import tick_ns
from tests.support.node import bpf_info

STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
SLOTS = 8192
PACKETS = 20_000
BULK_MEGABYTES = 300
CONNECTIONS = 300
"""The table has room for those of every round."""
SIZE = 64
SERVICE_PORT = 443


@contextlib.contextmanager
def statistics() -> Iterator[None]:
    """The kernel measures programs in here."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


def datagrams(*, connected: bool) -> None:
    """One way, 64 bytes of payload."""
    with _datagram_socket() as receiver, _datagram_socket() as sender:
        if connected:
            sender.connect(receiver.getsockname())
            receiver.connect(sender.getsockname())
        payload, to = bytes(SIZE), receiver.getsockname()
        for number in range(PACKETS):
            sender.send(payload) if connected else sender.sendto(payload, to)
            if number % 50 == 0:
                _empty(receiver)


def questions() -> None:
    """Connected UDP, one answer for each. Of a service's port, so that who asks is known from the first datagram on."""
    with _datagram_socket(SERVICE_PORT) as server, _datagram_socket() as client:
        client.connect(server.getsockname())
        server.connect(client.getsockname())
        for _ in range(PACKETS // 2):
            client.send(bytes(SIZE))
            server.recv(SIZE)
            server.send(bytes(SIZE))
            client.recv(SIZE)


def names() -> None:
    """DNS: connected UDP, one answer of 98 bytes for each question of 50."""
    with _datagram_socket(53) as server, _datagram_socket() as client:
        client.connect(server.getsockname())
        server.connect(client.getsockname())
        asked = b"\4cart\4shop\3svc\7cluster\5local\0\0\1\0\1".ljust(38, b"\0")
        for number in range(PACKETS // 2):
            client.send(number.to_bytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + asked)
            server.recv(SIZE)
            server.send(number.to_bytes(2) + b"\x81\x80\0\1\0\1\0\0\0\0" + asked + bytes(48))
            client.recv(2 * SIZE)


def requests() -> None:
    """TCP, 64 bytes there, 64 bytes back."""

    def serve(server: socket.socket) -> None:
        while data := server.recv(SIZE):
            server.sendall(data)

    def ask(client: socket.socket) -> None:
        for _ in range(PACKETS // 2):
            client.sendall(bytes(SIZE))
            client.recv(SIZE)

    _tcp(ask, serve)


def segments() -> None:
    """TCP, 64 bytes at a time, one way."""
    _tcp(lambda client: [client.sendall(bytes(SIZE)) for _ in range(PACKETS)], _drain)


def bulk() -> None:
    """TCP, a megabyte at a time; the data that the sockets copy pushes everything out of the caches."""
    _tcp(lambda client: [client.sendall(bytes(1 << 20)) for _ in range(BULK_MEGABYTES)], _drain)


def connections() -> None:
    """TCP connections one after another, a request and a response in each: what beginnings cost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(CONNECTIONS):
            with socket.create_connection(listener.getsockname()) as client:
                server, _ = listener.accept()
                client.sendall(bytes(SIZE))
                server.recv(SIZE)
                server.sendall(bytes(SIZE))
                client.recv(SIZE)
                server.close()
                client.recv(SIZE)


def first_datagrams() -> None:
    """Unconnected UDP, each datagram from another port."""
    with _datagram_socket() as receiver:
        for _ in range(CONNECTIONS):
            with _datagram_socket() as sender:
                sender.sendto(bytes(SIZE), receiver.getsockname())
        _empty(receiver)


def web(headers: bytes) -> Callable[[], None]:
    """HTTP/1 requests of 500 bytes, kept alive, with these headers; responses of 2,000 bytes."""
    asked = (
        b"GET /api/cart?user=4711 HTTP/1.1\r\nHost: cart.shop.svc:8080\r\nUser-Agent: shop/1.0\r\nAccept: */*\r\n" + headers
    ).ljust(496, b"x") + b"\r\n\r\n"

    def serve(server: socket.socket) -> None:
        while server.recv(4096):
            server.sendall(bytes(2000))

    def ask(client: socket.socket) -> None:
        for _ in range(PACKETS // 2):
            client.sendall(asked)
            left = 2000
            while left:
                left -= len(client.recv(4096))

    return lambda: _tcp(ask, serve)


LOADS: dict[str, Callable[[], None]] = {
    "UDP 64 B, unconnected (hash)": lambda: datagrams(connected=False),
    "UDP 64 B, connected": lambda: datagrams(connected=True),
    "UDP 64 B, request/response": questions,
    "DNS, question and answer": names,
    "TCP 64 B, request/response": requests,
    "TCP 64 B, one way": segments,
    "HTTP, without trace context": web(b"X-Padding: "),
    "HTTP, with trace context": web(b"traceparent: 00-" + b"4b" * 16 + b"-" + b"f0" * 8 + b"-01\r\nX-Padding: "),
    "TCP bulk": bulk,
    "TCP connections": connections,
    "UDP, first datagrams": first_datagrams,
}


def measure(loaded: LoadedTap, rounds: int) -> None:
    """Print the table of nanoseconds per packet."""
    found: dict[tuple[str, str], list[float]] = {}
    root = os.open(find_root(), os.O_RDONLY)
    for _ in range(rounds):
        for ingress, egress in (("tap_nothing", "tap_nothing"), ("tap_ingress", "tap_egress")):
            programs = [loaded.programs[name] for name in (ingress, egress)]
            links = [bpf_syscall.link_create(program, root, kind) for kind, program in enumerate(programs)]
            for label, load in LOADS.items():
                before = {name: bpf_info.program_statistics(loaded.programs[name]) for name in {ingress, egress}}
                load()
                for name, earlier in before.items():
                    later = bpf_info.program_statistics(loaded.programs[name])
                    runs = later.run_count - earlier.run_count
                    found.setdefault((label, name), []).append((later.run_time_ns - earlier.run_time_ns) / runs)
            for link in links:
                os.close(link)
    os.close(root)
    _say(f"{'ns per packet':32}{'empty':>8}{'receive':>9}{'':8}{'send':>8}{'':8}{'both':>8}")
    for label in LOADS:
        empty, receive, send = (min(found[label, name]) for name in ("tap_nothing", "tap_ingress", "tap_egress"))
        both = (receive + send) / 2
        _say(
            f"{label:32}{empty:8.1f}{receive:9.1f}{receive / empty:7.2f}x{send:8.1f}{send / empty:7.2f}x"
            f"{both:8.1f}{both / empty:7.2f}x"
        )


def flows(count: int) -> None:
    """Print what a table of `count` live flows costs; in a process of its own."""
    from proto.columns import Observer, Reason
    from services.capture.flows.table import FlowTable
    from services.capture.live.records import monotonic_ns
    from services.capture.live.tap.socket_tap import SocketTap, TapRules

    with _datagram_socket() as receiver:
        port = receiver.getsockname()[1]
        with SocketTap(rules=TapRules(loopback=True, allow_ports=(port,))) as tap:
            table = FlowTable(tap, observer=Observer.SOCKET)
            empty = _memory()
            made = _make_flows(receiver, count // 2)
            begun = monotonic_ns()
            for emission in table.drain(begun):
                table.accept(emission)
            idle, idle_cpu = _tick(lambda: list(table.drain(monotonic_ns())))
            full = _memory()

            def emit() -> None:
                for emission in table.drain(begun + 31_000_000_000):
                    table.accept(emission)

            _, due_cpu = _tick(emit, repeats=1)
            touched = _memory()
            _, last_cpu = _tick(
                lambda: [table.accept(each) for each in table.drain(begun + 32_000_000_000, Reason.SHUTDOWN)], 1
            )
            _say(
                f"{made:8} flows: tick with nothing due {idle_cpu * 1e3:7.2f} ms CPU ({idle * 1e3:.2f} ms), all due "
                f"{due_cpu * 1e6 / made:6.2f} us a record, all ended {last_cpu * 1e6 / made:6.2f} us a record"
            )
            for label, memory in (("empty", empty), ("full", full), ("all reported", touched)):
                _say(f"          RSS {label:13}" + "  ".join(f"{name} {size / 1024:6.1f} MiB" for name, size in memory.items()))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _make_flows(receiver: socket.socket, count: int) -> int:
    """Two flows, one at each end, of each of `count` senders."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    to = receiver.getsockname()
    # A sender's address may be any of 127/8: ports alone would not do.
    for number in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((f"127.1.{number // 20000}.1", 10_000 + number % 20_000))
            sender.sendto(b"x", to)
        if number % 50 == 0:
            _empty(receiver)
    return 2 * count


def _tick(action: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Least wall and CPU seconds of an action."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def _memory() -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")}


def _datagram_socket(port: int = 0) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("127.9.0.1", port))
    return opened


def _empty(receiver: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver.recv(SIZE, socket.MSG_DONTWAIT)


def _drain(server: socket.socket) -> None:
    while server.recv(1 << 20):
        pass


def _tcp(client_side: Callable[[socket.socket], object], server_side: Callable[[socket.socket], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=server_side, args=(server,))
        thread.start()
        client_side(client)
        client.close()
        thread.join()
        server.close()


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description="cost of the socket tap")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flows", default="1000,10000,100000")
    parser.add_argument("--trace-context", action="store_true", help="with the program that looks for trace contexts")
    parser.add_argument("--spread", action="store_true", help="the ends of a connection wherever the scheduler has them")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    if arguments.one:
        flows(arguments.one)
        return
    traces = frozenset({Switch.TRACE_CONTEXT} if arguments.trace_context else set())
    loaded = load_tap(TapConstants(SLOTS, traces, tick_ns()))
    write_bits(loaded, "dns_ports", [53])
    connect_calls(loaded, QUESTION_PROGRAMS)
    if traces:
        TapExchanges(loaded, lambda slots: np.zeros(len(slots), SLOT), 1)
    bpf_syscall.push_all(loaded.maps["free_slots"], _references())
    for name, program in loaded.program_descriptions.items():
        _say(f"{name:12} {program.instructions} instructions, {program.verified_instructions} verified")
    everywhere = os.sched_getaffinity(0)
    if not arguments.spread:
        os.sched_setaffinity(0, {min(everywhere)})
    with statistics():
        measure(loaded, arguments.rounds)
    os.sched_setaffinity(0, everywhere)
    for count in filter(None, arguments.flows.split(",")):
        subprocess.run([sys.executable, "-m", "tests.bench.bench_socket_tap", "--one", count], check=True)


def _references():
    return np.arange(SLOTS, dtype=np.uint64)[::-1] | np.uint64(1 << 32)


if __name__ == "__main__":
    main()
