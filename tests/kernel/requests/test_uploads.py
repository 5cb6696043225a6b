"""Uploads over HTTP/2, live: most packets lie within a frame and are passed over, and what is told is none the less exact."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import closing

import pytest

from proto.columns import ExchangeEnd, Observer, Role
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.namespaces import Namespace
from tests.support.packets.talks.http2_talk import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    HELLO,
    RST_STREAM,
    WELCOME,
    Coder,
    context,
    frame,
)

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
]

FRAMES_TAKEN = 340
"""In a packet: streams.h's FRAMES_AT_ONCE for each of the 33 calls that the kernel lets a program make, but for a few."""
FIRST = random.getrandbits(60)
"""No other run's calls have these numbers, whose contexts are told with these."""


def upload(network: Namespace, said: bytes, answer: bytes) -> None:
    """A connection on which the client says this, and then the server that."""
    with network.entered(), closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()

    def serve() -> None:
        left = len(HELLO + said)
        while left:
            left -= len(server.recv(min(left, 1 << 16)))
        server.sendall(WELCOME + answer)

    with client, server:
        thread = threading.Thread(target=serve)
        thread.start()
        client.sendall(HELLO + said)
        left = len(WELCOME + answer)
        while left:
            left -= len(client.recv(left))
        thread.join()


@pytest.mark.parametrize("size", [300, 5000, 16_384, 200_000])
def test_what_is_uploaded_is_counted_to_the_byte(network, size):
    """At both ends, of frames of any size: a stream that is ended, and one behind it, whose frames are found."""
    coder = Coder()
    first, second = (frame(HEADERS, stream, coder.asks(FIRST + size + stream), END_HEADERS) for stream in (1, 3))
    body = frame(DATA, 1, bytes(size)) * (2_000_000 // size)
    said = [first + body + frame(DATA, 1, b"x", END_STREAM), second + frame(DATA, 3, bytes(size)) * 3]
    answer = frame(HEADERS, 1, coder.answers(), END_HEADERS | END_STREAM) + frame(RST_STREAM, 3, bytes(4))
    with SocketTap(capacity=16_384, trace_context=True, rules=TapRules(loopback=True)) as tap:
        upload(network, b"".join(said), answer)
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
    asked = {
        bytes.fromhex(context(FIRST + size + stream)[3:35]): length
        for stream, length in zip((1, 3), map(len, said), strict=True)
    }
    rows = [{name: column[place] for name, column in each.columns.items()} for each in emissions for place in range(len(each))]
    told = {
        (Role(row["role"]), row["record"] & 0x7FFFFFFF): (
            row["request_bytes"] - asked[row["trace_id"].tobytes()],
            row["exchange_end"],
        )
        for row in rows
        if row["trace_id"].tobytes() in asked
    }
    assert told == {
        (role, stream): (0, end)
        for role in (Role.CLIENT, Role.SERVER)
        for stream, end in ((1, ExchangeEnd.STREAM), (3, ExchangeEnd.STREAM_RESET))
    }


def test_of_a_body_that_is_given_up_within_a_frame_most_is_known(network):
    """At both ends: what came last, 256 KiB and a frame at the most, may be missing."""
    said = frame(HEADERS, 1, Coder().asks(FIRST), END_HEADERS) + (frame(DATA, 1, bytes(16_384)) * 60)[:-5000]
    with SocketTap(capacity=16_384, trace_context=True, rules=TapRules(loopback=True)) as tap:
        upload(network, said, frame(RST_STREAM, 1, bytes(4)))
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
    rows = [{name: column[place] for name, column in each.columns.items()} for each in emissions for place in range(len(each))]
    mine = [row for row in rows if row["trace_id"].tobytes() == bytes.fromhex(context(FIRST)[3:35])]
    assert {Role(row["role"]) for row in mine} == {Role.CLIENT, Role.SERVER}
    assert len(mine) == 2
    assert all(0 <= len(said) - row["request_bytes"] <= 262_144 + 16_393 for row in mine)


@pytest.mark.parametrize("turns", [1, 4])
def test_many_small_frames_of_streams_that_take_turns_are_all_followed(network, turns):
    """In a packet as many as a program takes in so many calls of itself, however few of a stream's are in a row."""
    coder, streams = Coder(), (1, 3)
    heads = b"".join(frame(HEADERS, stream, coder.asks(70 + stream), END_HEADERS) for stream in streams)
    rows = [frame(DATA, stream, b"x") * turns for stream in streams]
    body = b"".join(rows) * (FRAMES_TAKEN // (2 * turns))
    ends = b"".join(frame(DATA, stream, b"", END_STREAM) for stream in streams)
    answers = b"".join(frame(HEADERS, stream, coder.answers(), END_HEADERS | END_STREAM) for stream in streams)
    with SocketTap(capacity=16_384, trace_context=True, rules=TapRules(loopback=True)) as tap:
        upload(network, heads + body + ends, answers)
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
    rows = [{name: column[place] for name, column in each.columns.items()} for each in emissions for place in range(len(each))]
    mine = {bytes.fromhex(context(70 + stream)[3:35]) for stream in streams}
    told = [(Role(row["role"]), ExchangeEnd(row["exchange_end"])) for row in rows if row["trace_id"].tobytes() in mine]
    assert sorted(told) == [(role, ExchangeEnd.STREAM) for role in (Role.CLIENT, Role.SERVER) for _ in streams]
