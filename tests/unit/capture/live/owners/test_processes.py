"""Which program holds a socket: real sockets, the real kernel, and a control group that a file stands for."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.capture.live.owners.processes import Flow, Processes

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
