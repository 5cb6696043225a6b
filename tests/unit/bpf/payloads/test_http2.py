"""HTTP/2: where streams begin and end, by frames that lie in segments however they like."""

from __future__ import annotations

import pytest

from proto.columns import ExchangeEnd, HttpMethod
from tests.support.packets.pcap import ACK, FIN, RST
from tests.support.packets.talks.http2_talk import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    HELLO,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WELCOME,
    WINDOW_UPDATE,
    Coder,
    frame,
)
from tests.support.packets.talks.http_talk import Talk, counted, seconds, told

WHOLE = END_HEADERS | END_STREAM


@pytest.fixture
def coder():
    """Both ends' compression."""
    return Coder()


def greeted() -> Talk:
    """A connection whose ends have greeted each other."""
    return Talk().ask(0.5, HELLO).answer(0.6, WELCOME)


def numbers(exchanges) -> list[int]:
    """Of which request each exchange is."""
    return [int.from_bytes(exchange["trace_id"], "big") - 1 for exchange in exchanges]


def test_a_unary_call_has_its_four_times(tmp_path, coder):
    """From the first byte of the request's HEADERS to the frame that ends its stream, and the response likewise."""
    talk = greeted().ask(1.0, frame(HEADERS, 1, coder.asks(0), END_HEADERS)).ask(1.1, frame(DATA, 1, b"x" * 50, END_STREAM))
    talk.answer(1.4, frame(HEADERS, 1, coder.answers(), END_HEADERS)).answer(1.5, frame(DATA, 1, b"y" * 70))
    trailers = coder.server.encode([("grpc-status", "0")])
    talk.answer(1.6, frame(HEADERS, 1, trailers, WHOLE))
    (exchange,), replayed = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.1, 1.4, 1.6]
    assert (exchange["record"] & 0x7FFFFFFF, exchange["exchange_end"]) == (1, ExchangeEnd.STREAM)
    assert exchange["request_bytes"] == len(talk.frames[5].data) - 54 + 59
    assert (exchange["http_method"], exchange["http_status"], exchange["grpc_status"]) == (HttpMethod.POST, 200, 1)
    assert exchange["exchange_shared"] == 1
    assert counted(replayed) == {"requests_sampled": 1}


def test_streams_are_open_at_once_and_end_in_any_order(tmp_path, coder):
    """Each exchange is its stream's; what is not sampled, or has no context, is none."""
    talk = greeted()
    for number in range(6):
        talk.ask(1.0 + number / 100, frame(HEADERS, 2 * number + 1, coder.asks(number if number != 4 else None), WHOLE))
    for number in reversed(range(6)):
        block = frame(HEADERS, 2 * number + 1, coder.answers(), WHOLE)
        talk.answer(1.9 - number / 100, block)
    exchanges, replayed = told(tmp_path, talk)
    assert numbers(exchanges) == [0, 1, 2, 3, 5]
    assert [seconds(each)[0] for each in exchanges] == [1.0, 1.01, 1.02, 1.03, 1.05]
    assert [seconds(each)[2] for each in exchanges] == [1.9, 1.89, 1.88, 1.87, 1.85]
    assert counted(replayed) == {"requests_sampled": 5, "requests_absent": 1}


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 10, 13, 64, 1000])
def test_segments_may_end_anywhere(tmp_path, coder, size):
    """Heads, fields in front of a block, blocks and padding in segments of any size: only the times tell them apart."""
    first = coder.asks(0, ("x", "y" * 300))
    said = frame(SETTINGS, 0, bytes(6)) + frame(WINDOW_UPDATE, 0, bytes(4))
    said += frame(HEADERS, 1, b"\5" + bytes(5) + first[:40] + bytes(5), PADDED | HAS_PRIORITY)
    said += frame(CONTINUATION, 1, first[40:60]) + frame(CONTINUATION, 1) + frame(CONTINUATION, 1, first[60:], END_HEADERS)
    said += frame(0x42, 7, b"unknown") + frame(DATA, 1, b"\2??" + bytes(2), PADDED | END_STREAM)
    said += frame(PRIORITY, 3, bytes(5)) + frame(HEADERS, 3, coder.asks(1), WHOLE)
    answer = frame(PING, 0, bytes(8)) + frame(HEADERS, 1, coder.answers(), END_HEADERS) + frame(DATA, 1, b"", END_STREAM)
    answer += frame(PUSH_PROMISE, 3, bytes(4) + coder.server.encode([(":path", "/p")]), END_HEADERS)
    answer += frame(HEADERS, 3, coder.answers(404), WHOLE)
    talk = greeted()
    for at in range(0, len(said), size):
        talk.ask(1.0, said[at : at + size])
    for at in range(0, len(answer), size):
        talk.answer(2.0, answer[at : at + size])
    exchanges, replayed = told(tmp_path, talk)
    assert numbers(exchanges) == [0, 1]
    assert [seconds(each) for each in exchanges] == [[1.0, 1.0, 2.0, 2.0]] * 2
    assert [each["exchange_end"] for each in exchanges] == [ExchangeEnd.STREAM] * 2
    assert counted(replayed) == {"requests_sampled": 2}


def test_everything_in_one_segment(tmp_path, coder):
    """The preface, the settings and a request, as clients that know beforehand send them."""
    talk = Talk().answer(0.9, WELCOME).ask(1.0, HELLO + frame(HEADERS, 1, coder.asks(0), WHOLE))
    exchanges, _ = told(tmp_path, talk.answer(1.2, frame(HEADERS, 1, coder.answers(), WHOLE)))
    assert [seconds(each) for each in exchanges] == [[1.0, 1.0, 1.2, 1.2]]


def test_interim_responses_are_none(tmp_path, coder):
    """The response begins with the first HEADERS whose status is not 1xx."""
    talk = greeted().ask(1.0, frame(HEADERS, 1, coder.asks(0), END_HEADERS))
    talk.answer(1.1, frame(HEADERS, 1, coder.answers(100), END_HEADERS)).ask(1.2, frame(DATA, 1, b"x", END_STREAM))
    talk.answer(1.3, frame(HEADERS, 1, coder.answers(103), END_HEADERS))
    talk.answer(1.5, frame(HEADERS, 1, coder.answers(), WHOLE))
    (exchange,), _ = told(tmp_path, talk)
    assert seconds(exchange) == [1.0, 1.2, 1.5, 1.5]
    assert (exchange["http_status"], exchange["grpc_status"]) == (200, 0)


def test_a_stream_that_is_given_up_ends_there(tmp_path, coder):
    """By either end, before a response or in the middle of one; a whole response before it is a whole response."""
    talk = greeted()
    for number in range(3):
        talk.ask(1.0, frame(HEADERS, 2 * number + 1, coder.asks(number), END_HEADERS))
    talk.ask(1.5, frame(RST_STREAM, 1, bytes(4))).answer(1.6, frame(HEADERS, 3, coder.answers(), END_HEADERS))
    talk.answer(1.7, frame(RST_STREAM, 3, bytes(4)))
    talk.answer(1.8, frame(HEADERS, 5, coder.answers(), WHOLE) + frame(RST_STREAM, 5, bytes(4)))
    exchanges, _ = told(tmp_path, talk)
    reset = ExchangeEnd.STREAM_RESET
    assert [each["exchange_end"] for each in exchanges] == [reset, reset, ExchangeEnd.STREAM]
    assert [seconds(each)[2:] for each in exchanges] == [[None, None], [1.6, 1.6], [1.8, 1.8]]
    assert [round(each["end_unix_ns"] % 10**9 / 1e9, 1) for each in exchanges] == [0.5, 0.7, 0.8]


@pytest.mark.parametrize("size", [1, 20, 3000])
def test_bodies_in_many_frames_are_counted_to_the_byte(tmp_path, coder, size):
    """Of two streams that take turns, in segments that hold many frames or a part of one: how many, and when the last came."""
    heads = [frame(HEADERS, stream, coder.asks(stream), END_HEADERS) for stream in (1, 3)]
    body = b"".join(frame(DATA, stream, bytes(size)) * count for count in (1, 2, 3, 7, 40) for stream in (1, 3))
    body += frame(DATA, 1) + frame(DATA, 1, bytes(size), END_STREAM)
    ends = [len(body) - 1, len(body) + size + 17]
    body += frame(DATA, 3, bytes(size)) + frame(DATA, 3, b"", END_STREAM)
    talk = greeted().ask(1.0, b"".join(heads))
    for number, at in enumerate(range(0, len(body), 7001)):
        talk.ask(1.1 + number / 1000, body[at : at + 7001])
    talk.answer(2.0, b"".join(frame(HEADERS, stream, coder.answers(), WHOLE) for stream in (1, 3)))
    exchanges, _ = told(tmp_path, talk)
    assert [each["request_bytes"] for each in exchanges] == [len(head) + 54 * (9 + size) + 9 for head in heads]
    assert [round(seconds(each)[1], 3) for each in exchanges] == [round(1.1 + end // 7001 / 1000, 3) for end in ends]


def test_of_a_body_that_is_given_up_what_came_is_known(tmp_path, coder):
    """Up to the last segment in which a frame began or ended, of several that lie in it."""
    head, body = frame(HEADERS, 1, coder.asks(0), END_HEADERS), frame(DATA, 1, bytes(3000)) * 5
    talk = greeted().ask(1.0, head).ask(1.1, body[:7000]).ask(1.2, body[7000:14_000])
    exchanges, _ = told(tmp_path, talk.answer(1.3, frame(RST_STREAM, 1, bytes(4))))
    assert [(each["request_bytes"], seconds(each)[1]) for each in exchanges] == [(len(head) + 14_000, 1.2)]


@pytest.mark.parametrize(("flags", "end"), [(FIN | ACK, ExchangeEnd.CLOSED), (RST, ExchangeEnd.RESET)])
def test_streams_end_with_their_connection(tmp_path, coder, flags, end):
    """Every one that is open, answered or not; a GOAWAY before it changes nothing."""
    talk = greeted().ask(1.0, frame(HEADERS, 1, coder.asks(0), WHOLE)).ask(1.1, frame(HEADERS, 3, coder.asks(1), WHOLE))
    talk.answer(1.2, frame(HEADERS, 1, coder.answers(), END_HEADERS) + frame(GOAWAY, 0, bytes(8)))
    talk.end(1.4, "server", flags).end(1.4, "client", flags)
    exchanges, _ = told(tmp_path, talk)
    assert [(seconds(each)[2], each["exchange_end"]) for each in exchanges] == [(1.2, end), (None, end)]


def test_what_is_passed_over_need_not_be_there(tmp_path, coder):
    """A body that was not captured in part, or was lost: frames behind it are found by their place."""
    talk = greeted().ask(1.0, frame(HEADERS, 1, coder.asks(0), END_HEADERS))
    body = frame(DATA, 1, bytes(5000), END_STREAM)
    talk.ask(1.1, body[:1400]).say(1.2, "client", body[1400:2800], lost=True).ask(1.3, body[2800:])
    talk.ask(1.4, frame(HEADERS, 3, coder.asks(1), WHOLE)).again(1.5, "client", body[-100:])
    talk.answer(2.0, frame(HEADERS, 3, coder.answers(), WHOLE) + frame(HEADERS, 1, coder.answers(), WHOLE))
    exchanges, _ = told(tmp_path, talk)
    assert numbers(exchanges) == [0, 1]
    assert [seconds(each) for each in exchanges] == [[1.0, 1.3, 2.0, 2.0], [1.4, 1.4, 2.0, 2.0]]


@pytest.mark.parametrize("said", [
    frame(DATA, 0, b"x"), frame(HEADERS, 0, b""), frame(CONTINUATION, 1, b""), frame(PING, 0, b"1234567"),
    frame(SETTINGS, 1, b""), frame(SETTINGS, 0, b"12345"), frame(RST_STREAM, 1, b"123"), frame(WINDOW_UPDATE, 0, b"1"),
    frame(HEADERS, 1, b"\x09" + bytes(8), PADDED), frame(HEADERS, 1, b"", PADDED),
    frame(HEADERS, 1, b"") + frame(DATA, 1, b""), frame(HEADERS, 1, b"") + frame(CONTINUATION, 3, b""),
])  # fmt: skip
def test_what_no_peer_says_ends_it_too(tmp_path, coder, said):
    """Frames that RFC 9113 forbids: whoever sends them may send anything."""
    talk = greeted().ask(1.0, said).ask(1.1, frame(HEADERS, 7, coder.asks(0), WHOLE))
    exchanges, replayed = told(tmp_path, talk.answer(1.2, frame(HEADERS, 7, coder.answers(), WHOLE)))
    assert exchanges == []
    assert counted(replayed)["connections_http2"] == 1


def test_a_preface_that_no_settings_follow_is_none(tmp_path):
    """The first frame of either end is SETTINGS."""
    talk = Talk().ask(1.0, PREFACE + frame(PING, 0, bytes(8)))
    assert counted(told(tmp_path, talk)[1]) == {"connections_http2": 1}


def test_streams_that_are_open_at_once_are_bounded(tmp_path, coder):
    """1,024 of one connection; what is more is counted and followed no further."""
    talk = greeted()
    for number in range(1030):
        talk.ask(1.0, frame(HEADERS, 2 * number + 1, coder.asks(number), WHOLE))
    for number in range(1030):
        talk.answer(1.5, frame(HEADERS, 2 * number + 1, coder.answers(), WHOLE))
    exchanges, replayed = told(tmp_path, talk)
    assert numbers(exchanges) == list(range(1024))
    assert counted(replayed)["requests_no_room"] == 6


def test_a_block_that_is_too_long_is_not_read(tmp_path, coder):
    """Beyond 16 KiB; behind it the direction's table is not known, and a context is found by its form alone."""
    talk = greeted()
    block = coder.asks(0, *((f"x-{number}", "~" * 1000) for number in range(20)))
    pieces = [block[at : at + 1000] for at in range(0, len(block), 1000)]
    talk.ask(1.0, frame(HEADERS, 1, pieces[0], END_STREAM))
    for piece in pieces[1:]:
        talk.ask(1.0, frame(CONTINUATION, 1, piece, END_HEADERS if piece is pieces[-1] else 0))
    talk.ask(1.1, frame(HEADERS, 3, coder.asks(1), WHOLE))
    talk.answer(1.5, frame(HEADERS, 1, coder.answers(), WHOLE) + frame(HEADERS, 3, coder.answers(), WHOLE))
    exchanges, replayed = told(tmp_path, talk)
    assert numbers(exchanges) == [1]
    assert replayed.counters["pieces_block_unreadable"] == 1


def test_a_stream_that_lasts_is_told_of_and_not_kept(tmp_path, coder):
    """A call that streams for minutes ends, for us, when a record of a flow does."""
    talk = greeted().ask(1.0, frame(HEADERS, 1, coder.asks(0), END_HEADERS))
    talk.answer(1.1, frame(HEADERS, 1, coder.answers(), END_HEADERS))
    for second in range(2, 50):
        talk.ask(second, frame(DATA, 1, b"m")).answer(second + 0.5, frame(DATA, 1, b"m"))
    (exchange,), _ = told(tmp_path, talk)
    assert exchange["exchange_end"] == ExchangeEnd.ACTIVE_TIMEOUT
    assert seconds(exchange) == [1.0, 30.0, 1.1, 30.5]
