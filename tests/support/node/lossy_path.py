"""Real TCP connections through a router that loses or reorders packets, captured on both sides of it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

from tests.support.node.delaying_forwarder import Holding, slow_way
from tests.support.node.namespaces import Network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.node.namespaces import Namespace

CLIENT, SERVER = "10.71.1.2", "10.71.2.2"


@contextlib.contextmanager
def lossy_path(loss: float) -> Iterator[tuple[Namespace, Namespace]]:
    """A client's and a server's namespace, and between them a router that loses this share of the packets each way."""
    with routed_path() as (client, router, server):
        if loss:
            rule = ("-A", "FORWARD", "-m", "statistic", "--mode", "random", "--probability", str(loss), "-j", "DROP")
            router.run("iptables", *rule)
        yield client, server


@contextlib.contextmanager
def long_path(
    one_way_seconds: float, *, loss: float = 0, holding: Holding | None = None
) -> Iterator[tuple[Namespace, Namespace]]:
    """The same, and the way is long; what is lost is lost before it, and what is held back is overtaken."""
    with routed_path() as (client, router, server), slow_way(router, "slow0", one_way_seconds, holding):
        router.ip("route", "add", "default", "dev", "slow0", "table", "100")
        for side in ("left", "right"):
            router.ip("rule", "add", "iif", side, "lookup", "100")
        if loss:
            match = ("-o", "slow0", "-m", "statistic", "--mode", "random", "--probability", str(loss))
            router.run("iptables", "-A", "FORWARD", *match, "-j", "DROP")
        yield client, server


@contextlib.contextmanager
def routed_path() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """Client, router and server."""
    with Network() as network:
        client, router, server = (network.namespace(name) for name in ("client", "router", "server"))
        network.link((client, "eth0", [f"{CLIENT}/24"]), (router, "left", ["10.71.1.1/24"]))
        network.link((server, "eth0", [f"{SERVER}/24"]), (router, "right", ["10.71.2.1/24"]))
        router.set_sysctl("ipv4/ip_forward", 1)
        client.ip("route", "add", "default", "via", "10.71.1.1")
        server.ip("route", "add", "default", "via", "10.71.2.1")
        for scope in ("all", "default", "left", "right"):
            router.set_sysctl(f"ipv4/conf/{scope}/rp_filter", 0)
        yield client, router, server


@contextlib.contextmanager
def captured(namespace: Namespace, path: Path, only: str = "tcp", interface: str = "eth0") -> Iterator[None]:
    """What passes an interface of the namespace, as a capture file once left; the last 0.1 s may be missing."""
    command = ["dumpcap", "-q", "-i", interface, "-B", "64", "-w", str(path), "-f", only]
    dump = namespace.spawn(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert dump.stderr is not None
    for line in dump.stderr:
        if line.startswith(b"File:"):
            break
    try:
        yield
    finally:
        dump.terminate()
        dump.communicate()


def transfers(client: Namespace, server: Namespace, *, count: int, size: int) -> None:
    """`count` connections one after the other; each asks once and takes `size` bytes."""
    with server.socket() as listener:
        listener.bind((SERVER, 8080))
        listener.listen(count)
        thread = threading.Thread(target=_serve, args=(listener, count, size))
        thread.start()
        for _ in range(count):
            with client.socket() as connection:
                connection.settimeout(60)
                connection.connect((SERVER, 8080))
                connection.sendall(b"x" * 4000)
                while connection.recv(1 << 16):
                    pass
        thread.join()


def _serve(listener: socket.socket, count: int, size: int) -> None:
    for _ in range(count):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(60)
            got = 0
            while got < 4000:
                got += len(connection.recv(4000))
            connection.sendall(bytes(size))
