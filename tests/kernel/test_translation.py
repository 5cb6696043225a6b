"""Sockets whose packets are translated on their way: clients and servers in the network of a node that has Services by NAT."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import bpf
from proto.columns import Outcome, Role
from services.capture.live.owners.cgroups import find_root
from services.capture.live.tap.loader import SYSTEM_PYTHON
from services.capture.live.tap.slot_layout import TapCounter
from services.capture.live.tap.socket_tap import SocketTap
from tests.support.node import kube_proxy
from tests.support.node.live_capture import WAIT_SECONDS, Live, payload_once, reason_to_skip, wait_until
from tests.support.node.namespaces import Namespace, Network, Pod

pytestmark = pytest.mark.xdist_group("socket_tap")

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

SERVICES = {4: "10.96.77.1", 6: "fd96::77:1"}
NODE = {4: "192.0.2.1", 6: "fd02::1"}
"""The node's own address, which is not the one that it has towards its pods."""
BRIDGE = {4: "10.43.0.1", 6: "fd43::1"}
ports, served = itertools.count(81), itertools.count(201)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A node that reaches Services by its own NAT, and a pod on it."""

    node: Namespace
    pod: Pod
    form: str

    def service(self, transport: str, version: int, backend: socket.socket) -> tuple[str, int]:
        """Add a Service with this backend; return its address and port."""
        address, port = backend.getsockname()[:2]
        return self.service_for(transport, version, address, port)

    def service_for(self, transport: str, version: int, backend: str, backend_port: int) -> tuple[str, int]:
        """As `service`, of a backend by its address."""
        _, add = kube_proxy.FORMS[self.form]
        service = kube_proxy.Service(transport, SERVICES[version], next(ports), backend, backend_port)
        add(self.node, service)
        return service.address, service.port


@pytest.fixture(scope="module", params=kube_proxy.FORMS)
def cluster(request) -> Iterator[Cluster]:
    """One for each form of kube-proxy."""
    with Network() as network:
        node = network.node("node", f"{BRIDGE[4]}/24", f"{BRIDGE[6]}/64")
        reason = kube_proxy.reason_to_skip(request.param, node.namespace)
        if reason:
            pytest.skip(reason)
        pod = node.pod("pod", "10.43.0.13/24", "fd43::d/64")
        uplink = node.namespace, "uplink", (f"{NODE[4]}/24", f"{NODE[6]}/64")
        network.link(uplink, (network.namespace("router"), "eth0", ("192.0.2.254/24", "fd02::fe/64")))
        for gateway in ("192.0.2.254", "fd02::fe"):
            node.namespace.ip("route", "add", "default", "via", gateway)
        yield Cluster(node.namespace, pod, request.param)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """The tap with what it does by default."""
    with SocketTap() as tap:
        yield Live(tap)


def family(version: int) -> socket.AddressFamily:
    """Of an IP version."""
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def text(address) -> str:
    """An address of a slot, as sockets have it."""
    found = ipaddress.IPv6Address(bytes(address))
    return str(found.ipv4_mapped or found)


def flows(live: Live, *, local: int | None = None, remote: int | None = None) -> list:
    """The live flows with these ports: one alone may be another test's, too."""
    return [
        row for row in live.rows(local or remote)
        if (local is None or row["local_port"] == local) and (remote is None or row["remote_port"] == remote)
    ]  # fmt: skip


def bound(namespace: Namespace, address: str, kind: socket.SocketKind, port: int = 0) -> socket.socket:
    """A socket at this address: listening where it is a stream's, else with a service's port, which tells its role."""
    server = namespace.socket(family(6 if ":" in address else 4), kind)
    server.settimeout(WAIT_SECONDS)
    server.bind((address, port or (next(served) if kind == socket.SOCK_DGRAM else 0)))
    if kind == socket.SOCK_STREAM:
        server.listen(16)
    return server


def ask(client: socket.socket, to: tuple[str, int] | None, backend: socket.socket, count: int) -> None:
    """So many datagrams there and back, one at a time; `to` is None where the client is connected."""
    for number in range(count):
        client.sendto(bytes(10 + number), to) if to else client.send(bytes(10 + number))
        _, sender = backend.recvfrom(2048)
        backend.sendto(bytes(100 + number), sender)
        client.recv(2048)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("closes", ["client", "server"])
def test_a_connection_through_a_service_is_one_at_each_end(live, cluster, version, closes) -> None:
    """A client in the node's network: one flow with the Service's address, the whole handshake, every byte, its outcome, and
    the backend that was chosen; at the backend one flow with the same sequence numbers. Nothing else.
    """
    with bound(cluster.pod.namespace, cluster.pod.addresses[version == 6], socket.SOCK_STREAM) as server:
        to = cluster.service("tcp", version, server)
        client = cluster.node.socket(family(version), socket.SOCK_STREAM)
        client.settimeout(WAIT_SECONDS)
        client.connect(to)
        accepted, peer = server.accept()
        client.sendall(bytes(1000))
        left = 1000
        while left:
            left -= len(accepted.recv(left))
        accepted.sendall(bytes(5000))
        left = 5000
        while left:
            left -= len(client.recv(left))
        name, port = client.getsockname(), server.getsockname()[1]
        first, second = (client, accepted) if closes == "client" else (accepted, client)
        first.close()
        assert second.recv(1) == b""
        second.close()
    wait_until(lambda: live.rows(to[1])["outcome"].tolist() == [Outcome.CLOSED])
    wait_until(lambda: [row["outcome"] for row in flows(live, local=port, remote=peer[1])] == [Outcome.CLOSED])
    (mine,), (theirs,) = live.rows(to[1]), flows(live, local=port, remote=peer[1])
    assert flows(live, local=peer[1], remote=port) == []
    assert peer[:2] != name[:2]
    assert (text(mine["local_address"]), mine["local_port"]) == name[:2]
    assert (text(mine["remote_address"]), mine["remote_port"]) == to
    assert (mine["role"], theirs["role"]) == (Role.CLIENT, Role.SERVER)
    assert 0 < mine["syn_ns"] < mine["syn_ack_ns"] <= mine["handshake_ack_ns"]
    assert mine["tx_initial_sequence"] == theirs["rx_initial_sequence"] != 0
    assert mine["rx_initial_sequence"] == theirs["tx_initial_sequence"] != 0
    assert (payload_once(mine, "tx"), payload_once(mine, "rx")) == (1000, 5000)
    assert (text(mine["backend_address"]), mine["backend_port"]) == (text(theirs["local_address"]), theirs["local_port"])
    assert theirs["backend_port"] == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["connected", "bound", "unbound"])
def test_datagrams_through_a_service_are_one_flow(live, cluster, version, way) -> None:
    """Questions of a client in the node's network and their answers are one flow, of the client's, with the Service and the
    backend that was chosen, whether the socket is connected, bound to an address, or neither.
    """
    with (
        bound(cluster.pod.namespace, cluster.pod.addresses[version == 6], socket.SOCK_DGRAM) as backend,
        cluster.node.socket(family(version), socket.SOCK_DGRAM) as client,
    ):
        to = cluster.service("udp", version, backend)
        client.settimeout(WAIT_SECONDS)
        if way == "connected":
            client.connect(to)
        elif way == "bound":
            client.bind((NODE[version], 0))
        ask(client, None if way == "connected" else to, backend, 5)
        port = client.getsockname()[1]
        (mine,) = live.rows(to[1])
        expected = sum(range(10, 15)), sum(range(100, 105))
        assert (mine["tx_payload_bytes"], mine["rx_payload_bytes"]) == expected
        assert (mine["tx_packets"], mine["rx_packets"], mine["responses"]) == (5, 5, 5)
        assert (text(mine["local_address"]), mine["local_port"]) == (NODE[version], port)
        assert (text(mine["remote_address"]), mine["remote_port"]) == to
        assert mine["role"] == Role.CLIENT
        assert (text(mine["backend_address"]), mine["backend_port"]) == backend.getsockname()[:2]
        (theirs,) = (row for row in flows(live, local=backend.getsockname()[1]) if row["transport"] == socket.IPPROTO_UDP)
        assert (theirs["role"], theirs["rx_payload_bytes"], theirs["tx_payload_bytes"]) == (Role.SERVER, *expected)
        assert text(theirs["remote_address"]) == BRIDGE[version]


@pytest.mark.parametrize("version", [4, 6])
def test_one_socket_that_asks_many(live, cluster, version) -> None:
    """An unbound socket that asks a Service, another one and a backend itself has a flow with each."""
    with contextlib.ExitStack() as stack:
        address = cluster.pod.addresses[version == 6]
        backends = [stack.enter_context(bound(cluster.pod.namespace, address, socket.SOCK_DGRAM)) for _ in range(3)]
        client = stack.enter_context(cluster.node.socket(family(version), socket.SOCK_DGRAM))
        client.settimeout(WAIT_SECONDS)
        targets = [cluster.service("udp", version, backend) for backend in backends[:2]]
        targets.append(backends[2].getsockname()[:2])
        for _ in range(3):
            for to, backend in zip(targets, backends, strict=True):
                ask(client, to, backend, 2)
        port = client.getsockname()[1]
        rows = {
            (text(row["remote_address"]), int(row["remote_port"])): row for row in live.rows(port) if row["local_port"] == port
        }
        assert sorted(rows) == sorted(targets)
        for to, backend in zip(targets, backends, strict=True):
            row = rows[to]
            assert (row["tx_packets"], row["rx_packets"], row["role"]) == (6, 6, Role.CLIENT)
            chosen = ("::", 0) if backend is backends[2] else backend.getsockname()[:2]
            assert (text(row["backend_address"]), row["backend_port"]) == chosen


@pytest.mark.parametrize("version", [4, 6])
def test_a_connected_socket_may_send_to_others(live, cluster, version) -> None:
    """A socket that is connected to a Service and sends elsewhere in between has two flows, each with its own datagrams."""
    address = cluster.pod.addresses[version == 6]
    with (
        bound(cluster.pod.namespace, address, socket.SOCK_DGRAM) as backend,
        bound(cluster.pod.namespace, address, socket.SOCK_DGRAM) as other,
        cluster.node.socket(family(version), socket.SOCK_DGRAM) as client,
    ):
        to = cluster.service("udp", version, backend)
        client.settimeout(WAIT_SECONDS)
        client.connect(to)
        ask(client, None, backend, 2)
        client.sendto(b"elsewhere", other.getsockname())
        other.recv(2048)
        ask(client, None, backend, 2)
        (mine,) = live.rows(to[1])
        assert (mine["tx_packets"], mine["rx_packets"]) == (4, 4)
        elsewhere = flows(live, local=client.getsockname()[1], remote=other.getsockname()[1])
        assert [(row["tx_packets"], row["tx_payload_bytes"], row["backend_port"]) for row in elsewhere] == [(1, 9, 0)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("listens_at", ["address", "any"])
def test_a_server_that_answers_under_a_services_address(live, cluster, version, listens_at) -> None:
    """A server in the node's network behind a Service, as an API server is: one flow at each end, with the whole handshake."""
    anywhere = {4: "0.0.0.0", 6: "::"}[version]
    with bound(cluster.node, anywhere if listens_at == "any" else NODE[version], socket.SOCK_STREAM) as server:
        to = cluster.service_for("tcp", version, NODE[version], server.getsockname()[1])
        client = cluster.pod.namespace.socket(family(version), socket.SOCK_STREAM)
        client.settimeout(WAIT_SECONDS)
        client.connect(to)
        accepted, peer = server.accept()
        client.sendall(b"q")
        assert accepted.recv(1)
        accepted.sendall(b"r")
        assert client.recv(1)
        accepted.close()
        assert client.recv(1) == b""
        client.close()
        ends = {"remote": to[1]}, {"local": server.getsockname()[1], "remote": peer[1]}
    wait_until(lambda: [row["outcome"] for each in ends for row in flows(live, **each)] == [Outcome.CLOSED] * 2)
    (mine,), (theirs,) = (flows(live, **each) for each in ends)
    assert (mine["role"], theirs["role"]) == (Role.CLIENT, Role.SERVER)
    assert mine["tx_initial_sequence"] == theirs["rx_initial_sequence"] != 0
    assert mine["rx_initial_sequence"] == theirs["tx_initial_sequence"] != 0
    assert (payload_once(mine, "tx"), payload_once(mine, "rx")) == (1, 1)
    assert theirs["syn_ns"] < theirs["syn_ack_ns"] < theirs["handshake_ack_ns"]


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_that_are_answered_under_a_services_address(live, cluster, version) -> None:
    """A server of datagrams in the node's network behind a Service, bound to no address: one flow at each end."""
    anywhere = {4: "0.0.0.0", 6: "::"}[version]
    with (
        bound(cluster.node, anywhere, socket.SOCK_DGRAM) as backend,
        cluster.pod.namespace.socket(family(version), socket.SOCK_DGRAM) as client,
    ):
        to = cluster.service_for("udp", version, BRIDGE[version], backend.getsockname()[1])
        client.settimeout(WAIT_SECONDS)
        ask(client, to, backend, 4)
        mine, theirs = (
            row for row in [*live.rows(to[1]), *flows(live, local=backend.getsockname()[1])]
            if row["transport"] == socket.IPPROTO_UDP
        )  # fmt: skip
        assert (mine["role"], theirs["role"]) == (Role.CLIENT, Role.SERVER)
        assert [int(row[f"{way}_packets"]) for row in (mine, theirs) for way in ("tx", "rx")] == [4, 4, 4, 4]


SOCKET_TRANSLATION = """
int translate(struct bpf_sock_addr *context)
{
    if (context->user_ip4 == bpf_htonl(0x0a604d01)) {
        context->user_ip4 = bpf_htonl(ADDRESS);
        context->user_port = bpf_htons(PORT);
    }
    return 1;
}
"""
ATTACH = """
import os, sys
os.environ["BCC_KERNEL_SOURCE"] = sys.argv[1]
from bcc import BPF
module = BPF(text=sys.argv[2], cflags=sys.argv[4:])
function = module.load_func("translate", 18, attach_type=14)
cgroup = os.open(sys.argv[3], os.O_RDONLY)
module.attach_func(function, cgroup, 14, 2)
print("attached", flush=True)
sys.stdin.read()
module.detach_func(function, cgroup, 14)
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_where_sockets_translate_themselves_a_flow_has_the_backend(pods, order) -> None:
    """Where a program at the sockets chooses the backend (Cilium), both ways have its address, whichever program runs first."""
    client_pod, server_pod = pods
    with bound(server_pod.namespace, server_pod.addresses[0], socket.SOCK_DGRAM) as backend, contextlib.ExitStack() as stack:
        address, port = backend.getsockname()
        defines = [f"-DADDRESS={int(ipaddress.IPv4Address(address))}", f"-DPORT={port}"]
        command = [SYSTEM_PYTHON, "-c", ATTACH, bpf.SOURCE_DIRECTORY, SOCKET_TRANSLATION, find_root(), *defines]
        if order == "after":
            tap = stack.enter_context(SocketTap())
        child = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert child.stdout.readline() == "attached\n"
        if order == "before":
            tap = stack.enter_context(SocketTap())
        client = stack.enter_context(client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(WAIT_SECONDS)
        ask(client, (SERVICES[4], 53), backend, 3)
        rows = Live(tap).rows(port)  # its own tap saw nothing else
        child.stdin.close()
    assert sorted((row["role"], row["tx_packets"], row["rx_packets"], row["backend_port"]) for row in rows) == [
        (Role.CLIENT, 3, 3, 0), (Role.SERVER, 3, 3, 0),
    ]  # fmt: skip
    assert {text(row["remote_address"]) for row in rows} == {address, client_pod.addresses[0]}


def test_a_refused_connection_through_a_service(live, cluster) -> None:
    """Nobody listens at the backend: one flow at the client, refused."""
    with bound(cluster.pod.namespace, cluster.pod.addresses[0], socket.SOCK_STREAM) as gone:
        to = cluster.service("tcp", 4, gone)
    client = cluster.node.socket()
    with client, pytest.raises(ConnectionRefusedError):
        client.connect(to)
    (mine,) = live.rows(to[1])
    assert (mine["outcome"], mine["role"], mine["tx_packets"], mine["rx_packets"]) == (Outcome.REFUSED, Role.CLIENT, 1, 1)


def test_a_service_at_a_loopback_address_is_loopback(live, cluster) -> None:
    """A node port at 127.0.0.1 leads to a pod: at the client's end it is what that end has, and left out as loopback is."""
    for name in ("all", "cni0"):
        cluster.node.set_sysctl(f"ipv4/conf/{name}/route_localnet", 1)
    with bound(cluster.pod.namespace, cluster.pod.addresses[0], socket.SOCK_STREAM) as server:
        service = kube_proxy.Service("tcp", "127.0.0.1", next(ports), *server.getsockname())
        kube_proxy.FORMS[cluster.form][1](cluster.node, service)
        client = cluster.node.socket()
        client.settimeout(WAIT_SECONDS)
        before = live.tap.counters["loopback_packets"]
        client.connect((service.address, service.port))
        accepted, peer = server.accept()
        client.close()
        assert accepted.recv(1) == b""
        accepted.close()
    (theirs,) = flows(live, local=service.backend_port, remote=peer[1])
    assert theirs["role"] == Role.SERVER
    assert live.rows(service.port)["role"].tolist() == []
    assert live.tap.counters["loopback_packets"] >= before + theirs["rx_packets"]


def test_nothing_is_counted_beside_the_flows(live) -> None:
    """The tests above lose no packet to another place."""
    counters = live.tap.counters
    assert [counters[f"{TapCounter(number).name.lower()}_packets"] for number in (0, 1, 2, 7)] == [0, 0, 0, 0]
