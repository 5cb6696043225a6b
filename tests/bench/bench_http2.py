"""What HTTP/2 costs live: of the programs and of capture's process, and of all that the kernel does for it.

    python -m tests.bench.bench_http2 [--rounds N] [--calls N] [--megabytes N] [--seconds N] [--spread]

Needs root. A client and a server of one process say what gRPC says of a unary call: HEADERS and DATA there, HEADERS, DATA and
trailers back, with a sampled context or without one. Then they upload over one stream: at 1 Gbit/s between two pods of a node,
and as fast as it goes over a loopback, in packets of its size and of a wire's without any offload. They are in control groups
of their own: with no tap, with one that does not look, with one that does. Both ends run on one processor (`--spread`: wherever
the scheduler has them).

First what the kernel counts of the programs (kernel.bpf_stats_enabled), and this process's time for what it reads: the least of
the rounds. Then, in many short turns and without that count, the processor time of both ends, nearly all of which is the
kernel's where they upload: on a loopback the sender's is also that of the softirq in which the other end receives. Medians of
it and of each turn's ratio, with their quartiles. Turns are coarse: beside them is what the kernel counts of the look alone.

Last what capture takes of 10,000 sampled calls a second, which come at that pace, over several connections. It is all processor
time of a process that does with a LiveReader what the service does until batches can be sent: a look a second, and the frames
in between, with the service's heap. It sees one end, as on two nodes, or both, as on one. How many records came of how many
says whether any was lost.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics as median_of
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.capture.flows.exchange_table import ExchangeEmission
from services.capture.live.owners.cgroups import find_root
from services.capture.live.reader import LiveReader
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.live.worker import FRAMES_SECONDS
from services.capture.live_options import LiveOptions
from services.capture.settings import CaptureSettings
from services.runtime import footprint
from tests.bench.bench_socket_tap import statistics
from tests.bench.harness import ROOT, in_turns, say, table
from tests.support.node import bpf_info
from tests.support.node.namespaces import Namespace, Network
from tests.support.packets.talks.http2_talk import DATA, END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, frame

PROGRAMS = ("tap_ingress", "tap_egress")
"""What they call is measured with them."""
NO_TAP, TAP, LOOK = "no tap", "tap", "tap that looks"
LOOK_SECONDS = 0.2
"""Between two looks at what was told of frames, while calls come as fast as they can."""
TURNS = 20
"""For each round, of as much less each."""
RATE = 10_000
"""Calls a second that the last lines are of."""
CONNECTIONS = 10
"""That they come over, in turn."""
AT_ONCE = 50
"""Calls between two looks at the clock."""
MTU = 1500
LOOPBACK = "127.0.0.1"
PODS = ("10.42.0.5", "10.42.0.8")
Where = AbstractContextManager[object]


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
        nullcontext,
        lambda client: [
            (client.sendall(said), _receive(client, len(back))) for said, back in zip(asked, answered, strict=True)
        ],
        lambda server: [
            (_receive(server, len(said)), server.sendall(back)) for said, back in zip(asked, answered, strict=True)
        ],
    )


def upload(client: Namespace, server: Namespace, address: str, gigabits: float, megabytes: int) -> int:
    """Over one stream, in frames of 16 KiB; at so many Gbit/s, or as fast as it goes (0)."""
    coder = Coder()
    block = frame(DATA, 1, bytes(16384)) * 8
    pause = len(block) * 8 / (gigabits * 1e9) if gigabits else 0.0

    def send(end: socket.socket) -> None:
        end.sendall(frame(HEADERS, 1, coder.asks(0), END_HEADERS))
        due = time.monotonic()
        for _ in range(megabytes * 8):
            end.sendall(block)
            due += pause
            if pause:
                time.sleep(max(0.0, due - time.monotonic()))
        end.shutdown(socket.SHUT_WR)

    def take(end: socket.socket) -> None:
        room = bytearray(1 << 20)
        while end.recv_into(room):
            pass

    return _connected(client.entered, server.entered, send, take, address)


Turn = tuple[tuple[bytes, bytes], ...]
"""A call over each of CONNECTIONS: what is asked and answered."""


def turns_of(seconds: float) -> list[Turn]:
    """So many seconds of RATE calls."""
    count = int(RATE * seconds) // CONNECTIONS
    return list(zip(*(zip(*calls(count, sampled=True), strict=True) for _ in range(CONNECTIONS)), strict=True))


def keep_pace(groups: tuple[Path, Path], said: list[Turn]) -> None:
    """Say it, RATE calls a second, clients' and servers' sockets in these control groups."""
    at_client, at_server = groups
    with ExitStack() as stack:
        pairs = [stack.enter_context(_pair(partial(within, at_client), partial(within, at_server))) for _ in range(CONNECTIONS)]

        def serve() -> None:
            for turn in said:
                for (_, server), (asked, answered) in zip(pairs, turn, strict=True):
                    _receive(server, len(asked))
                    server.sendall(answered)

        thread = threading.Thread(target=serve)
        thread.start()
        begun = time.monotonic()
        for number, turn in enumerate(said):
            if number % (AT_ONCE // CONNECTIONS) == 0:
                time.sleep(max(0.0, begun + number * CONNECTIONS / RATE - time.monotonic()))
            for (client, _), (asked, answered) in zip(pairs, turn, strict=True):
                client.sendall(asked)
                _receive(client, len(answered))
        thread.join()


def _connected(
    at_client: Callable[[], Where],
    at_server: Callable[[], Where],
    ask: Callable[[socket.socket], object],
    serve: Callable[[socket.socket], object],
    address: str = LOOPBACK,
) -> int:
    """Have two ends talk; return the processor time of both (ns)."""
    spent: list[int] = []

    def timed(talk: Callable[[socket.socket], object], end: socket.socket) -> None:
        begun = time.thread_time_ns()
        talk(end)
        spent.append(time.thread_time_ns() - begun)

    with _pair(at_client, at_server, address) as (client, server):
        thread = threading.Thread(target=timed, args=(serve, server))
        thread.start()
        timed(ask, client)
        thread.join()
    return sum(spent)


@contextmanager
def _pair(
    at_client: Callable[[], Where], at_server: Callable[[], Where], address: str = LOOPBACK
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection that has begun to speak HTTP/2, each made where it is to be."""
    with at_server():
        listener = socket.create_server((address, 0))
    with at_client():
        client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    with listener, client, server:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(HELLO)
        _receive(server, len(HELLO))
        server.sendall(WELCOME)
        _receive(client, len(WELCOME))
        yield client, server


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
        tap.exchanges.take_exchanges(sys.maxsize)


def _spent(tap: SocketTap) -> int:
    return sum(bpf_info.program_statistics(tap.loaded.programs[name]).run_time_ns for name in PROGRAMS)


def capture(group: Path) -> None:
    """What the service does there, until there is something to be read. Say when it begins, then how long it took (ns) for how
    many records of exchanges.
    """
    footprint.start_small()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    options = LiveOptions(capacity=4096, rules=TapRules(loopback=True), trace_context=True, cgroup_root=group)
    told = 0

    def look() -> None:
        nonlocal told
        for batch in reader.read():
            told += batch.records if isinstance(batch.emission, ExchangeEmission) else 0
            reader.accept(batch)

    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
        look()
        say("attached")
        begun, due = time.process_time_ns(), time.monotonic()
        while not select.select([sys.stdin], [], [], FRAMES_SECONDS)[0]:
            if reader.frames_wait:
                reader.read_frames()
            if time.monotonic() >= due:
                look()
                due += CaptureSettings().drain_interval_seconds
        look()
        say(f"{time.process_time_ns() - begun} {told}")


def capture_share(seen: Path, groups: tuple[Path, Path], said: list[Turn]) -> tuple[float, str]:
    """Which part of a core it takes a capture of what is seen, in a process of its own, and how many records came of it."""
    command = [sys.executable, "-m", "tests.bench.bench_http2", "--capture", str(seen)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        keep_pace(groups, said)
        answer, _ = process.communicate("over")
    (spent, told), count = map(int, answer.split()), len(said) * CONNECTIONS
    return spent / 1e9 / (count / RATE), f"{told} of {count * sum(group == seen for group in groups)}"


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


def measure(loads: list[Load], groups: dict[str, Path], taps: dict[str, SocketTap], rounds: int) -> float:
    """Print the tables; return what the look takes of a call of the first load at each end (ns)."""
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
        share = looks[load.label] / median_of.median(took[TAP])
        rows.append(
            [load.label, *cells, _quartiles(took[TAP], took[NO_TAP]), _quartiles(took[LOOK], took[TAP]), f"{share:+.1%}"]
        )
    say(table(["us of a processor, both ends", *groups, "the tap", "the look", "its programs"], rows))
    return looks[loads[0].label] / 2


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description="cost of HTTP/2 live")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=4, help="of calls at a pace")
    parser.add_argument("--capture", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--spread", action="store_true", help="the ends of a connection wherever the scheduler has them")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    if arguments.capture:
        capture(arguments.capture)
        return
    if not arguments.spread:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    count, megabytes = arguments.calls, arguments.megabytes
    with Network() as network, ExitStack() as stack:
        plain, wire = network.namespace("plain"), network.namespace("wire")
        wire.ip("link", "set", "lo", "mtu", str(MTU))
        wire.disable_offloads("lo")
        pods = network.namespace("pod-a"), network.namespace("pod-b")
        network.link(*((pod, "eth0", [f"{address}/24"]) for pod, address in zip(pods, PODS, strict=True)), offloads=True)
        loads = [
            Load(f"gRPC call, {label}", count, partial(converse, calls(count, sampled=sampled)))
            for label, sampled in (("sampled context", True), ("no context", False))
        ]
        loads += [
            Load(f"upload, MiB{label}", size, partial(upload, *way))
            for label, size, way in (
                (", 1 Gbit/s between pods", megabytes // 5, (*pods, PODS[1], 1.0)),
                ("", megabytes, (plain, plain, LOOPBACK, 0.0)),
                (f", packets of {MTU} bytes", megabytes // 5, (wire, wire, LOOPBACK, 0.0)),
            )
        ]
        groups = {name: stack.enter_context(own_group(name.replace(" ", "-"))) for name in (NO_TAP, TAP, LOOK)}
        rules = TapRules(loopback=True)
        taps = {
            name: stack.enter_context(SocketTap(capacity=1024, cgroup_root=groups[name], rules=rules, trace_context=looks))
            for name, looks in ((TAP, False), (LOOK, True))
        }
        look_ns = measure(loads, groups, taps, arguments.rounds)
    say(f"{RATE} sampled calls a second: the look {look_ns * RATE / 1e9:.1%} of a core at each end")
    say("capture until its batches are ready:")
    said = turns_of(arguments.seconds)
    with own_group("seen") as seen, own_group("other") as other:
        for label, ends in (("client's end", (seen, other)), ("server's end", (other, seen)), ("both ends", (seen, seen))):
            share, records = capture_share(seen, ends, said)
            say(f"  {label}: {share:.1%} ({records} records)")


if __name__ == "__main__":
    main()
