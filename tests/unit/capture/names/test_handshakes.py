"""Handshakes from pieces to columns: told when, again, and when the bus refuses."""

from __future__ import annotations

import numpy as np
import pytest

import services.capture.names.handshakes as module
from proto.tls import RESUMED, RESUMPTION_KNOWN
from services.capture.names.handshakes import HandshakeTable, handshake_columns
from services.capture.names.pieces import Piece, PieceKind
from services.capture.names.questions import NameList
from tests.unit.capture.names.test_tls_hello import client_hello, extensions, record, server_name, vector

RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
FIRST, LAST = np.array([False]), np.array([True])


def server_hello(*found, random=bytes(32), version=b"\x03\x03", session=b"", cipher=0x1301):
    """A record with a ServerHello."""
    body = version + random + vector(session, 1) + cipher.to_bytes(2) + b"\0" + extensions(found)
    return record(b"\x02" + vector(body, 3))


TLS_1_3 = (43, b"\x03\x04")
END = b"\x17\x03\x03\x00\x35"


def piece(content, direction=0, *, since=0, at=0, whole=None, flow=1, time=100):
    """A piece of a flow's handshake."""
    return Piece(flow, time, since, 0, whole or len(content), len(content), PieceKind.TLS, direction, content, at)


def told(table, final=FIRST, flow=1):
    """What the flow's next record tells."""
    return table.take(np.array([flow], "<u8"), final).get(0)


def flags(client, *servers):
    """`tls_flags` of a handshake."""
    table = HandshakeTable()
    for direction, content in ((0, client), *((1, server) for server in servers)):
        table.add(piece(content, direction))
    return told(table).flags


@pytest.mark.parametrize(("client", "server", "expected"), [
    (client_hello(), server_hello(TLS_1_3), RESUMPTION_KNOWN),
    (client_hello(), server_hello(TLS_1_3, (41, b"\0\0")), RESUMPTION_KNOWN | RESUMED),
    (client_hello(session=b"1"), server_hello(TLS_1_3, session=b"1"), RESUMPTION_KNOWN),
    (client_hello(session=b"1"), server_hello(session=b"1"), RESUMPTION_KNOWN | RESUMED),
    (client_hello(session=b"1"), server_hello(session=b"2"), RESUMPTION_KNOWN),
    (client_hello(), server_hello(session=b"2"), RESUMPTION_KNOWN),
    (client_hello((35, b"ticket")), server_hello(session=b""), 0),
])  # fmt: skip
def test_whether_a_session_goes_on_is_told_where_it_can_be_known(client, server, expected):
    """TLS 1.3's pre-shared key, and the session's id before; with a ticket and no id, nobody knows."""
    assert flags(client, server) == expected


def test_a_server_that_asks_again_chooses_later():
    """HelloRetryRequest: what the second pair of hellos says counts."""
    table = HandshakeTable()
    table.add(piece(client_hello(server_name(b"a.example"))))
    table.add(piece(server_hello(TLS_1_3, random=RETRY), 1))
    table.add(piece(client_hello(server_name(b"a.example"), (16, vector(vector(b"h2", 1), 2)))))
    table.add(piece(server_hello(TLS_1_3, (41, b"\0\0"), cipher=0x1302), 1))
    found = told(table)
    assert (found.server.cipher, found.client.protocols, found.flags) == (0x1302, ("h2",), RESUMPTION_KNOWN | RESUMED)


def test_what_begins_like_a_hello_later_changes_nothing():
    """It is encrypted, and so by chance."""
    table = HandshakeTable()
    table.add(piece(client_hello(server_name(b"a.example"))))
    table.add(piece(server_hello(), 1))
    table.add(piece(client_hello(server_name(b"b.example"))))
    table.add(piece(server_hello(cipher=1), 1))
    found = told(table)
    assert (found.client.server_name, found.server.cipher) == ("a.example", 0x1301)


def test_the_end_is_told_once_and_the_rest_in_every_record():
    """Until the flow's last."""
    table = HandshakeTable()
    table.add(piece(client_hello(server_name(b"a.example"))))
    table.add(piece(END, since=60))
    first, second, last = told(table), told(table), told(table, LAST)
    assert (first.time_ns, second.time_ns, last.time_ns) == (40, 0, 0)
    assert {each.client.server_name for each in (first, second, last)} == {"a.example"}
    assert told(table) is None


@pytest.mark.parametrize("final", [FIRST, LAST])
def test_a_refused_record_is_told_with_the_next(final):
    """Also where the flow had ended by then, or more had come."""
    table = HandshakeTable()
    table.add(piece(client_hello(server_name(b"a.example"))))
    table.add(piece(END, since=60))
    taken = table.take(np.array([1], "<u8"), final)
    table.add(piece(server_hello(TLS_1_3), 1))
    table.put_back(np.array([1], "<u8"), taken)
    again = told(table, LAST)
    assert (again.time_ns, again.client.server_name, again.server.version) == (40, "a.example", 0x0304)


def test_what_is_missing_of_a_hello_is_not_waited_for():
    """The last record of a flow tells what there is."""
    table = HandshakeTable()
    hello = client_hello(server_name(b"a.example"), (0xFE0D, bytes(90)))
    table.add(piece(hello[:90], whole=len(hello)))
    assert told(table) is None
    assert told(table, LAST).client.server_name == "a.example"


def test_flows_are_bounded_and_counted(monkeypatch):
    """The one that was first goes."""
    monkeypatch.setattr(module, "MOST_FLOWS", 2)
    table = HandshakeTable()
    for flow in (1, 2, 3):
        table.add(piece(client_hello(), flow=flow))
    assert table.forgotten == 1
    assert [told(table, flow=flow) is not None for flow in (1, 2, 3)] == [False, True, True]


def test_behind_a_fatal_alert_a_reset_takes_nothing():
    """RFC 8446 6.2: nobody sends or waits for more."""
    table = HandshakeTable()
    table.add(piece(client_hello()))
    table.add(piece(b"\x15\x03\x03\x00\x02\x02\x28", 1, since=60))
    columns = handshake_columns({1: told(table)}, np.array([1, 1, 1], "|u1"), NameList())
    assert columns["cut_short"].tolist() == [1, 0, 1]
    assert columns["tls_alert"].tolist() == [0, 40, 0]


def test_from_when_to_when_a_handshake_took_place_is_known_as_long_as_its_flow_is():
    """For a request that waited for it: as long as the flow has not told its last record, whoever was told of the time."""
    table = HandshakeTable()
    record = b"\x17\x03\x03\x00\x30"
    assert table.times(3) is None
    assert table.add(Piece(3, 900, 200, 0, len(record), len(record), PieceKind.TLS, 0, record))
    ids = np.array([3], np.uint64)
    assert table.take(ids, np.array([False]))[0].time_ns == 700
    assert table.times(3) == (200, 900)
    table.take(ids, np.array([True]))
    assert table.times(3) is None


def protocols(*names):
    """ALPN's extension with these."""
    return 16, vector(b"".join(vector(name, 1) for name in names), 2)


@pytest.mark.parametrize(("offered", "chosen", "expected"), [
    ((), (), False),
    ((b"http/1.1",), (), False),
    ((b"postgresql",), (), False),
    ((b"h2", b"http/1.1"), (), True),
    ((b"h2", b"http/1.1"), (b"http/1.1",), False),
    ((b"http/1.1", b"h2"), (b"h2",), True),
    ((b"amqp",), (), True),
])  # fmt: skip
def test_what_tls_holds_may_have_several_requests_at_once(offered, chosen, expected):
    """By what the server chose where that can be read, else by what the client offered."""
    table = HandshakeTable()
    table.add(piece(client_hello(*([protocols(*offered)] if offered else []))))
    table.add(piece(server_hello(*([protocols(*chosen)] if chosen else [TLS_1_3])), 1))
    assert table.may_multiplex(1) is expected


def test_nobody_knows_what_is_in_tls_whose_hello_was_not_seen():
    """It may be anything."""
    table = HandshakeTable()
    assert table.may_multiplex(1)
    table.add(piece(server_hello(TLS_1_3), 1))
    assert table.may_multiplex(1)
