"""What a guest is asked to do. Each function returns what can be written as JSON; what is right is decided outside.

The stage, two pods of a node and a tap that sees them, is set once and stays for the guest's life.
"""

from __future__ import annotations

import functools
import platform
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from proto.columns import Observer, Outcome, Reason
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.owners.cgroups import CgroupIndex, find_root
from services.capture.live.records import LiveClock, finish, finish_exchanges, monotonic_ns
from services.capture.live.tap.loader import LoadedTap, load_tap
from services.capture.live.tap.socket_tap import SocketTap, tick_ns
from services.capture.names.pieces import PieceKind
from services.cli.doctor.loading import check_load
from services.cli.doctor.privileges import check_memlock
from tests.support.node.live_capture import WAIT_SECONDS, Live, wait_until
from tests.support.node.namespaces import Namespace, Network, Pod, hardware_address
from tests.support.vm.flags import NO_RULE, constants
from tests.support.vm.inside.processes import in_child, without_capability

CAP_SYS_RESOURCE = 24
SERVICE_PORT = 201
FAMILIES = (socket.AF_INET, socket.AF_INET6)
TRACE_ID = bytes(range(1, 17))
IPVS_SERVICE = "10.96.77.1", 80
IP_VS_SO_SET_ADD, IP_VS_SO_SET_ADDDEST = 1154, 1159


class Stage:
    """Two pods and a tap with what it does by default."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        network = self._stack.enter_context(Network())
        node = network.node("node", "10.42.0.1/24", "fd42::1/64")
        self.node = node.namespace
        self.client = node.pod("client", "10.42.0.12/24", "fd42::c/64")
        self.server = node.pod("server", "10.42.0.13/24", "fd42::d/64")
        for pod, other in ((self.client, self.server), (self.server, self.client)):
            for address in other.addresses:
                # Known beforehand, so that the kernel's counts have nothing in them but what is sent.
                at = ("lladdr", hardware_address(other.addresses[0]), "dev", "eth0", "nud", "permanent")
                pod.namespace.ip("neighbour", "replace", address, *at)
        self.tap = self._stack.enter_context(SocketTap(trace_context=True, pieces=tuple(PieceKind)))
        self.verified = _verified(self.tap.loaded)
        assert self.tap.exchanges is not None
        self.exchanges = ExchangeTable(self.tap.exchanges, observer=Observer.SOCKET)
        self.live = Live(self.tap)
        self.clock = LiveClock(self.tap.capacity)
        self.cgroups = self._stack.enter_context(CgroupIndex(find_root()))

    def records(self, *ports: int) -> list[dict[str, Any]]:
        """End every flow now; return the records of those with one of these ports, as they would be published."""
        found = []
        for emission in self.live.table.drain(self.clock.begin_drain(), Reason.SHUTDOWN):
            finished = finish(emission, self.tap.rows(emission.slots), self.clock, self.cgroups)
            for row in range(len(emission.slots)):
                record = _row(finished.columns, row)
                if {record["local_port"], record["remote_port"]} & set(ports):
                    container = record["local_container"]
                    record["owner"] = finished.containers[container] if container < len(finished.containers) else {}
                    found.append(record)
            self.live.table.accept(emission)
        return found


@functools.cache
def stage() -> Stage:
    """The stage, set at the first call."""
    return Stage()


def about() -> dict[str, Any]:
    """Which machine this is."""
    return {"release": platform.release(), "machine": platform.machine(), "tick_ns": tick_ns()}


def load(flags: str) -> dict[str, Any]:
    """Load the socket tap with this set of flags and let go of it again; say what the verifier made of it."""
    loaded = load_tap(constants(flags))
    loaded.close()
    return _verified(loaded)


def attached() -> dict[str, Any]:
    """The same of the tap that is attached."""
    return stage().verified


def doctor() -> dict[str, Any]:
    """What the doctor finds of loading programs."""
    finding = check_load()
    return {"status": finding.status.value, "detail": finding.found}


def attach(*, locked_memory_bytes: int, may_raise: bool) -> dict[str, Any]:
    """Attach a tap in a process with this limit of locked memory; return how that went, and what the doctor said before."""

    def attached() -> dict[str, Any]:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (locked_memory_bytes, locked_memory_bytes))
        if not may_raise:
            without_capability(CAP_SYS_RESOURCE)
        finding = check_memlock(platform.release())
        said = {"doctor": finding.status.value, "doctor_detail": finding.found}
        try:
            with SocketTap(rules=NO_RULE) as tap:
                return {**said, "error": "", **_verified(tap.loaded)}
        except Exception as error:  # noqa: BLE001 - its words are the answer
            return {**said, "error": f"{type(error).__name__}: {error}"}

    return in_child(attached)


def tcp(*, family: int, requests: int, request_bytes: int, response_bytes: int) -> dict[str, Any]:
    """One connection of requests and responses; each end waits for the other's end when it closes."""
    on = stage()
    with counted(on.client) as at_client, counted(on.server) as at_server, _listener(on.server, family) as listener:
        port = listener.getsockname()[1]
        with on.client.namespace.socket(FAMILIES[family]) as client:
            client.settimeout(WAIT_SECONDS)
            client.connect((on.server.addresses[family], port))
            server, _ = listener.accept()
            with server:
                for _ in range(requests):
                    client.sendall(bytes(request_bytes))
                    _receive(server, request_bytes)
                    server.sendall(bytes(response_bytes))
                    _receive(client, response_bytes)
                client.shutdown(socket.SHUT_WR)
                assert not server.recv(1)
            assert not client.recv(1)
        wait_until(lambda: [row["outcome"] for row in on.live.rows(port)] == [Outcome.CLOSED] * 2)
    return {"records": on.records(port), "client": at_client, "server": at_server}


def refused(*, family: int) -> list[dict[str, Any]]:
    """A connection to a port that nobody listens on."""
    on = stage()
    with on.client.namespace.socket(FAMILIES[family]) as client:
        client.settimeout(WAIT_SECONDS)
        try:
            client.connect((on.server.addresses[family], 9))
        except ConnectionRefusedError:
            return on.records(9)
    raise AssertionError("somebody listens on the discard port")


def udp(*, family: int, datagrams: int, connected: bool) -> dict[str, Any]:
    """Datagrams of 1, 2, 3... bytes, each answered by one of twice its size."""
    on = stage()
    with (
        counted(on.client) as at_client,
        counted(on.server) as at_server,
        on.client.namespace.socket(FAMILIES[family], socket.SOCK_DGRAM) as client,
        on.server.namespace.socket(FAMILIES[family], socket.SOCK_DGRAM) as server,
    ):
        # Which of two ports of clients is the server's, nobody knows.
        for end, pod, own_port in ((client, on.client, 0), (server, on.server, SERVICE_PORT)):
            end.bind((pod.addresses[family], own_port))
            end.settimeout(WAIT_SECONDS)
        if connected:
            client.connect(server.getsockname())
            server.connect(client.getsockname())
        for size in range(1, datagrams + 1):
            client.sendto(bytes(size), server.getsockname())
            _, sender = server.recvfrom(2048)
            server.sendto(bytes(2 * size), sender)
            client.recv(2048)
    return {"records": on.records(SERVICE_PORT), "client": at_client, "server": at_server}


def through_ipvs(*, transport: int) -> dict[str, Any]:
    """A client in the node's network asks a Service that IPVS has on the node; TCP, or datagrams of an unconnected socket."""
    on = stage()
    on.node.ip("address", "replace", f"{IPVS_SERVICE[0]}/32", "dev", "lo")
    stream = transport == socket.IPPROTO_TCP
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    with on.server.namespace.socket(socket.AF_INET, kind) as server, on.node.socket(socket.AF_INET, kind) as client:
        server.bind((on.server.addresses[0], 0))
        for end in (server, client):
            end.settimeout(WAIT_SECONDS)
        _add_to_ipvs(on.node, transport, server.getsockname())
        if stream:
            server.listen()
            client.connect(IPVS_SERVICE)
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"question")
                _receive(accepted, len(b"question"))
                accepted.sendall(b"answer")
                _receive(client, len(b"answer"))
                client.shutdown(socket.SHUT_WR)
                assert not accepted.recv(1)
            assert not client.recv(1)
        else:
            for _ in range(2):
                client.sendto(b"question", IPVS_SERVICE)
                _, sender = server.recvfrom(100)
                server.sendto(b"answer", sender)
                assert client.recv(100) == b"answer"
        backend = server.getsockname()
    return {"records": on.records(IPVS_SERVICE[1], backend[1]), "backend": backend}


def _add_to_ipvs(node: Namespace, transport: int, backend: tuple[str, int]) -> None:
    """Have the Service's connections go to the backend, as `ipvsadm -A -s rr` and `ipvsadm -a -m` do (linux/ip_vs.h)."""
    port = socket.htons(IPVS_SERVICE[1])
    service = struct.pack("=H2x4sHxxI16sIII", transport, socket.inet_aton(IPVS_SERVICE[0]), port, 0, b"rr", 0, 0, 0xFFFFFFFF)
    destination = struct.pack("=4sHxxIiII", socket.inet_aton(backend[0]), socket.htons(backend[1]), 0, 1, 0, 0)
    with node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as control:
        control.setsockopt(socket.IPPROTO_IP, IP_VS_SO_SET_ADD, service)
        control.setsockopt(socket.IPPROTO_IP, IP_VS_SO_SET_ADDDEST, service + destination)


def identity(*, cgroup: str) -> list[dict[str, Any]]:
    """A connection whose client's socket belongs to the cgroup of this path."""
    on, root = stage(), find_root()
    owner = root / cgroup
    owner.mkdir(parents=True)
    with _listener(on.server, 0) as listener:
        (owner / "cgroup.procs").write_text("0")
        try:
            client = on.client.namespace.socket(socket.AF_INET)
        finally:
            (root / "cgroup.procs").write_text("0")
        with client:
            client.connect((on.server.addresses[0], listener.getsockname()[1]))
            listener.accept()[0].close()
            assert not client.recv(1)
        return on.records(listener.getsockname()[1])


def exchange(*, family: int, sampled: list[bool], response_bytes: int) -> list[dict[str, Any]]:
    """HTTP requests over one connection, with a trace context each, sampled or not; the exchanges that were told."""
    on = stage()
    response = f"HTTP/1.1 200 OK\r\nContent-Length: {response_bytes}\r\n\r\n".encode() + bytes(response_bytes)
    with _listener(on.server, family) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while part := connection.recv(65536):
                    asked += part
                    if asked.endswith(b"\r\n\r\n"):
                        connection.sendall(response)
                        asked = b""

        serving = threading.Thread(target=serve)
        serving.start()
        with on.client.namespace.socket(FAMILIES[family]) as client:
            client.settimeout(WAIT_SECONDS)
            client.connect((on.server.addresses[family], port))
            for number, flag in enumerate(sampled, start=1):
                client.sendall(http_request(number, sampled=flag))
                _receive(client, len(response))
        serving.join()
    found = []
    for emission in on.exchanges.drain(monotonic_ns(), final=True):
        columns = finish_exchanges(emission, on.clock, on.cgroups).columns
        found += [_row(columns, row) for row in range(len(emission))]
    return [row for row in found if port in {row["local_port"], row["remote_port"]}]


def http_request(number: int, *, sampled: bool) -> bytes:
    """A request whose caller is the span `number`."""
    context = f"00-{TRACE_ID.hex()}-{number:016x}-{'01' if sampled else '00'}"
    return f"GET /cart HTTP/1.1\r\nHost: cart\r\ntraceparent: {context}\r\n\r\n".encode()


@contextmanager
def counted(pod: Pod) -> Iterator[dict[str, int]]:
    """Yield what will be filled with the kernel's own counts of what happens in the pod meanwhile."""
    before = _kernel_counts(pod)
    counts: dict[str, int] = {}
    yield counts
    counts.update({name: number - before[name] for name, number in _kernel_counts(pod).items()})


def _verified(loaded: LoadedTap) -> dict[str, Any]:
    """Instructions that the verifier walked of each program, and why it refused the others."""
    walked = {name: each.verified_instructions for name, each in loaded.program_descriptions.items()}
    return {"walked": walked, "refused": dict(loaded.refused), "origin": loaded.origin}


def _kernel_counts(pod: Pod) -> dict[str, int]:
    """The kernel's counters of a namespace: `Tcp.OutSegs`, `IpExt.OutOctets`, `Udp6OutDatagrams` and the like."""
    net = Path("/proc/thread-self/net")
    found: dict[str, int] = {}
    with pod.namespace.entered():
        for name in ("snmp", "netstat"):
            lines = (net / name).read_text().splitlines()
            for names, numbers in zip(lines[::2], lines[1::2], strict=True):
                group = names.partition(":")[0]
                found |= {
                    f"{group}.{each}": int(number) for each, number in zip(names.split()[1:], numbers.split()[1:], strict=True)
                }
        found |= {name: int(number) for name, number in map(str.split, (net / "snmp6").read_text().splitlines())}
    return found


@contextmanager
def _listener(pod: Pod, family: int) -> Iterator[socket.socket]:
    with pod.namespace.socket(FAMILIES[family]) as listener:
        listener.bind((pod.addresses[family], 0))
        listener.listen()
        listener.settimeout(WAIT_SECONDS)
        yield listener


def _receive(end: socket.socket, size: int) -> None:
    while size:
        part = end.recv(size)
        assert part, "closed too early"
        size -= len(part)


def _row(columns: dict[str, Any], row: int) -> dict[str, Any]:
    """One record: numbers as they are, bytes in hexadecimal."""
    found = {}
    for name, column in columns.items():
        value = np.asarray(column)[row]
        found[name] = value.tobytes().hex() if value.dtype.kind in "VS" else value.tolist()
    return found
