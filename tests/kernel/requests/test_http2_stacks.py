"""Calls of real stacks of HTTP/2 (grpcio, Go, Node, h2load, nghttp, curl), live at both ends of connections, none missing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from proto.columns import ExchangeEnd, Observer, Role
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from services.capture.names.pieces import PieceKind
from tests.support.node.live_capture import reason_to_skip
from tests.support.packets.pcap import write
from tests.support.packets.replayed import replay_files
from tests.support.packets.talks.http2_stacks import STACKS, is_missing
from tests.support.packets.talks.http2_talk import END_HEADERS, END_STREAM, HEADERS, HELLO, PING, WELCOME, Coder, context, frame
from tests.support.packets.talks.http_talk import counted
from tests.support.ports import free_port

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
]

SAME = ("trace_id", "parent_span_id")
SAID = ("http_method", "http_status", "grpc_status", "exchange_shared")
BYTES = ("request_bytes", "response_bytes")
PHASES = ("request_first", "request_last", "response_first", "response_last")


@pytest.fixture(params=STACKS)
def stack(request):
    """A talk of a client and a server through a relay; skips where one is not installed."""
    if is_missing(request.param):
        pytest.skip(f"{STACKS[request.param][0]} is not installed")
    return request.param


def live(talk, tmp_path):
    """What the tap makes of a talk: role -> connection and stream -> row; the packets that the relay saw; counters."""
    with SocketTap(capacity=4096, trace_context=True, rules=TapRules(loopback=True)) as tap:
        frames = list(talk(tmp_path, None))
        tap.detach()
        table = ExchangeTable(tap.exchanges, observer=Observer.SOCKET)
        columns = [emission.columns for emission in table.drain(monotonic_ns(), final=True)]
        counters = tap.counters
    rows = [{name: column[row] for name, column in each.items()} for each in columns for row in range(len(each["role"]))]
    ends = {}
    for role, *own in ((Role.CLIENT, "local", "remote"), (Role.SERVER, "remote", "local")):
        ends[role] = {key_of(row, *own): row for row in rows if row["role"] == role}
    return ends, frames, counters


def key_of(row, client, server):
    """Connection and stream: a client's port alone may be that of the relay's own connection too."""
    return int(row[f"{client}_port"]), int(row[f"{server}_port"]), int(row["record"]) & 0x7FFFFFFF


@contextmanager
def calling(port: int) -> Iterator[Callable[[int], bytes]]:
    """A server of gRPC there and a channel to it, which is opened by the first call. Yields what makes a call by its number."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    unary = grpc.unary_unary_rpc_method_handler(lambda asked, _context: asked)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", {"Unary": unary})])
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/t.T/Unary")
            yield lambda number: call(b"x" * number, metadata=[("traceparent", context(number))])
    finally:
        server.stop(0).wait()


def told_numbers(tap: SocketTap, port: int) -> list[list[int]]:
    """The numbers of the calls to that port that the tap tells, in its order: at the client's end and at the server's."""
    tap.detach()
    emissions = ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True)
    columns = [each.columns for each in emissions]
    return [
        [
            int.from_bytes(trace_id.tobytes(), "big") - 1
            for each in columns
            for trace_id in each["trace_id"][(each["role"] == role) & (each[of_server] == port)]
        ]
        for role, of_server in ((Role.CLIENT, "remote_port"), (Role.SERVER, "local_port"))
    ]


@pytest.mark.parametrize("is_low", [True, False], ids=["by_ports", "by_content"])
def test_a_channel_that_is_older_than_the_capture_is_joined(is_low):
    """Its calls that begin after the first two are told at both ends, under their own callers; the others are not. The server's
    end knows who listens there; the client's tells by the ports, or, where both are ephemeral ones, by what is said.
    """
    port = next(port for port in iter(free_port, 0) if (port < 32_768) == is_low)
    with calling(port) as call:
        for number in range(3):
            call(number)
        with SocketTap(capacity=4096, trace_context=True, rules=TapRules(loopback=True)) as tap:
            for number in range(3, 23):
                call(number)
            numbers = told_numbers(tap, port)
            counters = tap.counters
    for told in numbers:
        assert told == sorted(told)
        assert set(told) <= set(range(3, 23))
        assert set(told) >= set(range(5, 23)), counters


def test_a_channel_that_is_opened_as_capture_is_attached_is_told_whole():
    """From its first call on, at both ends: whatever looks into payload is there before the first packet is counted."""

    class Opening(SocketTap):
        def _attach(self) -> None:
            super()._attach()
            for number in range(3):
                call(number)

    port = next(port for port in iter(free_port, 0) if port < 32_768)
    with (
        calling(port) as call,
        Opening(capacity=4096, trace_context=True, rules=TapRules(loopback=True), pieces=tuple(PieceKind), meeting=True) as tap,
    ):
        for number in range(3, 23):
            call(number)
        numbers = told_numbers(tap, port)
        counters = tap.counters
    assert numbers == [list(range(23))] * 2, counters


def passed(pool: futures.Executor, sender: socket.socket, receiver: socket.socket, content: bytes) -> None:
    """Say something in one write, and have it read."""
    sending = pool.submit(sender.sendall, content)
    left = len(content)
    while left:
        left -= len(receiver.recv(left))
    sending.result()


@pytest.mark.parametrize("flooding", ["client", "server"])
def test_behind_a_flood_of_pings_calls_are_told(flooding):
    """10,000 in one write are more than are followed in a packet. What is told is a call's own; none is missing before the
    first flood, nor from the fourth call behind each.
    """
    coder, flood = Coder(), frame(PING, 0, bytes(8)) * 10_000
    with (
        SocketTap(capacity=4096, trace_context=True, rules=TapRules(loopback=True)) as tap,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        passed(pool, client, server, HELLO)
        passed(pool, server, client, WELCOME)
        for number in range(30):
            if number % 10 == 5:
                passed(pool, *((client, server) if flooding == "client" else (server, client)), flood)
            passed(pool, client, server, frame(HEADERS, 2 * number + 1, coder.asks(number), END_HEADERS | END_STREAM))
            passed(pool, server, client, frame(HEADERS, 2 * number + 1, coder.answers(), END_HEADERS | END_STREAM))
        numbers = told_numbers(tap, listener.getsockname()[1])
        counters = tap.counters
    for told in numbers:
        assert told == sorted(told), counters
        assert set(told) >= {number for number in range(30) if number < 5 or number % 10 not in {5, 6, 7}}, counters


def test_every_call_is_told_at_both_ends(stack, tmp_path):
    """What is read of the packets that a relay saw between them: contexts, methods, statuses, bytes, and how each ended. What
    the server tells of lies within what the client does.
    """
    ends, frames, counters = live(STACKS[stack][1], tmp_path)
    replayed = replay_files([write(tmp_path / "talk.pcap", frames)], trace_context=True)
    expected = {key_of(each, "local", "remote"): each for each in replayed.exchanges}
    assert len(expected) == counted(replayed)["requests_sampled"] > 0
    assert {name: counters[name] for name in ("exchanges_lost", "pieces_lost_http2", "pieces_frames_missing")} == {
        "exchanges_lost": 0, "pieces_lost_http2": 0, "pieces_frames_missing": 0
    }  # fmt: skip
    assert all(rows.keys() >= expected.keys() for rows in ends.values()), counters
    for key, theirs in expected.items():
        for rows in ends.values():
            ours = rows[key]
            assert [ours[name].tobytes() for name in SAME] == [bytes(theirs[name]) for name in SAME], key
            assert {name: ours[name] for name in SAID} == {name: theirs[name] for name in SAID}, key
            if theirs["exchange_end"] == ExchangeEnd.STREAM:
                assert ours["exchange_end"] == ExchangeEnd.STREAM, key
                assert {name: ours[name] for name in BYTES} == {name: theirs[name] for name in BYTES}, key
        client, server = ends[Role.CLIENT][key], ends[Role.SERVER][key]
        asked, answered = PHASES[:2], PHASES[2:]
        assert all(client[f"{name}_unix_ns"] <= server[f"{name}_unix_ns"] for name in asked), key
        if server["response_first_unix_ns"]:
            assert all(client[f"{name}_unix_ns"] >= server[f"{name}_unix_ns"] for name in answered), key
