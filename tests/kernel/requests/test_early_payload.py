"""Payload that comes before its socket does is looked at like any other: with the ACK that completes the handshake, under SYN
cookies too, and to a listener that defers its accepts. The kernel shows it as the listener's.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from typing import Any, NamedTuple

import dns.message
import dns.rrset
import numpy as np
import pytest

from proto.columns import NAMES, NO_INDEX, RAW, TLS, ExchangeEnd, Observer, Reason, Role
from proto.flow_batch import decode
from services.capture.flows.datagrams import DatagramRules
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.records import monotonic_ns
from services.capture.live.tap import bpf_syscall, socket_tap
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.names.pieces import PieceKind
from tests.support.node.live_capture import WAIT_SECONDS, reason_to_skip, slots_of, wait_until
from tests.support.node.namespaces import Network, Pod
from tests.support.packets.pcap import ACK, PSH, SYN, ip, tcp
from tests.support.packets.talks.http2_talk import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    HELLO,
    WELCOME,
    Coder,
    context,
    frame,
)  # fmt: skip
from tests.support.packets.talks.tls_talk import contexts

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
]

COOKIES_ALWAYS = 2
DNS_PORT = 53
LONG_AFTER_NS = 10**10
POSSIBLE_CPUS = socket_tap._possible_cpus()
RULES = TapRules(allow_networks=("10.45.0.0/24", "fd45::/64"))
FORMS = ("with_the_ack", "with_cookies", "deferred")


class Conversation(NamedTuple):
    """What a client says, and how much it is answered, in turn; what of it each end is to tell."""

    turns: list[tuple[bytes, bytes]]
    told: list[tuple[int, int, int, int]]
    """Number of the caller's span, status, bytes of the request and of the response."""
    ends: set[ExchangeEnd]


def http1() -> Conversation:
    """Two requests in a row."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"
    turns = [(f"GET /{n} HTTP/1.1\r\nHost: a\r\ntraceparent: {context(n)}\r\n\r\n".encode(), answer) for n in range(2)]
    told = [(number, 200, len(asked), len(answer)) for number, (asked, answer) in enumerate(turns)]
    return Conversation(turns, told, {ExchangeEnd.NEXT_REQUEST, ExchangeEnd.CLOSED})


def http1_long() -> Conversation:
    """A request of several segments, with its context in none but the last."""
    answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    cookies = "".join(f"Cookie: {'c' * 100}\r\n" for _ in range(40))
    asked = f"GET / HTTP/1.1\r\nHost: a\r\n{cookies}traceparent: {context(0)}\r\n\r\n".encode()
    return Conversation([(asked, answer)], [(0, 204, len(asked), len(answer))], {ExchangeEnd.CLOSED})


def http2() -> Conversation:
    """Prior knowledge, and the first call right behind the preface; then three more, with what is in the table by then."""
    coder = Coder()
    turns, told = [], []
    for number in range(4):
        stream = 2 * number + 1
        asked = frame(HEADERS, stream, coder.asks(number), END_HEADERS) + frame(DATA, stream, b"x" * number, END_STREAM)
        answer = frame(HEADERS, stream, coder.answers(), END_HEADERS | END_STREAM)
        turns.append((asked if number else HELLO + asked, answer if number else WELCOME + answer))
        told.append((number, 200, len(asked), len(answer)))
    return Conversation(turns, told, {ExchangeEnd.STREAM})


@pytest.fixture(scope="module")
def pods() -> Iterator[tuple[Pod, Pod]]:
    """A client and a server."""
    with Network() as network:
        node = network.node("early", "10.45.0.1/24", "fd45::1/64")
        yield node.pod("asks", "10.45.0.12/24", "fd45::c/64"), node.pod("serves", "10.45.0.13/24", "fd45::d/64")


class Listener:
    """A server, whose connections begin as one of FORMS has it."""

    def __init__(self, pods: tuple[Pod, Pod], form: str, family: int, port: int) -> None:
        self._pods, self._form = pods, form
        self._kind = (socket.AF_INET, socket.AF_INET6)[family]
        self._listener = pods[1].namespace.socket(self._kind)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((pods[1].addresses[family], port))
        if form == "deferred":
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, WAIT_SECONDS)
        self._listener.listen()
        self._listener.settimeout(WAIT_SECONDS)
        self.address: Any = self._listener.getsockname()

    def close(self) -> None:
        """Nobody listens any more."""
        self._listener.close()

    def accept(self) -> socket.socket:
        """The server's end of the next connection."""
        accepted, _ = self._listener.accept()
        accepted.settimeout(WAIT_SECONDS)
        return accepted

    def open(self) -> socket.socket:
        """The client's end of a connection whose server does not know of it before there is payload."""
        client = self._pods[0].namespace.socket(self._kind)
        client.settimeout(WAIT_SECONDS)
        if self._form != "deferred":
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        client.connect(self.address)
        return client


@contextmanager
def listening(pods: tuple[Pod, Pod], form: str, family: int, port: int = 0) -> Iterator[Listener]:
    """The server's end of one of FORMS."""
    namespace = pods[1].namespace
    before = namespace.sysctl("ipv4/tcp_syncookies")
    if form == "with_cookies":
        namespace.set_sysctl("ipv4/tcp_syncookies", COOKIES_ALWAYS)
    listener = Listener(pods, form, family, port)
    try:
        yield listener
    finally:
        listener.close()
        namespace.set_sysctl("ipv4/tcp_syncookies", before)


def receive(end: socket.socket, count: int) -> None:
    """Take so many bytes."""
    while count:
        part = end.recv(count)
        assert part
        count -= len(part)


def converse(listener: Listener, turns: list[tuple[bytes, bytes]]) -> int:
    """A conversation over a connection of its own; returns the client's port."""
    with listener.open() as client:
        client.sendall(turns[0][0])
        with listener.accept() as accepted:
            for place, (asked, answer) in enumerate(turns):
                if place:
                    client.sendall(asked)
                receive(accepted, len(asked))
                accepted.sendall(answer)
                receive(client, len(answer))
        port: int = client.getsockname()[1]
        with suppress(OSError):
            client.recv(1)
    return port


def converse_early(tap: SocketTap, listener: Listener, turns: list[tuple[bytes, bytes]]) -> int:
    """A conversation whose first payload the kernel showed as the listener's; returns the client's port. A client that gets no
    processor for long sends its bare ACK after all: then another is had.
    """
    server = listener.address[1]
    for _ in range(20):
        client = converse(listener, turns)
        (slot,) = ends_of(slots_of(tap), server, client)[Role.SERVER]
        left = bpf_syscall.lookup(tap.loaded.maps["flow_of_listener"], bytes(4), 8 * POSSIBLE_CPUS)
        if int(slot["id"]) in np.frombuffer(left or b"", "<u8"):
            return client
    pytest.fail("no first payload came before its socket")


def ends_of(rows: Any, server: int, client: int) -> dict[Role, list[Any]]:
    """Those of a connection at each end."""
    return {
        Role.CLIENT: [row for row in rows if (row["local_port"], row["remote_port"]) == (client, server)],
        Role.SERVER: [row for row in rows if (row["local_port"], row["remote_port"]) == (server, client)],
    }


@pytest.mark.parametrize("form", FORMS)
def test_exchanges_are_told_at_both_ends(pods: tuple[Pod, Pod], form: str) -> None:
    """Each with its context, status and bytes, from the first request of the connection on, and nothing else of it."""
    had = []
    with SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap:
        for family, said in product((0, 1), (http1, http1_long, http2)):
            conversation = said()
            with listening(pods, form, family) as listener:
                had.append((conversation, listener.address[1], converse_early(tap, listener, conversation.turns)))
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
        counters = {name: count for name, count in tap.counters.items() if count}
    rows = [{name: column[row] for name, column in each.columns.items()} for each in emissions for row in range(len(each))]
    for conversation, server, client in had:
        for role, found in ends_of(rows, server, client).items():
            told = [
                (int.from_bytes(row["trace_id"].tobytes()) - 1, row["http_status"], row["request_bytes"], row["response_bytes"])
                for row in found
            ]
            assert sorted(told) == conversation.told, (role, counters)
            assert {row["exchange_end"] for row in found} == conversation.ends, role
            assert all(row["request_first_unix_ns"] <= row["response_first_unix_ns"] for row in found)


@pytest.mark.parametrize("form", FORMS)
def test_names_are_told_at_both_ends(pods: tuple[Pod, Pod], form: str) -> None:
    """Of TLS what the client asks for, and a handshake that took time; of DNS over TCP the question with its answer."""
    question = dns.message.make_query("early.example", "A")
    answer = dns.message.make_response(question)
    answer.answer.append(dns.rrset.from_text("early.example.", 60, "IN", "A", "192.0.2.7"))
    asks, answers = (len(wire).to_bytes(2, "big") + wire for wire in (question.to_wire(), answer.to_wire()))
    shaken, asked = [], []
    options = LiveOptions(capacity=4096, rules=RULES, names="all", datagrams=DatagramRules(dns_ports=(DNS_PORT,)))
    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
        for family in (0, 1):
            with listening(pods, form, family) as listener:
                shaken.append(shake_hands(listener))
            with listening(pods, form, family, DNS_PORT) as listener:
                asked.append(converse_early(reader.tap, listener, [(asks, answers)]))
        records = list(last_records(reader))
    told = {(port, record["role"]): record for record in records for port in (record["local_port"], record["remote_port"])}
    for role in (Role.CLIENT, Role.SERVER):
        for port in shaken:
            record = told[port, role]
            assert (record["tls_server_name"], record["tls_handshake_time_ns"] > 0) == ("shop.example", True)
        for port in asked:
            record = told[port, role]
            assert (record["dns_first_name"], record["dns_first_time_ns"] > 0) == ("early.example", True)
            assert record["dns_first_answers"] == record["dns_codes"][0] == 1


def shake_hands(listener: Listener) -> int:
    """A handshake of OpenSSL, whose ClientHello comes first; returns the client's port."""
    client, server = contexts()

    def serve() -> None:
        with server.wrap_socket(listener.accept(), server_side=True) as end:
            end.sendall(end.recv(100))
            end.recv(1)

    serving = threading.Thread(target=serve)
    with listener.open() as plain:
        port: int = plain.getsockname()[1]
        serving.start()
        with client.wrap_socket(plain, server_hostname="shop.example") as end:
            end.sendall(b"ask")
            assert end.recv(100) == b"ask"
    serving.join()
    return port


def last_records(reader: LiveReader) -> Iterator[dict[str, Any]]:
    """Last records, through the wire, with names as text."""
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            decoded = decode(message.message)
            for row in range(decoded.count):
                values = {column.name: decoded.column(column.name)[row].tolist() for column in RAW + NAMES + TLS}
                for name in ("tls_server_name", "dns_first_name"):
                    values[name] = decoded.names[values[name]] if values[name] != NO_INDEX else None
                if values["reason"] != Reason.EXCHANGE:
                    yield values
        reader.accept(batch)


@pytest.mark.parametrize("form", FORMS)
def test_the_meeting_remembers_exchanges_at_both_ends(pods: tuple[Pod, Pod], form: str) -> None:
    """Of whatever protocol, each with its bytes, from the first payload on, in how many segments that may be."""
    turns = [(b"a" * 4000, b"b" * 200), (b"c" * 30, b"d" * 400)]
    kinds = tuple(PieceKind)
    with SocketTap(capacity=4096, trace_context=True, meeting=True, pieces=kinds, rules=RULES) as tap:
        assert tap.turns is not None
        for family in (0, 1):
            with listening(pods, form, family) as listener:
                client = converse_early(tap, listener, turns)
                ends = ends_of(slots_of(tap), listener.address[1], client)
            taken = tap.turns.take(monotonic_ns() + LONG_AFTER_NS, tap.high_slot)
            for role, (slot,) in ends.items():
                mine = np.sort(taken[taken["flow_id"] == slot["id"]], order="number")
                assert mine[["request_bytes", "response_bytes"]].tolist() == [(len(a), len(b)) for a, b in turns], role


def test_requests_of_http1_are_told_once_where_a_raw_socket_has_their_packets_too(pods: tuple[Pod, Pod]) -> None:
    """The kernel shows each packet as the raw socket's before it does as the connection's."""
    conversation = http1()
    with ExitStack() as stack:
        for pod in pods:
            stack.enter_context(pod.namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        tap = stack.enter_context(SocketTap(capacity=4096, trace_context=True, rules=RULES))
        listener = stack.enter_context(listening(pods, "with_the_ack", 0))
        client = converse(listener, conversation.turns)
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
    rows = [{name: column[row] for name, column in each.columns.items()} for each in emissions for row in range(len(each))]
    for role, found in ends_of(rows, listener.address[1], client).items():
        told = [
            (int.from_bytes(row["trace_id"].tobytes()) - 1, row["http_status"], row["request_bytes"], row["response_bytes"])
            for row in found
        ]
        assert sorted(told) == conversation.told, role


def forged(source: str, destination: tuple[str, int], flags: int, *, seq: int, ack: int = 0, payload: bytes = b"") -> bytes:
    """A packet from port 40000 of any address, with TCP's checksum."""
    segment = tcp(40000, destination[1], flags, seq=seq, ack=ack, payload=payload + bytes(len(payload) % 2))
    ends = socket.inet_aton(source) + socket.inet_aton(destination[0])
    total = sum(
        struct.unpack(f"!{6 + len(segment) // 2}H", ends + struct.pack("!HH", socket.IPPROTO_TCP, len(segment)) + segment)
    )
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    segment = segment[:16] + checksum.to_bytes(2) + segment[18:]
    return ip(source, destination[0], socket.IPPROTO_TCP, segment)


def test_who_has_not_got_the_syn_ack_is_not_listened_to(pods: tuple[Pod, Pod]) -> None:
    """From an address that is nobody's, a SYN and a request right behind it, which acknowledges what nobody sent: no call is
    told of a connection that never was.
    """
    asked = http1().turns[0][0]
    with (
        listening(pods, "with_the_ack", 0) as listener,
        pods[0].namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
        SocketTap(capacity=4096, trace_context=True, rules=RULES) as tap,
    ):
        source, server = "10.45.0.99", listener.address
        raw.sendto(forged(source, server, SYN, seq=1000), (server[0], 0))
        raw.sendto(forged(source, server, ACK | PSH, seq=1001, ack=1, payload=asked), (server[0], 0))
        wait_until(lambda: any(row["rx_payload_bytes"] for row in slots_of(tap) if row["local_port"] == server[1]))
        tap.detach()
        assert not list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
