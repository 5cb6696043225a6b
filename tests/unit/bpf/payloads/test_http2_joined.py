"""HTTP/2 whose beginning nobody saw, or of which something is missing: frames are found again where they prove themselves."""

from __future__ import annotations

import pytest

from proto.columns import ExchangeEnd
from tests.support.packets.talks.http2_talk import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    HELLO,
    PING,
    WELCOME,
    WINDOW_UPDATE,
    Coder,
    frame,
)
from tests.support.packets.talks.http_talk import Talk, counted, seconds, told

WHOLE = END_HEADERS | END_STREAM
PRELUDE = 3
"""Packets of a handshake."""


def numbers(exchanges) -> list[int]:
    """Of which request each exchange is."""
    return [int.from_bytes(exchange["trace_id"], "big") - 1 for exchange in exchanges]


def calls(talk: Talk, coder: Coder, *asked: int) -> Talk:
    """Calls one after the other, with a message each way, half a second each."""
    for number in asked:
        at, stream = 1.0 + number, 2 * number + 1
        talk.ask(at, frame(HEADERS, stream, coder.asks(number), END_HEADERS) + frame(DATA, stream, b"q", END_STREAM))
        talk.answer(at + 0.5, frame(HEADERS, stream, coder.answers(), END_HEADERS) + frame(DATA, stream, b"a"))
        talk.answer(at + 0.5, frame(HEADERS, stream, coder.server.encode([("grpc-status", "0")]), WHOLE))
    return talk


def greeted() -> Talk:
    """A connection whose ends have greeted each other."""
    return Talk().ask(0.5, HELLO).answer(0.6, WELCOME)


def older(talk: Talk, packets: int) -> Talk:
    """A talk without its first packets."""
    del talk.frames[:packets]
    return talk


@pytest.mark.parametrize("port", [8080, 50051])
def test_a_connection_that_is_older_than_the_capture_is_joined(tmp_path, port):
    """After three frames of the client's, which are its first call and the beginning of the second: told is that one, and all
    that follow, as if all had been seen. Who is the client what is said tells, where the ports do not.
    """
    exchanges, replayed = told(tmp_path, older(calls(Talk(server_port=port), Coder(), *range(5)), PRELUDE))
    assert numbers(exchanges) == [1, 2, 3, 4]
    assert [seconds(each) for each in exchanges] == [[at, at, at + 0.5, at + 0.5] for at in (2.0, 3.0, 4.0, 5.0)]
    assert {(each["http_status"], each["grpc_status"], each["exchange_end"]) for each in exchanges} == {
        (200, 1, ExchangeEnd.STREAM)
    }
    assert counted(replayed) == {"requests_sampled": 4}
    assert replayed.counters["pieces_frames_found"] == 2


def test_a_context_in_a_table_from_before_is_unknown(tmp_path):
    """The same one time and again is an index: whose it is cannot be told, and is not."""
    coder, talk = Coder(), Talk()
    coder.asks(7)
    for number in range(6):
        talk.ask(1.0 + number, frame(HEADERS, 2 * number + 1, coder.asks(7 if number < 5 else None), WHOLE))
        talk.answer(1.5 + number, frame(HEADERS, 2 * number + 1, coder.answers(), WHOLE))
    exchanges, replayed = told(tmp_path, older(talk, PRELUDE))
    assert exchanges == []
    assert counted(replayed) == {"requests_unknown": 4}


@pytest.mark.parametrize("lost", ["client", "server"])
def test_what_is_missing_is_not_guessed_and_what_follows_is_told(tmp_path, lost):
    """Where heads may have been in what is missing, what was over by then is told, and again what begins once three frames in a
    row have proved where they lie; what is between is counted.
    """
    coder, talk = Coder(), greeted()
    calls(talk, coder, 0, 1).ask(3.0, frame(HEADERS, 5, coder.asks(2), END_HEADERS)).say(
        3.1, lost, frame(PING, 0, bytes(8)), lost=True
    )
    exchanges, replayed = told(tmp_path, calls(talk, coder, *range(3, 9)))
    found = numbers(exchanges)
    assert found[:2] == [0, 1]
    assert found[2:] == list(range(found[2], 9))
    assert 4 <= found[2] <= 6
    assert replayed.counters["pieces_frames_found"] == 1
    assert counted(replayed)["requests_unpaired"] >= 1
    assert counted(replayed)["requests_sampled"] == len(exchanges) + counted(replayed)["requests_unpaired"]


def test_a_stream_that_was_open_over_a_loss_is_never_told(tmp_path):
    """Also where both its ends come by later: its response may have been another's."""
    coder, talk = Coder(), greeted()
    talk.ask(1.0, frame(HEADERS, 1, coder.asks(0), WHOLE)).say(1.1, "server", frame(PING, 0, bytes(8)), lost=True)
    calls(talk, coder, *range(1, 5)).answer(7.0, frame(HEADERS, 1, coder.answers(), WHOLE))
    exchanges, _ = told(tmp_path, talk)
    assert 0 not in numbers(exchanges)
    assert numbers(exchanges)[-1] == 4


def test_frames_are_found_in_whatever_segment_they_begin(tmp_path):
    """A segment in the midst of a message proves nothing; the first that begins a frame does, with those behind it."""
    coder, talk = Coder(), Talk()
    talk.ask(0.7, bytes(1400)).ask(0.8, b"\0\0\5\0\0\0\0\0\1" + b"x" * 800).answer(0.9, frame(WINDOW_UPDATE, 0, b"\0\0\1\0"))
    exchanges, _ = told(tmp_path, older(calls(talk, coder, *range(4)), PRELUDE))
    assert numbers(exchanges) == [1, 2, 3]


@pytest.mark.parametrize("said", [
    bytes(200), b"\0\0\0\0\0\0\0\0\1" * 30, b"\0\0\0\x1e\0\x12\0\3\0\0\0\1\0\7rdkafka", b"\x17\3\3\0\x40" + bytes(64),
    frame(DATA, 1, b"x" * 20) + b"\xff" * 90, frame(PING, 0, bytes(8)) * 2 + b"?" * 40, frame(HEADERS, 2, bytes(20), WHOLE) * 4,
    frame(DATA, 1, bytes(20_000))[:1400], frame(0x42, 0, bytes(8)) * 5, frame(WINDOW_UPDATE, 0, bytes(4), flags=4) * 5,
], ids=range(10))  # fmt: skip
def test_what_does_not_prove_itself_is_no_http2(tmp_path, said):
    """Zeroes, other protocols, one or two frames and then something else: told is nothing, and the connection is given up."""
    talk = Talk()
    for number in range(80):
        talk.ask(1.0 + number / 10, said).answer(1.05 + number / 10, b"+OK")
    exchanges, replayed = told(tmp_path, older(talk, PRELUDE))
    assert exchanges == []
    found = counted(replayed)
    assert list(found.values()) == [1]
    assert found.keys() <= {"connections_http2", "connections_other"}
    assert replayed.counters["pieces_frames_found"] == 0


def test_an_upgraded_connection_is_followed(tmp_path):
    """HTTP/1.1 that went over to HTTP/2 (RFC 7540 3.2): what the client asks behind the preface is told, once the server's
    frames are found; the request that went over is not.
    """
    coder = Coder()
    talk = (
        Talk()
        .ask(0.1, b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n")
        .answer(0.2, b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + WELCOME)
    )
    talk.ask(0.3, HELLO).answer(0.4, frame(HEADERS, 1, coder.answers(), WHOLE))
    exchanges, replayed = told(tmp_path, calls(talk, coder, *range(1, 5)))
    assert numbers(exchanges) == [2, 3, 4]
    assert counted(replayed) == {"requests_sampled": 4, "requests_absent": 1, "requests_unpaired": 1}
