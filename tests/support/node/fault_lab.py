"""A client, a router that can be told to do harm, a server, and the socket tap over both: what a fault looks like in spans.

Every fault has a port of its own, and the router's rules name ports, so that all faults run at once, under one tap, and each
is found again in its records:

    with FaultLab() as lab:
        lab.drop("-p", "tcp", "--dport", "7002")
        ...
        lab.take_records()
        (client,) = lab.told(7002, Role.CLIENT)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from proto.columns import Observer, Reason, Role
from proto.flow_batch import FlowBatch, decode, encode
from proto.verdicts.rules import judged
from services.capture.flows.datagrams import DatagramRules
from services.capture.flows.table import FlowTable
from services.capture.live.owners.cgroups import CgroupIndex, find_root
from services.capture.live.records import LiveClock, finish
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.exporter.encoder import SpanEncoder
from tests.support.node.delaying_forwarder import slow_way
from tests.support.node.namespaces import Network

_SECOND, _THIRD = 64 + os.getpid() % 128, os.getpid() // 128 % 64 * 4
NETWORK: Final = f"10.{_SECOND}.{_THIRD}.0/22"
"""Another for every process, because a tap sees the sockets of all."""
CLIENT_SIDE, SERVER_SIDE = f"10.{_SECOND}.{_THIRD + 1}", f"10.{_SECOND}.{_THIRD + 2}"
CLIENT, SERVER, FAR_SERVER = f"{CLIENT_SIDE}.2", f"{SERVER_SIDE}.2", f"{SERVER_SIDE}.3"
"""The far server is the server by an address to which the way is long."""
ONE_WAY_SECONDS: Final = 0.06
"""What the long way takes longer."""
WAIT_SECONDS: Final = 120
SO_RCVBUFFORCE: Final = 33
"""As SO_RCVBUF, whatever net.core.rmem_max says."""
LINGER_ZERO: Final = struct.pack("ii", 1, 0)

_COUNTERS: Final = (
    "retransmits", "spurious_retransmits", "out_of_order", "duplicate_acks", "zero_window", "keep_alives",
    "zero_window_probes", "resets",
)  # fmt: skip
SYMPTOMS: Final = (
    "error.type",
    "flow.tcp.syn_repeats",
    "flow.tcp.syn_ack_repeats",
    "flow.request.unanswered",
    *(f"flow.{way}tcp.{name}" for name in _COUNTERS for way in ("", "reverse.")),
)
"""Attributes that say something is wrong wherever they are neither absent nor 0. What is slow has no threshold here."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one socket's record says."""

    role: Role
    port: int
    """The server's."""
    row: dict[str, int]
    """The record's columns that are numbers."""
    attributes: dict[str, Any]
    """Its span's."""
    failed: bool
    """Its span's status is ERROR."""

    @property
    def symptoms(self) -> set[str]:
        """Return which of SYMPTOMS it has."""
        return {name for name in SYMPTOMS if self.attributes.get(name)}

    @property
    def outcome(self) -> str:
        """What became of the connection."""
        return str(self.attributes["flow.connection.outcome"])


class FaultLab(AbstractContextManager["FaultLab"]):
    """Namespaces, tap, and what is open in them; all gone when it is left. UDP of `dns_ports` is DNS."""

    def __init__(self, dns_ports: Iterable[int] = ()) -> None:
        self._dns_ports = tuple(dns_ports)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            network = stack.enter_context(Network())
            self.client, self.router, self.server = (network.namespace(name) for name in ("client", "router", "server"))
            self.router.set_sysctl("ipv4/ip_forward", 1)
            for scope in ("all", "default"):
                self.router.set_sysctl(f"ipv4/conf/{scope}/rp_filter", 0)
            network.link((self.client, "eth0", [f"{CLIENT}/24"]), (self.router, "left", [f"{CLIENT_SIDE}.1/24"]))
            far = [f"{SERVER}/24", f"{FAR_SERVER}/24"]
            network.link((self.server, "eth0", far), (self.router, "right", [f"{SERVER_SIDE}.1/24"]))
            self.client.ip("route", "add", "default", "via", f"{CLIENT_SIDE}.1")
            self.server.ip("route", "add", "default", "via", f"{SERVER_SIDE}.1")
            stack.enter_context(slow_way(self.router, "slow0", ONE_WAY_SECONDS))
            self.router.ip("route", "add", "default", "dev", "slow0", "table", "100")
            self.router.ip("rule", "add", "iif", "left", "to", FAR_SERVER, "lookup", "100")
            self.router.ip("rule", "add", "iif", "right", "from", FAR_SERVER, "lookup", "100")
            rules = TapRules(allow_networks=(NETWORK,))
            self._tap = stack.enter_context(
                SocketTap(capacity=1024, rules=rules, datagrams=DatagramRules(dns_ports=self._dns_ports))
            )
            self._cgroups = stack.enter_context(CgroupIndex(find_root()))
            self._open = stack.enter_context(ExitStack())
            self._stack = stack.pop_all()
        self._told: list[Told] = []
        self.batches: list[FlowBatch] = []
        """All records, judged as the enricher does."""
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def drop(self, *match: str) -> None:
        """From now on the router drops what matches these arguments of iptables."""
        self.router.run("iptables", "-w", "-A", "FORWARD", *match, "-j", "DROP")

    def dropped(self, match: str) -> int:
        """Packets dropped by the one rule that has this text in its listing."""
        (rule,) = [line for line in self.router.run("iptables", "-w", "-nvxL", "FORWARD").splitlines() if match in line]
        return int(rule.split()[0])

    def keep(self, one: socket.socket) -> socket.socket:
        """Close this socket when the records have been taken, and not before."""
        one.settimeout(WAIT_SECONDS)
        return self._open.enter_context(one)

    def listen(
        self, port: int, *, backlog: int = 16, address: str = SERVER, receive_buffer: int | None = None
    ) -> socket.socket:
        """A listening socket of the server."""
        listener = self.keep(self.server.socket())
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
        listener.bind((address, port))
        listener.listen(backlog)
        return listener

    def connected(
        self, port: int, *, address: str = SERVER, receive_buffer: int | None = None
    ) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection; they stay open until the records have been taken, unless the fault closes them."""
        listener = self.listen(port, address=address, receive_buffer=receive_buffer)
        client = self.keep(self.client.socket())
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
        client.connect((address, port))
        accepted, _ = listener.accept()
        return client, self.keep(accepted)

    def datagram_ends(self, port: int) -> tuple[socket.socket, socket.socket]:
        """A client's datagram socket and the server's on this port."""
        client, server = (self.keep(end.socket(socket.AF_INET, socket.SOCK_DGRAM)) for end in (self.client, self.server))
        server.bind((SERVER, port))
        client.connect((SERVER, port))
        return client, server

    def take_records(self) -> None:
        """Detach the tap and make every flow's last record, sent and read again as services do; then close what is open."""
        # Not by LiveReader: connections of its own process are none of the node's to it, and these here are all of them.
        table, clock = FlowTable(self._tap, observer=Observer.SOCKET), LiveClock(self._tap.capacity)
        encoder = SpanEncoder(cluster_name="lab", distribution_version="0")
        self._tap.detach()
        for emission in table.drain(clock.begin_drain(), Reason.SHUTDOWN):
            records = finish(emission, self._tap.rows(emission.slots), clock, self._cgroups)
            interval = (int(records.columns["start_unix_ns"].min()), int(records.columns["end_unix_ns"].max()))
            batch = FlowBatch(
                node="node-a", epoch="fault-lab", sequence=0, count=len(emission), interval=interval,
                columns=records.columns, containers=records.containers,
            )  # fmt: skip
            self.batches.append(judged(decode(encode(batch))))
            self._told.extend(_told(encoder, self.batches[-1]))
            table.accept(emission)
        self._open.close()

    def told(self, port: int, role: Role) -> list[Told]:
        """What the sockets of this role at this server's port have told, in the order they began."""
        return [told for told in self._told if told.port == port and told.role == role]


def _told(encoder: SpanEncoder, batch: FlowBatch) -> list[Told]:
    found = []
    for number in range(batch.count):
        request = ExportTraceServiceRequest.FromString(encoder.encode(batch, slice(number, number + 1)))
        (span,) = request.resource_spans[0].scope_spans[0].spans
        numbers = {name: column for name, column in batch.columns.items() if column.ndim == 1 and column.dtype.kind == "u"}
        row = {name: int(column[number]) for name, column in numbers.items()}
        role = Role(int(batch.column("role")[number]))
        port = int(batch.column("local_port" if role == Role.SERVER else "remote_port")[number])
        attributes = {pair.key: _value(pair.value) for pair in span.attributes}
        found.append(Told(role, port, row, attributes, span.status.code == span.status.STATUS_CODE_ERROR))
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind or "string_value")


def wait_until(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


def window_probes(end: socket.socket) -> int:
    """Return how often the socket has asked in vain whether the other end has room again (tcpi_probes)."""
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[3]


def window_of_peer(end: socket.socket) -> int:
    """Return how many bytes the other end has room for (tcpi_snd_wnd, since Linux 6.2): 0 where the kernel does not say."""
    said = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return int(struct.unpack_from("=I", said, 228)[0]) if len(said) == 232 else 0


def total_retransmits(end: socket.socket) -> int:
    """Return the kernel's own count of segments the socket has sent again (tcpi_total_retrans)."""
    (count,) = struct.unpack_from("=I", end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)
    return int(count)


def all_acknowledged(end: socket.socket) -> bool:
    """Whether the other end has acknowledged all that was written."""
    left = struct.unpack("i", fcntl.ioctl(end, termios.TIOCOUTQ, bytes(4)))[0]
    return left == 0


def read_all(end: socket.socket) -> int:
    """Read to the end of the stream; return how much there was."""
    size = 0
    while data := end.recv(1 << 16):
        size += len(data)
    return size


def reset(end: socket.socket) -> None:
    """Close with RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    end.close()


def close_both(client: socket.socket, server: socket.socket) -> None:
    """The client ends its stream, the server answers with its own end, and both have seen it."""
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == 0
    server.close()
    with contextlib.suppress(ConnectionResetError):
        read_all(client)
    client.close()
