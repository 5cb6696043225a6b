"""A sender whose clock is apart from its node's is known by what its spans say beside their times, or not at all."""

from __future__ import annotations

import pytest

from proto.asked.columns import SpanKind
from proto.columns import Role
from tests.support.meeting.node import PEER, Node

CALLS = 12
ODD = (0, 130, 470, 610, 1_340, 1_500, 2_210, 2_390, 3_170, 3_330, 4_080, 4_210)
"""When requests came, in no rhythm."""


def served(node: Node, apart_ms: float, *, every_ms: int = 0, connections: int = CALLS) -> None:
    """The pod served requests, each for another time, and says so by a clock that is apart; with `every_ms` in that rhythm."""
    for call in range(CALLS):
        connection = 10 + call % connections
        node.connection(connection, role=Role.SERVER, port=8443)
        begin = 20_000 + (every_ms * call or ODD[call])
        end = begin + (40 if every_ms else 40 + call)
        node.exchange(connection, call, begin, end)
        asked = {"kind": SpanKind.SERVER, "peers": [(PEER, 40_000 + connection)]}
        node.ask(begin + 0.3 + apart_ms, end + 0.1 + apart_ms, **asked)


def asks(node: Node, apart_ms: float) -> bytes:
    """The pod asked somebody else, who nobody can say by a port of its own."""
    node.connection(1)
    node.exchange(1, 0, 30_000, 30_050)
    return node.ask(29_999.8 + apart_ms, 30_050.2 + apart_ms)


@pytest.mark.parametrize("apart_ms", [-15_000, -250, 40, 1_700])
def test_a_clock_that_is_apart_is_told_and_nothing_is_met_by_it(node: Node, apart_ms: float) -> None:
    """By its servers' spans, which name their connections, also that of what its clients' spans would have met by chance."""
    served(node, apart_ms)
    asks(node, 0)
    assert node.answer() == []
    assert node.reasons == {"clock_apart": CALLS + 1}
    assert node.meeting.clock_offset_seconds == pytest.approx(apart_ms / 1e3, abs=2e-3)


@pytest.mark.parametrize("apart_ms", [0, 1.5])
def test_a_clock_that_agrees_is_not_apart(node: Node, apart_ms: float) -> None:
    """One host's clock is read at different moments."""
    served(node, apart_ms)
    span = asks(node, 0)
    assert span in {told for told, _, _ in node.answer()}
    assert node.meeting.clock_offset_seconds == 0
    assert "clock_apart" not in node.reasons


def test_what_could_be_another_time_as_well_is_no_offset(node: Node) -> None:
    """Requests in a rhythm on one connection fit at each beat of it."""
    served(node, 300, every_ms=200, connections=1)
    node.answer()
    assert node.meeting.clock_offset_seconds == 0
    assert "clock_apart" not in node.reasons


def test_few_spans_prove_nothing(node: Node) -> None:
    """One exchange that lasted as long as another span is chance."""
    node.connection(10, role=Role.SERVER, port=8443)
    node.exchange(10, 0, 20_000, 20_040)
    node.ask(20_500, 20_540, kind=SpanKind.SERVER, peers=[(PEER, 40_010)])
    node.answer()
    assert node.meeting.clock_offset_seconds == 0
    assert node.reasons == {"no_exchange": 1}


def test_spans_that_begin_late_are_no_clock(node: Node) -> None:
    """A request that waited for a thread: its span begins later than it, but ends with it."""
    for call, at in enumerate(ODD):
        node.connection(10 + call, role=Role.SERVER, port=8443)
        node.exchange(10 + call, call, 20_000 + at, 20_540 + at)
        node.ask(20_500 + at, 20_540.1 + at, kind=SpanKind.SERVER, peers=[(PEER, 40_010 + call)])
    node.answer()
    assert node.meeting.clock_offset_seconds == 0
    assert "clock_apart" not in node.reasons


def test_a_clock_that_was_set_is_apart_no_more(node: Node) -> None:
    """What contradicts itself is forgotten, and spans meet their exchanges again."""
    served(node, 250)
    node.answer()
    assert node.meeting.clock_offset_seconds == pytest.approx(0.25, abs=2e-3)
    for begin in (40_000, 50_000):
        for call, at in enumerate(ODD):
            connection = 100 + begin // 1_000 + call
            node.connection(connection, role=Role.SERVER, port=8443)
            node.exchange(connection, call, begin + at, begin + 40 + at)
            asked = {"kind": SpanKind.SERVER, "peers": [(PEER, 40_000 + connection)]}
            node.ask(begin + at + 0.2, begin + 40.1 + at, **asked)
        told = node.answer()
    assert len(told) == CALLS
    assert node.meeting.clock_offset_seconds == 0
