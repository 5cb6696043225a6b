"""What begins a request of HTTP/1, whatever its method and however it comes; what does not; when a connection is given up."""

from __future__ import annotations

import struct

import pytest

from proto.columns import ExchangeEnd
from tests.support.packets.pcap import ACK, PSH
from tests.support.packets.talks.http_talk import PARENTS, Talk, counted, reply, request, seconds, told, traceparent

PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n"
METHODS = ["GET", "M-SEARCH", "VERSION-CONTROL", "UPDATEREDIRECTREF", "PROPFIND", "get", "X", "!#$%&'*+-.^_`|~09aZ", "A" * 15]


def parents(exchanges):
    """Whose the exchanges are: numbers of PARENTS."""
    return [PARENTS.index(exchange["parent_span_id"]) for exchange in exchanges]


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.9"])
@pytest.mark.parametrize("method", METHODS)
def test_any_method_begins_a_request(tmp_path, method, version):
    """Any token of RFC 9110 5.6.2; the second request of the connection is found as the first."""
    line = f"{method} /cart HTTP/{version}"
    talk = Talk().ask(1.0, request(0, line=line)).answer(1.1, reply()).ask(1.5, request(1, line=line)).answer(1.7, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert [seconds(exchange) for exchange in exchanges] == [[1.0, 1.0, 1.1, 1.1], [1.5, 1.5, 1.7, 1.7]]
    assert counted(replayed) == {"requests_sampled": 2}


@pytest.mark.parametrize("size", range(1, 15))
def test_a_request_may_begin_with_a_segment_that_says_nothing_yet(tmp_path, size):
    """One byte, half a method, a method and a bit of the target: the request began then, and all of it is the request."""
    first, second = (request(number, line="VERSION-CONTROL /cart HTTP/1.1") for number in (0, 1))
    talk = Talk().ask(1.0, first[:size]).ask(1.01, first[size:]).answer(1.1, reply())
    talk.ask(1.5, second[:size]).ask(1.53, second[size:]).answer(1.6, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert [seconds(exchange) for exchange in exchanges] == [[1.0, 1.01, 1.1, 1.1], [1.5, 1.53, 1.6, 1.6]]
    assert [exchange["request_bytes"] for exchange in exchanges] == [len(first), len(second)]
    assert exchanges[0]["exchange_end"] == ExchangeEnd.NEXT_REQUEST
    assert counted(replayed) == {"requests_sampled": 2}


@pytest.mark.parametrize("cuts", [(1, 2), (1, 2, 3), (20,)])
def test_a_request_in_other_pieces_is_missed_and_counted(tmp_path, cuts):
    """Its first line in three segments, or in two behind its first bytes; the next one is found."""
    whole, at = request(0), [0, *cuts, 200]
    talk = Talk()
    for number in range(len(at) - 1):
        talk.ask(1.0 + number / 100, whole[at[number] : at[number + 1]])
    talk.answer(1.1, reply()).ask(1.5, request(1)).answer(1.6, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert parents(exchanges) == [1]
    assert counted(replayed) == {"requests_cut": 1, "requests_sampled": 1}


def proxy_headers():
    """What a proxy that speaks the PROXY protocol puts in front: version 1 and 2, with and without additions."""
    yield b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    yield b"PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 2001:0db8:0000:0000:0000:0000:0000:0002 65535 65535\r\n"
    yield b"PROXY UNKNOWN\r\n"
    for more in (b"", b"\x03\x00\x04\x11\x22\x33\x44", b"\x04" + struct.pack("!H", 300) + bytes(300)):
        yield PROXY_2 + b"\x21\x11" + struct.pack("!H", 12 + len(more)) + bytes(12) + more
    yield PROXY_2 + b"\x20\x00\x00\x00"


@pytest.mark.parametrize("header", list(proxy_headers()))
@pytest.mark.parametrize("apart", [False, True])
def test_a_proxy_header_in_front_is_no_part_of_the_request(tmp_path, header, apart):
    """In the request's segment or in one of its own; times and bytes are the request's."""
    talk = Talk()
    talk = talk.ask(1.0, header).ask(1.02, request(0)) if apart else talk.ask(1.02, header + request(0))
    talk.answer(1.1, reply()).ask(1.5, request(1)).answer(1.6, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert [seconds(exchange) for exchange in exchanges] == [[1.02, 1.02, 1.1, 1.1], [1.5, 1.5, 1.6, 1.6]]
    assert exchanges[0]["request_bytes"] == 200
    assert counted(replayed) == {"requests_sampled": 2}


@pytest.mark.parametrize("empty", [b"\r\n", b"\n"])
def test_an_empty_line_before_a_request_is_skipped(tmp_path, empty):
    """Old clients end a body with one (RFC 9112 2.2): in a segment of its own, or in front of the next request."""
    talk = Talk().ask(1.0, request(0)).answer(1.1, reply()).ask(1.2, empty).ask(1.5, request(1)).answer(1.6, reply())
    talk.ask(2.0, empty + request(2)).answer(2.1, reply())
    exchanges, _ = told(tmp_path, talk)
    assert parents(exchanges) == [0, 1, 2]
    assert [seconds(exchange)[:2] for exchange in exchanges] == [[1.0, 1.0], [1.5, 1.5], [2.0, 2.0]]
    assert [exchange["request_bytes"] for exchange in exchanges] == [200, 200, 200]


@pytest.mark.parametrize(("first", "reason"), [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2"),
])  # fmt: skip
def test_a_known_protocol_is_given_up_at_once(tmp_path, first, reason):
    """By its first bytes; what looks like a request later is none. It is counted by its name."""
    talk = Talk().ask(1.0, first).answer(1.1, b"whatever").ask(2.0, request(0)).answer(2.1, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert (exchanges, counted(replayed)) == ([], {f"connections_{reason}": 1})


@pytest.mark.parametrize("said", [
    b"*1\r\n$4\r\nPING\r\n", b"get key\r\n", b"EHLO example.org\r\n", b"GET /cart\r\n", b"DATA HTTP/1.1x\r\n", b"\x05\x01\x00",
    b"\0" * 40, b"HTTP/1.1 200 OK\r\n\r\n", b"(GET) {",
])  # fmt: skip
def test_another_protocol_is_given_up_after_a_while(tmp_path, said):
    """Once it has said four times in a row what is no request; it is counted."""
    talk = Talk()
    for number in range(4):
        talk.ask(1.0 + number, said).answer(1.1 + number, b"+PONG\r\n")
    talk.ask(8.0, request(0)).answer(8.1, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert (exchanges, counted(replayed)) == ([], {"connections_other": 1})


def test_what_comes_before_a_request_gives_nothing_up(tmp_path):
    """A SOCKS proxy's greeting, then requests; between two of them may be what is none."""
    talk = (
        Talk()
        .ask(0.1, b"\x05\x01\x00")
        .answer(0.2, b"\x05\x00")
        .ask(0.3, b"\x05\x01\x00\x01" + bytes(6))
        .answer(0.4, bytes(10))
    )
    for number in range(4):
        talk.ask(number + 1.0, request(number)).answer(number + 1.1, reply())
        talk.ask(number + 1.3, b"POST /x HTTP/1.1\r\nExpect: 100-continue\r\n\r\n").answer(
            number + 1.4, reply(0, "100 Continue")
        )
        talk.ask(number + 1.5, b"{body}").answer(number + 1.6, reply())
    exchanges, replayed = told(tmp_path, talk)
    assert parents(exchanges) == [0, 1, 2, 3]
    assert counted(replayed) == {"requests_sampled": 4, "requests_absent": 4}


def test_a_segment_that_brings_known_bytes_again_may_begin_a_request(tmp_path):
    """What was sent again together with what is new: the new part counts."""
    talk = Talk().ask(1.0, request(0)).answer(1.1, reply())
    talk.tcp(2.0, "client", PSH | ACK, seq=talk.at["client"] - 50, ack=talk.at["server"], payload=b"." * 50 + request(1))
    talk.at["client"] += 200
    talk.answer(2.1, reply())
    exchanges, _ = told(tmp_path, talk)
    assert parents(exchanges) == [0, 1]
    assert (seconds(exchanges[1]), exchanges[1]["request_bytes"]) == ([2.0, 2.0, 2.1, 2.1], 200)


def piped(number: int, flags: str = "01") -> bytes:
    """A request without a body."""
    return f"GET /cart HTTP/1.1\r\n{traceparent(number, flags)}\r\n\r\n".encode()


def test_a_request_during_the_response_before_gets_no_time_of_that(tmp_path):
    """What the server says next goes on with the response before: whose its times are is not known, and it is not told."""
    talk = (
        Talk().ask(1.0, piped(0)).answer(1.1, reply(500)).ask(1.2, piped(1)).answer(1.3, b"the rest of it").answer(1.4, reply())
    )
    exchanges, replayed = told(tmp_path, talk)
    assert parents(exchanges) == [0]
    assert counted(replayed) == {"requests_sampled": 2, "requests_unpaired": 1}


def test_a_body_that_begins_like_a_word_and_a_space_is_a_body(tmp_path):
    """Text of a request that was answered early, or in answer to 100 Continue, begins no request."""
    talk = Talk().ask(1.0, request(0)).answer(1.1, reply(0, "100 Continue")).ask(1.2, b"Once upon a time\n")
    talk.ask(1.3, b"there was\n").answer(1.4, reply(0, "413 Too Large")).ask(1.5, b"a queen\n").ask(1.6, b"who " * 400)
    talk.answer(1.7, b"more")
    (exchange,), replayed = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.6, 1.4, 1.7]
    assert exchange["request_bytes"] == 200 + 17 + 10 + 8 + 1600
    assert counted(replayed) == {"requests_sampled": 1}
