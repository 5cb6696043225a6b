"""SYN-ACKs that the kernel shows no program: with SYN cookies on every kernel, over IPv6 before Linux 6.6."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from proto.columns import Outcome, Role
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip, wait_until

if TYPE_CHECKING:
    from tests.support.node.live_capture import Live
    from tests.support.node.namespaces import Pod

pytestmark = pytest.mark.xdist_group("socket_tap")

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

IP, SYN_ACK = (20, 40), 40
COOKIES_ALWAYS = 2


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_the_clients_ack_tells_what_was_not_shown(live: Live, pods: tuple[Pod, Pod], family: int) -> None:
    """The server's end has the SYN-ACK's number and the connect time, but not its time, and is one packet short, not more."""
    client_pod, server_pod = pods
    before = server_pod.namespace.sysctl("ipv4/tcp_syncookies")
    server_pod.namespace.set_sysctl("ipv4/tcp_syncookies", COOKIES_ALWAYS)
    kind = (socket.AF_INET, socket.AF_INET6)[family]
    with server_pod.namespace.socket(kind) as listener, client_pod.namespace.socket(kind) as client:
        listener.bind((server_pod.addresses[family], 0))
        listener.listen()
        client.settimeout(WAIT_SECONDS)
        client.connect((server_pod.addresses[family], listener.getsockname()[1]))
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"q" * 100)
            client.shutdown(socket.SHUT_WR)
            while accepted.recv(1000):
                pass
            accepted.sendall(b"r" * 200)
        while client.recv(1000):
            pass
        port = listener.getsockname()[1]
    server_pod.namespace.set_sysctl("ipv4/tcp_syncookies", before)
    wait_until(lambda: [row["outcome"] for row in live.rows(port)] == [Outcome.CLOSED] * 2)
    at_client, at_server = live.side(Role.CLIENT, port), live.side(Role.SERVER, port)
    assert at_server["tx_initial_sequence"] == at_client["rx_initial_sequence"]
    assert at_server["tx_known"] & 1
    assert (at_server["syn_ack_ns"], at_client["syn_ack_ns"] > 0) == (0, True)
    assert at_server["syn_ns"] < at_server["handshake_ack_ns"]
    assert at_server["tx_packets"] + 1 == at_client["rx_packets"]
    assert at_server["tx_bytes"] + IP[family] + SYN_ACK == at_client["rx_bytes"]
    assert at_server["rx_bytes"] == at_client["tx_bytes"]
    assert (at_server["rx_duplicate_acks"], at_server["tx_retransmits"]) == (0, 0)
    live.finish(port)
