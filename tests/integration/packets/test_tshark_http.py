"""Times of exchanges against an independent reader's: tshark's own pairing of requests and responses, and its clock."""

from __future__ import annotations

import shutil
import socket
import subprocess
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from proto.columns import ExchangeEnd, HttpMethod
from tests.support.nginx import nginx
from tests.support.packets.pcap import SECOND, write
from tests.support.packets.replayed import replay_files
from tests.support.packets.talks.http_talk import Talk, counted, reply, request, told
from tests.support.packets.talks.relay import relay

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")

CONTINUE = b"HTTP/1.1 100 Continue\r\nDate: Tue, 14 Nov 2023 22:13:21 GMT\r\nServer: nginx\r\n\r\n"
BODY = b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n"


def whole(number: int, line: str) -> bytes:
    """A request without a body."""
    return request(number, size=0, line=line)


def with_body(number: int) -> bytes:
    """The head of a request with a body of 1,000 bytes."""
    head = request(number, size=0)
    return BODY + head[head.index(b"traceparent") :]


def answer(body: bytes = b"hello", status: str = "200 OK") -> bytes:
    """A whole response."""
    return reply(0, status)[:-2] + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def talks():
    """Conversations whose responses are one segment each, so that both readers mean the same by their beginning."""
    talk = Talk()
    for number, method in enumerate(["PROPFIND", "GET", "M-SEARCH", "VERSION-CONTROL"]):
        talk.ask(1.0 + number, whole(number, f"{method} /x HTTP/1.1")).answer(1.123457 + number * 1.01, answer())
    yield talk
    yield Talk().ask(1.0, with_body(0)).answer(1.1, CONTINUE).ask(1.15, b"B" * 1000).answer(1.500001, answer())
    split = whole(1, "REPORT /x HTTP/1.1")
    yield (
        Talk()
        .ask(1.0, split[:2])
        .ask(1.012, split[2:])
        .answer(1.1, answer())
        .ask(2.0, whole(2, "GET / HTTP/1.1"))
        .answer(2.25, answer())
    )
    yield Talk().ask(1.0, with_body(0)).ask(1.1, b"B" * 400).ask(1.2, b"B" * 600).answer(1.7, answer(status="500 Oh"))


def of_tshark(path):
    """Seconds from each request to its response, as tshark has them."""
    command = ["tshark", "-r", path, "-Y", "http.response.code >= 200", "-T", "fields", "-e", "http.time"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(line) for line in answer.split()]


@pytest.mark.parametrize("talk", list(talks()))
def test_the_servers_wait_is_tsharks(tmp_path, talk):
    """Whatever the method, through interim responses, with a request in pieces: to the microsecond."""
    exchanges, _ = told(tmp_path, talk)
    waits = [(each["response_first_unix_ns"] - each["request_last_unix_ns"]) / SECOND for each in exchanges]
    assert waits
    assert waits == pytest.approx(of_tshark(write(tmp_path / "talk.pcap", talk.frames)), abs=1e-6)


ROUNDS = 20


def each_of_tshark(path: Path, port: int, kind: str, name: str) -> list[tuple[str, Decimal]]:
    """Every request or response, with the time of its last packet, in order."""
    fields = ["-T", "fields", "-e", "frame.time_epoch", "-e", name]
    command = ["tshark", "-r", path, "-d", f"tcp.port=={port},http", "-Y", kind, *fields]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [line.split("\t") for line in lines]
    return [(each, Decimal(time)) for time, values in found for each in values.split(",")]


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_requests_that_do_not_wait_have_tsharks_times(tmp_path):
    """A hundred to nginx at once over one connection; bodies with a length, in chunks, without one. Each has its exchange,
    and its method, its status, and when its last byte came and its response's, are tshark's.
    """
    asked = [("GET", "/"), ("DELETE", "/none"), ("GET", "/missing"), ("GET", "/made"), ("GET", "/none")] * ROUNDS
    said = b""
    for number, (method, target) in enumerate(asked):
        last = "Connection: close\r\n" if number == len(asked) - 1 else ""
        gzip = "Accept-Encoding: gzip\r\n" if number % 2 else ""
        trace = f"traceparent: 00-{number + 1:032x}-{number + 1:016x}-01\r\n"
        said += f"{method} {target} HTTP/1.1\r\nHost: x\r\n{gzip}{last}{trace}\r\n".encode()
    with nginx(tmp_path) as port, relay(port) as between:
        with socket.create_connection(("127.0.0.1", between.port)) as client:
            client.sendall(said)
            while client.recv(65536):
                pass
        path = write(tmp_path / "talk.pcap", between.frames)
    replayed = replay_files([path], trace_context=True)
    exchanges = sorted(replayed.exchanges, key=lambda each: each["trace_id"])
    assert [int.from_bytes(each["trace_id"], "big") for each in exchanges] == [*range(1, len(asked) + 1)], counted(replayed)
    assert {each["exchange_end"] for each in exchanges} == {ExchangeEnd.COMPLETE}
    requests = [(HttpMethod(each["http_method"]).name, Decimal(each["request_last_unix_ns"]) / SECOND) for each in exchanges]
    assert requests == each_of_tshark(path, between.port, "http.request", "http.request.method")
    responses = [(str(each["http_status"]), Decimal(each["response_last_unix_ns"]) / SECOND) for each in exchanges]
    assert responses == each_of_tshark(path, between.port, "http.response", "http.response.code")
