"""Of a connection that several requests share a span is told what it did in its time: of no other, and never an exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proto.columns import Role
from services.capture.flows.exchange_layout import PART
from services.capture.flows.layout import Requests
from services.capture.meeting.turns import TurnFlag
from tests.support.meeting.node import ANOTHER, MS, PEER, Node
from tests.support.meeting.shared import Shared, tell

TLS = TurnFlag.TLS


def told(node: Node) -> list[Any]:
    """Wait until all is said, and return what is told."""
    return [row for each in (node.look(), node.look(1_500), node.look(1_500)) for row in each]


@pytest.fixture
def node() -> Node:
    """One with a connection of HTTP/2 in TLS, on which two calls were under way at once."""
    found = Node()
    found.several = {1}
    found.connection(1)
    for number, (begin, end) in enumerate([(1_000, 1_001), (1_010, 1_012), (1_040, 1_041), (2_000, 2_001)]):
        found.exchange(1, number, begin, end, flags=TLS)
    return found


def test_each_of_several_calls_at_once_has_the_connections_part(node: Node) -> None:
    """Who asked, when, how much was said both ways, and the longest silence; nothing of requests and responses."""
    spans = [node.ask(999, 1_050), node.ask(1_005, 1_045)]
    first, second = told(node)
    assert node.reasons == {"connection": 2}
    assert [bytes(each["parent_span_id"]) for each in (first, second)] == spans
    assert [(int(each["request_first_ns"]), int(each["ended_ns"])) for each in (first, second)] == [
        (1_000 * MS, 1_041 * MS),
        (1_010 * MS, 1_041 * MS),
    ]
    assert [int(each["request_bytes"]) for each in (first, second)] == [210, 140]
    assert {int(each["silence_ns"]) for each in (first, second)} == {28 * MS}
    assert {int(each["is_stream"]) for each in (first, second)} == {PART}
    assert not any(int(each[f"response_{name}_ns"]) for each in (first, second) for name in ("first", "last"))
    assert len({int(each["number"]) for each in (first, second)}) == 2


def test_of_two_connections_that_were_used_neither_is_told(node: Node) -> None:
    """Which of them a call took nobody knows; where one has said nothing in its time, it was the other."""
    node.several = {1, 2}
    node.connection(2)
    node.exchange(2, 0, 1_020, 1_022, flags=TLS)
    node.ask(999, 1_050)
    later = node.ask(1_999, 2_002)
    (part,) = told(node)
    assert (bytes(part["parent_span_id"]), int(part["flow_id"])) == (later, 1)
    assert node.reasons == {"connection": 1, "multiplexed": 1}


def test_a_connection_of_one_request_at_a_time_may_be_a_spans_as_well(node: Node) -> None:
    """To the same peer over HTTP/1: then it may have been that."""
    node.connection(2)
    node.exchange(2, 0, 1_020, 1_022, flags=TLS)
    node.ask(999, 1_050)
    assert told(node) == []


def test_a_span_whose_end_of_the_connection_is_known_has_that_ones_part(node: Node) -> None:
    """As its server's span says, or as it is a server's itself: however many others are used at that time."""
    node.several = {1, 2, 3}
    for number, role in ((2, Role.CLIENT), (3, Role.SERVER)):
        node.connection(number, role=role, port=5432)
        node.exchange(number, 0, 1_020, 1_022, flags=TLS)
    client, server = node.ask(999, 1_050), node.ask(1_019, 1_023, kind=2, peers=[(PEER, 40_003)])
    node.other_end(client, 2)
    assert {(bytes(each["parent_span_id"]), int(each["flow_id"])) for each in told(node)} == {(client, 2), (server, 3)}


def test_who_says_nothing_of_a_peer_is_told_nothing(node: Node) -> None:
    """A span without a peer may be of a file, or a queue: that one connection was busy says nothing."""
    node.ask(999, 1_050, peers=[(bytes(16), 0)])
    assert told(node) == []
    assert node.reasons == {"multiplexed": 1}


def test_in_whose_time_nothing_was_answered_has_no_exchange(node: Node) -> None:
    """Its request, if there was one, is on no connection that is known."""
    node.ask(1_100, 1_200)
    node.ask(999, 1_050, peers=[(ANOTHER, 5432)])
    assert told(node) == []
    assert node.reasons == {"no_exchange": 2}


def test_where_turns_were_lost_nobody_knows_which_connection_was_silent(node: Node) -> None:
    """A span that began before the loss was seen is told nothing, one after it is."""
    node.meeting.note_lost(7, 1_500 * MS)
    node.ask(999, 1_050)
    span = node.ask(1_999, 2_002)
    assert [bytes(each["parent_span_id"]) for each in told(node)] == [span]


@pytest.mark.parametrize("at_once", [False, True])
def test_of_a_connection_older_than_the_capture_calls_at_once_show_what_it_is(at_once: bool) -> None:  # noqa: FBT001 - a case
    """What it speaks nobody saw: it is shared where two spans that can have used no other were under way at once."""
    node = Node()
    node.connection(1, begun=False)
    node.exchange(1, 0, 1_000, 1_020)
    node.exchange(1, 1, 1_030, 1_040)
    node.ask(999, 1_041 if at_once else 1_021)
    node.ask(1_029, 1_042)
    assert len(told(node)) == 2 * at_once


def test_frames_that_are_followed_show_it_too() -> None:
    """HTTP/2 in clear text, whose calls carry no context."""
    node = Node()
    node.connection(1, requests=Requests.STREAMS)
    node.exchange(1, 0, 1_000, 1_020)
    node.ask(999, 1_021)
    assert len(told(node)) == 1


def test_what_is_shared_is_sliced_from_when_that_is_known() -> None:
    """A connection whose first turn is not over yet is known by that turn; each is handed on once."""
    node = Node()
    node.several = {4}
    for number in (4, 5):
        node.connection(number)
        node.begin(number, flags=TLS)
    node.look()
    assert node.meeting.ring.take_shared().tolist() == [4]
    node.exchange(4, 0, 1_000, 1_001, flags=TLS)
    node.look()
    assert node.meeting.ring.take_shared().tolist() == []


@pytest.mark.parametrize(
    "shared",
    [
        Shared(callers=callers, connections=connections, think_ms=think, without=without, named=named)
        for callers in (1, 8, 50)
        for connections in (1, 2, 4)
        for think, without, named in ((0.0, 0.0, 0.0), (200.0, 0.0, 0.0), (20.0, 0.0, 0.5))
    ],
    ids=str,
)
def test_no_span_is_told_another_connections_part(shared: Shared) -> None:
    """Whatever the load; over one connection each is told, and so is each whose server's span names its connection."""
    found = tell(shared, 1_000, seed=5)
    assert found.wrong == 0
    assert found.told >= found.spans * (1 if shared.connections == 1 else shared.named * 0.85)


def test_a_part_says_what_was_sent_again_and_when_windows_were_closed(node: Node) -> None:
    """Of both ends, in the time of the span and no other; and the round-trip time, as it was last."""
    for number, (begin, end) in enumerate([(3_000, 3_001), (3_010, 3_012), (4_000, 4_001)], 4):
        node.exchange(1, number, begin, end, flags=TLS, resent=(number, 1), closed=(0, number), srtt_us=100 * number)
    node.ask(2_999, 3_020)
    (part,) = told(node)
    assert (int(part["request_retransmits"]), int(part["response_retransmits"])) == (4 + 5, 2)
    assert (int(part["client_zero_windows"]), int(part["server_zero_windows"]), int(part["srtt_ns"])) == (0, 9, 500_000)
    assert np.all(part["flow_first_ns"] == 0)
