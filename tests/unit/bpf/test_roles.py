"""Which end is the client of a TCP connection whose handshake is not in the capture, and how that is known."""

from __future__ import annotations

import pytest

from proto.columns import Outcome, Role, RoleSource
from services.capture.flows.table import WITHOUT_ROLE, FlowTable
from services.capture.replay.replaying import replay
from services.capture.replay.source import ReplaySource
from tests.support.packets.pcap import ACK, PSH, RST, SYN, Conversation, write
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks.http2_talk import END_HEADERS, HAS_PRIORITY, HEADERS, PADDED, frame

MS = 1_000_000
REQUEST, RESPONSE = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def joined(client_port: int, server_port: int, *, request: bytes = b"?" * 20, response: bytes = b"!" * 20) -> Conversation:
    """Two exchanges of a connection that began before the capture; the first packet is a response's."""
    talk = Conversation(client_port=client_port, server_port=server_port)
    talk.tcp(0, "server", ACK, seq=900, ack=100, payload=b"rest of something")
    asked, answered = 100, 917
    for second in (1, 2):
        talk.tcp(second, "client", PSH | ACK, seq=asked, ack=answered, payload=request)
        asked += len(request)
        talk.tcp(second + 0.05, "server", PSH | ACK, seq=answered, ack=asked, payload=response)
        answered += len(response)
    return talk


@pytest.mark.parametrize(("client_port", "server_port"), [(40000, 443), (1500, 22), (60999, 8080)])
def test_the_ports_tell_the_client_and_it_is_said_that_they_do(tmp_path, client_port, server_port):
    """One port is a service's and the other is none: a guess, that is called one; its response times are told."""
    record = replay_frames(tmp_path, joined(client_port, server_port).frames).only
    assert (record["role"], record["role_source"], record["outcome"]) == (Role.CLIENT, RoleSource.PORTS, Outcome.UNKNOWN)
    assert (record["local_port"], record["responses"], record["response_time_sum_ns"]) == (client_port, 2, 100 * MS)


@pytest.mark.parametrize(("client_port", "server_port"), [(40000, 50051), (8000, 30080), (22, 443)])
def test_what_nobody_can_tell_stays_unknown(tmp_path, client_port, server_port):
    """Two ephemeral ports, two services' ports: no role, no response time, and it is counted."""
    path = write(tmp_path / "frames.pcap", joined(client_port, server_port).frames)
    with ReplaySource([path], 16) as source:
        table = FlowTable(source)
        (emission,) = list(replay(source, table))
        assert table.counters == {WITHOUT_ROLE: 0}
        table.accept(emission)
        assert table.counters == {WITHOUT_ROLE: 1}
    assert emission.columns["role"].tolist() == [Role.UNKNOWN]
    assert emission.columns["role_source"].tolist() == [RoleSource.UNKNOWN]
    assert emission.columns["responses"].tolist() == [0]


@pytest.mark.parametrize("request_line", [
    b"GET /x HTTP/1.1\r\n\r\n", b"PUT /x HTTP/1.1\r\n\r\n", b"POST /x HTTP/1.1\r\n\r\n", b"HEAD / HTTP/1.1\r\n\r\n",
    b"PATCH /x HTTP/1.1\r\n\r\n", b"DELETE /x HTTP/1.1\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"GET http://a/ HTTP/1.0\r\n\r\n",
])  # fmt: skip
def test_a_request_says_who_the_client_is(tmp_path, request_line):
    """Where the ports do not, the first line that is one of HTTP/1 does."""
    record = replay_frames(tmp_path, joined(40000, 50051, request=request_line).frames).only
    assert record["role_source"] == RoleSource.CONTENT
    assert record["role"] == (Role.CLIENT if record["local_port"] == 40000 else Role.SERVER)
    assert record["responses"] == 2


def test_a_status_line_says_who_the_server_is(tmp_path):
    """The response is recognised, so the next one is timed."""
    record = replay_frames(tmp_path, joined(40000, 50051, response=RESPONSE).frames).only
    assert (record["role_source"], record["responses"], record["response_time_sum_ns"]) == (RoleSource.CONTENT, 1, 50 * MS)


@pytest.mark.parametrize("text", [
    b"GET out of here, it is no request", b"HTTP/1.1 is a protocol  ", b"HTTP/2 200 looks like one",
    b"POSTAL /codes are no method",
])  # fmt: skip
def test_what_only_looks_like_http_tells_nothing(tmp_path, text):
    """A word at a segment's beginning is no request line."""
    record = replay_frames(tmp_path, joined(40000, 50051, request=text, response=text).frames).only
    assert (record["role"], record["responses"]) == (Role.UNKNOWN, 0)


@pytest.mark.parametrize(("first", "role"), [
    *((field, Role.CLIENT) for field in (0x82, 0x83, 0x87, 0x41, 0x44, 0x01, 0x04)),
    *((field, Role.SERVER) for field in (0x88, 0x8E, 0x48)),
    *((field, Role.UNKNOWN) for field in (0x80, 0x81, 0x8F, 0xBE, 0x40, 0x00, 0x10, 0x20, 0x3F, 0x42, 0x7F)),
])  # fmt: skip
@pytest.mark.parametrize("flags", [END_HEADERS, END_HEADERS | HAS_PRIORITY, END_HEADERS | PADDED])
def test_the_first_field_of_a_header_block_says_who_speaks(tmp_path, first, role, flags):
    """Pseudo-headers of HTTP/2 that stand in the static table; an index into what is not known, a field that either end may say
    first, and a block behind padding tell nothing.
    """
    fields = bytes(5) if flags & HAS_PRIORITY else b"\0" if flags & PADDED else b""
    said = frame(HEADERS, 7, fields + bytes([first]) + bytes(20), flags)
    record = replay_frames(tmp_path, joined(40000, 50051, request=said, response=b"?" * 40).frames).only
    expected = Role.UNKNOWN if flags & PADDED else role
    told = record["role"] if record["local_port"] == 40000 or not record["role"] else 3 - record["role"]
    assert told == expected
    assert record["role_source"] == (RoleSource.CONTENT if expected else RoleSource.UNKNOWN)


def test_content_corrects_what_the_ports_seemed_to_say(tmp_path):
    """A client behind an address translator has a low port, and gRPC's server a high one."""
    record = replay_frames(tmp_path, joined(20000, 50051, request=REQUEST).frames).only
    assert (record["local_port"], record["role"], record["role_source"]) == (50051, Role.SERVER, RoleSource.CONTENT)
    assert (record["responses"], record["response_time_sum_ns"]) == (2, 100 * MS)


def test_a_handshake_needs_no_guess(tmp_path):
    """Its SYN says who began, whatever the ports are and whatever is said."""
    talk = Conversation(client_port=443, server_port=40000).handshake()
    talk.tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=RESPONSE)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["local_port"], record["role_source"]) == (Role.CLIENT, 443, RoleSource.HANDSHAKE)


def test_a_syn_ack_that_comes_late_overrules_the_ports(tmp_path):
    """The capture began with the client's first segment, which overtook the SYN-ACK on its way to the capture."""
    talk = Conversation(client_port=443, server_port=40000).tcp(0, "client", ACK, seq=1001, ack=5001)
    talk.tcp(0.001, "server", SYN | ACK, seq=5000, ack=1001)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["local_port"], record["role"], record["role_source"]) == (40000, Role.SERVER, RoleSource.HANDSHAKE)


@pytest.mark.parametrize("again", [False, True])
def test_of_one_direction_nobody_knows_whether_it_was_answered(tmp_path, again):
    """A capture that holds nothing of the server says nothing of its answers; a request that is sent again had none."""
    talk = Conversation().tcp(0, "client", PSH | ACK, seq=1, ack=1, payload=REQUEST)
    if again:
        talk.tcp(1, "client", PSH | ACK, seq=1, ack=1, payload=REQUEST)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["request_waits"]) == (Role.CLIENT, again)


def test_a_reset_alone_has_no_role(tmp_path):
    """There may never have been a connection."""
    record = replay_frames(tmp_path, Conversation().tcp(0, "server", RST, seq=1).frames).only
    assert (record["role"], record["outcome"]) == (Role.UNKNOWN, Outcome.UNKNOWN)


def test_a_request_in_the_first_packet_is_looked_at(tmp_path):
    """A capture that begins with a request of an application's trace tells its exchange."""
    traced = b"GET /x HTTP/1.1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
    talk = Conversation().tcp(0, "client", PSH | ACK, seq=1, ack=1, payload=traced)
    talk.tcp(0.1, "server", PSH | ACK, seq=1, ack=1 + len(traced), payload=RESPONSE)
    (exchange,) = replay_frames(tmp_path, talk.frames, trace_context=True).exchanges
    assert exchange["response_first_unix_ns"] - exchange["request_last_unix_ns"] == 100 * MS


@pytest.mark.parametrize("rest", [301, 3600, 7300])
def test_a_connection_that_rests_is_the_same_when_it_wakes(tmp_path, rest):
    """Up to the two hours of a keep-alive: role, initial sequence numbers and the request that waits stay."""
    talk = Conversation().handshake().tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=REQUEST)
    talk.frames += Conversation(client_port=1).udp(2, "client").frames
    talk.tcp(1 + rest, "server", PSH | ACK, seq=5001, ack=1001 + len(REQUEST), payload=RESPONSE)
    records = [record for record in replay_frames(tmp_path, talk.frames).records if record["transport"] == 6]
    assert {record["flow_id"] for record in records} == {1}
    assert (records[-1]["isn_seen"], records[-1]["role"]) == (3, Role.CLIENT)
    assert sum(record["response_time_sum_ns"] for record in records) == rest * 1000 * MS
