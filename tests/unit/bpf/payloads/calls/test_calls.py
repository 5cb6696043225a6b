"""What is kept of calls is bounded, what is not told is counted, and behind what is missing nothing is guessed."""

from __future__ import annotations

import ctypes
import itertools
import struct
import sys
from pathlib import Path

import pytest

import bpf
from hatch_build import compile_library
from proto.columns import ExchangeEnd
from services.capture.calls import reader
from services.capture.calls.reader import CallReader
from services.capture.flows.exchange_layout import RequestCounter
from tests.support.packets.c_layout import printed_by_c
from tests.support.packets.talks.http2_talk import CONTINUATION, END_HEADERS, END_STREAM, HEADERS, HELLO, WELCOME, Coder, frame
from tests.support.packets.talks.http_talk import Talk, counted, told

TOLD = struct.Struct("<QQQIIIIIIHBBBBBB")
"""`struct http2_told` of bpf/engine/http2/told.h."""
OPENS, FRAME, CLOSES, OVER = range(4)
BEGINS, ENDS, OF_CLIENT, CUT, IS_CLOSED = 1, 2, 4, 8, 32
BUSY, DISCARDED = 1 << 31, 1 << 30


class Told:
    """What a host tells, as records of a ring buffer."""

    def __init__(self) -> None:
        self.records = b""
        self.numbers: dict[tuple[int, int], itertools.count] = {}

    def add(self, flow: int, what: int, held: bytes = b"", *, at: int = 7, parts: int = 0, side: int = 0, **more: int) -> Told:
        """One more; `skip` are lost before it."""
        number = 0
        if what == FRAME:
            numbers = self.numbers.setdefault((flow, side), itertools.count())
            for _ in range(1 + more.get("skip", 0)):
                number = next(numbers)
        said = TOLD.pack(
            flow, at, at, 0, more.get("stream", 0), 9 + len(held), number, 0, 0, len(held), what, more.get("type", HEADERS),
            more.get("flags", END_HEADERS | END_STREAM), parts, side, 0,
        ) + held  # fmt: skip
        self.records += struct.pack("<II", len(said) | more.get("mark", 0), 0) + said + bytes(-len(said) % 8)
        return self

    def opens(self, flow: int = 1) -> Told:
        """A connection."""
        return self.add(flow, OPENS, bytes(64))

    def asks(self, coder: Coder, number: int, flow: int = 1, **more: int) -> Told:
        """The whole header block of a request, and all of the request."""
        parts = BEGINS | ENDS | OF_CLIENT | more.pop("parts", 0)
        return self.add(flow, FRAME, coder.asks(number), parts=parts, stream=2 * number + 1, **more)

    def answers(self, coder: Coder, number: int, flow: int = 1, **more: int) -> Told:
        """Likewise of its response."""
        return self.add(flow, FRAME, coder.answers(), parts=BEGINS | ENDS, stream=2 * number + 1, side=1, **more)

    def read_by(self, calls: CallReader) -> int:
        """Have it read; how many bytes were."""
        records, self.records = ctypes.create_string_buffer(self.records, len(self.records)), b""
        return calls.read(ctypes.addressof(records), len(records))


def numbers(exchanges) -> list[int]:
    """Which requests these are."""
    return [int(number) // 2 for number in exchanges["number"]]


@pytest.fixture
def bounded(tmp_path, monkeypatch):
    """A reader with room for two."""
    library = tmp_path / "bounded.so"
    monkeypatch.setenv("CFLAGS", "-DMOST_CONNECTIONS=2 -DMOST_CALLS=2 -DMOST_HELD_BYTES=40000")
    compile_library(Path(bpf.SOURCE_DIRECTORY, "replay", "replay.c"), library)
    monkeypatch.setattr(bpf, "REPLAY_LIBRARY", library)
    monkeypatch.setattr(reader, "_library", lambda: reader.load_library(reader._SIGNATURES))
    return CallReader()


def test_the_layout_is_cs(tmp_path):
    """What is told of frames has the places that the test above gives it."""
    declared = '#include "engine/http2/told.h"\n'
    found = printed_by_c(declared, [
        'printf("size %zu\\n", sizeof(struct http2_told));',
        *(f'printf("{name} %zu\\n", offsetof(struct http2_told, {name}));' for name in ("stream", "number", "held", "from")),
        *(f'printf("{name} %d\\n", HTTP2_{name});' for name in ("OVER", "CUT", "IS_CLOSED")),
    ], tmp_path)  # fmt: skip
    assert found == {
        "size": TOLD.size, "stream": 28, "number": 36, "held": 48, "from": 54, "OVER": OVER, "CUT": CUT, "IS_CLOSED": IS_CLOSED
    }  # fmt: skip


def test_a_second_of_many_calls_is_told(tmp_path):
    """More than are ever open at once may end between two looks."""
    coder, talk = Coder(), Talk().ask(1.0, HELLO).answer(1.0, WELCOME)
    for number in range(6000):
        talk.ask(1.0 + number / 10_000, frame(HEADERS, 2 * number + 1, coder.asks(number), END_HEADERS | END_STREAM))
        talk.answer(1.0 + number / 10_000, frame(HEADERS, 2 * number + 1, coder.answers(), END_HEADERS | END_STREAM))
    exchanges, replayed = told(tmp_path, talk)
    assert (len(exchanges), counted(replayed)) == (6000, {"requests_sampled": 6000})


def test_what_is_being_written_is_read_when_it_is_whole():
    """And what the kernel discarded is no record."""
    calls, coder, said = CallReader(), Coder(), Told().opens()
    said.add(1, OVER, mark=DISCARDED).asks(coder, 0)
    whole = len(said.records)
    said.asks(coder, 1, mark=BUSY)
    assert said.read_by(calls) == whole
    assert numbers(calls.open_exchanges()) == [0]
    calls.close()


def test_calls_are_bounded(bounded):
    """What there is no room for is counted; what is taken makes room."""
    coder, said = Coder(), Told().opens()
    for number in range(3):
        said.asks(coder, number)
    said.read_by(bounded)
    assert (bounded.requests[RequestCounter.SAMPLED], bounded.requests[RequestCounter.NO_ROOM]) == (2, 1)
    for number in range(3):
        said.answers(coder, number)
    said.asks(coder, 3).read_by(bounded)
    assert numbers(bounded.take_exchanges(sys.maxsize)) == [0, 1]
    said.asks(coder, 4).answers(coder, 4).read_by(bounded)
    assert numbers(bounded.take_exchanges(sys.maxsize)) == [4]
    bounded.close()


def test_what_is_over_is_taken_in_parts():
    """In the order in which it ended, whatever ends meanwhile."""
    calls, coder, said = CallReader(), Coder(), Told().opens()
    taken = []
    for first in range(0, 1000, 100):
        for number in range(first, first + 100):
            said.asks(coder, number).answers(coder, number)
        said.read_by(calls)
        taken += [numbers(calls.take_exchanges(most)) for most in (1, 40)]
    assert [len(part) for part in taken] == [1, 40] * 10
    taken.append(numbers(calls.take_exchanges(sys.maxsize)))
    assert list(itertools.chain(*taken)) == list(range(1000))
    assert not len(calls.take_exchanges(sys.maxsize))
    calls.close()


def test_connections_are_bounded_the_longest_quiet_goes_first(bounded):
    """What is forgotten is counted, its open calls too, and its tables are never taken for others."""
    coders, said = [Coder() for _ in range(3)], Told()
    said.opens(0).asks(coders[0], 0, 0).opens(1).asks(coders[1], 0, 1).answers(coders[0], 0, 0)
    said.opens(2).asks(coders[2], 0, 2).answers(coders[1], 0, 1).answers(coders[2], 0, 2).read_by(bounded)
    assert [int(each["flow_id"]) for each in bounded.take_exchanges(sys.maxsize)] == [0, 2]
    assert bounded.counters["pieces_connection_forgotten"] == 1
    assert bounded.requests[RequestCounter.UNPAIRED] == 1
    bounded.close()


def test_the_memory_of_all_connections_is_bounded(bounded):
    """Blocks that never end take 16 KiB each, and no more than a bound together."""
    said = Told()
    for flow in range(20):
        said.opens(flow)
        for side in (0, 1):
            parts = BEGINS | ENDS | (0 if side else OF_CLIENT)
            said.add(flow, FRAME, b"\x00", flags=0, parts=parts, side=side, stream=1)
            said.add(flow, FRAME, b"\x00", flags=0, parts=parts, side=side, stream=1, type=CONTINUATION)
    said.read_by(bounded)
    assert bounded.counters["pieces_connection_forgotten"] == 19
    bounded.close()


@pytest.mark.parametrize("trouble", [CUT, 0])
def test_behind_what_is_missing_nothing_is_guessed(trouble):
    """A block that was cut, or one that is no HPACK: what it kept in the table is not known, and its call is not told."""
    calls, coder, said = CallReader(), Coder(), Told().opens()
    if trouble:
        said.asks(coder, 0, parts=CUT)
    else:
        coder.asks(0)
        said.add(1, FRAME, b"\x80", parts=BEGINS | ENDS | OF_CLIENT, stream=1)
    said.asks(coder, 1).answers(coder, 0).answers(coder, 1).read_by(calls)
    assert calls.counters["pieces_block_unreadable"] == 1
    assert numbers(calls.take_exchanges(sys.maxsize)) == [1]
    calls.close()


def test_what_was_lost_on_its_way_drops_what_was_open():
    """A number that is missing: calls that are open may have gone on in it. Those that begin later are told, by their form."""
    calls, coder, said = CallReader(), Coder(), Told().opens()
    said.asks(coder, 0).asks(coder, 1).answers(coder, 0).read_by(calls)
    coder.asks(2)
    said.asks(coder, 3, skip=1).answers(coder, 1).answers(coder, 3).read_by(calls)
    assert numbers(calls.take_exchanges(sys.maxsize)) == [0, 3]
    assert calls.counters["pieces_frames_missing"] == 1
    assert calls.requests[RequestCounter.UNPAIRED] == 1
    calls.close()


def test_calls_of_a_connection_that_is_over_are_told_or_counted():
    """Its streams that ended before it did are told; of the others nobody knows."""
    calls, coder, said = CallReader(), Coder(), Told().opens()
    said.asks(coder, 0).asks(coder, 1).answers(coder, 0).add(1, OVER).answers(coder, 1).read_by(calls)
    assert numbers(calls.take_exchanges(sys.maxsize)) == [0]
    assert calls.requests[RequestCounter.UNPAIRED] == 1
    calls.close()


def test_who_closes_says_when():
    """The first word of it counts; what is open is ended by who looks at it."""
    calls, coder, said = CallReader(), Coder(), Told().opens()
    said.asks(coder, 0).add(1, CLOSES, at=11).add(1, CLOSES, at=12, parts=IS_CLOSED).read_by(calls)
    (open_one,) = found = calls.open_exchanges()
    assert open_one["ended_ns"] == 11
    found["end"] = ExchangeEnd.CLOSED
    calls.end_exchanges(found)
    assert calls.take_exchanges(sys.maxsize)["end"].tolist() == [ExchangeEnd.CLOSED]
    assert not len(calls.open_exchanges())
    calls.close()
