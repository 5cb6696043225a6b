"""What the path and the ends did to a connection's packets, each measure by its definition in docs/metrics.md."""

from __future__ import annotations

import pytest

from tests.support.packets.pcap import ACK, FIN, PSH, RST, SECOND, START, SYN, Conversation, Frame, ethernet, icmp, ip, udp
from tests.support.packets.replayed import replay_frames

MS = 1_000_000


def talk(rtt=0.010):
    """A connection whose handshake is done."""
    return Conversation().handshake(rtt=rtt)


def data(conversation, seconds, offset, size=100, **more):
    """Client payload at `offset` of its stream."""
    return conversation.tcp(seconds, "client", PSH | ACK, seq=1001 + offset, ack=5001, payload=bytes(size), **more)


def acknowledged(conversation, seconds, offset, **more):
    """A server's pure ACK of the client's stream up to `offset`."""
    return conversation.tcp(seconds, "server", ACK, seq=5001, ack=1001 + offset, **more)


def test_an_overtaken_segment_is_out_of_order(tmp_path):
    """It comes within the first round trip behind the highest byte: nothing was sent again."""
    frames = data(data(data(talk(), 1, 0), 1.001, 200), 1.002, 100).frames
    record = replay_frames(tmp_path, frames).only
    assert (record["tx_out_of_order"], record["tx_retransmits"]) == (1, 0)


def test_a_late_segment_was_sent_again(tmp_path):
    """It comes more than a round trip behind the highest byte; only what was seen before counts as bytes."""
    frames = data(data(data(data(talk(), 1, 0), 1.001, 100), 1.002, 200), 1.2, 100, size=150).frames
    record = replay_frames(tmp_path, frames).only
    assert (record["tx_out_of_order"], record["tx_retransmits"], record["tx_retransmit_bytes"]) == (0, 1, 150)
    record = replay_frames(tmp_path, data(data(talk(), 1, 0), 1.5, 50).frames).only
    assert (record["tx_retransmits"], record["tx_retransmit_bytes"]) == (1, 50)


def test_a_lost_syn_does_not_stretch_the_round_trip(tmp_path):
    """The last SYN counts, so that what comes 100 ms late is no reordering although the connect took a second."""
    conversation = Conversation().tcp(0, "client", SYN, seq=1000).handshake(1, rtt=0.010)
    frames = data(data(data(conversation, 2, 0), 2.001, 200), 2.1, 100).frames
    record = replay_frames(tmp_path, frames).only
    assert (record["tx_out_of_order"], record["tx_retransmits"]) == (0, 1)


def test_two_duplicate_acks_ask_for_a_retransmission(tmp_path):
    """A fast retransmission comes within a round trip, and is one all the same (RFC 5681 3.2)."""
    conversation = data(data(data(talk(rtt=0.050), 1, 0), 1.001, 200), 1.002, 300)
    for step in range(3):
        acknowledged(conversation, 1.010 + step / 1000, 100)
    record = replay_frames(tmp_path, data(conversation, 1.013, 100).frames).only
    assert (record["tx_out_of_order"], record["tx_retransmits"]) == (0, 1)
    assert (record["tx_duplicate_acks"], record["rx_duplicate_acks"]) == (0, 2)


def test_what_was_acknowledged_is_sent_in_vain(tmp_path):
    """A segment that repeats acknowledged bytes is a spurious retransmission too, however soon it comes."""
    conversation = acknowledged(data(data(talk(), 1, 0), 1.0001, 100), 1.0002, 200)
    record = replay_frames(tmp_path, data(conversation, 1.0003, 0).frames).only
    assert (record["tx_out_of_order"], record["tx_retransmits"], record["tx_spurious_retransmits"]) == (0, 1, 1)


def test_an_ack_is_no_duplicate_while_nothing_is_outstanding(tmp_path):
    """RFC 5681 2: outstanding data, and the same window."""
    conversation = acknowledged(acknowledged(data(talk(), 1, 0), 1.01, 100), 1.02, 100)
    data(conversation, 1.03, 100)
    acknowledged(conversation, 1.04, 100, window=1000)
    assert replay_frames(tmp_path, conversation.frames).only["rx_duplicate_acks"] == 0


def test_keep_alives_stand_apart(tmp_path):
    """Probes with a byte and without count as keep-alives, not as retransmissions."""
    conversation = acknowledged(data(talk(), 1, 0), 1.01, 100)
    for second in (10, 20):
        data(conversation, second, 99, size=0)
        data(conversation, second + 1, 99, size=1)
    record = replay_frames(tmp_path, conversation.frames).only
    assert (record["tx_keep_alives"], record["rx_keep_alives"], record["tx_retransmits"]) == (4, 0, 0)


def test_a_closed_window_and_a_probe_into_it(tmp_path):
    """Who cannot take more says so; the byte sent to probe is as good as not sent, and what follows repeats nothing."""
    conversation = acknowledged(data(talk(), 1, 0), 1.01, 100, window=0)
    data(conversation, 2, 100, size=1)
    acknowledged(conversation, 2.01, 100, window=0)
    acknowledged(conversation, 3, 100, window=500)
    record = replay_frames(tmp_path, data(conversation, 3.01, 100).frames).only
    assert (record["tx_zero_windows"], record["rx_zero_windows"], record["tx_retransmits"]) == (0, 2, 0)
    assert (record["tx_zero_window_probes"], record["rx_zero_window_probes"], record["tx_keep_alives"]) == (1, 0, 0)


def test_linuxs_probe_of_a_closed_window_is_no_keep_alive(tmp_path):
    """It looks like one, a segment without payload one below the highest byte; the window that it finds closed tells."""
    conversation = acknowledged(data(talk(), 1, 0), 1.01, 100, window=0)
    for second in (2, 3, 5):
        data(conversation, second, 99, size=0)
        acknowledged(conversation, second + 0.01, 100, window=0)
    acknowledged(conversation, 6, 100, window=500)
    record = replay_frames(tmp_path, data(conversation, 20, 99, size=0).frames).only
    assert (record["tx_zero_window_probes"], record["tx_keep_alives"], record["rx_zero_windows"]) == (3, 1, 4)


@pytest.mark.parametrize(("option", "window"), [(b"", 300), (b"\1\3\3\1", 150)])
def test_a_segment_that_fills_the_window(tmp_path, option, window):
    """With the scale that both SYNs offered (RFC 7323 2.2), and without."""
    conversation = Conversation().tcp(0, "client", SYN, seq=1000, options=option)
    conversation.tcp(0.005, "server", SYN | ACK, seq=5000, ack=1001, options=option)
    conversation.tcp(0.010, "client", ACK, seq=1001, ack=5001)
    acknowledged(conversation, 0.9, 0, window=window)
    for step in range(3):
        data(conversation, 1 + step / 1000, step * 100)
    record = replay_frames(tmp_path, conversation.frames).only
    assert (record["tx_window_full"], record["rx_window_full"]) == (1, 0)


def test_round_trips_leave_out_what_was_sent_again(tmp_path):
    """One segment at a time, from its first sending to the ACK that covers it; none where it was sent twice (Karn)."""
    conversation = acknowledged(data(talk(), 1, 0), 1.020, 100)
    acknowledged(data(conversation, 2, 100), 2.040, 200)
    acknowledged(data(data(conversation, 3, 200), 3.5, 200), 3.51, 300)
    record = replay_frames(tmp_path, conversation.frames).only
    assert (record["tx_rtt_samples"], record["tx_rtt_sum_ns"]) == (2, 60 * MS)
    assert (record["tx_rtt_min_ns"], record["tx_rtt_max_ns"], record["rx_rtt_samples"]) == (20 * MS, 40 * MS, 0)


def test_transfer_times_of_request_and_response(tmp_path):
    """First byte to last of each; the wait between them is in neither."""
    conversation = talk()
    data(conversation, 1, 0)
    data(conversation, 1.004, 100)
    for step in range(3):
        conversation.tcp(2 + step / 100, "server", ACK, seq=5001 + step * 10, ack=1201, payload=bytes(10))
    conversation.tcp(3, "client", PSH | ACK, seq=1201, ack=5031, payload=b"more")
    record = replay_frames(tmp_path, conversation.frames).only
    assert (record["request_transfer_sum_ns"], record["request_transfer_max_ns"]) == (4 * MS, 4 * MS)
    assert (record["response_transfer_sum_ns"], record["response_transfer_max_ns"]) == (20 * MS, 20 * MS)
    assert (record["responses"], record["response_time_sum_ns"], record["request_waits"]) == (1, 996 * MS, 1)


def test_fins_and_resets_by_side(tmp_path):
    """How often each end said so."""
    conversation = talk().tcp(1, "client", FIN | ACK, seq=1001, ack=5001).tcp(2, "client", FIN | ACK, seq=1001, ack=5001)
    record = replay_frames(tmp_path, conversation.tcp(3, "server", RST, seq=5001).frames).only
    assert (record["tx_fins"], record["rx_fins"], record["tx_resets"], record["rx_resets"]) == (2, 0, 0, 1)


def test_what_the_ip_headers_say(tmp_path):
    """DSCP, ECN and TTL of the first packet each way, and every mark of congestion."""

    def marked(seconds, source, destination, traffic_class, ttl):
        packet = bytearray(
            ip(source, destination, 17, udp(40000 if source[-1] == "1" else 53, 53 if source[-1] == "1" else 40000))
        )
        packet[1], packet[8] = traffic_class, ttl
        return Frame(START + seconds * SECOND, ethernet(bytes(packet)))

    one, two = "10.0.0.1", "10.0.0.2"
    frames = [
        marked(0, one, two, 0xB8, 64),
        marked(1, two, one, 2, 60),
        marked(2, one, two, 3, 63),
        marked(3, one, two, 0xBB, 63),
    ]
    record = replay_frames(tmp_path, frames).only
    assert (record["tx_traffic_class"], record["tx_hop_limit"], record["tx_ecn_ce"]) == (0xB8, 64, 2)
    assert (record["rx_traffic_class"], record["rx_hop_limit"], record["rx_ecn_ce"]) == (2, 60, 0)


@pytest.mark.parametrize(("addresses", "message"), [
    (("10.0.0.1", "10.0.0.2"), (1, 3, 3)),
    (("2001:db8::1", "2001:db8::2"), (58, 1, 4)),
])  # fmt: skip
def test_an_icmp_error_is_noted_on_the_flow_it_quotes(tmp_path, addresses, message):
    """Port unreachable from a router: on the datagram's flow, and a flow of its own, so that totals add up."""
    protocol, kind, code = message
    asked = ip(*addresses, 17, udp(40000, 53, b"?"))
    router = "10.9.9.9" if protocol == 1 else "2001:db8::9"
    error = ip(router, addresses[0], protocol, icmp(kind, code, payload=asked[:48]))
    frames = [Frame(START, ethernet(asked)), Frame(START + SECOND, ethernet(error))]
    quoted, own = replay_frames(tmp_path, frames).records
    assert (quoted["icmp_errors"], quoted["icmp_error_type"], quoted["icmp_error_code"]) == (1, kind, code)
    assert (own["transport"], own["icmp_errors"]) == (protocol, 0)
