"""Questions over UDP and their answers are exchanges: what of them meets a span, and what it does not do to others."""

from __future__ import annotations

import numpy as np
import pytest

from services.capture.meeting import ring
from services.capture.meeting.assignment import NOBODY
from services.capture.meeting.likelihood import Habits
from services.capture.meeting.matching import match
from tests.support.meeting.lookups import Resolving, look_up
from tests.support.meeting.node import ANOTHER, RESOLVER, TCP, UDP, Node

UNKNOWN = bytes(16)


def test_a_span_of_a_lookup_has_all_its_questions(node: Node) -> None:
    """A and AAAA are asked at once over one socket, whichever is answered first, and behind another search domain's."""
    node.lookup(50, (2_000, 2_001), (2_000.02, 2_001.3), (2_001.4, 2_003.2), (2_001.42, 2_002.9))
    node.lookup(51, (2_000.4, 2_001.4), peer=ANOTHER)
    span = node.ask(1_999.9, 2_003.4, peers=[(RESOLVER, 53)])
    node.look()
    told = node.look(1_500)
    assert sorted(int(row["number"]) for row in told) == [0, 1, 2, 3]
    assert {(row["parent_span_id"].tobytes(), int(row["flow_id"]), int(row["transport"])) for row in told} == {(span, 50, UDP)}
    assert [int(row["series"]) for row in told if row["series"]] == [4]
    assert node.reasons == {"matched": 1}


def test_lookups_that_are_under_way_at_once_have_each_its_own(node: Node) -> None:
    """Each from a socket of its own, as C libraries ask."""
    spans = []
    for each in range(20):
        begin = 2_000 + 0.7 * each
        node.lookup(100 + each, (begin, begin + 2), (begin + 0.02, begin + 2.2))
        spans.append(node.ask(begin - 0.1, begin + 2.3, peers=[(RESOLVER, 53)]))
    own = {(span, 100 + each) for each, span in enumerate(spans)}
    told = {(span, flow) for span, flow, _ in node.answer()}
    assert told <= own
    assert len(told) >= 18


@pytest.mark.parametrize(("peer", "reason"), [((UNKNOWN, 0), "no_exchange"), ((UNKNOWN, 53), "matched")])
def test_a_span_that_says_nothing_of_its_peer_has_no_question(node: Node, peer: tuple[bytes, int], reason: str) -> None:
    """A pod looks up names all the time; one that says the port alone may have asked."""
    node.lookup(50, (2_000, 2_001))
    node.ask(1_999.9, 2_001.1, peers=[peer])
    node.answer()
    assert node.reasons == {reason: 1}


def test_a_resolver_does_not_push_connections_out_of_memory() -> None:
    """Whatever it is asked, each question from another port."""
    node = Node(size_bytes=64 * 1024)
    node.connection(1)
    node.exchange(1, 0, 1_000, 1_050)
    node.look()
    for each in range(3_000):
        node.lookup(100 + each, (1_000 + 2 * each, 1_001 + 2 * each))
    span, lookup = node.ask(999.8, 1_050.2), node.ask(6_997.8, 6_999.1, peers=[(RESOLVER, 53)])
    assert node.answer() == [(span, 1, 0), (lookup, 3_099, 0)]
    assert node.meeting.remembered_datagram_seconds > 0
    assert {row["transport"].item() for row in node.meeting.ring.connections()[1]} == {TCP, UDP}


@pytest.mark.parametrize(("callers", "reach"), [(4, 0.95), (20, 0.9)])
def test_of_many_lookups_most_are_told_and_none_wrongly(callers: int, reach: float) -> None:
    """Simulated, of half a millisecond each, so that the truth is known."""
    talk = look_up(Resolving(callers=callers), 2_000, 1)
    met = match(talk.spans, talk.exchanges, talk.connection, Habits())
    told = np.flatnonzero(met.exchange != NOBODY)
    assert not [span for span in told if {*talk.owner[[met.exchange[span], *met.earlier.get(span, ())]]} != {span}]
    assert len(told) >= reach * len(talk.spans)


def test_over_a_socket_that_all_ask_by_nothing_is_told() -> None:
    """Whose of the questions that are under way at once is whose nobody knows."""
    talk = look_up(Resolving(callers=4), 2_000, 1)
    met = match(talk.spans, talk.exchanges, np.zeros_like(talk.connection), Habits())
    assert (met.exchange == NOBODY).all()
    assert met.candidates.all()


def test_more_connections_than_have_a_number_begin_anew(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was remembered is forgotten then, and what comes is told as ever."""
    node.look()
    monkeypatch.setattr(ring, "MOST_CONNECTIONS", 4)
    node.connection(4)
    node.connection(5)
    for connection in (4, 5):
        node.exchange(connection, 0, 2_000, 2_050)
    node.ask(999.8, 1_050.2)
    node.connection(5, peer=ANOTHER)
    span = node.ask(1_999.8, 2_050.2)
    assert node.answer() == [(span, 4, 0)]
    assert node.reasons == {"matched": 1, "no_exchange": 1}
