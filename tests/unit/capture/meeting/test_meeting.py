"""What is asked meets what is remembered: whose, with whom, when; and what becomes of every question."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from proto.asked.columns import SpanKind
from proto.columns import Role
from services.capture.flows.exchange_layout import EXCHANGE, MET, PART
from services.capture.flows.layout import Requests
from services.capture.meeting.turns import TurnFlag
from tests.support.meeting.node import ANOTHER, MS, PEER, Node
from tests.support.meeting.pool import Pool, simulate


def test_a_span_has_the_exchange_of_its_pod_and_peer(node: Node) -> None:
    """Neither another peer's nor another pod's, though they took place at the same time."""
    span = node.ask(999.8, 1_050.2)
    assert node.answer() == [(span, 1, 0)]
    assert node.reasons == {"matched": 1}


def test_a_peer_with_several_addresses_is_one_peer(node: Node) -> None:
    """A name's addresses are alternatives: the exchange may be of either, but not of a third."""
    span = node.ask(999.8, 1_050.2, peers=[(bytes(15) + b"\x01", 5432), (ANOTHER, 5432)])
    assert node.answer() == [(span, 2, 0)]


def test_a_peer_whose_address_nobody_knows_is_known_by_its_port(node: Node) -> None:
    """A question with a port alone is answered where one connection to that port fits."""
    node.connection(7, peer=ANOTHER, port=6379)
    node.exchange(7, 3, 1_000, 1_050)
    span = node.ask(999.8, 1_050.2, peers=[(bytes(16), 6379)])
    assert node.answer() == [(span, 7, 3)]


def test_a_span_that_may_have_asked_anybody_does_not_keep_others_from_their_exchanges(node: Node) -> None:
    """Such as gRPC's, which say no peer, over HTTP/2: nobody knows of them, and of the others as much as without them."""
    node.connection(7, peer=ANOTHER, requests=Requests.STREAMS)
    node.exchange(7, 0, 990, 1_060)
    span = node.ask(999.8, 1_050.2)
    node.ask(989.9, 1_060.1, peers=[(bytes(16), 0)])
    assert node.answer() == [(span, 1, 0)]
    assert node.reasons == {"matched": 1, "multiplexed": 1}


def test_what_may_be_anybodys_is_told_nobody_else(node: Node) -> None:
    """An exchange that fits a span as well that may have asked anybody may be that one's."""
    node.connection(7, peer=ANOTHER, port=6379)
    node.exchange(7, 3, 1_000, 1_050)
    for address in (ANOTHER, bytes(16)):
        node.ask(999.8, 1_050.2, peers=[(address, 6379)])
    assert node.answer() == []
    assert node.reasons == {"ambiguous": 2}


def test_a_servers_span_names_its_connection(node: Node) -> None:
    """Of two clients that were served at the same time, the one whose address and port the span says."""
    for connection in (10, 11):
        node.connection(connection, role=Role.SERVER, port=8443)
        node.exchange(connection, 4, 2_000, 2_030)
    span = node.ask(2_000.1, 2_029.9, kind=SpanKind.SERVER, peers=[(PEER, 40_011)])
    assert node.answer() == [(span, 11, 4)]


def test_a_host_without_pods_is_whoever_is_there(node: Node) -> None:
    """An empty `local` is anything on the node; where two then fit alike, none is told."""
    node.ask(999.8, 1_050.2, local="")
    assert node.answer() == []
    assert node.reasons == {"ambiguous": 1}


@pytest.mark.parametrize(
    ("begin_ms", "end_ms", "said", "reason"),
    [
        (1_100, 1_200, {}, "no_exchange"),
        (999.8, 1_050.2, {"local": "6a1b7c9e-0000-4000-8000-00000000dead"}, "not_here"),
        (1_050, 1_000, {}, "malformed"),
        (1_000, 1_000 + 25 * 3_600_000, {}, "malformed"),
        (1_000, 1_050, {"kind": 1}, "malformed"),
        (110_000, 110_050, {}, "clock_apart"),
        (86_400_000, 86_400_050, {}, "clock_apart"),
    ],
)
def test_what_has_no_answer_is_counted(node: Node, begin_ms: float, end_ms: float, said: Any, reason: str) -> None:
    """Spans of the future, of a day, of nobody here, of no kind that has a network below it."""
    node.ask(begin_ms, end_ms, **said)
    assert node.answer() == []
    assert node.reasons == {reason: 1}


def test_no_message_but_a_question_is_taken(node: Node) -> None:
    """Hostile bytes are counted, and what is asked beside them is answered."""
    for message in (b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03"):
        node.meeting.ask(message)
    span = node.ask(999.8, 1_050.2)
    assert node.answer() == [(span, 1, 0)]
    assert node.reasons == {"matched": 1, "malformed": 4}


def test_what_is_forgotten_is_too_old() -> None:
    """Where exchanges were overwritten, spans from before the oldest are not answered from what is left."""
    node = Node(size_bytes=16 * 64)
    node.connection(1)
    for number in range(40):
        node.exchange(1, number, 1_000 + 10 * number, 1_005 + 10 * number)
    old, fresh = node.ask(999.8, 1_005.2), node.ask(1_389.8, 1_395.2)
    assert node.answer() == [(fresh, 1, 39)]
    assert old != fresh
    assert node.reasons == {"matched": 1, "too_old": 1}


def test_nothing_is_told_twice(node: Node) -> None:
    """The same span asked again, and another one like it, get nothing."""
    first = node.ask(999.8, 1_050.2)
    assert node.answer() == [(first, 1, 0)]
    node.ask(999.9, 1_050.3)
    assert node.answer() == []
    assert node.reasons == {"matched": 1, "no_exchange": 1}


def test_the_wire_wins(node: Node) -> None:
    """An exchange that carried its context is told for that alone, and its span is not given another one."""
    node.look()
    read = np.zeros(1, EXCHANGE)
    span = node.ask(999.8, 1_050.2)
    read["flow_id"], read["number"], read["parent_span_id"] = 1, 0, np.void(span)
    node.meeting.tell(read)
    assert node.answer() == []
    assert node.reasons == {"by_context": 1}


def test_what_is_told_is_an_exchange(node: Node) -> None:
    """Times, bytes, connection and ids; where the server's first words may have been tickets, the response has no other begin
    than its end.
    """
    node.connection(5)
    node.exchange(5, 0, 3_000, 3_040, flags=TurnFlag.TLS | TurnFlag.TICKETS)
    asked = [node.ask(999.8, 1_050.2), node.ask(2_999.8, 3_040.1)]
    node.look()
    first, second = sorted(node.look(1_500), key=lambda row: int(row["flow_id"]))
    assert [bytes(row["parent_span_id"]) for row in (first, second)] == asked
    assert (first["request_first_ns"], first["request_last_ns"]) == (1_000 * MS, 1_000 * MS + MS // 10)
    assert (first["response_first_ns"], first["response_last_ns"]) == (1_025 * MS, 1_050 * MS)
    assert second["response_first_ns"] == second["response_last_ns"] == 3_040 * MS
    assert (first["local_port"], first["remote_port"], first["role"]) == (40_001, 5_432, Role.CLIENT)
    assert (first["request_bytes"], first["trace_flags"], first["slot"]) == (70, 1, MET)


def test_a_pool_is_met_batch_by_batch() -> None:
    """Spans come as an SDK sends them, every few seconds those that have ended: what is told is true, and most is told."""
    talk = simulate(Pool(callers=12, connections=20, service_ms=30), 4_000, seed=3)
    node = Node(size_bytes=4 << 20)
    for connection in range(20):
        node.connection(connection)
    begin = int(talk.spans.begin.min())
    numbers = np.arange(len(talk.connection))
    owner_of = {(int(c), int(n)): int(o) for c, n, o in zip(talk.connection, numbers, talk.owner, strict=True)}
    spans: dict[bytes, int] = {}
    told: list[tuple[bytes, int, int]] = []
    sent = exchanged = 0
    by_end, seen = np.argsort(talk.spans.end), np.argsort(talk.exchanges.end)
    for until in range(2_000, 40_000, 2_000):
        node.now = until * MS
        while exchanged < len(seen) and talk.exchanges.end[seen[exchanged]] - begin < node.now:
            at = int(seen[exchanged])
            node.exchange(
                int(talk.connection[at]),
                at,
                *((int(each[at]) - begin) / MS for each in (talk.exchanges.begin, talk.exchanges.end)),
            )
            exchanged += 1
        while sent < len(by_end) and talk.spans.end[by_end[sent]] - begin < node.now:
            at = int(by_end[sent])
            span = (at + 1).to_bytes(8, "little")
            spans[span] = at
            node.ask(*((int(each[at]) - begin) / MS for each in (talk.spans.begin, talk.spans.end)), span_id=span)
            sent += 1
        told += [(row["parent_span_id"].tobytes(), int(row["flow_id"]), int(row["number"])) for row in node.look()]
    assert all(owner_of[connection, number] == spans[span] for span, connection, number in told)
    assert len(told) > 0.97 * len(talk.truth)


def test_the_ring_keeps_to_its_bytes() -> None:
    """However much is exchanged, on however many connections: what is remembered is bounded, and the latest is there."""
    node = Node(size_bytes=64 * 1024)
    for connection in range(3_000):
        node.connection(connection)
        node.exchange(connection, 0, 1_000 + connection, 1_000.5 + connection)
    span = node.ask(1_000 + 2_998.8, 1_000 + 2_999.7)
    assert node.answer() == [(span, 2_999, 0)]
    assert len(node.meeting.ring) <= 64 * 1024 // 64
    assert 0 < node.meeting.remembered_seconds < 110


@pytest.mark.parametrize("how", ["older than capture", "frames of HTTP/2", "HTTP/2 in TLS"])
def test_where_requests_may_overlap_nothing_is_told(how: str) -> None:
    """A turn of a connection that several requests share may be any one's: no span is told one, nor another connection's."""
    node = Node()
    node.connection(1)
    node.connection(2, begun=how != "older than capture", requests=Requests.STREAMS if "frames" in how else Requests.OPAQUE)
    node.several = {2} if "TLS" in how else set()
    node.exchange(1, 0, 1_000, 1_050)
    node.exchange(2, 0, 1_000, 1_050, flags=TurnFlag.TLS)
    node.ask(999, 1_051)
    assert node.answer() == []
    assert node.reasons == {"multiplexed": 1}


def test_what_was_shared_long_ago_is_not_now() -> None:
    """A connection of several requests that has said nothing for a minute holds up nobody."""
    node = Node()
    node.connection(1)
    node.connection(2, requests=Requests.STREAMS)
    node.exchange(2, 0, 1_000, 1_050)
    node.exchange(1, 0, 70_000, 70_050)
    span = node.ask(69_999, 70_051)
    assert node.answer() == [(span, 1, 0)]


def test_what_tls_holds_is_asked_once() -> None:
    """Also of a connection that came to it after it had talked in clear text, as through a proxy's CONNECT."""
    node = Node()
    node.connection(1)
    node.several = {1}
    node.exchange(1, 0, 1_000, 1_050)
    node.look()
    node.exchange(1, 1, 2_000, 2_050, flags=TurnFlag.TLS)
    node.exchange(1, 2, 3_000, 3_050, flags=TurnFlag.TLS)
    node.look()
    node.exchange(1, 3, 4_000, 4_050, flags=TurnFlag.TLS)
    node.ask(3_999, 4_051)
    (part,) = [row for told in (node.look(), node.look(1_500)) for row in told]
    assert part["is_stream"] == PART
    assert node.tls_asked == [1]
    assert node.reasons == {"connection": 1}


@pytest.mark.parametrize("kind", [SpanKind.PRODUCER, SpanKind.CONSUMER])
def test_messages_are_not_met(node: Node, kind: SpanKind) -> None:
    """Clients of queues send the next before the last is answered, so which turn is whose cannot be told."""
    node.ask(999, 1_051, kind=kind)
    assert node.answer() == []
    assert node.reasons == {"multiplexed": 1}


def swapped(node: Node) -> list[bytes]:
    """Two spans and two exchanges, of which each may be either's."""
    for connection in (1, 2):
        node.connection(connection)
        node.exchange(connection, 1, 10 + connection / 100, 20 + connection / 100)
    return [node.ask(9, 21), node.ask(9.01, 21.01)]


def test_what_servers_say_of_their_clients_settles_whose_exchange_it_is(node: Node) -> None:
    """A server's span names its client's end of the connection, and its parent: so nothing is left to be swapped."""
    first, second = swapped(node)
    node.other_end(second, 1)
    assert sorted(node.answer()) == [(first, 2, 1), (second, 1, 1)]
    assert node.reasons == {"matched": 2}


@pytest.mark.parametrize("connections", [(), (1, 2), (7,)])
def test_servers_that_contradict_each_other_or_were_asked_by_somebody_else_settle_nothing(
    node: Node, connections: tuple[int, ...]
) -> None:
    """A request that was tried again has two servers; behind a proxy the connection is the proxy's."""
    first, _ = swapped(node)
    for connection in connections:
        node.other_end(first, connection)
    assert node.answer() == []
    assert node.reasons == {"ambiguous": 2}


@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_last_of_a_spans_exchanges_says_of_all(node: Node, count: int) -> None:
    """A transaction, a loop of queries: the last 16 are told, and how many there were, and what they took of the server."""
    node.connection(8, peer=ANOTHER)
    for number in range(count):
        node.exchange(8, number, 5_000 + 10 * number, 5_004 + 10 * number)
    node.ask(4_999.9, 5_000 + 10 * (count - 1) + 4.2, peers=[(ANOTHER, 5432)])
    told = np.concatenate([node.look(), node.look(1_500), node.look(1_500)])
    last = count - 1
    assert sorted(told["number"].tolist()) == list(range(max(count - 16, 0), count))
    by_number = {int(each["number"]): (int(each["series"]), int(each["series_wait_ns"])) for each in told}
    assert by_number.pop(last) == ((count, count * 19 * MS // 10) if count > 1 else (0, 0))
    assert set(by_number.values()) <= {(0, 0)}
    node.ask(4_999.9, 5_004.5, peers=[(ANOTHER, 5432)])
    assert node.answer() == []
