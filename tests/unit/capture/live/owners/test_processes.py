"""Which program holds a socket: real sockets, the real kernel, and a control group that a file stands for."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.capture.live.owners.processes import Closer, Flow, Processes, _sees_all_processes

GROUP = 7
OURS = Path(sys.executable).resolve().name
numbers = itertools.count(1)


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A control group that has this process."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n0\n")
    return tmp_path


@pytest.fixture
def processes(group: Path) -> Iterator[Processes]:
    """What is tested."""
    with Processes(lambda: {GROUP: str(group)}) as made:
        yield made


def packed(address: str) -> bytes:
    """As flows have it."""
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed


def flow(local: tuple, remote: tuple, *, transport: int = 6, server: bool = False, cgroup: int = GROUP) -> Flow:
    """A flow between two ends, as the local one's socket has it."""
    ends = packed(local[0]), local[1], packed(remote[0]), remote[1]
    return Flow(next(numbers), transport, *ends, server, cgroup)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_both_ends_of_a_connection_have_their_program(processes: Processes, family: int, address: str) -> None:
    """The client's by its socket; the server's also once it has closed, by who listens. A client that is gone has none."""
    with socket.create_server((address, 0), family=family) as listener, socket.socket(family) as client:
        client.connect(listener.getsockname()[:2])
        accepted, peer = listener.accept()
        asks, answers = flow(peer, listener.getsockname()), flow(listener.getsockname(), peer, server=True)
        assert processes.names([asks, answers]) == {asks.id: OURS, answers.id: OURS}
        accepted.close()
        client.close()
        later, gone = flow(listener.getsockname(), peer, server=True), flow(peer, listener.getsockname())
        assert processes.names([later, gone, asks]) == {later.id: OURS, asks.id: OURS}


def test_datagrams_have_their_program(processes: Processes) -> None:
    """Connected or not; and a socket for both versions of IP that has a peer of the old one."""
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        asks = flow(client.getsockname(), server.getsockname(), transport=17)
        answers = flow(server.getsockname(), client.getsockname(), transport=17, server=True)
        assert processes.names([asks, answers]) == {asks.id: OURS, answers.id: OURS}
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            with accepted:
                answers = flow(("127.0.0.1", port), client.getsockname(), server=True)
                assert processes.names([answers]) == {answers.id: OURS}


def test_nothing_is_guessed(processes: Processes, group: Path) -> None:
    """Two programs that hold a socket, one of another control group, or of one that is gone, a transport without sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        ends = client.getsockname(), client.getpeername()
        other = subprocess.Popen(["sleep", "600"], pass_fds=[client.fileno()])
        try:
            (group / "cgroup.procs").write_text(f"{os.getpid()}\n{other.pid}\n")
            assert processes.names([flow(*ends)]) == {}
        finally:
            other.kill()
            other.wait()
        (group / "cgroup.procs").write_text("1\n")
        assert processes.names([flow(*ends), flow(*ends, cgroup=8), flow(*ends, transport=132)]) == {}
        (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
        known = flow(*ends)
        assert processes.names([known]) == {known.id: OURS}


def test_a_search_that_takes_too_long_is_given_up(processes: Processes, group: Path) -> None:
    """And counted: a machine of many open files pays no more than so much for its names."""
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n" * 10_000)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        assert processes.names([flow(client.getsockname(), client.getpeername())]) == {}
    assert processes.given_up == 1


def closed_by(processes: Processes, process: int, thread: int, name: str, closed_ns: int) -> str:
    """The name of the program whose task closed a socket that nobody has any more; empty where none is told."""
    processes.closers_of = lambda flows: dict.fromkeys(flows, Closer(process, thread, name, closed_ns))
    (asked,) = [flow(("192.0.2.1", 1), ("192.0.2.2", 2))]
    return processes.names([asked]).get(asked.id, "")


@pytest.mark.skipif(not _sees_all_processes(), reason="in a PID namespace of its own nobody has a name")
def test_who_closed_a_socket_is_told_for_as_long_as_that_is_sure(processes: Processes) -> None:
    """By its executable while it runs, by its name when it is gone; lone threads and the kernel's name nobody."""
    now_ns = time.monotonic_ns()
    ours = Path("/proc/self/comm").read_text().removesuffix("\n")
    with subprocess.Popen(["sleep", "600"]) as other:
        assert closed_by(processes, other.pid, other.pid, "curl", now_ns) == "curl"  # another program since
        other.kill()
        other.wait()
        assert closed_by(processes, other.pid, other.pid, "curl", now_ns) == "curl"
        assert closed_by(processes, other.pid, other.pid + 1, "worker", now_ns) == ""
    assert closed_by(processes, os.getpid(), os.getpid(), ours, now_ns) == OURS
    assert closed_by(processes, os.getpid(), os.getpid(), ours, 1) == ours  # before this process was
    assert closed_by(processes, os.getpid(), 2**30, "worker", now_ns) == ""
    assert closed_by(processes, 2, 2, Path("/proc/2/comm").read_text().removesuffix("\n"), now_ns) == ""
    assert closed_by(processes, 2, 2, "curl", -now_ns * 2) == "curl"  # before a thread of the kernel had its number
    assert closed_by(processes, 2, 2, "kworker", now_ns) == ""
    assert closed_by(processes, 0, 0, "swapper/0", now_ns) == ""
