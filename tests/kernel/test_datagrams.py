"""Datagrams on this machine's kernel: DNS by its numbers, other protocols while both ends take turns, and who asks whom."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from proto.columns import Role
from services.capture.flows.layout import Requests
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap
from tests.support.node.live_capture import WAIT_SECONDS, Live, reason_to_skip, wait_until
from tests.support.packets.talks import dns

_reason = reason_to_skip()
if _reason:
    pytest.skip(_reason, allow_module_level=True)

NAME = "cart.shop.svc.cluster.local"
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
CONNECTED = pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])


@pytest.fixture(scope="module")
def young() -> Iterator[Live]:
    """A tap that has looked on for less time than a flow of datagrams may rest."""
    with SocketTap() as tap:
        yield Live(tap)


@pytest.fixture
def ends(pods) -> Iterator[Callable[..., tuple[socket.socket, socket.socket]]]:
    """Makes a client's and a server's socket; `server_port` 0 is any."""
    with contextlib.ExitStack() as stack:

        def make(server_port: int, *, connected: bool, family: int = socket.AF_INET, client_port: int = 0):
            places = []
            for pod, port in zip(pods, (client_port, server_port), strict=True):
                end = stack.enter_context(pod.namespace.socket(family, socket.SOCK_DGRAM))
                end.bind((pod.addresses[family == socket.AF_INET6], port))
                end.settimeout(WAIT_SECONDS)
                places.append(end)
            client, server = places
            if connected:
                client.connect(server.getsockname())
            return client, server

        yield make


def told(live: Live, client: socket.socket, role: Role):
    """The slot of this role in the flow of a client's socket."""
    return live.side(role, client.getsockname()[1])


@FAMILIES
@CONNECTED
def test_questions_under_way_at_once_have_their_own_answers(young, ends, family, connected) -> None:
    """A and AAAA asked at once and answered the other way round, the first after it was asked again: at both ends each waits
    since its own first asking, and no longer than it did.
    """
    client, server = ends(53, connected=connected, family=family)
    before = monotonic_ns()
    client.sendto(dns.question(1, NAME), server.getsockname())
    asked = monotonic_ns()
    client.sendto(dns.question(2, NAME, dns.AAAA), server.getsockname())
    for _ in range(2):
        _, asker = server.recvfrom(512)
    server.sendto(dns.answer(2, NAME, dns.AAAA), asker)
    client.recv(512)
    short = monotonic_ns() - before
    wait_until(lambda: monotonic_ns() > asked + 3 * short)
    client.sendto(dns.question(1, NAME), server.getsockname())
    server.recv(512)
    answered = monotonic_ns()
    server.sendto(dns.answer(1, NAME), asker)
    client.recv(512)
    after = monotonic_ns()
    for role in (Role.CLIENT, Role.SERVER):
        row = told(young, client, role)
        assert (row["questions"], row["question_repeats"], row["responses"], row["request_ns"]) == (2, 1, 2, 0)
        assert row["requests"] == Requests.NUMBERED
        assert answered - asked <= row["response_time_max_ns"] <= after - before
        assert row["response_time_sum_ns"] - row["response_time_max_ns"] <= short


def test_a_hundred_questions_of_one_socket_are_matched(young, ends) -> None:
    """A forwarder's socket: all are asked before the first is answered, every tenth never is."""
    client, server = ends(53, connected=True)
    for number in range(100):
        client.send(dns.question(number * 613, f"host{number}.example.org"))
    _, asker = server.recvfrom(512)
    for number in reversed([number for number in range(100) if number % 10]):
        server.sendto(dns.answer(number * 613, f"HOST{number}.example.org"), asker)
        client.recv(512)
    for role in (Role.CLIENT, Role.SERVER):
        row = told(young, client, role)
        assert (row["questions"], row["question_repeats"], row["responses"]) == (100, 0, 90)
        assert row["request_ns"] != 0
    records = young.finish(client.getsockname()[1])
    assert records["request_waits"].tolist() == [10, 10]
    assert records["questions"].tolist() == [100, 100]


def test_the_wait_of_a_resolver_library_is_told(young, pods, ends, tmp_path) -> None:
    """Getaddrinfo of the C library, whose A question is lost once: it asks again after its second, and we tell that second."""
    client_pod, server_pod = pods
    _, server = ends(53, connected=False)
    settings = tmp_path / "resolv.conf"
    settings.write_text(f"nameserver {server_pod.addresses[0]}\noptions timeout:1 attempts:3\n")
    askers, lost = [], []

    def serve() -> None:
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4\x0a\0\0\1"
        while (received := server.recvfrom(512))[0]:
            message, asker = received
            askers.append(asker)
            is_a = message[-3] == dns.A
            if is_a and not lost:
                lost.append(message)
                continue
            counts = bytes([0, 1, 0, is_a, 0, 0, 0, 0])
            server.sendto(message[:2] + b"\x81\x80" + counts + message[12:] + record * is_a, asker)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        before = monotonic_ns()
        ask = f"mount --bind {settings} /etc/resolv.conf && exec getent ahosts cart.example."
        assert "10.0.0.1" in client_pod.namespace.run("unshare", "--mount", "sh", "-c", ask)
        taken = monotonic_ns() - before
    finally:
        with client_pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", server.getsockname())
        thread.join()
    for role in (Role.CLIENT, Role.SERVER):
        row = young.side(role, askers[0][1])
        assert row["question_repeats"] >= 1
        assert row["questions"] == row["responses"]
        assert 990_000_000 <= row["response_time_max_ns"] <= taken  # its timer counts milliseconds


@CONNECTED
def test_what_came_before_capture_is_not_guessed(young, ends, connected) -> None:
    """Between two ports that anybody may have nobody knows who asked first, nor what answers what."""
    client, server = ends(0, connected=connected)
    client.sendto(b"x", server.getsockname())
    _, asker = server.recvfrom(9)
    server.sendto(b"y", asker)
    client.recv(9)
    rows = young.rows(client.getsockname()[1])
    assert sorted(rows["role"].tolist()) == [Role.UNKNOWN] * 2
    assert not rows["responses"].any()


def test_who_listens_at_a_port_that_was_asked_for_serves(young, ends) -> None:
    """Without having seen the beginning: an unconnected socket at such a port, and a connected one that took any port."""
    client, server = ends(8125, connected=True)
    server.sendto(b"news", client.getsockname())
    client.recv(9)
    for role, way in ((Role.CLIENT, "rx"), (Role.SERVER, "tx")):
        assert told(young, client, role)[f"{way}_packets"] == 1


def test_an_unconnected_client_of_unknown_beginnings_is_unknown(young, ends) -> None:
    """It may be anything; its server is one all the same, by its port."""
    client, server = ends(8126, connected=False)
    client.sendto(b"x", server.getsockname())
    server.recv(9)
    roles = young.rows(client.getsockname()[1])["role"].tolist()
    assert sorted(roles) == [Role.UNKNOWN, Role.SERVER]


def test_a_service_s_port_tells_who_serves(young, ends) -> None:
    """Whoever speaks first; then turns are timed: the first answer has no question that was seen."""
    client, server = ends(123, connected=False)
    server.sendto(b"x", client.getsockname())
    client.recv(9)
    for role in (Role.CLIENT, Role.SERVER):
        row = told(young, client, role)
        assert (row["responses"], row["requests"]) == (0, Requests.OPAQUE)


def test_datagrams_out_of_turn_are_not_timed(live, ends) -> None:
    """A stream with acknowledgments, as QUIC's: some take turns, and nothing is told of any."""
    client, server = ends(443, connected=True)
    for step in range(5):
        client.send(b"get")
        _, asker = server.recvfrom(9)
        for _ in range(step):
            server.sendto(b"data", asker)
            client.recv(9)
    for role in (Role.CLIENT, Role.SERVER):
        assert told(live, client, role)["requests"] == Requests.OPAQUE
    records = live.finish(client.getsockname()[1])
    assert not records["responses"].any()
    assert not records["response_time_histogram"].any()
    assert records["tx_packets"].sum() == records["rx_packets"].sum() == 15
