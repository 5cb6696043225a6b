"""HTTP/1 whose requests do not wait for the responses before: each has its own exchange, where where messages end is known."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.columns import ExchangeEnd, HttpMethod
from tests.support.packets.pcap import ACK, FIN, RST
from tests.support.packets.talks.http_talk import Talk, counted, reply, request, seconds, told
from tests.support.packets.talks.pipelined_talk import CHUNKED, answered, asked, chunked, context, read_by_python, sized

if TYPE_CHECKING:
    from collections.abc import Callable

GIVEN_UP = {"connections_pipelined": 1}


def numbers(exchanges) -> list[int]:
    """Of which request each exchange is."""
    return [int.from_bytes(exchange["trace_id"], "big") - 1 for exchange in exchanges]


def test_requests_in_one_segment_have_a_response_each(tmp_path):
    """In their order; an exchange of the connection before them stays its own."""
    talk = Talk().ask(0.5, asked(0)).answer(0.6, answered()).ask(1.0, asked(1) + asked(2, flags="00") + asked(3))
    talk.answer(1.1, answered(b"1", "201 Made")).answer(1.2, answered(b"22")).answer(1.5, answered(b"333", "404 No"))
    exchanges, replayed = told(tmp_path, talk.ask(2.0, asked(4)).answer(2.1, answered()))
    assert numbers(exchanges) == [0, 1, 3, 4]
    assert [seconds(each) for each in exchanges[1:]] == [[1.0, 1.0, 1.1, 1.1], [1.0, 1.0, 1.5, 1.5], [2.0, 2.0, 2.1, 2.1]]
    assert [each["http_status"] for each in exchanges] == [200, 201, 404, 200]
    assert [each["response_bytes"] for each in exchanges[1:]] == [
        len(answered(b"1", "201 Made")),
        len(answered(b"333", "404 No")),
        43,
    ]
    assert {each["request_bytes"] for each in exchanges[1:]} == {len(asked(1))}
    assert [each["exchange_shared"] for each in exchanges] == [0, 1, 1, 1]
    assert [each["exchange_end"] for each in exchanges] == [ExchangeEnd.NEXT_REQUEST, *[ExchangeEnd.COMPLETE] * 3]
    assert len({each["record"] for each in exchanges}) == 4
    assert counted(replayed) == {"requests_sampled": 4, "requests_unsampled": 1}


@pytest.mark.parametrize("flags", ["01", "00", None])
@pytest.mark.parametrize("first", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_a_request_before_the_response_is_noticed(tmp_path, first, flags):
    """In segments of their own, whether the first one belongs to a trace or not; what it is tells how its response ends."""
    talk = Talk().ask(1.0, asked(0, first, flags=flags)).ask(1.01, asked(1)).ask(1.02, asked(2, "HEAD")).ask(1.03, asked(3))
    response = answered(b"" if first == "HEAD" else b"body!", more=b"Content-Length: 5\r\n")
    talk.answer(1.1, response).answer(1.2, answered()).answer(1.3, answered(b"", more=CHUNKED)).answer(1.4, answered())
    exchanges, replayed = told(tmp_path, talk)
    expected = [[1.0, 1.0, 1.1, 1.1], [1.01, 1.01, 1.2, 1.2], [1.02, 1.02, 1.3, 1.3], [1.03, 1.03, 1.4, 1.4]]
    assert [seconds(each) for each in exchanges] == expected[flags != "01" :]
    assert numbers(exchanges) == [0, 1, 2, 3][flags != "01" :]
    assert exchanges[-2]["http_method"] == HttpMethod.HEAD
    assert "connections_pipelined" not in counted(replayed)


def test_headers_beyond_the_first_look_change_nothing(tmp_path):
    """The context of the first request behind cookies, and another request behind it in the same segment, or in the next."""
    cookies = b"Cookie: " + b"c" * 2700 + b"\r\n"
    for together in (False, True):
        first, second = asked(0, more=cookies), asked(1, more=cookies)
        talk = Talk().ask(1.0, first + second) if together else Talk().ask(1.0, first).ask(1.0, second)
        exchanges, replayed = told(tmp_path, talk.answer(1.1, answered()).answer(1.2, answered()))
        assert [seconds(each) for each in exchanges] == [[1.0, 1.0, 1.1, 1.1], [1.0, 1.0, 1.2, 1.2]]
        assert counted(replayed) == {"requests_sampled": 2}


def test_an_interim_response_is_no_response(tmp_path):
    """Of any number: the next final one is the request's."""
    hints = answered(b"", "103 Early Hints", b"Link: </a>\r\n")
    talk = Talk().ask(1.0, asked(0) + asked(1)).answer(1.1, hints + hints).answer(1.2, answered()).answer(1.3, hints)
    exchanges, _ = told(tmp_path, talk.answer(1.4, answered()))
    assert [seconds(each)[2:] for each in exchanges] == [[1.2, 1.2], [1.4, 1.4]]


@pytest.mark.parametrize(("flags", "end"), [(FIN | ACK, ExchangeEnd.CLOSED), (RST, ExchangeEnd.RESET)])
def test_a_response_without_a_length_is_the_last(tmp_path, flags, end):
    """It ends with its connection; what was asked behind it has none."""
    talk = Talk().ask(1.0, asked(0) + asked(1) + asked(2)).answer(1.1, answered())
    talk.answer(1.2, answered(b"some", more=b"")).answer(1.3, b"HTTP/1.1 200 OK\r\n\r\n").end(1.4, "server", flags)
    exchanges, replayed = told(tmp_path, talk.end(1.5, "client", flags))
    assert [seconds(each)[2:] for each in exchanges] == [[1.1, 1.1], [1.2, 1.3], [None, None]]
    assert [each["exchange_end"] for each in exchanges] == [ExchangeEnd.COMPLETE, end, end]
    assert counted(replayed) == {"requests_sampled": 3}


def test_what_is_missing_of_a_body_is_passed_over(tmp_path):
    """A segment of it that was not captured, on either side: what follows is found by its place."""
    talk = Talk().ask(1.0, asked(0)).ask(1.0, asked(1, "PUT", sized(bytes(90)))).say(1.1, "client", bytes(80), lost=True)
    talk.ask(1.2, bytes(10) + asked(2)).answer(1.3, answered(bytes(90))[:-90]).say(1.4, "server", bytes(50), lost=True)
    talk.answer(1.5, bytes(40) + answered() + answered())
    exchanges, replayed = told(tmp_path, talk)
    assert [seconds(each) for each in exchanges] == [[1.0, 1.0, 1.3, 1.5], [1.0, 1.2, 1.5, 1.5], [1.2, 1.2, 1.5, 1.5]]
    assert counted(replayed) == {"requests_sampled": 3}


def unclear() -> dict[str, Callable[[Talk], Talk]]:
    """What leaves open where messages end, or whose they are."""
    pair = asked(0) + asked(1)
    return {
        "a lost head": lambda talk: talk.ask(1.0, pair).say(1.1, "server", answered(), lost=True).answer(1.2, answered()),
        "no response": lambda talk: talk.ask(1.0, pair).answer(1.1, b"ICY 200 OK\r\n\r\n"),
        "more than was asked": lambda talk: talk.ask(1.0, pair).answer(1.1, answered() * 3),
        "no number": lambda talk: talk.ask(1.0, pair).answer(1.1, answered(more=b"Content-Length: 5x\r\n")),
        "two numbers": lambda talk: talk.ask(1.0, pair).answer(
            1.1, answered(more=b"Content-Length: 5\r\nContent-Length: 6\r\n")
        ),
        "a folded number": lambda talk: talk.ask(1.0, pair).answer(1.1, answered(more=b"Content-Length: 5\r\n 6\r\n")),
        "another coding": lambda talk: talk.ask(1.0, pair).answer(1.1, answered(more=b"Transfer-Encoding: chunked, gzip\r\n")),
        "no chunk": lambda talk: talk.ask(1.0, pair).answer(1.1, answered(b"zz\r\n", more=CHUNKED)),
        "a chunk that goes on": lambda talk: talk.ask(1.0, pair).answer(1.1, answered(b"1\r\nab\r\n", more=CHUNKED)),
        "a protocol switch": lambda talk: talk.ask(1.0, pair).answer(1.1, answered(b"", "101 Switching", b"")),
        "a tunnel": lambda talk: talk.ask(1.0, asked(0) + asked(1, "CONNECT")),
        "too many": lambda talk: talk.ask(1.0, asked(0)).ask(1.1, b"".join(asked(1, flags=None) for _ in range(256))),
        "a head that goes on": lambda talk: talk.ask(1.0, asked(0)[:-2] + b"X: " + bytes(600) + b"\r\n\r\n").ask(1.1, asked(1)),
        "a body that may be": lambda talk: talk.ask(1.0, request(0)).ask(1.1, asked(1)),
    }


@pytest.mark.parametrize("name", unclear())
def test_what_is_not_known_for_sure_is_not_told_and_counted(tmp_path, name):
    """The connection is given up, and those of its requests that were sampled and not over are counted as unpaired."""
    talk = unclear()[name](Talk()).ask(2.0, asked(3)).answer(2.1, answered())
    exchanges, replayed = told(tmp_path, talk)
    found = counted(replayed)
    assert found["connections_pipelined"] == 1
    assert found["requests_sampled"] == len(exchanges) + found.get("requests_unpaired", 0)
    assert len(exchanges) == (2 if name == "more than was asked" else 0)


def test_a_response_that_still_comes_is_nobody_elses(tmp_path):
    """Requests that are sent while it does wait for what is behind it, which is not known: they are not told."""
    talk = Talk().ask(1.0, asked(0)).answer(1.1, reply(500)).ask(1.2, asked(1) + asked(2)).answer(1.3, b"the rest of it")
    exchanges, replayed = told(tmp_path, talk.answer(1.4, answered() + answered()))
    assert numbers(exchanges) == [0]
    assert counted(replayed) == {"requests_sampled": 3, "requests_unpaired": 2, **GIVEN_UP}


def test_the_body_of_a_get_is_no_request(tmp_path):
    """Sent in a segment of its own; what comes behind it is another one's body, or a request that cannot be told from that."""
    talk = Talk().ask(1.0, asked(0, more=b"Content-Length: 4\r\n")).ask(1.1, b"body").answer(1.2, answered())
    talk.ask(2.0, asked(1, more=b"Content-Length: 4\r\n", flags="00")).ask(2.1, b"body").answer(2.2, answered())
    exchanges, replayed = told(tmp_path, talk.ask(3.0, asked(2)).answer(3.1, answered()))
    assert [seconds(each) for each in exchanges] == [[1.0, 1.1, 1.2, 1.2], [3.0, 3.0, 3.1, 3.1]]
    assert counted(replayed) == {"requests_sampled": 2, "requests_unsampled": 1}


BODIES = st.binary(max_size=300) | st.just(b"GET /x HTTP/1.1\r\n\r\n") | st.just(b"HTTP/1.1 200 OK\r\n\r\n")
NAMES = st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
OTHER_NAMES = st.sampled_from([b"X", b"Content-Lengths", b"Cookie", b"T", b"Traceparents"])
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=400).map(lambda value: value.strip().encode())
FIELDS = st.lists(st.builds(lambda name, value: name + b": " + value + b"\r\n", OTHER_NAMES, VALUES), max_size=4).map(b"".join)
CODINGS = st.sampled_from([CHUNKED, CHUNKED.upper(), b"Transfer-Encoding:chunked\r\n"])


@st.composite
def lengths(draw: st.DrawFn, *, always: bool) -> tuple[bytes, bytes]:
    """How long a body is said to be, and the body with it."""
    body = draw(BODIES)
    kind = draw(st.sampled_from(["length", "chunks", "none"] if not always else ["length", "chunks"]))
    if kind == "length":
        return draw(NAMES) + draw(st.sampled_from([b": ", b":", b":\t "])) + b"%d\r\n" % len(body), body
    if kind == "chunks":
        cut = draw(st.integers(0, len(body)))
        parts = [part for part in (body[:cut], body[cut:]) if part]
        return draw(CODINGS), chunked(*parts, trailers=draw(FIELDS))
    return b"", b""


@st.composite
def messages(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Requests that all come at once, and their responses."""
    requests, responses = [], []
    for number in range(draw(st.integers(2, 6))):
        method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PROPFIND"])) if number > 1 else "GET"
        says, body = draw(lengths(always=False)) if number else (b"", b"")
        requests.append(asked(number, method, says + draw(FIELDS), body, draw(st.sampled_from(["01", "01", "00", None]))))
        status = draw(st.sampled_from(["200 OK", "404 No", "204 None", "304 Same", "500 Oh"]))
        says, body = draw(lengths(always=True))
        if status[:3] in {"204", "304"}:
            says, body = draw(st.sampled_from([b"", b"Content-Length: 5\r\n"])), b""  # http.client reads chunks there
        if method == "HEAD":
            body = b""
        interim = answered(b"", "103 Hints", draw(FIELDS)) if draw(st.booleans()) else b""
        responses.append(interim + answered(body, status, says + draw(FIELDS)))
    return requests, responses


@settings(max_examples=60, deadline=None)
@given(messages(), st.lists(st.integers(1, 400), min_size=1, max_size=12), st.booleans())
def test_any_messages_in_any_segments_are_paired_as_a_plain_reader_does(said, sizes, together):
    """Whatever they hold and wherever segments end: begin, end, status and bytes are what http.client makes of the stream."""
    requests, responses = said
    sampled = [number for number, each in enumerate(requests) if context(number) in each]
    stream = b"".join(responses)
    read = read_by_python(stream, [each.split()[0].decode() for each in requests])
    talk, at = Talk(), [0]
    for number, each in enumerate([b"".join(requests)] if together else requests):
        talk.ask(1.0 + number / 100, each)
    while at[-1] < len(stream):
        size = sizes[len(at) % len(sizes)]
        talk.answer(2.0 + len(at) / 1000, stream[at[-1] : at[-1] + size])
        at.append(at[-1] + size)

    def came(byte: int) -> float:
        """When a byte of the responses did."""
        return round(2.0 + next(place for place, begins in enumerate(at) if begins > byte) / 1000, 3)

    with tempfile.TemporaryDirectory() as folder:
        exchanges, replayed = told(Path(folder), talk)
    assert numbers(exchanges) == sampled, counted(replayed)
    for number, exchange in zip(sampled, exchanges, strict=True):
        status, begins, ends = read[number]
        when = 1.0 if together else 1.0 + number / 100
        assert seconds(exchange) == [when, when, came(begins), came(ends - 1)]
        assert (exchange["http_status"], exchange["request_bytes"]) == (status, len(requests[number]))
        assert exchange["exchange_end"] == ExchangeEnd.COMPLETE
