"""Response times: the server's wait between a request's last byte and the response's first."""

from __future__ import annotations

import pytest

from proto.columns import RESPONSE_TIME_BUCKETS, RESPONSE_TIME_FIRST_BOUND_NS
from tests.support.packets.pcap import ACK, SECOND, START, Conversation, Frame, ethernet, ip, udp
from tests.support.packets.replayed import replay_frames

MS = 1_000_000


def test_only_the_servers_wait_is_counted(tmp_path):
    """Two exchanges over one connection: a request in two segments, a response in two, and think time between them."""
    talk = Conversation().handshake()
    talk.tcp(1.000, "client", ACK, seq=1001, ack=5001, payload=b"GET ")
    talk.tcp(1.010, "client", ACK, seq=1005, ack=5001, payload=b"/ 1.1")
    talk.tcp(1.020, "server", ACK, seq=5001, ack=1010)
    talk.tcp(1.050, "server", ACK, seq=5001, ack=1010, payload=b"200 ")
    talk.tcp(1.200, "server", ACK, seq=5005, ack=1010, payload=b"body")
    talk.tcp(3.000, "client", ACK, seq=1010, ack=5009, payload=b"GET /2")
    talk.tcp(3.100, "server", ACK, seq=5009, ack=1016, payload=b"404")
    record = replay_frames(tmp_path, talk.frames).only
    assert record["responses"] == 2
    assert record["response_time_sum_ns"] == 140 * MS
    assert record["response_time_max_ns"] == 100 * MS
    assert sum(record["response_time_histogram"]) == 2
    assert record["response_time_histogram"][11] == record["response_time_histogram"][12] == 1


def test_a_greeting_is_no_response(tmp_path):
    """What the server says first, and what it repeats, answers nothing; a repeated request is asked once."""
    talk = Conversation().handshake()
    talk.tcp(1.0, "server", ACK, seq=5001, ack=1001, payload=b"220 hi")
    talk.tcp(2.0, "client", ACK, seq=1001, ack=5007, payload=b"EHLO")
    talk.tcp(2.3, "client", ACK, seq=1001, ack=5007, payload=b"EHLO")
    talk.tcp(2.35, "server", ACK, seq=5001, ack=1005, payload=b"220 hi")
    talk.tcp(2.4, "server", ACK, seq=5007, ack=1005, payload=b"250")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["responses"], record["response_time_sum_ns"]) == (1, 400 * MS)
    assert (record["tx_retransmits"], record["rx_retransmits"]) == (1, 1)


@pytest.mark.parametrize(
    ("wait_ns", "bucket"),
    [
        (0, 0),
        (15_999, 0),
        (31_999, 0),
        *((16_000 * 2**i, i) for i in range(RESPONSE_TIME_BUCKETS)),
        *((16_000 * 2 ** (i + 1) - 1, i) for i in range(RESPONSE_TIME_BUCKETS - 1)),
        (RESPONSE_TIME_FIRST_BOUND_NS, 1),
        (16_000 * 2**20, 19),
        (29 * SECOND, 19),
    ],
)
def test_a_wait_falls_into_its_bucket(tmp_path, wait_ns, bucket):
    """Bucket i counts [16 us * 2**i, 16 us * 2**(i+1)); the ends are open."""

    def datagram(time_ns, source, destination, *ports):
        return Frame(time_ns, ethernet(ip(source, destination, 17, udp(*ports, b"x"))))

    frames = [
        datagram(START, "10.0.0.1", "10.0.0.2", 40000, 9),
        datagram(START + wait_ns, "10.0.0.2", "10.0.0.1", 9, 40000),
    ]
    record = replay_frames(tmp_path, frames).only
    assert record["response_time_histogram"] == [int(i == bucket) for i in range(RESPONSE_TIME_BUCKETS)]
    assert record["response_time_max_ns"] == wait_ns


def test_a_clock_that_goes_back_gives_no_wait_and_no_negative_time(tmp_path):
    """Captures hold packets out of time order; start and end are the earliest and the latest."""
    talk = Conversation().udp(1, "client", b"q").udp(0.5, "server", b"a")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["responses"], record["response_time_sum_ns"]) == (1, 0)
    assert (record["start_unix_ns"], record["end_unix_ns"]) == (START + SECOND // 2, START + SECOND)
