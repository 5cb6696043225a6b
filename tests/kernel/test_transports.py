"""Transports other than TCP and UDP on this machine's kernel: real sockets, counts that are known beforehand."""

from __future__ import annotations

import socket

import pytest

from proto.columns import Role
from services.capture.flows.layout import State
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip, slots_of

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

UDPLITE = 136
SCTP = 132
ICMPV6 = 58
IP, IPV6, UDP = 20, 40, 8
"""Header bytes; UDP-Lite's are as many as UDP's."""


def of_transport(live, transport: int):
    """The live slots of this transport, as a copy."""
    rows = slots_of(live.tap)
    return rows[(rows["transport"] == transport) & (rows["state"] == State.LIVE)]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_udp_lite_is_counted_as_udp(live, pods, family) -> None:
    """Every datagram of known size, both ways, at both ends, under its own transport; each question has its answer."""
    client_pod, server_pod = pods
    six = family == socket.AF_INET6
    header = (IPV6 if six else IP) + UDP
    with (
        client_pod.namespace.socket(family, socket.SOCK_DGRAM, UDPLITE) as client,
        server_pod.namespace.socket(family, socket.SOCK_DGRAM, UDPLITE) as server,
    ):
        client.bind((client_pod.addresses[six], 0))
        server.bind((server_pod.addresses[six], 0))
        for end in (client, server):
            end.settimeout(WAIT_SECONDS)
        for size in range(1, 51):
            client.sendto(bytes(size), server.getsockname())
            _, sender = server.recvfrom(100)
            server.sendto(bytes(2 * size), sender)
            client.recv(200)
        port = server.getsockname()[1]
        rows = of_transport(live, UDPLITE)
        (mine,) = rows[(rows["remote_port"] == port) & (rows["role"] == Role.CLIENT)]
        (other,) = rows[(rows["local_port"] == port) & (rows["role"] == Role.SERVER)]
    total = sum(range(1, 51))
    assert (int(mine["tx_packets"]), int(mine["rx_packets"]), int(mine["responses"])) == (50, 50, 50)
    assert mine["tx_bytes"] == other["rx_bytes"] == total + 50 * header
    assert mine["rx_bytes"] == other["tx_bytes"] == 2 * total + 50 * header


def test_an_sctp_association_is_one_flow_at_each_end(live, pods) -> None:
    """Ports and both directions' bytes of the whole association, the same at both ends; the client is who began."""
    client_pod, server_pod = pods
    try:
        server = server_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP)
    except OSError as error:
        pytest.skip(f"this kernel has no SCTP ({error.strerror})")
    with server, client_pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP) as client:
        server.bind((server_pod.addresses[0], 0))
        server.listen(1)
        client.settimeout(WAIT_SECONDS)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            client.sendall(bytes(1000))
            assert accepted.recv(2000) == bytes(1000)
            port = server.getsockname()[1]
            rows = of_transport(live, SCTP)
            (mine,) = rows[(rows["remote_port"] == port) & (rows["role"] == Role.CLIENT)]
            (other,) = rows[(rows["local_port"] == port) & (rows["role"] == Role.SERVER)]
            assert mine["tx_bytes"] >= 1000
            assert other["rx_bytes"] >= 1000


def test_other_transports_have_flows(live, pods) -> None:
    """An echo request and its reply are one flow; so are packets of a transport that has no ports, at each end."""
    client_pod, server_pod = pods
    with client_pod.namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as echo:
        echo.settimeout(WAIT_SECONDS)
        for _ in range(3):
            echo.sendto(
                b"\x08\0" + (0xFFFF - 0x0800 - 0x1234).to_bytes(2, "big") + b"\x12\x34\0\0", (server_pod.addresses[0], 0)
            )
            echo.recv(100)
        rows = of_transport(live, socket.IPPROTO_ICMP)
        (mine,) = rows[rows["role"] == Role.CLIENT]
        assert (int(mine["tx_packets"]), int(mine["rx_packets"]), int(mine["local_port"])) == (3, 3, 0x1234)
        assert mine["responses"] == 3
    with client_pod.namespace.socket(socket.AF_INET, socket.SOCK_RAW, 253) as sender:
        receiver = server_pod.namespace.socket(socket.AF_INET, socket.SOCK_RAW, 253)
        with receiver:
            receiver.settimeout(WAIT_SECONDS)
            sender.sendto(b"experimental", (server_pod.addresses[0], 0))
            receiver.recv(100)
        assert [int(row["tx_bytes"] + row["rx_bytes"]) for row in of_transport(live, 253)] == [32, 32]


def test_an_echo_over_ipv6_is_one_flow_at_each_end(live, pods) -> None:
    """Requests and replies of one identifier, which stands in for a port. The kernel answers, and receives on no socket."""
    client_pod, server_pod = pods
    with client_pod.namespace.socket(socket.AF_INET6, socket.SOCK_RAW, ICMPV6) as echo:
        echo.settimeout(WAIT_SECONDS)
        for number in range(3):
            echo.sendto(bytes((128, 0, 0, 0, 0x23, 0x45, 0, number)) + b"payload!", (server_pod.addresses[1], 0))
            while echo.recv(200)[0] != 129:
                pass
        rows = of_transport(live, ICMPV6)
        rows = rows[rows["local_port"] == 0x2345]
        (mine,), (other,) = (rows[rows["role"] == role] for role in (Role.CLIENT, Role.SERVER))
        assert (int(mine["tx_packets"]), int(mine["rx_packets"]), int(mine["responses"])) == (3, 3, 3)
        assert mine["tx_bytes"] == mine["rx_bytes"] == other["tx_bytes"] == 3 * (IPV6 + 8 + 8)
        assert (int(other["tx_packets"]), int(other["rx_packets"])) == (3, 0)
