"""What is kept of calls is bounded, and what is not told is counted."""

from __future__ import annotations

import numpy as np
import pytest

from services.capture.calls import reader
from services.capture.calls.reader import CallReader
from services.capture.flows.exchange_layout import EXCHANGE, RequestCounter
from services.capture.names.pieces import Piece, PieceKind
from tests.support.packets.http2_talk import END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, frame
from tests.support.packets.http_talk import Talk, counted, told

BEGINS, ENDS, ENDS_STREAM, CUT, OVER, ASKS, FIRST = 1, 2, 4, 16, 32, 64, 128


def asked(coder: Coder, number: int, flow: int = 1, first: int = FIRST) -> Piece:
    """The whole header block of a request."""
    block = coder.asks(number)
    what = BEGINS | ENDS | ENDS_STREAM | ASKS | first
    return Piece(flow, 7, 2 * number + 1, 0, len(block), len(block), PieceKind.HTTP2, 0, block, what)


def ended(*keys: tuple[int, int]):
    """Streams that are over, of flows and calls."""
    rows = np.zeros(len(keys), EXCHANGE)
    rows["is_stream"] = 1
    rows["flow_id"], rows["number"] = [flow for flow, _ in keys], [2 * number + 1 for _, number in keys]
    return rows


def test_a_second_of_many_calls_is_told(tmp_path):
    """More than are ever open at once may end between two looks."""
    coder, talk = Coder(), Talk().ask(1.0, HELLO).answer(1.0, WELCOME)
    for number in range(6000):
        talk.ask(1.0 + number / 10_000, frame(HEADERS, 2 * number + 1, coder.asks(number), END_HEADERS | END_STREAM))
        talk.answer(1.0 + number / 10_000, frame(HEADERS, 2 * number + 1, coder.answers(), END_HEADERS | END_STREAM))
    exchanges, replayed = told(tmp_path, talk)
    assert (len(exchanges), counted(replayed)) == (6000, {"requests_sampled": 6000})


def test_calls_are_bounded(monkeypatch):
    """What there is no room for is counted; what is given out makes room."""
    monkeypatch.setattr(reader, "MOST_CALLS", 2)
    calls, coder = CallReader(), Coder()
    calls.read(asked(coder, number, first=0 if number else FIRST) for number in range(3))
    assert (calls.requests[RequestCounter.SAMPLED], calls.requests[RequestCounter.NO_ROOM]) == (2, 1)
    assert len(calls.of_traces(ended((1, 0), (1, 1), (1, 2)))) == 2
    calls.read([asked(coder, 3, first=0)])
    assert len(calls.of_traces(ended((1, 3)))) == 1


def test_connections_are_bounded_the_longest_quiet_goes_first(monkeypatch):
    """What is forgotten is counted, and its tables are never taken for others."""
    monkeypatch.setattr(reader, "MOST_CONNECTIONS", 2)
    calls, coders = CallReader(), [Coder() for _ in range(3)]
    calls.read(asked(coders[flow], 0, flow) for flow in (0, 1))
    calls.read([asked(coders[0], 1, 0, first=0), asked(coders[2], 0, 2)])
    assert calls.counters["pieces_connection_forgotten"] == 1
    assert len(calls.of_traces(ended((0, 0), (0, 1), (1, 0), (2, 0)))) == 3


@pytest.mark.parametrize("what", [CUT, 0])
def test_behind_what_is_missing_nothing_is_guessed(what):
    """A block that was cut, or not captured whole: what it kept in the table is not known, and its call is not told."""
    calls, coder = CallReader(), Coder()
    calls.read([asked(coder, 0)._replace(payload_bytes=900, place=BEGINS | ENDS | ASKS | FIRST | what)])
    calls.read([asked(coder, 1, first=0)])
    assert calls.counters["pieces_block_unreadable"] == 1
    assert calls.of_traces(ended((1, 0), (1, 1)))["number"].tolist() == [3]


def test_calls_of_a_connection_that_is_over_are_told_or_counted():
    """Its streams that ended before it did are told; of the others nobody knows."""
    calls, coder = CallReader(), Coder()
    calls.read([asked(coder, 0), asked(coder, 1, first=0), Piece(1, 9, 0, 0, 0, 0, PieceKind.HTTP2, 0, b"", OVER)])
    assert len(calls.of_traces(ended((1, 0)))) == 1
    assert calls.requests[RequestCounter.UNPAIRED] == 1
