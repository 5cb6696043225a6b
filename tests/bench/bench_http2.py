"""What HTTP/2 costs live: of the programs and of capture's process, and of all that the kernel does for it.

    python -m tests.bench.bench_http2 [--rounds N] [--calls N] [--megabytes N] [--spread]

Needs root. A client and a server of one process say what gRPC says of a unary call: HEADERS and DATA there, HEADERS, DATA and
trailers back, with a sampled context or without one. Then they upload over one stream, in packets of the loopback's size and of
a wire's without any offload. They are in control groups of their own: with no tap, with one that does not look, with one that
does. Both ends run on one processor (`--spread`: wherever the scheduler has them).

First what the kernel counts of the programs (kernel.bpf_stats_enabled), and this process's time for what it reads: the least of
the rounds. Then, in many short turns and without that count, the processor time of both ends, nearly all of which is the
kernel's where they upload: on a loopback the sender's is also that of the softirq in which the other end receives. Medians of
it and of each turn's ratio, with their quartiles.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics as median_of
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proto.columns import Reason
from services.capture.live.owners.cgroups import find_root
from services.capture.live.reader import LiveReader
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.live_options import LiveOptions
from tests.bench.bench_socket_tap import statistics
from tests.bench.harness import in_turns, say, table
from tests.support.node import bpf_info
from tests.support.node.namespaces import Namespace, Network
from tests.support.packets.talks.http2_talk import DATA, END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, frame

PROGRAMS = ("tap_ingress", "tap_egress")
"""What they call is measured with them."""
NO_TAP, TAP, LOOK = "no tap", "tap", "tap that looks"
LOOK_SECONDS = 0.2
"""Between two looks at what was told of frames."""
TURNS = 20
"""For each round, of as much less each."""
RATE = 10_000
"""Calls a second that the last line is of."""
MTU = 1500


@dataclass(frozen=True)
class Load:
    """Something that both ends do."""

    label: str
    units: int
    """How often they do it in a round."""
    run: Callable[[int], int]
    """Do it so often; return the processor time of both ends (ns)."""


@contextmanager
def own_group(name: str) -> Iterator[Path]:
    """A control group, so that a tap there sees nobody else."""
    group = find_root() / f"wirespan-bench-{os.getpid()}-{name}"
    group.mkdir()
    try:
        yield group
    finally:
        group.rmdir()


@contextmanager
def within(group: Path) -> Iterator[None]:
    """This process is in a control group, and so are its sockets."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (find_root() / "cgroup.procs").write_text(str(os.getpid()))


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


def converse(whole: tuple[list[bytes], list[bytes]], count: int) -> int:
    """The first so many calls, one after the other over one connection."""
    asked, answered = (said[:count] for said in whole)
    return _connected(
        nullcontext,
        lambda client: [
            (client.sendall(said), _receive(client, len(back))) for said, back in zip(asked, answered, strict=True)
        ],
        lambda server: [
            (_receive(server, len(said)), server.sendall(back)) for said, back in zip(asked, answered, strict=True)
        ],
    )


def upload(network: Namespace, megabytes: int) -> int:
    """Over one stream, in frames of 16 KiB."""
    coder = Coder()
    block = frame(DATA, 1, bytes(16384)) * 64

    def send(client: socket.socket) -> None:
        client.sendall(frame(HEADERS, 1, coder.asks(0), END_HEADERS))
        for _ in range(megabytes):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)

    def take(server: socket.socket) -> None:
        room = bytearray(1 << 20)
        while server.recv_into(room):
            pass

    return _connected(network.entered, send, take)


def _connected(
    enter: Callable[[], object], ask: Callable[[socket.socket], object], serve: Callable[[socket.socket], object]
) -> int:
    """Have two ends talk; return the processor time of both (ns)."""
    spent: list[int] = []

    def timed(talk: Callable[[socket.socket], object], end: socket.socket) -> None:
        begun = time.thread_time_ns()
        talk(end)
        spent.append(time.thread_time_ns() - begun)

    with enter():
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with listener, client, server:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(HELLO)
        _receive(server, len(HELLO))
        server.sendall(WELCOME)
        _receive(client, len(WELCOME))
        thread = threading.Thread(target=timed, args=(serve, server))
        thread.start()
        timed(ask, client)
        thread.join()
    return sum(spent)


def _receive(end: socket.socket, size: int) -> None:
    while size:
        size -= len(end.recv(size))


@contextmanager
def every(seconds: float, look: Callable[[], object]) -> Iterator[list[int]]:
    """Look every so often meanwhile, on any processor; yields the time that each look took (ns)."""
    over, spent = threading.Event(), []

    def keep_looking() -> None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        while not over.wait(seconds):
            begun = time.thread_time_ns()
            look()
            spent.append(time.thread_time_ns() - begun)

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield spent
    finally:
        over.set()
        thread.join()


def programs_ns(tap: SocketTap, load: Load) -> tuple[int, int]:
    """Nanoseconds of the programs, and of reading what was told of frames."""
    before = _spent(tap)
    with every(LOOK_SECONDS, partial(_take, tap)) as reading:
        load.run(load.units)
    programs = _spent(tap) - before
    begun = time.thread_time_ns()
    _take(tap)
    return programs, sum(reading) + time.thread_time_ns() - begun


def _take(tap: SocketTap | None) -> None:
    if tap is not None and tap.exchanges is not None:
        tap.exchanges.read_frames()
        tap.exchanges.take_exchanges()


def _spent(tap: SocketTap) -> int:
    return sum(bpf_info.program_statistics(tap.loaded.programs[name]).run_time_ns for name in PROGRAMS)


def capture_ns(group: Path, load: Load, rounds: int) -> tuple[float, int]:
    """Nanoseconds of capture for a record until its batch can be sent, and how many records there were: one for each end of a
    call, but for those that came too fast.
    """
    options = LiveOptions(capacity=4096, rules=TapRules(loopback=True), trace_context=True, cgroup_root=group)
    told = 0

    def read(final: Reason | None = None) -> None:
        nonlocal told
        for batch in reader.read(final):
            told += batch.records
            reader.accept(batch)

    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader, within(group):
        with every(LOOK_SECONDS, read) as reading:
            for _ in range(rounds):
                load.run(load.units)
        begun = time.thread_time_ns()
        read(Reason.SHUTDOWN)
        return (sum(reading) + time.thread_time_ns() - begun) / told, told


def processor_ns(group: Path, tap: SocketTap | None, load: Load) -> float:
    """Nanoseconds that both ends take for a unit."""
    units = max(1, load.units // TURNS)
    with within(group):
        spent = load.run(units)
    _take(tap)
    return spent / units


def _quartiles(values: list[float], baseline: list[float]) -> str:
    low, middle, high = median_of.quantiles([one / other - 1 for one, other in zip(values, baseline, strict=True)], n=4)
    return f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"


def measure(loads: list[Load], groups: dict[str, Path], taps: dict[str, SocketTap], rounds: int) -> None:
    """Print the tables."""
    rows, looks = [], {}
    with statistics():
        for load in loads:
            found = {}
            for name, tap in taps.items():
                with within(groups[name]):
                    measured = [programs_ns(tap, load) for _ in range(rounds)]
                found[name] = [min(each) / load.units for each in zip(*measured, strict=True)]
            (without, _), (programs, reading) = found[TAP], found[LOOK]
            looks[load.label] = programs - without
            rows.append([load.label, f"{without:.0f}", f"{programs:.0f}", f"{programs / without:.2f}", f"{reading:.0f}"])
    say(table(["ns of the programs, both ends", TAP, LOOK, "ratio", "reading"], rows))
    rows = []
    for load in loads:
        turns = {name: partial(processor_ns, group, taps.get(name), load) for name, group in groups.items()}
        took = in_turns(turns, rounds * TURNS)
        cells = [f"{median_of.median(values) / 1000:.1f}" for values in took.values()]
        rows.append([load.label, *cells, _quartiles(took[TAP], took[NO_TAP]), _quartiles(took[LOOK], took[TAP])])
    say(table(["us of a processor, both ends", *groups, "the tap", "the look"], rows))
    spent, told = capture_ns(groups[LOOK], loads[0], rounds)
    of_look, of_capture = (ns * RATE / 1e9 for ns in (looks[loads[0].label] / 2, spent))
    say(
        f"{RATE} sampled calls a second, each end: the look {of_look:.1%} of a core, capture {of_capture:.1%} until its batches"
    )
    say(f"are ready ({told} records of {2 * rounds * loads[0].units})")


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description="cost of HTTP/2 live")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--spread", action="store_true", help="the ends of a connection wherever the scheduler has them")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    if not arguments.spread:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    count, megabytes = arguments.calls, arguments.megabytes
    with Network() as network, ExitStack() as stack:
        plain, wire = network.namespace("plain"), network.namespace("wire")
        wire.ip("link", "set", "lo", "mtu", str(MTU))
        wire.disable_offloads("lo")
        loads = [
            Load(f"gRPC call, {label}", count, partial(converse, calls(count, sampled=sampled)))
            for label, sampled in (("sampled context", True), ("no context", False))
        ]
        loads += [
            Load(f"upload, MiB{label}", size, partial(upload, where))
            for label, size, where in (("", megabytes, plain), (f", packets of {MTU} bytes", megabytes // 5, wire))
        ]
        groups = {name: stack.enter_context(own_group(name.replace(" ", "-"))) for name in (NO_TAP, TAP, LOOK)}
        rules = TapRules(loopback=True)
        taps = {
            name: stack.enter_context(SocketTap(capacity=1024, cgroup_root=groups[name], rules=rules, trace_context=looks))
            for name, looks in ((TAP, False), (LOOK, True))
        }
        measure(loads, groups, taps, arguments.rounds)


if __name__ == "__main__":
    main()
