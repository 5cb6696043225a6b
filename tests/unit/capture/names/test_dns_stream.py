"""DNS over TCP: messages are the same however they are cut into segments."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.capture.names import dns_stream
from services.capture.names.dns_stream import MOST_BYTES, DnsStream, DnsStreams
from services.capture.names.pieces import Piece, PieceKind
from services.capture.names.question_records import QuestionRules
from services.capture.names.reader import NameReader
from tests.support.packets.pcap import ACK, Conversation
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks import dns

MS = 1_000_000
messages = st.lists(st.binary(min_size=1, max_size=1500), min_size=1, max_size=6)


def framed(*contents):
    """Messages behind their lengths."""
    return b"".join(len(content).to_bytes(2, "big") + content for content in contents)


@given(messages, st.lists(st.integers(0, 9000), max_size=8), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_messages_are_whole_wherever_segments_end(sent, cuts, first):
    """Lengths and messages over several segments, several in one, some segments again, and numbers that wrap around."""
    stream, content, found = DnsStream(first), framed(*sent), []
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    for begin, end in pairwise(places):
        segment = (first + begin) % 2**32, end - begin, content[begin:end]
        found += stream.take(*segment)
        assert not list(stream.take(*segment))
    assert found == [message[:MOST_BYTES] for message in sent]
    assert not stream.lost


def test_of_a_long_segment_the_beginning_is_enough():
    """An answer of which 512 bytes were captured; the next one begins in the next segment."""
    stream, long = DnsStream(7), framed(bytes(1200))
    assert [len(message) for message in stream.take(7, len(long), long[:512])] == [510]
    assert list(stream.take(7 + len(long), 5, framed(b"abc"))) == [b"abc"]


@pytest.mark.parametrize("segment", [(8, 5, framed(b"abc")), (7, 20, framed(b"abc"))], ids=["a gap", "an end not captured"])
def test_what_cannot_be_told_apart_any_more_is_not_read(segment):
    """Bytes are missing in which a message ends."""
    stream = DnsStream(7)
    list(stream.take(*segment))
    assert stream.lost
    assert not list(stream.take(7, 5, framed(b"abc")))


def test_connections_are_bounded(monkeypatch):
    """The one that was first goes."""
    monkeypatch.setattr(dns_stream, "MOST_STREAMS", 2)
    streams = DnsStreams()
    half, rest = framed(b"abc")[:3], framed(b"abc")[3:]
    for flow in (1, 2, 3):
        assert not list(streams.messages(Piece(flow, 0, 7, 0, 3, 3, PieceKind.DNS_TCP, 0, half)))
    assert list(streams.messages(Piece(3, 0, 10, 0, 2, 2, PieceKind.DNS_TCP, 0, rest))) == [b"abc"]
    assert not list(streams.messages(Piece(1, 0, 10, 0, 2, 2, PieceKind.DNS_TCP, 0, rest)))


def test_questions_over_tcp_are_told_as_those_over_udp(tmp_path):
    """Two at once over one connection, answered in another order, in three segments; one is never answered."""
    talk = Conversation(client_port=35353, server_port=53).handshake()
    asked = framed(dns.question(1, "a.example"), dns.question(2, "a.example", dns.AAAA), dns.question(3, "lost.example"))
    answers = framed(dns.answer(2, "a.example", dns.AAAA, code=3), dns.answer(1, "a.example", records=2))
    talk.tcp(0.02, "client", ACK, seq=1001, ack=5001, payload=asked[:40])
    talk.tcp(0.021, "client", ACK, seq=1041, ack=5001, payload=asked[40:])
    talk.tcp(0.03, "server", ACK, seq=5001, ack=1001 + len(asked), payload=answers[:30])
    talk.tcp(0.21, "server", ACK, seq=5031, ack=1001 + len(asked), payload=answers[30:])
    talk.tcp(1, "client", ACK, seq=1001 + len(asked), ack=5001 + len(answers))
    replayed = replay_frames(tmp_path, talk.frames, names=NameReader(rules=QuestionRules("all")))
    told = [(one["dns_first_name"], one["dns_first_type"], one["dns_first_code"]) for one in replayed.questions]
    assert told[:2] == [("a.example", dns.AAAA, 3), ("a.example", dns.A, 0)]
    (flow,) = replayed.records
    assert flow["dns_codes"][:4] == [1, 0, 0, 1]
    assert (flow["dns_first_time_ns"], flow["dns_slowest_time_ns"]) == (9 * MS, 190 * MS)
    assert {one["transport"] for one in replayed.questions} == {6}


def test_behind_what_was_not_captured_nothing_is_put_together():
    """A message that begins where the captured bytes of its segment end: of it there is only its beginning."""
    stream, content = DnsStream(0), framed(bytes(500), bytes(range(200)), b"next")
    assert list(stream.take(0, 700, content[:512])) == [bytes(500)]
    assert list(stream.take(700, len(content) - 700, content[700:])) == [bytes(range(8)), b"next"]
