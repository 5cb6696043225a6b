"""A request of HTTP/1.1 that goes over to HTTP/2 (RFC 7540 3.2): its response is that of stream 1, and so is its exchange."""

from __future__ import annotations

import pytest

from proto.columns import ExchangeEnd, HttpMethod
from tests.support.packets.talks.http2_talk import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    HELLO,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WELCOME,
    Coder,
    frame,
)
from tests.support.packets.talks.http_talk import PARENTS, Talk, counted, reply, request, seconds, told

WHOLE = END_HEADERS | END_STREAM
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
ASKS = request(0, size=0, line="GET /cart HTTP/1.1")
STREAM = 0x7FFFFFFF


def parents(exchanges) -> list[tuple[int, bytes]]:
    """Stream, or number, and caller of each."""
    return [(each["record"] & STREAM, each["parent_span_id"]) for each in exchanges]


def goes_on(talk: Talk, coder: Coder) -> Talk:
    """The response on stream 1, and another call."""
    talk.answer(2.0, frame(HEADERS, 1, coder.answers(), END_HEADERS)).answer(2.5, frame(DATA, 1, b"y" * 70, END_STREAM))
    return talk.ask(3.0, frame(HEADERS, 3, coder.asks(7), WHOLE)).answer(3.5, frame(HEADERS, 3, coder.answers(), WHOLE))


@pytest.mark.parametrize("said", [
    [("server", SWITCHING + WELCOME), ("client", HELLO)],
    [("server", SWITCHING), ("server", WELCOME), ("client", HELLO)],
    [("server", SWITCHING), ("client", HELLO), ("server", WELCOME)],
    [("server", SWITCHING), ("client", PREFACE), ("client", HELLO[24:]), ("server", WELCOME)],
    [("server", SWITCHING), ("client", PREFACE[:20]), ("client", PREFACE[20:] + HELLO[24:]), ("server", WELCOME)],
    [("server", SWITCHING[:20]), ("server", SWITCHING[20:-1]), ("server", SWITCHING[-1:] + WELCOME), ("client", HELLO)],
    [("server", reply(0, "100 Continue") + SWITCHING + WELCOME), ("client", HELLO)],
], ids=range(7))  # fmt: skip
def test_the_response_is_that_of_stream_1(tmp_path, said):
    """Whoever goes on first, and wherever segments end: the exchange has the request's times and bytes, and the response's; and
    what the connection does from then on is told as of one that began with the preface.
    """
    talk = Talk().ask(1.0, ASKS)
    for step, (sender, what) in enumerate(said):
        talk.say(1.1 + step / 100, sender, what)
    exchanges, replayed = told(tmp_path, goes_on(talk, Coder()))
    assert parents(exchanges) == [(1, PARENTS[0]), (3, (8).to_bytes(8))]
    assert [seconds(each) for each in exchanges] == [[1.0, 1.0, 2.0, 2.5], [3.0, 3.0, 3.5, 3.5]]
    first = exchanges[0]
    assert (first["http_method"], first["http_status"]) == (HttpMethod.GET, 200)
    assert (first["exchange_end"], first["exchange_shared"]) == (ExchangeEnd.STREAM, 1)
    assert (first["request_bytes"], first["response_bytes"]) == (len(ASKS), 9 + len(Coder().answers()) + 79)
    assert counted(replayed) == {"requests_sampled": 2}
    assert replayed.counters["pieces_frames_found"] == 0


def test_a_response_may_come_before_the_preface(tmp_path):
    """With the 101 and the settings, in one segment."""
    coder = Coder()
    answer = frame(HEADERS, 1, coder.answers(), END_HEADERS) + frame(DATA, 1, b"y", END_STREAM)
    talk = Talk().ask(1.0, ASKS).answer(1.5, SWITCHING + WELCOME + answer).ask(1.6, HELLO)
    (exchange,), _ = told(tmp_path, talk)
    assert (seconds(exchange), exchange["http_status"]) == ([1.0, 1.0, 1.5, 1.5], 200)


def test_a_request_with_a_body_has_its_bytes(tmp_path):
    """Which is said before the 101; and its connection's first, which was no upgrade, is told as itself."""
    body = request(1, size=0) + b"x" * 500
    talk = Talk().ask(0.2, request(2)).answer(0.3, reply()).ask(1.0, body[:-400]).ask(1.1, body[-400:])
    exchanges, _ = told(tmp_path, goes_on(talk.answer(1.2, SWITCHING + WELCOME).ask(1.3, HELLO), Coder()))
    assert [each["parent_span_id"] for each in exchanges][:2] == [PARENTS[2], PARENTS[1]]
    assert (seconds(exchanges[1]), exchanges[1]["request_bytes"]) == ([1.0, 1.1, 2.0, 2.5], len(body))


def test_the_server_may_reset_it(tmp_path):
    """It ends as any stream does."""
    talk = Talk().ask(1.0, ASKS).answer(1.1, SWITCHING + WELCOME).ask(1.2, HELLO)
    (exchange,), _ = told(tmp_path, talk.answer(1.5, frame(RST_STREAM, 1, bytes(4))))
    assert (exchange["exchange_end"], exchange["http_status"]) == (ExchangeEnd.STREAM_RESET, 0)


@pytest.mark.parametrize(("sender", "what", "at"), [
    ("client", b"\x81\x85\0\0\0\0hello", 1.2), ("server", b"\x81\x02hi", 1.2), ("server", b"\0\0\6\4\0\0", 1.2),
    ("server", frame(SETTINGS, 0, flags=1), 1.2), ("server", frame(SETTINGS, 1), 1.2),
    ("client", b"GET / HTTP/1.1\r\n\r\n", 1.2), ("server", WELCOME, 2.3), ("client", HELLO, 2.3),
], ids=range(8))  # fmt: skip
def test_what_is_no_http2_is_another_protocol(tmp_path, sender, what, at):
    """WebSocket, half a frame, frames that are none to begin with, and what comes a second later or more: the 101 is the
    response, and the connection is given up.
    """
    talk = Talk().ask(1.0, ASKS).answer(1.1, SWITCHING).say(at, sender, what).ask(3.0, request(1)).answer(3.1, reply())
    (exchange,), replayed = told(tmp_path, talk)
    assert (seconds(exchange), exchange["exchange_end"]) == ([1.0, 1.0, 1.1, 1.1], ExchangeEnd.SWITCHED)
    assert (exchange["http_status"], exchange["response_bytes"]) == (101, len(SWITCHING))
    assert counted(replayed) == {"requests_sampled": 1, "connections_switched": 1}


def test_a_connection_that_is_quiet_after_it_has_switched(tmp_path):
    """Is over as far as HTTP/1 goes when a response that pauses is; what it says then is nobody's."""
    talk = Talk().ask(1.0, ASKS).answer(1.1, SWITCHING)
    for second in range(2, 10):
        talk.pass_time(second)
    (exchange,), replayed = told(tmp_path, talk.ask(10.0, HELLO).answer(10.1, WELCOME))
    assert (seconds(exchange), exchange["exchange_end"]) == ([1.0, 1.0, 1.1, 1.1], ExchangeEnd.SWITCHED)
    assert counted(replayed) == {"requests_sampled": 1, "connections_switched": 1}


def test_behind_a_segment_that_is_missing_nothing_is_guessed(tmp_path):
    """What follows a 101 of which something is missing may be anything."""
    talk = Talk().ask(1.0, ASKS).answer(1.1, SWITCHING[:40]).say(1.15, "server", SWITCHING[40:], lost=True)
    (exchange,), _ = told(tmp_path, talk.answer(1.2, WELCOME).ask(1.3, HELLO))
    assert (exchange["exchange_end"], exchange["http_status"]) == (ExchangeEnd.SWITCHED, 101)
