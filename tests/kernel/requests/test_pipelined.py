"""HTTP/1 whose requests do not wait for the responses before, live: each has its own exchange and response, at both ends."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from proto.columns import ExchangeEnd, HttpMethod, Observer, Role
from services.capture.flows.exchange_table import ExchangeTable
from services.capture.live.records import monotonic_ns
from services.capture.live.tap.socket_tap import SocketTap, TapRules
from tests.support.nginx import nginx
from tests.support.node.live_capture import reason_to_skip
from tests.support.node.namespaces import Namespace, Network
from tests.support.packets.talks.pipelined_talk import CHUNKED, answered, asked, chunked, read_by_python, sized

pytestmark = [
    pytest.mark.xdist_group("socket_tap"),
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or ""),
]

ENDS = (Role.CLIENT, Role.SERVER)
MANY = 50
"""Requests in a packet: messages.h bounds the lines that are taken of one."""
HINTS = answered(b"", "103 Early Hints", b"Link: </a>\r\n")


def connected(network: Namespace) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection, the server's socket first."""
    with network.entered(), closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for each in (client, server):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server, client


def read(source: socket.socket, count: int) -> None:
    """Read so many bytes."""
    while count:
        part = source.recv(min(count, 1 << 16))
        assert part
        count -= len(part)


def talk(network: Namespace, *turns: tuple[bytes, bytes]) -> int:
    """A connection on which the client speaks and the server answers, in turn. The server closes it; returns its port."""
    server, client = connected(network)
    port = server.getsockname()[1]

    def serve() -> None:
        with server:
            for said, answer in turns:
                read(server, len(said))
                server.sendall(answer)

    with client:
        thread = threading.Thread(target=serve)
        thread.start()
        for said, answer in turns:
            client.sendall(said)
            read(client, len(answer))
        assert client.recv(1) == b""
        thread.join()
    return port


def told(say: Callable[[], int]) -> tuple[dict[Role, list[dict[str, Any]]], dict[str, int]]:
    """Of the connections of a port, which `say` returns, what each end tells by the requests' numbers, and what was counted."""
    with SocketTap(capacity=16_384, trace_context=True, rules=TapRules(loopback=True)) as tap:
        port = say()
        tap.detach()
        emissions = list(ExchangeTable(tap.exchanges, observer=Observer.SOCKET).drain(monotonic_ns(), final=True))
        counters = {name: count for name, count in tap.counters.items() if count}
    rows = [{name: column[place] for name, column in each.columns.items()} for each in emissions for place in range(len(each))]
    mine = [row for row in rows if port in {row["local_port"], row["remote_port"]}]
    mine.sort(key=number)
    return {role: [row for row in mine if row["role"] == role] for role in ENDS}, counters


def number(row: dict[str, Any]) -> int:
    """Of which request an exchange is."""
    return int.from_bytes(bytes(row["trace_id"]), "big") - 1


def many() -> tuple[list[bytes], list[bytes], list[str]]:
    """Requests, the last with a body, their responses of every kind whose end is known, and their methods."""
    requests, responses, methods = [], [], []
    for at in range(MANY):
        method = ("GET", "HEAD", "GET", "DELETE", "GET")[at % 5]
        if at == MANY - 1:
            method, body = "POST", bytes(5000)
            requests.append(asked(at, method, sized(body), body))
        else:
            requests.append(asked(at, method, b"Cookie: " + bytes(b"c" * (at * 7)) + b"\r\n"))
        responses.append(
            (
                answered(bytes(at * 31), "201 Made"),
                answered(b"", more=b"Content-Length: 700\r\n"),
                HINTS * (at % 3) + answered(chunked(bytes(at), b"more", trailers=b"X: y\r\n"), more=CHUNKED),
                answered(b"", "304 Not Modified", b"ETag: x\r\nContent-Length: 9\r\n"),
                answered(b"last", "404 No", b"Server: x\r\nDate: today\r\n" + sized(b"last")),
            )[at % 5]
        )
        methods.append(method)
    return requests, responses, methods


def test_requests_at_once_have_a_response_each(network):
    """At both ends, in any segments: method, status, bytes and order are what http.client reads of the stream."""
    requests, responses, methods = many()
    expected = read_by_python(b"".join(responses), methods)
    ends, counters = told(lambda: talk(network, (b"".join(requests), b"".join(responses))))
    begins = [0, *(ends_at for _, _, ends_at in expected)]
    for rows in ends.values():
        assert [number(row) for row in rows] == list(range(MANY))
        assert [HttpMethod(row["http_method"]).name for row in rows] == methods
        assert [row["http_status"] for row in rows] == [status for status, _, _ in expected]
        assert [row["request_bytes"] for row in rows] == [len(each) for each in requests]
        assert [row["response_bytes"] for row in rows] == [
            end - begin for begin, (_, _, end) in zip(begins, expected, strict=False)
        ]
        assert {row["exchange_end"] for row in rows} == {ExchangeEnd.COMPLETE}
        assert {row["exchange_shared"] for row in rows} == {1}
        times = [int(row["response_first_unix_ns"]) for row in rows]
        assert times == sorted(times)
    assert "connections_pipelined" not in counters
    assert counters["requests_sampled"] >= 2 * MANY


@pytest.mark.parametrize("flags", ["01", "00", None])
@pytest.mark.parametrize("first", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_request_that_comes_before_the_response_is_noticed(network, first, flags):
    """In segments of their own, behind an exchange of the connection, and whether the first one is of a trace or not."""
    one = asked(1, first, flags=flags)
    response = answered(b"" if first == "HEAD" else b"body!", "201 Made", b"Content-Length: 5\r\n")
    others = answered(b"2", "202 Two") + answered(b"", "203 Three", CHUNKED)

    def say() -> int:
        server, client = connected(network)
        with server, client:
            for request, answer in (
                (asked(0), answered()),
                (one, b""),
                (asked(2), b""),
                (asked(3, "HEAD"), response + others),
                (asked(4), answered()),
            ):
                client.sendall(request)
                read(server, len(request))
                server.sendall(answer)
                read(client, len(answer))
            return server.getsockname()[1]

    ends, counters = told(say)
    for rows in ends.values():
        assert [(number(row), row["http_status"]) for row in rows] == [
            (0, 200), *([(1, 201)] if flags == "01" else []), (2, 202), (3, 203), (4, 200)
        ]  # fmt: skip
        assert rows[-2]["http_method"] == HttpMethod.HEAD
    assert not {"connections_pipelined", "requests_unpaired"} & counters.keys()


def test_a_response_without_a_length_is_the_last(network):
    """It ends with its connection; what was asked behind it has none."""
    answers = answered() + answered(b"some" * 5000, "201 Made", b"")
    ends, _ = told(lambda: talk(network, (asked(0) + asked(1) + asked(2), answers)))
    for rows in ends.values():
        assert [(number(row), row["http_status"], row["exchange_end"]) for row in rows] == [
            (0, 200, ExchangeEnd.COMPLETE), (1, 201, ExchangeEnd.CLOSED), (2, 0, ExchangeEnd.CLOSED)
        ]  # fmt: skip
        assert rows[1]["response_bytes"] == len(answers) - len(answered())


@pytest.mark.parametrize(
    "answer",
    [answered(more=b"Content-Length: 5x\r\n"), answered() * 3, b"ICY 200 OK\r\n\r\n", answered(b"zz\r\n", more=CHUNKED)],
)
def test_what_is_not_known_for_sure_is_given_up_and_counted(network, answer):
    """At both ends; what is asked later is not told."""
    ends, counters = told(lambda: talk(network, (asked(0) + asked(1), answer), (asked(2), answered())))
    over = 2 if answer == answered() * 3 else 0
    assert [len(rows) for rows in ends.values()] == [over, over]
    assert counters["connections_pipelined"] == 2
    assert counters.get("requests_unpaired", 0) == 2 * (2 - over)


def test_more_than_a_packet_is_looked_at_for_is_given_up_and_counted():
    """A packet of 64 KiB with more lines than the programs take of one: none is told with what is another's."""
    requests, responses = (
        [asked(at) for at in range(200)],
        [answered(b"x" * (at % 3), more=b"A: b\r\n" * 40 + sized(b"x" * (at % 3))) for at in range(200)],
    )
    with Network() as lone:
        ends, counters = told(lambda: talk(lone.namespace("alone"), (b"".join(requests), b"".join(responses))))
    for rows in ends.values():
        assert [number(row) for row in rows] == list(range(len(rows)))
    assert counters["connections_pipelined"] == 2
    assert counters["requests_unpaired"] > 0


def answer_all(listener: socket.socket, connections: int) -> None:
    """Answer each request, in a process of its own, with a status that tells which it was."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for _ in range(connections):
        server, _ = listener.accept()
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with server, server.makefile("rb") as heard:
            while line := heard.readline():
                while heard.readline() != b"\r\n":
                    pass
                server.sendall(answered(status=f"{400 + int(line.split()[1][1:]) % 100} No"))


@pytest.mark.parametrize("together", [True, False])
def test_both_directions_at_once_are_told_apart(together):
    """Requests are sent while responses come, from another CPU: none is told with another's, and connections of which one is
    missing, since segments overtook each other or it is not known which was answered, are counted.
    """
    connections, count = (20, 80) if together else (200, 5)
    starting = multiprocessing.get_context("fork")

    def say() -> int:
        with Network() as lone, lone.namespace("alone").entered():
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            process = starting.Process(target=answer_all, args=(listener, connections))
            process.start()
            for _ in range(connections):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    reading = threading.Thread(target=read, args=(client, count * len(answered(status="400 No"))))
                    reading.start()
                    if together:
                        client.sendall(asked(0) + asked(1))
                    for at in range(2 if together else 0, count):
                        client.sendall(asked(at))
                    reading.join()
            process.join()
            listener.close()
        return port

    ends, counters = told(say)
    whole: Counter[tuple[int, int]] = Counter()
    for role, rows in ends.items():
        whole.update((role, row["remote_port"] if role == Role.SERVER else row["local_port"]) for row in rows)
        assert {row["http_status"] - 400 - number(row) % 100 for row in rows if row["response_first_unix_ns"]} == {0}
    missed = 2 * connections - list(whole.values()).count(count)
    assert missed <= counters.get("connections_pipelined", 0) + (0 if together else counters.get("requests_unpaired", 0))
    assert missed < connections


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_and_http_client_agree(tmp_path):
    """Requests at once, with bodies of a length, in chunks, and without one: each has its exchange at both ends, with
    the status and the length that http.client reads.
    """
    targets = [("GET", "/"), ("DELETE", "/none"), ("GET", "/missing"), ("HEAD", "/"), ("GET", "/made")] * 5
    said = b"".join(
        asked(
            at, method, (b"Accept-Encoding: gzip\r\n" if at % 2 else b"") + (b"Connection: close\r\n" if at == 24 else b"")
        ).replace(f"/{at} ".encode(), f"{target} ".encode(), 1)
        for at, (method, target) in enumerate(targets)
    )
    heard = []

    def say() -> int:
        with nginx(tmp_path) as port, socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(said)
            while part := client.recv(1 << 16):
                heard.append(part)
            return port

    ends, counters = told(say)
    expected = read_by_python(b"".join(heard), [method for method, _ in targets])
    for rows in ends.values():
        assert [number(row) for row in rows] == list(range(25)), counters
        assert [(row["http_status"], row["response_bytes"]) for row in rows] == [
            (status, end - begin) for status, begin, end in expected
        ]
        assert {row["exchange_end"] for row in rows} == {ExchangeEnd.COMPLETE}
    assert http.client.OK in {row["http_status"] for row in ends[Role.CLIENT]}
