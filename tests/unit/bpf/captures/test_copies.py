"""Packets that a capture has several times, from several points of their way: counted once, and repetitions still are."""

from __future__ import annotations

import struct

import pytest

from proto.columns import Outcome, Tunnel
from tests.support.packets import pcap
from tests.support.packets.pcap import ACK, FIN, PSH, START, SYN, Conversation, Frame, ethernet, ip, tcp, udp, vxlan
from tests.support.packets.replayed import replay_files

MICROSECOND = 1000
TRACED = f"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{'4b' * 16}-{'f0' * 8}-01\r\n\r\n".encode()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 960\r\n\r\n".ljust(1000, b"x")
ENDS = ("192.0.2.1", "192.0.2.2")


def talk(client="10.0.0.1", server="10.0.0.2", **ports):
    """A connection with a request, a response of two segments, of which the second comes again, and an end."""
    talk = Conversation(client, server, **ports).handshake()
    talk.tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=TRACED)
    end = 1001 + len(TRACED)
    talk.tcp(1.1, "server", ACK, seq=5001, ack=end, payload=RESPONSE[:500])
    for seconds in (1.2, 1.5):
        talk.tcp(seconds, "server", ACK, seq=5501, ack=end, payload=RESPONSE[500:])
    talk.tcp(1.6, "client", ACK, seq=end, ack=6001)
    talk.tcp(2, "client", FIN | ACK, seq=end, ack=6001).tcp(2.1, "server", FIN | ACK, seq=6001, ack=end + 1)
    return talk.tcp(2.2, "client", ACK, seq=end + 1, ack=6002).frames


def numbered(frames):
    """The same with an identification for each IPv4 packet, as Linux gives them."""
    return [
        Frame(frame.time_ns, frame.data[:18] + struct.pack("!H", 100 + number) + frame.data[20:])
        for number, frame in enumerate(frames)
    ]


def cooked(frame, interface, way, later=0):
    """A packet as `tcpdump -i any` has it: SLL2, with the interface and whether it came in (0) or went out (4)."""
    packet = frame.data[14:]
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    head = struct.pack("!HHIHBB8s", kind, 0, interface, 1, way, 6, bytes(8))
    return Frame(frame.time_ns + later * MICROSECOND, head + packet)


def replay(folder, frames, link_type=pcap.ETHERNET, **how):
    """Replay frames in the order of their times."""
    path = pcap.write(folder / "copies.pcap", sorted(frames, key=lambda frame: frame.time_ns), link_type=link_type)
    return replay_files([path], **how)


def without(record, *names):
    """The record without what tells of copies and of other tunnels."""
    return {name: value for name, value in record.items() if name not in {"tx_copies", "rx_copies", *names}}


@pytest.mark.parametrize("ends", [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")])
@pytest.mark.parametrize("points", [2, 5])
def test_all_interfaces_of_a_node(tmp_path, ends, points):
    """Each packet at a pod's interface, a bridge and so on: the record of one interface, whatever the IP version, and how many
    copies there were. A segment that was sent again is, also where its packet has nothing that tells it from the first.
    """
    frames = talk(*ends)
    plain = replay(tmp_path, [cooked(frame, 1, 0) for frame in frames], pcap.SLL2).only
    seen = [cooked(frame, 1 + point, 4 if point % 2 else 0, later=point) for frame in frames for point in range(points)]
    found = replay(tmp_path, seen, pcap.SLL2)
    assert without(found.only) == without(plain)
    assert (plain["rx_retransmits"], plain["tx_packets"], plain["rx_packets"]) == (1, 6, 5)
    assert (found.only["tx_copies"], found.only["rx_copies"]) == (6 * (points - 1), 5 * (points - 1))
    assert found.counters["copy_packets"] == 11 * (points - 1)


@pytest.mark.parametrize("interfaces", [1, 2])
def test_interfaces_of_one_pcapng_file(tmp_path, interfaces):
    """Packets of interfaces that a file describes are at points of their own; of one interface nobody can tell."""
    frames = [
        Frame(frame.time_ns + number * MICROSECOND, frame.data, interface=number % interfaces)
        for frame in talk()
        for number in range(2)
    ]
    path = tmp_path / "two.pcapng"
    path.write_bytes(pcap.pcapng_file(frames, interfaces=[pcap.Interface()] * interfaces))
    assert replay_files([path]).counters["copy_packets"] == (11 if interfaces == 2 else 0)


@pytest.mark.parametrize("later", [0, 5, 900])
def test_a_mirrored_port_tells_copies_by_the_identification(tmp_path, later):
    """Byte for byte the same, and the same identification: a copy; one that was sent again has another."""
    frames = numbered(talk())
    copies = [Frame(frame.time_ns + later * MICROSECOND, frame.data) for frame in frames]
    found = replay(tmp_path, [frame for pair in zip(frames, copies, strict=True) for frame in pair])
    assert (found.counters["copy_packets"], found.only["rx_retransmits"], found.only["outcome"]) == (11, 1, Outcome.CLOSED)


def test_both_sides_of_a_router(tmp_path):
    """The hop limit is one less behind it, and no identification is needed."""
    frames = talk()
    behind = [Frame(f.time_ns + 30, f.data[:22] + bytes([f.data[22] - 1]) + f.data[23:]) for f in frames]
    found = replay(tmp_path, frames + behind)
    assert (found.counters["copy_packets"], found.only["rx_retransmits"], found.only["tx_hop_limit"]) == (11, 1, 64)


@pytest.mark.parametrize("identification", [0, 7])
def test_what_is_sent_again_at_one_point_is_no_copy(tmp_path, identification):
    """Without an identification of their own (0, or always the same) packets that are alike are repetitions, however close."""
    head = ip("10.0.0.1", "10.0.0.2", 17, udp(1000, 8125, b"page:1|c"), identification=identification)
    other = ip("10.0.0.1", "10.0.0.2", 17, udp(1000, 8125, b"hits:1|c"), identification=identification)
    frames = [Frame(START + number * MICROSECOND, ethernet(packet)) for number, packet in enumerate([other, *[head] * 600])]
    found = replay(tmp_path, frames)
    assert (found.only["tx_packets"], found.counters["copy_packets"]) == (601, 0)
    at_two = [cooked(frame, point, 0, later=0) for frame in frames for point in (1, 2)]
    found = replay(tmp_path, at_two, pcap.SLL2)
    assert (found.only["tx_packets"], found.only["tx_copies"]) == (601, 601)


def test_repetitions_that_overtake_their_copies(tmp_path):
    """Of packets alike as many count as one point saw, in whatever order the points saw them."""
    (question,) = Conversation("2001:db8::1", "2001:db8::2").udp(0, "client", b"?").frames
    for order in ("1122", "1212", "1221", "2112", "11122"):
        frames = [cooked(question, int(point), 0, later=later) for later, point in enumerate(order)]
        assert replay(tmp_path, frames, pcap.SLL2).only["tx_packets"] == max(order.count("1"), order.count("2"))


def test_the_same_datagram_much_later_is_another(tmp_path):
    """Nothing is on its way for so long."""
    (question,) = Conversation().udp(0, "client", b"?").frames
    frames = [cooked(question, 1, 0), cooked(question, 2, 0, later=400_000)]
    assert replay(tmp_path, frames, pcap.SLL2).only["tx_packets"] == 2


@pytest.mark.parametrize("first", ["one", "many"])
def test_segments_that_offloading_cuts_or_joins_on_the_way(tmp_path, first):
    """One segment of 3,000 bytes at a pod's interface, three of 1,000 at the node's, or the other way: counted at the first."""
    head = Conversation().handshake().frames
    one = Conversation().tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=bytes(3000)).frames
    many = Conversation()
    for part in range(3):
        many.tcp(1, "client", ACK, seq=1001 + part * 1000, ack=5001, payload=bytes(1000))
    pieces = (one, many.frames) if first == "one" else (many.frames, one)
    frames = [cooked(frame, point, 0, later=point) for frame in head for point in (1, 2)]
    frames += [cooked(frame, point, 0, later=point) for point, piece in enumerate(pieces, start=1) for frame in piece]
    record = replay(tmp_path, frames, pcap.SLL2).only
    assert (record["tx_retransmits"], record["tx_payload_bytes"], record["tx_out_of_order"]) == (0, 3000, 0)
    assert record["tx_packets"] == 2 + len(pieces[0])


@pytest.mark.parametrize("from_node", [True, False], ids=["pod asks", "pod is asked"])
def test_in_a_tunnel_and_out_of_it(tmp_path, from_node):
    """An overlay's node sees a pod's packets bare at the pod's interface and in VXLAN at its own: one flow, whoever began."""
    frames = talk()
    seen = []
    for frame in frames:
        outgoing = (frame.data[26:30] == bytes([10, 0, 0, 1])) == from_node
        bare = cooked(frame, 1, 0)
        outer = Frame(0, bytes(14) + ip(*(ENDS if outgoing else ENDS[::-1]), 17, vxlan(7, frame.data)))
        wrapped = cooked(Frame(frame.time_ns, outer.data), 2, 4)
        order = (bare, wrapped) if outgoing else (wrapped, bare)
        seen += [Frame(each.time_ns + place * MICROSECOND, each.data) for place, each in enumerate(order)]
    record = replay(tmp_path, seen, pcap.SLL2).only
    assert (record["tx_packets"], record["rx_packets"], record["tx_copies"], record["rx_copies"]) == (6, 5, 6, 5)
    assert (record["outcome"], record["rx_retransmits"]) == (Outcome.CLOSED, 1)
    assert record["tunnel"] == Tunnel.VXLAN


def test_both_sides_of_an_address_translation(tmp_path):
    """Two flows, of which the later one is marked; the exchange of an application's trace is told once."""
    before, behind = talk(server="10.96.0.10"), talk(server="10.0.0.2", server_port=8080)
    seen = []
    for one, other in zip(before, behind, strict=True):
        asked = one.data[26:30] == bytes([10, 0, 0, 1])
        order = (cooked(one, 1, 0), cooked(other, 2, 4)) if asked else (cooked(other, 2, 0), cooked(one, 1, 4))
        seen += [Frame(each.time_ns + place * MICROSECOND, each.data) for place, each in enumerate(order)]
    found = replay(tmp_path, seen, pcap.SLL2, trace_context=True)
    assert [(record["translated"], record["remote_port"]) for record in found.records] == [(0, 80), (1, 8080)]
    assert [record["rx_packets"] for record in found.records] == [5, 5]
    assert len(found.exchanges) == 1
    assert found.counters["requests_sampled"] == 1


def test_attempts_of_a_port_scan_are_not_each_others_translation(tmp_path):
    """Probes with the same sequence number, and what refuses them, are alike but for their ports."""
    frames = []
    for port in range(1, 100):
        scan = Conversation(server_port=port).tcp(port / 1000, "client", SYN, seq=7)
        frames += scan.tcp(port / 1000, "server", pcap.RST | ACK, seq=0, ack=8).frames
    seen = [cooked(frame, frame.data[-1] % 3 + number % 2, 0) for number, frame in enumerate(frames)]
    assert not any(record["translated"] for record in replay(tmp_path, seen, pcap.SLL2).records)


def test_fragments_at_two_points(tmp_path):
    """Later fragments too are counted once, and are no overlap."""
    whole = ip("10.0.0.1", "10.0.0.2", 17, udp(1000, 53, bytes(2000)), identification=9)
    pieces = []
    for offset in range(0, 2008, 1000):
        part = whole[20:][offset : offset + 1000]
        field = offset // 8 | (0x2000 if offset + 1000 < 2008 else 0)
        pieces.append(ip("10.0.0.1", "10.0.0.2", 17, part, fragment=field, identification=9))
    frames = [Frame(START + number * MICROSECOND, ethernet(piece)) for number, piece in enumerate(pieces)]
    seen = [cooked(frame, point, 0, later=0) for frame in frames for point in (1, 2)]
    found = replay(tmp_path, seen, pcap.SLL2)
    assert (found.only["tx_packets"], found.only["tx_overlapping_fragments"], found.only["tx_fragments"]) == (3, 0, 3)
    assert found.counters["copy_packets"] == 3


def test_a_clamped_segment_size_does_not_hide_a_copy(tmp_path):
    """A router may write another maximum segment size into a SYN; its checksum is the card's to fill in."""
    sizes = (struct.pack("!BBH", 2, 4, size) for size in (1460, 1400))
    one, other = (ip("10.0.0.1", "10.0.0.2", 6, tcp(40000, 80, SYN, seq=1, options=size)) for size in sizes)
    other = other[:36] + b"\x12\x34" + other[38:]
    frames = [cooked(Frame(START, ethernet(packet)), point, 0) for point, packet in enumerate((one, other))]
    record = replay(tmp_path, frames, pcap.SLL2).only
    assert (record["tx_packets"], record["tx_copies"], record["syn_repeats"]) == (1, 1, 0)
