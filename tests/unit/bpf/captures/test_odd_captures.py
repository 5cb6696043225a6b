"""Captures as they come: clocks that run backwards, one direction only, protocols without ports, numbers that wrap."""

from __future__ import annotations

import random

import pytest

from proto.columns import End, Outcome, Role
from services.exporter.spans.facts import transport_name
from tests.support.packets.pcap import ACK, FIN, PSH, RST, SECOND, START, SYN, Conversation, Frame, ethernet, ip
from tests.support.packets.replayed import replay_frames

V4 = ("10.0.0.1", "10.0.0.2")
V6 = ("2001:db8::1", "2001:db8::2")


def whole(client_isn=1000, server_isn=5000):
    """A connection with an exchange and an end."""
    talk = Conversation().handshake(client_isn=client_isn, server_isn=server_isn)
    c, s = client_isn + 1, server_isn + 1
    talk.tcp(1, "client", PSH | ACK, seq=c, ack=s, payload=bytes(100))
    talk.tcp(1.5, "server", PSH | ACK, seq=s, ack=c + 100, payload=bytes(200))
    talk.tcp(2, "client", FIN | ACK, seq=c + 100, ack=s + 200)
    talk.tcp(2.1, "server", FIN | ACK, seq=s + 200, ack=c + 101)
    return talk.tcp(2.2, "client", ACK, seq=c + 101, ack=s + 201)


def test_a_clock_that_is_set_back_amid_a_connection(tmp_path):
    """An hour back between request and response: one flow, every packet in it, and no time is negative or immense."""
    frames = whole().frames
    back = [Frame(frame.time_ns - 3600 * SECOND, frame.data) for frame in frames[4:]]
    record = replay_frames(tmp_path, frames[:4] + back).only
    assert (record["tx_packets"], record["rx_packets"], record["outcome"]) == (5, 3, Outcome.CLOSED)
    assert (record["responses"], record["response_time_sum_ns"], record["response_time_max_ns"]) == (1, 0, 0)
    assert record["start_unix_ns"] == record["flow_start_unix_ns"] == START - 3600 * SECOND + 1_500_000_000
    assert record["end_unix_ns"] == START + SECOND
    assert (record["tx_rtt_samples"], record["rx_rtt_samples"]) == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_file_whose_packets_stand_in_any_order_of_time(tmp_path, seed):
    """Times that are drawn by lot: all is counted, every record ends after it begins, and no duration is beyond the file's."""
    random_ = random.Random(seed)
    frames = [Frame(START + random_.randrange(20 * SECOND), frame.data) for frame in whole().frames * 3]
    replayed = replay_frames(tmp_path, frames)
    assert replayed.total("packets") == len(frames)
    for record in replayed.records:
        assert START <= record["start_unix_ns"] <= record["end_unix_ns"] < START + 20 * SECOND
        for name in (
            "response_time_max_ns",
            "request_transfer_sum_ns",
            "response_transfer_sum_ns",
            "tx_rtt_max_ns",
            "rx_rtt_max_ns",
        ):
            assert record[name] < 20 * SECOND


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize(("protocol", "name"), [(2, "igmp"), (50, "esp"), (89, "ip_protocol_89"), (253, "ip_protocol_253")])
def test_protocols_without_ports_are_counted_by_what_they_are(tmp_path, protocol, name, addresses):
    """One flow between two addresses, of the protocol's own number and name."""
    there, back = (ethernet(ip(*ends, protocol, bytes(40))) for ends in (addresses, addresses[::-1]))
    record = replay_frames(tmp_path, [Frame(START, there), Frame(START + 1, back)]).only
    assert (record["transport"], transport_name(record["transport"]), record["role"]) == (protocol, name, Role.UNKNOWN)
    assert (record["local_port"], record["tx_payload_bytes"], record["rx_payload_bytes"]) == (0, 40, 40)


def test_authentication_headers_in_ipv4_are_a_flow_of_their_own(tmp_path):
    """In IPv4 AH is a protocol; in IPv6 it is an extension header, and the transport behind it counts."""
    header = bytes([17, 4]) + bytes(22) + bytes(16)
    record = replay_frames(tmp_path, [Frame(START, ethernet(ip(*V4, 51, header)))]).only
    assert (record["transport"], transport_name(51), record["tx_payload_bytes"]) == (51, "ah", 40)


@pytest.mark.parametrize("isns", [(2**32 - 1, 2**32 - 1), (2**32 - 50, 2**32 - 150), (2**31 - 50, 2**31 - 150)])
def test_sequence_numbers_that_wrap(tmp_path, isns):
    """Handshake, exchange and end are the same wherever the numbers begin."""
    plain, wrapped = (replay_frames(tmp_path, whole(*numbers).frames).only for numbers in ((1000, 5000), isns))
    assert wrapped | {"local_isn": 1000, "remote_isn": 5000} == plain


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_capture_of_one_direction(tmp_path, side):
    """Only one end's packets pass: its bytes, the role its SYN tells, established once it says so, and no wait is invented."""
    source = bytes([10, 0, 0, 1 if side == "client" else 2])
    record = replay_frames(tmp_path, [frame for frame in whole().frames if frame.data[26:30] == source]).only
    sent, unseen = ("tx", "rx") if side == "client" else ("rx", "tx")
    assert (record["role"], record["local_port"], record[f"{unseen}_packets"]) == (Role.CLIENT, 40000, 0)
    assert (record[f"{sent}_payload_bytes"], record["responses"], record["isn_seen"]) == (
        (100, 0, 1) if side == "client" else (200, 0, 2)
    )
    assert (record["handshake_ack_unix_ns"], record["tx_retransmits"], record["rx_retransmits"]) == (0, 0, 0)
    assert record["closed_by"] == (End.LOCAL if side == "client" else End.REMOTE)


def test_ports_are_used_again_at_once(tmp_path):
    """Three connections on the same ports, the last after a reset: three flows with their own outcomes and bytes."""
    frames = whole().frames
    again = Conversation().handshake(3, client_isn=90_000, server_isn=80_000).tcp(3.5, "client", RST, seq=90_001)
    last = Conversation().handshake(4, client_isn=190_000, server_isn=180_000)
    records = replay_frames(tmp_path, frames + again.frames + last.frames).records
    assert [record["outcome"] for record in records] == [Outcome.CLOSED, Outcome.RESET, Outcome.ESTABLISHED]
    assert [record["tx_packets"] for record in records] == [5, 3, 2]


def test_a_half_closed_connection_goes_on_in_one_direction(tmp_path):
    """What comes after the client's FIN is the server's, and the flow closes with the second FIN."""
    talk = Conversation().handshake().tcp(1, "client", FIN | ACK, seq=1001, ack=5001)
    for step in range(5):
        talk.tcp(1.1 + step, "server", ACK, seq=5001 + step * 10, ack=1002, payload=bytes(10))
    talk.tcp(7, "server", FIN | ACK, seq=5051, ack=1002).tcp(7.1, "client", ACK, seq=1002, ack=5052)
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["outcome"], record["closed_by"], record["rx_payload_bytes"]) == (Outcome.CLOSED, End.LOCAL, 50)


def test_a_syn_with_payload_is_no_retransmission(tmp_path):
    """TCP Fast Open (RFC 7413): data in the SYN counts once, and what follows it is new."""
    talk = Conversation().tcp(0, "client", SYN, seq=1000, payload=b"early").tcp(0.01, "server", SYN | ACK, seq=5000, ack=1006)
    talk.tcp(0.02, "client", PSH | ACK, seq=1006, ack=5001, payload=b"more")
    record = replay_frames(tmp_path, talk.frames).only
    assert (record["tx_payload_bytes"], record["tx_retransmits"], record["outcome"]) == (9, 0, Outcome.ESTABLISHED)
