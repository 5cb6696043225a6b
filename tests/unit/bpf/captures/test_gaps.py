"""What was lost before the capture point: sent again, it is seen for the first time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.packets.pcap import ACK, PSH, Conversation, write
from tests.support.packets.replayed import replay_files, replay_frames

MS = 1_000_000
TRACED = b"GET / HTTP/1.1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
ASKED_NEXT = 1001 + len(TRACED)


def asked() -> Conversation:
    """A handshake and a request of an application's trace, one second later."""
    return Conversation().handshake().tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=TRACED)


def answer(talk: Conversation, seconds: float, offset: int, size: int = 1000) -> Conversation:
    """A piece of the response."""
    said = b"" if offset else b"HTTP/1.1 200 OK\r\n\r\n"
    return talk.tcp(seconds, "server", PSH | ACK, seq=5001 + offset, ack=ASKED_NEXT, payload=said.ljust(size, b"."))


def test_what_fills_a_gap_is_payload_of_its_response(tmp_path):
    """It was sent again, and no byte of it was seen before: the transfer ends with it, and the exchange holds its bytes."""
    talk = answer(answer(asked(), 1.1, 0), 1.101, 2000)
    for step in (1, 2, 3):
        talk.tcp(1.101 + step / 1000, "client", ACK, seq=ASKED_NEXT, ack=6001)
    answer(talk, 1.3, 1000).tcp(1.301, "client", ACK, seq=ASKED_NEXT, ack=8001)
    replayed = replay_frames(tmp_path, talk.frames, trace_context=True)
    record, (exchange,) = replayed.only, replayed.exchanges
    assert (record["rx_payload_bytes"], record["rx_retransmits"], record["rx_retransmit_bytes"]) == (3000, 1, 0)
    assert (record["responses"], record["response_time_sum_ns"]) == (1, 100 * MS)
    assert (record["response_transfer_sum_ns"], record["response_transfer_max_ns"]) == (200 * MS, 200 * MS)
    assert (exchange["response_bytes"], exchange["response_retransmits"]) == (3000, 1)
    assert exchange["response_last_unix_ns"] - exchange["response_first_unix_ns"] == 200 * MS


def test_what_was_seen_before_fills_nothing(tmp_path):
    """The capture saw it, and it was lost behind the capture: the same bytes twice."""
    talk = answer(answer(answer(asked(), 1.1, 0), 1.101, 1000), 1.102, 2000)
    answer(talk, 1.3, 1000)
    replayed = replay_frames(tmp_path, talk.frames, trace_context=True)
    assert (replayed.only["rx_retransmits"], replayed.only["rx_retransmit_bytes"]) == (1, 1000)
    assert replayed.exchanges[0]["response_bytes"] == 3000


def test_a_gap_is_filled_once(tmp_path):
    """The second filling was seen before, as is what a segment holds beyond the gap on either side."""
    talk = answer(answer(asked(), 1.1, 0), 1.101, 2000)
    answer(answer(talk, 1.3, 500, 2000), 1.5, 1000)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["rx_retransmits"], record["rx_retransmit_bytes"]) == (2, 500 + 500 + 1000)


def test_a_gap_in_a_request_moves_the_requests_end(tmp_path):
    """The server's wait runs from the byte that was missing; what fills a request's gap behind its response asks nothing."""
    talk = Conversation().handshake()
    talk.tcp(1, "client", ACK, seq=1001, ack=5001, payload=bytes(1000))
    talk.tcp(1.01, "client", PSH | ACK, seq=3001, ack=5001, payload=bytes(1000))
    talk.tcp(1.3, "client", ACK, seq=2001, ack=5001, payload=bytes(500))
    talk.tcp(1.4, "server", ACK, seq=5001, ack=2501, payload=b"413 too much")
    talk.tcp(1.5, "client", ACK, seq=2501, ack=5013, payload=bytes(500))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["responses"], record["response_time_sum_ns"], record["request_waits"]) == (1, 100 * MS, 0)
    assert (record["request_transfer_sum_ns"], record["tx_retransmits"]) == (300 * MS, 2)
    assert record["tx_retransmit_bytes"] == 0


def test_what_fills_a_gap_answers_no_later_request(tmp_path):
    """The rest of one response comes when the next request waits already."""
    talk = answer(answer(asked(), 1.1, 0), 1.11, 2000)
    talk.tcp(2, "client", PSH | ACK, seq=ASKED_NEXT, ack=8001, payload=b"next")
    answer(talk, 2.01, 1000)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["responses"], record["request_waits"], record["rx_retransmit_bytes"]) == (1, 1, 0)


def test_a_segment_without_payload_shows_a_gap_too(tmp_path):
    """A bare ACK stands where the sender is; what lies before it was sent and not seen."""
    talk = asked().tcp(1.1, "server", ACK, seq=6001, ack=ASKED_NEXT)
    answer(talk, 1.3, 0)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["rx_retransmits"], record["rx_retransmit_bytes"]) == (1, 0)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=12), st.integers(0, 2**32 - 1))
def test_each_byte_is_seen_for_the_first_time_once(tmp_path_factory, order, isn):
    """In whatever order up to four pieces come, and however often: payload less what was seen before is what came."""
    talk = Conversation().handshake(server_isn=isn)
    for number, piece in enumerate(order):
        talk.tcp(1 + number, "server", ACK, seq=isn + 1 + piece * 100, ack=1001, payload=bytes(100))
    record = replay_files([write(tmp_path_factory.mktemp("order") / "frames.pcap", talk.frames)]).only
    assert record["rx_payload_bytes"] - record["rx_retransmit_bytes"] == 100 * len(set(order))
