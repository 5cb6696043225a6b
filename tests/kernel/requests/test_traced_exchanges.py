"""Exchanges of application traces at both ends of real connections: a slow server, a slow path and a loss are told apart."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from proto.columns import ExchangeEnd, Observer, Role
from services.capture.flows.exchange_layout import EXCHANGE
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.flows.table import FlowTable
from services.capture.flows.timing import FlowTableSettings
from services.capture.live.records import monotonic_ns
from services.capture.live.tap import bpf_syscall
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.lossy_path import SERVER, long_path, lossy_path, routed_path
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.node.namespaces import Namespace

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("iptables") is None, reason="needs root and iptables"),
]

PORT = free_port()
RULES = TapRules(allow_ports=(PORT,))
"""Others' requests are not seen."""
MS = 1_000_000
MOST_TOLD = 12
"""By a look without an end."""
TRACE_ID = os.urandom(16)
"""Of this process alone."""
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000


def request(number: int, flags: str = "01") -> bytes:
    """A request whose caller is span `number`."""
    context = f"00-{TRACE_ID.hex()}-{number:016x}-{flags}"
    return f"GET /cart HTTP/1.1\r\nHost: cart\r\ntraceparent: {context}\r\nX: {'y' * 200}\r\n\r\n".encode()


@contextmanager
def serving(namespace: Namespace, wait_seconds: float = 0.0) -> Iterator[None]:
    """A server that answers each request of one connection after `wait_seconds`."""
    listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((SERVER, PORT))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            asked = b""
            while part := connection.recv(65536):
                asked += part
                if asked.endswith(b"\r\n\r\n"):
                    time.sleep(wait_seconds)
                    connection.sendall(RESPONSE)
                    asked = b""

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()


def ask(namespace: Namespace, *requests: bytes) -> None:
    """Send requests over one connection, each after the response to the one before."""
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect((SERVER, PORT))
        exchange(client, *requests)


def exchange(client: socket.socket, *requests: bytes) -> None:
    """Send requests, each after the response to the one before."""
    for each in requests:
        client.sendall(each)
        left = len(RESPONSE)
        while left:
            left -= len(client.recv(65536))


def told(path, *requests: bytes, wait_seconds: float = 0.0):
    """The exchanges of requests over a path, and the tap's counters: role -> its rows."""
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        assert tap.exchanges is not None
        with path as (client, server), serving(server, wait_seconds):
            ask(client, *requests)
        tap.detach()
        table = ExchangeTable(tap.exchanges, observer=Observer.SOCKET)
        (emission,) = table.drain(monotonic_ns(), final=True)
        for _ in FlowTable(tap, observer=Observer.SOCKET).drain(monotonic_ns()):
            pass
        columns = emission.columns
        rows = [{name: column[row] for name, column in columns.items()} for row in range(len(emission))]
        counters = tap.counters
    return {role: [row for row in rows if row["role"] == role] for role in (Role.CLIENT, Role.SERVER)}, counters


def read_open(tap):
    """How many exchanges the kernel's table holds, whether or not they are known to be any."""
    room = tap.loaded.map_descriptions["open_exchanges"].max_entries
    keys, _ = bpf_syscall.read_hash(tap.loaded.maps["open_exchanges"], "<u8", EXCHANGE, room)
    return len(keys)


def phases(row):
    """Request transfer, server wait and response transfer in milliseconds."""
    first, asked, begun, done = (
        int(row[f"{name}_unix_ns"]) for name in ("request_first", "request_last", "response_first", "response_last")
    )
    return (asked - first) / MS, (begun - asked) / MS, (done - begun) / MS


def test_each_request_of_a_connection_is_told_at_both_ends():
    """Sampled, not sampled, without any, sampled: two exchanges at either socket, with their bytes and callers."""
    plain = b"GET /cart HTTP/1.1\r\nHost: cart\r\nX: " + b"y" * 200 + b"\r\n\r\n"
    ends, counters = told(lossy_path(0), request(1), request(2, "00"), plain, request(3))
    for rows in ends.values():
        assert [int.from_bytes(bytes(row["parent_span_id"]), "big") for row in rows] == [1, 3]
        assert {bytes(row["trace_id"]) for row in rows} == {TRACE_ID}
        assert rows[0]["exchange_end"] == ExchangeEnd.NEXT_REQUEST
        assert {int(row["request_bytes"]) for row in rows} == {len(request(1))}
        assert {int(row["response_bytes"]) for row in rows} == {len(RESPONSE)}
        assert all(row["isn_seen"] == 3 for row in rows)
        assert [int(row["record"]) for row in rows] == sorted(int(row["record"]) for row in rows)
    found = {name.removeprefix("requests_"): number for name, number in counters.items() if name.startswith("requests_")}
    assert {name: number for name, number in found.items() if number} == {"sampled": 4, "unsampled": 2, "absent": 2}
    assert counters["exchanges_lost"] == 0


def test_what_ends_while_a_look_goes_on_waits_for_the_next():
    """Requests that end between any two batches do not keep a look from its end."""
    settings = FlowTableSettings(max_rows=1)
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        assert tap.exchanges is not None
        table = ExchangeTable(tap.exchanges, settings, Observer.SOCKET)
        with lossy_path(0) as (client, server), serving(server), client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.connect((SERVER, PORT))
            exchange(asking, request(1), request(2))
            told = []
            for look in range(2):
                for emission in table.drain(monotonic_ns()):
                    told.append((look, int.from_bytes(emission.columns["parent_span_id"][0].tobytes(), "big")))
                    if len(told) < 2 * MOST_TOLD:
                        exchange(asking, request(len(told) + 2))
    assert sorted(told) == [(0, 1), (0, 1), (1, 2), (1, 2), (1, 3), (1, 3)]


def test_a_request_that_does_not_wait_is_noticed_behind_long_headers():
    """Of no trace, and of any length: what is asked behind it has its own response at both ends."""
    plain = b"GET /cart HTTP/1.1\r\nHost: cart\r\nX: " + b"y" * 900 + b"\r\n\r\n"

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            left = len(plain + request(1))
            while left:
                left -= len(connection.recv(left))
            connection.sendall(RESPONSE + b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap, lossy_path(0) as (client, server):
        with (
            server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
            client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking,
        ):
            listener.bind((SERVER, PORT))
            listener.listen()
            thread = threading.Thread(target=answer, args=(listener,))
            thread.start()
            asking.connect((SERVER, PORT))
            asking.sendall(plain)
            asking.sendall(request(1))
            while asking.recv(65536):
                pass
            thread.join()
        tap.detach()
        found = ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True)
        mine = [each for emission in found for each in emission.exchanges if bytes(each["trace_id"]) == TRACE_ID]
        assert sorted((each["role"], each["status"]) for each in mine) == [(Role.CLIENT, 404), (Role.SERVER, 404)]


def test_a_slow_server_is_slow_at_both_ends():
    """The wait is the server's own, and the path adds hardly anything."""
    ends, _ = told(lossy_path(0), request(1), wait_seconds=0.15)
    ((client,), (server,)) = ends.values()
    assert phases(client)[1] >= phases(server)[1] >= 149
    assert phases(client)[0] == phases(server)[0] == 0


def test_the_first_request_after_an_unseen_handshake_is_told():
    """The kernel shows no program a SYN-ACK that is a SYN cookie, nor, before Linux 6.6, one over IPv6: none is missed."""

    @contextmanager
    def cookies_always():
        with lossy_path(0) as (client, server):
            before = server.sysctl("ipv4/tcp_syncookies")
            server.set_sysctl("ipv4/tcp_syncookies", 2)
            yield client, server
            server.set_sysctl("ipv4/tcp_syncookies", before)

    ends, _ = told(cookies_always(), request(1), request(2))
    assert [[int(row["parent_span_id"].tobytes().hex(), 16) for row in rows] for rows in ends.values()] == [[1, 2]] * 2


def test_a_slow_path_is_slow_at_the_client_only():
    """The client's wait has the way there and back in it, the server's has not."""
    ends, _ = told(long_path(0.06), request(1), request(2))
    for client, server in zip(*ends.values(), strict=True):
        assert phases(client)[1] >= 119
        assert phases(server)[1] < phases(client)[1] - 100


def test_a_lost_request_is_a_long_transfer():
    """The request's only segment is lost once: the client sends it again, and the server answers at once."""
    with routed_path() as (client, router, server):
        match = ("-p", "tcp", "--dport", str(PORT), "-m", "length", "--length", "200:", "-m", "statistic", "--mode", "nth")
        router.run("iptables", "-A", "FORWARD", *match, "--every", "1000", "--packet", "0", "-j", "DROP")

        @contextmanager
        def path():
            yield client, server

        ends, _ = told(path(), request(1))
    ((at_client,), (at_server,)) = ends.values()
    assert (at_client["request_retransmits"], at_client["response_retransmits"]) == (1, 0)
    transfer, wait, _ = phases(at_client)
    assert transfer > 150 > wait - phases(at_server)[1]
    assert phases(at_server)[0] == 0
    assert np.int64(at_server["request_retransmits"]) == 0


def test_what_ends_without_a_packet_is_told_once():
    """A response that pauses is told while its connection lives on; the next request tells nothing again."""
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        table = ExchangeTable(tap.exchanges, observer=Observer.SOCKET)
        flows = FlowTable(tap, observer=Observer.SOCKET)
        drained = []

        def drain(after_seconds: float) -> None:
            for emission in table.drain(monotonic_ns() + int(after_seconds * 1e9)):
                drained.extend(zip(emission.columns["role"], emission.columns["exchange_end"], strict=True))

        with lossy_path(0) as (client, server), serving(server), client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.connect((SERVER, PORT))
            for number in (1, 2):
                asking.sendall(request(number))
                left = len(RESPONSE)
                while left:
                    left -= len(asking.recv(65536))
                drain(0)
                drain(2.5)
                drain(2.6)
            assert sorted(drained) == sorted([(role, ExchangeEnd.IDLE_TIMEOUT) for role in (Role.CLIENT, Role.SERVER)] * 2)
        drain(2.7)
        assert len(drained) == 4
        assert len(tap.exchanges.open_exchanges()) == 0
        for emission in flows.drain(monotonic_ns() + 400 * 1_000_000_000):
            flows.accept(emission)
        assert len(tap.exchanges.open_exchanges()) == 0


def test_long_headers_are_looked_through_however_they_are_sent():
    """A cookie of 4 KiB before the context, in one write and in several, which cut its line too; a longer one is counted."""

    def asked(number: int, cookie: int) -> bytes:
        return request(number).replace(b"Host: cart", b"Host: cart\r\nCookie: " + b"t=p;" * (cookie // 4), 1)

    long, longer = asked(1, 4096), asked(2, 16_384)
    name = long.index(b"traceparent")
    in_name, in_value = [long[: name + 5], long[name + 5 :]], [long[: name + 1], long[name + 1 : name + 40], long[name + 40 :]]
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        with lossy_path(0) as (client, server), serving(server), client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asking.connect((SERVER, PORT))
            in_parts = [long[:1000], long[1000:3000], long[3000:]]
            for parts in ([long], [longer], in_parts, long.splitlines(keepends=True), in_name, in_value):
                for part in parts:
                    asking.sendall(part)
                left = len(RESPONSE)
                while left:
                    left -= len(asking.recv(65536))
        tap.detach()
        (emission,) = ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True)
        counters = tap.counters
    of_client = emission.columns["role"] == Role.CLIENT
    assert emission.columns["request_bytes"][of_client].tolist() == [len(long)] * 5
    assert {bytes(each) for each in emission.columns["trace_id"]} == {TRACE_ID}
    assert (counters["requests_sampled"], counters["requests_cut"]) == (10, 2)


def test_headers_that_never_end_leave_nothing_behind():
    """Their connection is gone: the kernel's table keeps nothing of it."""
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        table, flows = ExchangeTable(tap.exchanges, observer=Observer.SOCKET), FlowTable(tap, observer=Observer.SOCKET)
        with lossy_path(0) as (client, server), serving(server), client.socket(socket.AF_INET, socket.SOCK_STREAM) as asking:
            asking.connect((SERVER, PORT))
            asking.sendall(request(1)[:50])
        for _ in range(3):
            assert not list(table.drain(monotonic_ns() + 10**11))
            for emission in flows.drain(monotonic_ns() + 10**11):
                flows.accept(emission)
        assert read_open(tap) == 0
