"""What the capture service costs a node: the real service, live, with a real nats-server, at 100,000 flows.

    python -m tests.bench.bench_capture_service [--flows 100000] [--rate 20000] [--seconds 30]

Needs root. Flows are both ends of TCP connections over the loopback, on which requests are asked and answered in turn, so that
every flow has exchanges. Each moves once in `flows / rate` seconds, which is the active interval too, and so they give `rate`
records a second. Printed: memory as the kernel counts it for the process (/proc/<pid>/smaps_rollup) and for its
cgroup (which is charged for the kernel's maps too), and the processor time of the service for what it published meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from services.capture.live.owners.cgroups import find_root
from tests.bench.harness import ROOT, processor_seconds
from tests.support.pipeline.nats_server import NatsServer

SIZE = 64
TICKS_PER_SECOND = 20


class Connections:
    """Pairs of connected sockets over the loopback, in a process of their own."""

    def __init__(self, number: int, count: int, port: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        self._port, self._count, self._number = port, count, number
        self._inbox, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=self._serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, per_second: float, seconds: float) -> None:
        """Ask at this rate; what cannot be kept up with is left out. A rate of 0: each connection once."""
        self._inbox.send((per_second, seconds))

    def wait(self) -> None:
        """Return when all that it was told is done."""
        self._inbox.recv()

    def _serve(self, inbox: Connection) -> None:
        self._connect()
        self._next, self._way = 0, 1
        inbox.send(None)
        while True:
            per_second, seconds = inbox.recv()
            if per_second:
                self._ask_steadily(per_second, seconds)
            else:
                self._ask(self._count)
            inbox.send(None)

    def _connect(self) -> None:
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        with socket.create_server((f"127.1.0.{1 + self._number}", self._port), backlog=1024) as listener:
            for number in range(self._count):
                client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                client.bind((f"127.1.1.{1 + self._number}", 10_000 + number))
                client.connect(listener.getsockname())
                self._pairs.append((client, listener.accept()[0]))

    def _ask(self, count: int) -> None:
        """A request on each of the next `count` connections; when all have one, the responses."""
        payload = bytes(SIZE)
        for _ in range(count):
            sender, receiver = self._pairs[self._next][:: self._way]
            sender.send(payload)
            receiver.recv(SIZE)
            self._next += 1
            if self._next == len(self._pairs):
                self._next, self._way = 0, -self._way

    def _ask_steadily(self, per_second: float, seconds: float) -> None:
        begun = time.monotonic()
        for tick in range(round(seconds * TICKS_PER_SECOND)):
            self._ask(round(per_second / TICKS_PER_SECOND))
            time.sleep(max(0.0, begun + (tick + 1) / TICKS_PER_SECOND - time.monotonic()))


class Load:
    """As many connections as are asked for, in as many processes as may hold their sockets."""

    def __init__(self, count: int) -> None:
        with socket.create_server(("127.1.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        each = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100)
        self._parts = [Connections(i, min(each, count - first), self.port) for i, first in enumerate(range(0, count, each))]
        self._wait()

    def ask(self, per_second: float = 0, seconds: float = 0) -> None:
        """Ask at this rate over all connections, or each once."""
        for part in self._parts:
            part.tell(per_second / len(self._parts), seconds)
        self._wait()

    def _wait(self) -> None:
        for part in self._parts:
            part.wait()


@contextmanager
def cgroup(name: str) -> Iterator[Path]:
    """A cgroup whose memory is counted, in whichever hierarchy that is."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [Path(at) for _, at, kind, options, *_ in mounts if kind == "cgroup" and "memory" in options.split(",")]
    folder = (roots or [find_root()])[0] / name
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()


@contextmanager
def service(nats: NatsServer, port: int, interval: float, folder: Path, progress: Path) -> Iterator[subprocess.Popen[bytes]]:
    """wirespan-capture as it is installed, in its own cgroup."""
    # Compiled modules are kept, as they are where the service is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "wirespan-bench-bytecode"),
        "WIRESPAN_NATS_URL": nats.url,
        "WIRESPAN_CAPTURE_LOOPBACK": "true",
        "WIRESPAN_CAPTURE_ALLOW_PORTS": str(port),
        "WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS": str(interval),
        "WIRESPAN_CAPTURE_PROGRESS_FILE": str(progress),
    }
    procs = folder / "cgroup.procs"
    process = subprocess.Popen(
        [Path(sys.executable).parent / "wirespan-capture"],
        cwd=ROOT,
        env=environment,
        preexec_fn=lambda: procs.write_text("0"),  # noqa: PLW1509 - this process has one thread, and nobody else can do it
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def memory_mib(pid: int) -> dict[str, float]:
    """Resident, anonymous and file-backed memory."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    found = {line[0].rstrip(":"): int(line[1]) / 1024 for line in lines}
    return {name: found[name] for name in ("Rss", "Pss", "Anonymous")}


def charged_mib(folder: Path) -> dict[str, float]:
    """What the cgroup is charged for: pages of the process and of files it read, and the kernel's memory, maps among it."""
    names = (("memory.usage_in_bytes", "memory.current"), ("memory.kmem.usage_in_bytes",))
    found = {}
    for label, files in zip(("all", "kernel"), names, strict=True):
        for file in files:
            if (folder / file).exists():
                found[label] = int((folder / file).read_text()) / 2**20
    if "kernel" not in found and (folder / "memory.stat").exists():
        parts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        found["kernel"] = int(parts.get("kernel", 0)) / 2**20
    return found


def records(progress: Path) -> int:
    """Records that the bus has stored."""
    try:
        return int(json.loads(progress.read_text())["records"])
    except (OSError, ValueError, KeyError):
        return 0


def show(label: str, pid: int, folder: Path) -> None:
    """Print a line of memory."""
    parts = [f"{name} {size:.1f}" for name, size in memory_mib(pid).items()]
    charged = [f"{name} {size:.1f}" for name, size in charged_mib(folder).items()]
    sys.stdout.write(f"{label:34} MiB: {', '.join(parts)}; cgroup: {', '.join(charged) or 'not counted here'}\n")
    sys.stdout.flush()


def measure(flows: int, rate: int, seconds: float) -> None:
    """Print everything."""
    interval = flows / rate
    with (
        tempfile.TemporaryDirectory() as scratch,
        NatsServer(Path(scratch) / "nats") as nats,
        cgroup("bench-capture") as folder,
    ):
        progress = Path(scratch) / "progress.json"
        load = Load(flows // 2)
        with service(nats, load.port, interval, folder, progress) as process:
            while not progress.exists():
                time.sleep(0.1)
            time.sleep(2)
            show("started, no flows", process.pid, folder)
            load.ask()
            time.sleep(interval)
            show(f"{flows} flows, before any record", process.pid, folder)
            load.ask(rate / 2, 2 * interval)
            cpu, stored, wall = processor_seconds(process.pid), records(progress), time.monotonic()
            load.ask(rate / 2, seconds)
            cpu, stored, wall = processor_seconds(process.pid) - cpu, records(progress) - stored, time.monotonic() - wall
            show(f"{flows} flows, all with records", process.pid, folder)
            share, each = 100 * cpu / wall, 1e6 * cpu / max(stored, 1)
            sys.stdout.write(f"{stored / wall:.0f} records/s: {share:.1f} % of a core, {each:.2f} us a record\n")


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description="cost of the capture service")
    parser.add_argument("--flows", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root")
    measure(arguments.flows, arguments.rate, arguments.seconds)


if __name__ == "__main__":
    main()
