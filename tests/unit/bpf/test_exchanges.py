"""Response times: the server's wait between a request's last byte and the response's first."""

from __future__ import annotations

import pytest

from proto.columns import RESPONSE_TIME_BUCKETS, RESPONSE_TIME_FIRST_BOUND_NS, Role
from tests.support.packets.pcap import ACK, SECOND, START, Conversation, Frame, ethernet, icmp, ip, udp
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


def test_a_datagram_is_answered_by_the_first_reply(tmp_path):
    """UDP: request to first reply; the sender of the first datagram is the client."""
    talk = Conversation(server_port=53)
    talk.udp(0, "client", b"q").udp(0.007, "server", b"a").udp(0.008, "server", b"more")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["responses"], record["response_time_sum_ns"]) == (Role.CLIENT, 1, 7 * MS)


@pytest.mark.parametrize(("client", "server", "request_type", "reply_type"), [
    ("10.0.0.1", "10.0.0.2", 8, 0),
    ("2001:db8::1", "2001:db8::2", 128, 129),
])  # fmt: skip
def test_an_echo_and_its_reply_are_one_flow(tmp_path, client, server, request_type, reply_type):
    """Ping: the identifier stands for the ports, the requester is the client, each reply a response."""
    talk = Conversation(client, server)
    for second in (0, 1):
        talk.icmp(second, "client", icmp(request_type, identifier=77, sequence=second))
        talk.icmp(second + 0.02, "server", icmp(reply_type, identifier=77, sequence=second))
    talk.icmp(1.5, "client", icmp(request_type, identifier=78))
    first, second = replay_frames(tmp_path, talk.frames).records
    assert (first["local_port"], first["remote_port"], first["role"]) == (77, 77, Role.CLIENT)
    assert (first["responses"], first["response_time_sum_ns"], first["icmp_type"]) == (2, 40 * MS, request_type)
    assert second["local_port"] == 78


def test_a_reply_seen_first_knows_its_requester(tmp_path):
    """An echo reply without its request: local is who asked."""
    talk = Conversation().icmp(0, "server", icmp(0, identifier=5)).icmp(1, "client", icmp(8, identifier=5))
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["role"], record["local_address"][-1], record["tx_packets"], record["rx_packets"]) == (Role.CLIENT, 1, 1, 1)


def test_an_icmp_error_is_a_flow_of_its_kind(tmp_path):
    """Errors have no ports and no role; type and code keep them apart."""
    talk = Conversation().icmp(0, "client", icmp(3, 1)).icmp(1, "client", icmp(3, 3)).icmp(2, "client", icmp(3, 3))
    first, second = replay_frames(tmp_path, talk.frames).records
    assert [(record["icmp_type"], record["icmp_code"], record["tx_packets"]) for record in (first, second)] == [
        (3, 1, 1),
        (3, 3, 2),
    ]
    assert (first["role"], first["local_port"]) == (Role.UNKNOWN, 0)


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

    def datagram(time_ns, source, destination):
        return Frame(time_ns, ethernet(ip(source, destination, 17, udp(9, 9, b"x"))))

    frames = [datagram(START, "10.0.0.1", "10.0.0.2"), datagram(START + wait_ns, "10.0.0.2", "10.0.0.1")]
    record = replay_frames(tmp_path, frames).only
    assert record["response_time_histogram"] == [int(i == bucket) for i in range(RESPONSE_TIME_BUCKETS)]
    assert record["response_time_max_ns"] == wait_ns


def test_a_clock_that_goes_back_gives_no_wait_and_no_negative_time(tmp_path):
    """Captures hold packets out of time order; start and end are the earliest and the latest."""
    talk = Conversation().udp(1, "client", b"q").udp(0.5, "server", b"a")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["responses"], record["response_time_sum_ns"]) == (1, 0)
    assert (record["start_unix_ns"], record["end_unix_ns"]) == (START + SECOND // 2, START + SECOND)
