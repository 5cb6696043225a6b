"""From bytes to packets: link layers, headers, fragments, and what is no flow."""

from __future__ import annotations

import struct

import pytest

from proto.columns import Role
from tests.support.packets import pcap
from tests.support.packets.pcap import (
    ACK,
    ETHERNET,
    IPV4,
    IPV6,
    LOOP,
    NULL,
    RAW,
    SECOND,
    SLL,
    SLL2,
    START,
    Frame,
    ethernet,
    ip,
    link,
    udp,
)
from tests.support.packets.replayed import check_totals, replay_files, replay_frames

V4 = ("10.0.0.1", "10.0.0.2")
V6 = ("2001:db8::1", "2001:db8::2")
QUESTION = udp(5000, 53, b"question")


def replayed(folder, *packets, **how):
    """Replay Ethernet frames, one a millisecond."""
    return replay_frames(folder, [Frame(START + 1_000_000 * i, data) for i, data in enumerate(packets)], **how)


@pytest.mark.parametrize("addresses", [V4, V6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("link_type", [ETHERNET, NULL, LOOP, RAW, 12, SLL, SLL2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", ["pcap", "pcap_us", "pcapng"])
def test_every_link_type_in_every_file_form(tmp_path, addresses, link_type, order, form):
    """The same packet is the same record, whatever it is wrapped in and whoever wrote the file."""
    frame = Frame(START + 123_456_789, link(link_type, ip(*addresses, 17, QUESTION), big_endian=order == ">"))
    path = tmp_path / "capture"
    if form == "pcapng":
        path.write_bytes(pcap.pcapng_file([frame], link_type=link_type, order=order))
    else:
        path.write_bytes(pcap.pcap_file([frame], link_type=link_type, order=order, nanoseconds=form == "pcap"))
    record = replay_files([path]).only
    assert record["tx_bytes"] == len(ip(*addresses, 17, QUESTION))
    assert (record["tx_payload_bytes"], record["local_port"], record["remote_port"]) == (8, 5000, 53)
    assert record["start_unix_ns"] == START + (123_456_000 if form == "pcap_us" else 123_456_789)


@pytest.mark.parametrize(("link_type", "addresses"), [(IPV4, V4), (IPV6, V6)])
def test_link_types_of_one_ip_version(tmp_path, link_type, addresses):
    """LINKTYPE_IPV4 and LINKTYPE_IPV6 are raw IP."""
    path = pcap.write(tmp_path / "raw", [Frame(START, ip(*addresses, 17, QUESTION))], link_type=link_type)
    assert replay_files([path]).only["tx_packets"] == 1


@pytest.mark.parametrize("family", [10, 24, 28, 30])
def test_loopback_families_of_every_system(tmp_path, family):
    """AF_INET6 has another number on each system."""
    path = pcap.write(tmp_path / "null", [Frame(START, struct.pack("<I", family) + ip(*V6, 17, QUESTION))], link_type=NULL)
    assert replay_files([path]).only["tx_packets"] == 1


@pytest.mark.parametrize("tags", [(0x8100,), (0x88A8, 0x8100), (0x9100, 0x8100, 0x8100)])
def test_vlan_tags_are_passed_over(tmp_path, tags):
    """One tag, QinQ, and more."""
    assert replayed(tmp_path, ethernet(ip(*V4, 17, QUESTION), tags=tags)).only["tx_bytes"] == 36


def test_a_pppoe_session_carries_ip(tmp_path):
    """PPPoE behind two VLAN tags, as access networks capture it."""
    packet = ip(*V4, 17, QUESTION)
    session = struct.pack("!BBHHH", 0x11, 0, 1, len(packet) + 2, 0x0021) + packet
    assert replayed(tmp_path, ethernet(session, ethertype=0x8864, tags=(0x8100, 0x8100))).only["tx_bytes"] == 36


def test_ipv4_options_belong_to_the_header(tmp_path):
    """A header with options: ports are read behind them, and they count as bytes, not as payload."""
    record = replayed(tmp_path, ethernet(ip(*V4, 17, QUESTION, options=b"\x94\x04\0\0"))).only
    assert (record["local_port"], record["tx_bytes"], record["tx_payload_bytes"]) == (5000, 40, 8)


def test_tcp_options_are_no_payload(tmp_path):
    """Payload begins behind the data offset."""
    segment = pcap.tcp(1, 2, ACK, options=bytes(12), payload=b"abc")
    assert replayed(tmp_path, ethernet(ip(*V4, 6, segment))).only["tx_payload_bytes"] == 3


def test_ipv6_extension_headers_are_passed_over(tmp_path):
    """Hop-by-hop, routing, destination options, authentication and an atomic fragment stand before the ports."""
    chain = bytes([43, 0]) + bytes(6) + bytes([60, 1]) + bytes(14) + bytes([51, 0]) + bytes(6)
    chain += bytes([44, 4]) + bytes(22) + bytes([17, 0]) + bytes(6)
    record = replayed(tmp_path, ethernet(ip(*V6, 0, QUESTION, extensions=chain))).only
    assert (record["transport"], record["local_port"], record["tx_payload_bytes"]) == (17, 5000, 8)
    assert record["tx_bytes"] == 40 + len(chain) + 16


@pytest.mark.parametrize(("protocol", "header_bytes"), [(132, 12), (33, 12), (136, 8)])
def test_other_transports_with_ports(tmp_path, protocol, header_bytes):
    """SCTP, DCCP and UDP-Lite have flows by port."""
    payload = struct.pack("!HH", 40000, 9) + bytes(header_bytes - 4) + b"data"
    record = replayed(tmp_path, ethernet(ip(*V4, protocol, payload))).only
    assert (record["local_port"], record["remote_port"], record["role"]) == (40000, 9, Role.CLIENT)
    assert (record["transport"], record["tx_payload_bytes"]) == (protocol, 4)


def test_a_protocol_without_ports_is_a_flow_between_addresses(tmp_path):
    """GRE, ESP and the like: ports 0, no role."""
    record = replayed(tmp_path, ethernet(ip(*V4, 47, b"tunnel")), ethernet(ip(*V4[::-1], 47, b"back"))).only
    assert (record["transport"], record["local_port"], record["role"]) == (47, 0, Role.UNKNOWN)
    assert (record["tx_payload_bytes"], record["rx_payload_bytes"]) == (6, 4)


def test_what_is_no_flow_is_counted_by_what_it_is(tmp_path):
    """ARP, other ethertypes, an unknown link: no record, a counter each, and the sum is the file."""
    counters = replayed(tmp_path, ethernet(bytes(28), ethertype=0x0806), ethernet(bytes(40), ethertype=0x88CC)).counters
    assert (counters["arp_packets"], counters["not_ip_packets"], counters["flow_packets"]) == (1, 1, 0)
    assert counters["arp_bytes"] == 42
    path = pcap.write(tmp_path / "wifi", [Frame(START, bytes(60))], link_type=105)
    assert replay_files([path]).counters["unknown_link_packets"] == 1


def test_a_short_capture_still_has_the_ip_length(tmp_path):
    """Cut to its headers by the capture's snapshot length, a packet counts what its IP header says."""
    whole = ethernet(ip(*V4, 6, pcap.tcp(1, 2, ACK, payload=bytes(1000))))
    record = replay_frames(tmp_path, [Frame(START, whole[:54], len(whole))]).only
    assert (record["tx_bytes"], record["tx_payload_bytes"]) == (1040, 1000)


@pytest.mark.parametrize("captured", [0, 5, 14, 33, 40, 53])
def test_cut_within_the_headers_is_truncated(tmp_path, captured):
    """Too little was captured to say which flow: counted, with all its bytes."""
    whole = ethernet(ip(*V4, 6, pcap.tcp(1, 2, ACK, payload=bytes(10))))
    counters = replay_frames(tmp_path, [Frame(START, whole[:captured], len(whole))]).counters
    assert (counters["truncated_packets"], counters["truncated_bytes"]) == (1, len(whole))


MALFORMED = {
    "longer than the wire": ip(*V4, 17, QUESTION, total=5000),
    "shorter than its header": ip(*V4, 17, QUESTION, total=19),
    "no room for ports": ip(*V4, 17, QUESTION, total=27),
    "header of three words": b"\x43" + ip(*V4, 17, QUESTION)[1:],
    "header beyond its length": b"\x4f" + ip(*V4, 17, QUESTION)[1:],
    "tcp offset too small": ip(*V4, 6, pcap.tcp(1, 2, ACK)[:12] + b"\x40" + bytes(7)),
    "tcp offset too large": ip(*V4, 6, pcap.tcp(1, 2, ACK)[:12] + b"\xf0" + bytes(7)),
    "udp longer than ip": ip(*V4, 17, udp(1, 2, b"abc", length=100)),
    "udp shorter than its header": ip(*V4, 17, udp(1, 2, b"abc", length=7)),
    "ipv6 longer than the wire": ip(*V6, 17, QUESTION, total=5000),
    "extension beyond its length": ip(*V6, 0, b"", extensions=bytes([17, 200]) + bytes(6)),
    "extensions without end": ip(*V6, 60, b"", extensions=(bytes([60, 0]) + bytes(6)) * 12),
    "wire ends in the header": ip(*V4, 17, QUESTION)[:12],
}


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED)
def test_a_lying_header_makes_no_flow(tmp_path, packet):
    """A packet that contradicts itself is counted as malformed."""
    ethertype = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    counters = replayed(tmp_path, ethernet(packet, ethertype=ethertype)).counters
    assert (counters["malformed_packets"], counters["flow_packets"]) == (1, 0)


def test_an_ethertype_of_the_other_version_is_malformed(tmp_path):
    """IPv6 announced, IPv4 delivered."""
    counters = replayed(tmp_path, ethernet(ip(*V4, 17, QUESTION), ethertype=0x86DD)).counters
    assert counters["malformed_packets"] == 1


@pytest.mark.parametrize("addresses", [V4, V6])
def test_a_length_of_zero_is_the_cards_to_fill_in(tmp_path, addresses):
    """Segmentation offload leaves the IP length 0: the wire's length counts."""
    packet = ip(*addresses, 6, pcap.tcp(1, 2, ACK, payload=bytes(3000)), total=0)
    assert replayed(tmp_path, ethernet(packet)).only["tx_bytes"] == len(packet)


def test_padding_of_short_frames_is_no_payload(tmp_path):
    """An Ethernet frame is at least 60 bytes; what fills it up is the link's."""
    replayed_ = replayed(tmp_path, ethernet(ip(*V4, 6, pcap.tcp(1, 2, ACK))) + bytes(6))
    assert (replayed_.only["tx_bytes"], replayed_.only["tx_payload_bytes"]) == (40, 0)
    assert replayed_.counters["link_bytes"] == 20


def fragments(identification=7, addresses=V4):
    """A datagram of 24 payload bytes in three fragments, whose last two look like other ports."""
    datagram = udp(5000, 53, bytes(16) + b"\x12\x34\x56\x78abcd")
    if ":" in addresses[0]:
        heads = [struct.pack("!BBHI", 17, 0, offset | more, identification) for offset, more in ((0, 1), (8, 1), (16, 0))]
        return [
            ethernet(ip(*addresses, 44, datagram[i * 8 : i * 8 + 8 + 8 * (i == 2)], extensions=head))
            for i, head in enumerate(heads)
        ]
    pieces = ((0x2000, 0, 8), (0x2001, 8, 16), (0x0002, 16, 32))
    return [ethernet(ip(*V4, 17, datagram[a:b], fragment=field, identification=identification)) for field, a, b in pieces]


@pytest.mark.parametrize("addresses", [V4, V6])
def test_fragments_count_into_their_datagrams_flow(tmp_path, addresses):
    """All fragments belong to the flow whose ports the first one has, and none makes a flow of its payload."""
    pieces = fragments(addresses=addresses)
    record = replayed(tmp_path, *pieces).only
    assert (record["tx_packets"], record["tx_payload_bytes"]) == (3, 24)
    assert record["tx_bytes"] == sum(len(piece) - 14 for piece in pieces)


def test_ipv6_fragments_with_an_extension_header_behind(tmp_path):
    """The fragmentable part may begin with an extension header: the next-header fields differ from the transport."""
    part = bytes([17, 0]) + bytes(6) + udp(5000, 53, bytes(16))
    heads = [struct.pack("!BBHI", 60, 0, 1, 5), struct.pack("!BBHI", 17, 0, 16, 5)]
    pieces = [ip(*V6, 44, part[:16], extensions=heads[0]), ip(*V6, 44, part[16:], extensions=heads[1])]
    record = replayed(tmp_path, *map(ethernet, pieces)).only
    assert (record["transport"], record["tx_packets"], record["tx_payload_bytes"]) == (17, 2, 16)


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (2, 0, 1), (1, 0, 2)])
def test_fragments_in_any_order_are_their_datagrams(tmp_path, addresses, order):
    """Those that come before the first are held until it says whose they are (old stacks send the last one first)."""
    pieces = fragments(addresses=addresses)
    replayed_ = replayed(tmp_path, *(pieces[at] for at in order))
    record = replayed_.only
    assert (record["tx_packets"], record["tx_payload_bytes"], record["tx_fragments"]) == (3, 24, 3)
    assert (record["tx_overlapping_fragments"], record["tx_incomplete_datagrams"]) == (0, 0)
    assert (record["start_unix_ns"], record["end_unix_ns"]) == (START, START + 2_000_000)
    assert replayed_.counters["fragment_packets"] == 0


def test_fragments_without_their_first_are_counted_apart(tmp_path):
    """The first one was not captured: no flow can be told, none is invented."""
    _, second, third = fragments()
    replayed_ = replayed(tmp_path, second, third)
    assert (replayed_.counters["fragment_packets"], replayed_.records) == (2, [])
    assert replayed_.counters["fragment_bytes"] == len(second) + len(third)


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_datagram_without_one_of_its_fragments_is_incomplete(tmp_path, addresses, missing):
    """A middle one or the last is not there: a receiver never had the datagram."""
    pieces = [piece for at, piece in enumerate(fragments(addresses=addresses)) if at != missing]
    whole = fragments(8, addresses)
    record = replayed(tmp_path, *pieces, *whole).only
    assert (record["tx_packets"], record["tx_fragments"], record["tx_incomplete_datagrams"]) == (5, 5, 1)


@pytest.mark.parametrize("twice", [0, 1, 2])
@pytest.mark.parametrize("late", [False, True], ids=["amid", "after"])
def test_a_fragment_that_is_there_twice_overlaps(tmp_path, twice, late):
    """Every packet counts; which of them hold what another held is said. A first one behind the last begins a datagram anew."""
    pieces = fragments()
    order = [*pieces, pieces[twice]] if late else [*pieces[: twice + 1], *pieces[twice:]]
    record = replayed(tmp_path, *order).only
    anew = int(late and twice == 0)
    assert (record["tx_packets"], record["tx_fragments"]) == (4, 4)
    assert (record["tx_overlapping_fragments"], record["tx_incomplete_datagrams"]) == (1 - anew, anew)


def test_fragments_that_overlap_in_part(tmp_path):
    """The teardrop: a second fragment that begins within the first, or ends elsewhere than the last one said."""
    first, second, third = fragments()
    begins_early = ethernet(ip(*V4, 17, bytes(16), fragment=0x2000 | 1, identification=7))
    other_end = ethernet(ip(*V4, 17, bytes(8), fragment=8, identification=7))
    record = replayed(tmp_path, first, begins_early, third, other_end).only
    assert (record["tx_packets"], record["tx_overlapping_fragments"]) == (4, 2)
    assert replayed(tmp_path, first, second, third).only["tx_overlapping_fragments"] == 0


def test_a_datagram_beyond_the_largest(tmp_path):
    """The ping of death: a last fragment that ends behind 65,535 bytes is a packet of its flow, and crashes nothing."""
    first, *_ = fragments()
    beyond = ethernet(ip(*V4, 17, bytes(1000), fragment=0x1FFF, identification=7))
    record = replayed(tmp_path, first, beyond).only
    assert (record["tx_packets"], record["tx_incomplete_datagrams"]) == (2, 1)


def test_a_fragment_of_another_datagram_or_of_long_ago_is_not_taken_in(tmp_path):
    """Identifications come again: only what a receiver would still put together counts."""
    first, second, third = fragments()
    late = [Frame(START, first), Frame(START + SECOND, fragments(8)[1]), Frame(START + 31 * SECOND, third)]
    replayed_ = replay_frames(tmp_path, [*late, Frame(START + 31 * SECOND, second)])
    assert replayed_.counters["fragment_packets"] == 3


def test_times_that_files_can_hold_but_clocks_cannot(tmp_path):
    """A time of zero and the largest pcapng time are packets like any other."""
    path = tmp_path / "odd.pcapng"
    data = ethernet(ip(*V4, 17, QUESTION))
    path.write_bytes(pcap.pcapng_file([Frame(0, data), Frame(2**64 - 1, data), Frame(START, data)]))
    replayed_ = replay_files([path])
    check_totals(replayed_)
    assert replayed_.total("packets") == 3


def test_many_datagrams_at_the_same_time(tmp_path):
    """The pieces of hundreds of datagrams, one after the other: each finds its own, and every run says the same."""
    pieces = [fragments(number) for number in range(500)]
    packets = [ethernet_frames[step] for step in (0, 1, 2) for ethernet_frames in pieces]
    first, second = (replayed(tmp_path, *packets) for _ in range(2))
    record = first.only
    assert (record["tx_packets"], record["tx_incomplete_datagrams"], record["tx_overlapping_fragments"]) == (1500, 0, 0)
    assert first == second
