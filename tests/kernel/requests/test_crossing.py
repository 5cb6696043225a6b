"""Both ends of HTTP/2 speak first, and at once: the client its preface, the server its settings, on two processors."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from proto.columns import Observer, Role
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.names.pieces import PieceKind
from tests.support.node.held_program import HeldProgram
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip
from tests.support.node.namespaces import Network, Pod
from tests.support.packets.talks.http2_talk import END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, frame

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two processors"),
]

RULES = TapRules(allow_networks=("10.46.0.0/24",))
CALLS = range(4)
MOST_TRIES = 200
HELD = ("egress_handshakes", "egress_calls", "ingress_handshakes", "ingress_calls")
"""What the client's first words are looked at by: for TLS and for requests, at the client and at the server."""


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Pod, Pod]]:
    """A client and a server."""
    with Network() as network:
        node = network.node("crossing", "10.46.0.1/24", "fd46::1/64")
        yield node.pod("asks", "10.46.0.12/24", "fd46::c/64"), node.pod("serves", "10.46.0.13/24", "fd46::d/64")


def receive(end: socket.socket, count: int) -> None:
    """Take so many bytes."""
    while count:
        part = end.recv(count)
        assert part
        count -= len(part)


def converse(held: HeldProgram, pods: tuple[Pod, Pod]) -> tuple[bool, int]:
    """Calls over a connection of their own; returns whether the server spoke while the client's first words were looked at, and
    the client's port.
    """
    coder, whole = Coder(), END_HEADERS | END_STREAM
    with pods[1].namespace.socket() as listener, pods[0].namespace.socket() as client:
        listener.bind((pods[1].addresses[0], 0))
        listener.listen()
        client.settimeout(WAIT_SECONDS)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(WAIT_SECONDS)
            held.hold()
            asking = threading.Thread(target=client.sendall, args=(HELLO,))
            asking.start()
            while not held.has_come and asking.is_alive():
                pass
            accepted.sendall(WELCOME)
            crossed = held.go_on()
            asking.join()
            receive(accepted, len(HELLO))
            receive(client, len(WELCOME))
            for number in CALLS:
                asked = frame(HEADERS, 2 * number + 1, coder.asks(number), whole)
                answer = frame(HEADERS, 2 * number + 1, coder.answers(), whole)
                client.sendall(asked)
                receive(accepted, len(asked))
                accepted.sendall(answer)
                receive(client, len(answer))
        return crossed, client.getsockname()[1]


@pytest.mark.parametrize("calls", HELD)
def test_a_server_that_speaks_while_the_preface_is_looked_at_has_answered_nothing(pods: tuple[Pod, Pod], calls: str) -> None:
    """What it says are frames from the first on, and each call is told at both ends."""
    looks = calls.replace("handshakes", "handshake").replace("calls", "request")
    with SocketTap(capacity=4096, trace_context=True, pieces=[PieceKind.TLS], rules=RULES) as tap:
        with HeldProgram(tap.loaded.maps[calls], 0, tap.loaded.programs[f"tap_{looks}"]) as held:
            tries = (converse(held, pods) for _ in range(MOST_TRIES))
            port = next((client for crossed, client in tries if crossed), None)
        assert port is not None, "they never spoke at once"
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
        counters = {name: count for name, count in tap.counters.items() if count}
    rows = [{name: column[row] for name, column in each.columns.items()} for each in emissions for row in range(len(each))]
    for role, name in ((Role.CLIENT, "local_port"), (Role.SERVER, "remote_port")):
        told = [int.from_bytes(row["trace_id"].tobytes()) - 1 for row in rows if (row["role"], row[name]) == (role, port)]
        assert sorted(told) == list(CALLS), (role, counters)
