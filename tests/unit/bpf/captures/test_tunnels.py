"""Tunnels in capture files: the flow is the one inside, and nothing of the packet is counted twice or not at all."""

from __future__ import annotations

import pytest

from proto.columns import Outcome, Role, Tunnel
from tests.support.packets.fuzz_seeds import fragmented
from tests.support.packets.pcap import (
    ACK,
    PSH,
    RAW,
    SECOND,
    SLL,
    START,
    SYN,
    Conversation,
    Frame,
    ethernet,
    geneve,
    gre,
    gtpu,
    icmp,
    ip,
    link,
    tcp,
    udp,
    vxlan,
    write,
)
from tests.support.packets.replayed import replay_files, replay_frames
from tests.support.packets.tunnels import SHAPES, in_tunnel

ENDS = ("192.0.2.1", "192.0.2.2")
SIX_ENDS = ("2001:db8::a", "2001:db8::b")
V4 = ("10.0.0.1", "10.0.0.2")
V6 = ("fd00::1", "fd00::2")
QUESTION = ip(*V4, 17, udp(5000, 53, b"question"))
SIX = ip(*V6, 17, udp(5000, 53, b"question"))


def mapped(address):
    """A column's address of text."""
    return bytes(10) + b"\xff\xff" + bytes(map(int, address.split("."))) if "." in address else packed(address)


def packed(address):
    """16 bytes of IPv6 text."""
    return ip(address, address, 59, b"")[8:24]


def replayed(folder, *packets, **how):
    """Replay IP packets in Ethernet frames, one a millisecond."""
    return replay_frames(folder, [Frame(START + 1_000_000 * i, ethernet(data)) for i, data in enumerate(packets)], **how)


@pytest.mark.parametrize("ends", [ENDS, SIX_ENDS], ids=["in ipv4", "in ipv6"])
@pytest.mark.parametrize("inner", [QUESTION, SIX], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_flow_is_the_one_inside(tmp_path, shape, inner, ends):
    """Ports, bytes and addresses are the inner packet's; the tunnel is said, and what it adds is counted apart."""
    kind, number, wrap = SHAPES[shape]
    outer = wrap(inner, ends)
    replay = replayed(tmp_path, outer)
    record = replay.only
    assert (record["transport"], record["local_port"], record["remote_port"], record["role"]) == (17, 5000, 53, Role.CLIENT)
    assert (record["tx_bytes"], record["tx_payload_bytes"], record["tx_packets"]) == (len(inner), 8, 1)
    assert (record["tunnel"], record["tunnel_depth"], record["tx_tunnel_id"]) == (kind, 1, number)
    assert [record["local_tunnel_address"], record["remote_tunnel_address"]] == [mapped(end) for end in ends]
    assert (record["tx_tunnel_bytes_total"], record["rx_tunnel_bytes_total"]) == (len(outer), 0)
    assert replay.counters["tunnel_bytes"] == len(outer) - len(inner)
    assert replay.counters["link_bytes"] == 14


@pytest.mark.parametrize("shape", SHAPES)
def test_a_connection_in_a_tunnel_is_a_connection(tmp_path, shape):
    """Both directions are one flow, with handshake, request and response."""
    _, number, _ = SHAPES[shape]
    talk = Conversation().handshake().tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=b"ask")
    talk.tcp(1.2, "server", PSH | ACK, seq=5001, ack=1004, payload=b"answer")
    frames = in_tunnel(shape, talk.frames, ENDS)
    record = replay_frames(tmp_path, frames).only
    assert (record["role"], record["outcome"], record["responses"]) == (Role.CLIENT, Outcome.ESTABLISHED, 1)
    assert (record["tx_packets"], record["rx_packets"], record["response_time_sum_ns"]) == (3, 2, 200_000_000)
    assert (record["tx_tunnel_id"], record["rx_tunnel_id"]) == (number, number)
    assert record["rx_tunnel_bytes_total"] > record["rx_bytes_total"]


@pytest.mark.parametrize("link_type", [RAW, SLL])
def test_tunnels_in_other_link_types(tmp_path, link_type):
    """What is around the outer packet does not matter."""
    packet = SHAPES["vxlan"][2](QUESTION, ENDS)
    path = write(tmp_path / "capture", [Frame(START, link(link_type, packet))], link_type=link_type)
    assert replay_files([path]).only["tunnel"] == Tunnel.VXLAN


def test_tenants_with_the_same_addresses_are_not_one_flow(tmp_path):
    """The same addresses and ports under two network identifiers are two flows, answers included."""
    answer = ip(*V4[::-1], 17, udp(53, 5000, b"answer"))
    there = [ip(*ENDS, 17, vxlan(vni, ethernet(QUESTION))) for vni in (1, 2)]
    back = [ip(*ENDS[::-1], 17, vxlan(vni, ethernet(answer))) for vni in (1, 2)]
    first, second = replayed(tmp_path, *there, *back).records
    for vni, record in enumerate((first, second), start=1):
        assert (record["tx_tunnel_id"], record["rx_tunnel_id"], record["tx_packets"], record["rx_packets"]) == (vni, vni, 1, 1)


def test_tunnels_between_other_ends_are_not_one_flow(tmp_path):
    """Where a tunnel has no identifier, its ends tell: the same private addresses behind two routers are two flows."""
    packets = [ip(*ends, 4, QUESTION) for ends in (ENDS, ("192.0.2.1", "192.0.2.9"), ENDS)]
    first, second = replayed(tmp_path, *packets).records
    assert (first["tx_packets"], second["tx_packets"]) == (2, 1)


def test_identifiers_may_differ_by_direction(tmp_path):
    """Cilium names the sender and OVN the receiver's segment; a GTP-U TEID is the receiver's choice: still one flow."""
    answer = ip(*V4[::-1], 17, udp(53, 5000, b"answer"))
    packets = [ip(*ENDS, 17, vxlan(11, ethernet(QUESTION))), ip(*ENDS[::-1], 17, vxlan(22, ethernet(answer)))] * 2
    record = replayed(tmp_path, *packets).only
    assert (record["tx_tunnel_id"], record["rx_tunnel_id"]) == (11, 22)
    assert (record["tx_packets"], record["rx_packets"], record["responses"]) == (2, 2, 2)


def test_packets_alike_inside_and_outside_of_a_tunnel_at_other_times_are_two_flows(tmp_path):
    """Addresses in a tunnel are not unique: another network has the same ones. What is seen at once both ways is in copies."""
    frames = Conversation().udp(0, "client", b"question").frames
    within = [Frame(START + SECOND, ethernet(ip(*ENDS, 17, vxlan(1, frame.data)))) for frame in frames]
    plain, wrapped = replay_frames(tmp_path, frames + within).records
    assert (plain["tunnel"], wrapped["tunnel"]) == (Tunnel.NONE, Tunnel.VXLAN)
    assert plain["tx_tunnel_bytes_total"] == plain["tunnel_depth"] == 0


def nested(depth):
    """The question in so many tunnels of IP in IP."""
    packet = QUESTION
    for level in range(depth):
        packet = ip(f"192.0.2.{level * 2 + 1}", f"192.0.2.{level * 2 + 2}", 4, packet)
    return packet


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_tunnels_in_tunnels(tmp_path, depth):
    """The innermost tunnel is the one that is told, and how many there are."""
    record = replayed(tmp_path, nested(depth)).only
    assert (record["tunnel"], record["tunnel_depth"]) == (Tunnel.IPIP, depth)
    assert record["local_tunnel_address"] == mapped("192.0.2.1")
    assert (record["tx_bytes"], record["tx_tunnel_bytes_total"]) == (len(QUESTION), len(QUESTION) + 20 * depth)


def test_too_many_tunnels_are_counted_apart(tmp_path):
    """Beyond the bound no flow is invented, and no byte is lost."""
    replay = replayed(tmp_path, nested(5))
    assert (replay.records, replay.counters["nested_packets"]) == ([], 1)
    assert replay.counters["nested_bytes"] == 14 + len(nested(5))


def test_what_is_no_ip_in_a_tunnel_is_counted_by_what_it_is(tmp_path):
    """ARP and others over VXLAN make no flow, neither inside nor outside."""
    arp = ip(*ENDS, 17, vxlan(7, ethernet(bytes(28), ethertype=0x0806)))
    bridge = ip(*ENDS, 47, gre(ethernet(bytes(40), ethertype=0x88CC), kind=0x6558))
    replay = replayed(tmp_path, arp, bridge)
    assert (replay.records, replay.counters["arp_packets"], replay.counters["not_ip_packets"]) == ([], 1, 1)


OUTSIDE = {
    "vxlan without its flag": udp(50000, 4789, bytes(8) + ethernet(QUESTION)),
    "vxlan with a dirty reserve": udp(50000, 4789, b"\x08\0\0\1\0\0\7\0" + ethernet(QUESTION)),
    "a short datagram": udp(50000, 4789, b"\x08\0\0\0"),
    "an answer to a port of 4789": udp(53, 4789, b"\x08\x01\x81\x80\0\1\0\1" + bytes(60)),
    "vxlan with garbage": udp(50000, 4789, b"\x08\0\0\0\0\0\7\0" + bytes(12) + b"\x08\0" + b"\x4f" + bytes(30)),
    "geneve control": udp(50000, 6081, b"\0\x80\x65\x58\0\0\7\0" + ethernet(QUESTION)),
    "geneve of something else": geneve(7, b"whatever", kind=0x894F),
    "geneve with options beyond its end": udp(50000, 6081, b"\2\0\x65\x58\0\0\7\0" + bytes(4)),
    "gtp-u echo request": udp(2152, 2152, b"\x32\x01\0\4" + bytes(8)),
    "gtp-u of no ip": gtpu(1, b"\xa0" + bytes(30)),
    "vxlan-gpe": udp(50000, 4790, b"\x0c\0\0\1\0\0\7\0" + QUESTION),
}


@pytest.mark.parametrize("datagram", OUTSIDE.values(), ids=OUTSIDE)
def test_a_datagram_that_only_has_the_port_is_a_datagram(tmp_path, datagram):
    """A well-known port alone makes no tunnel: what does not hold together inside is a flow of what it is outside."""
    record = replayed(tmp_path, ip(*ENDS, 17, datagram)).only
    assert (record["transport"], record["tunnel"]) == (17, Tunnel.NONE)
    assert record["tx_bytes"] + record["rx_bytes"] == 20 + len(datagram)


GRE_OUTSIDE = {
    "keep-alive": gre(b"", kind=0),
    "pptp control": b"\x30\x01\x88\x0b\0\4\0\1\0\0\0\1\xc0\x21\1\1",
    "pptp acknowledgment": b"\x20\x81\x88\x0b\0\0\0\1\0\0\0\1",
    "source route": b"\x40\0\x08\0" + bytes(4) + QUESTION,
    "wccp": gre(bytes(40), kind=0x883E),
    "header cut": b"\x20\0\x08\0",
}


@pytest.mark.parametrize("content", GRE_OUTSIDE.values(), ids=GRE_OUTSIDE)
def test_gre_that_is_not_opened_is_a_flow_of_gre(tmp_path, content):
    """What GRE carries besides IP and Ethernet stays a flow between its ends."""
    record = replayed(tmp_path, ip(*ENDS, 47, content)).only
    assert (record["transport"], record["tunnel"]) == (47, Tunnel.NONE)


LYING = {
    "ip in ip": (4, QUESTION[:2] + b"\x0f\xff" + QUESTION[4:]),
    "6in4 with ipv4": (41, QUESTION),
    "ip in ip without content": (4, b""),
    "gre": (47, gre(QUESTION[:2] + b"\x0f\xff" + QUESTION[4:])),
}


@pytest.mark.parametrize(("protocol", "content"), LYING.values(), ids=LYING)
def test_a_lying_header_in_a_tunnel_makes_no_flow(tmp_path, protocol, content):
    """Where the protocol says that there is an IP packet inside, one that contradicts itself is malformed."""
    replay = replayed(tmp_path, ip(*ENDS, protocol, content))
    assert (replay.records, replay.counters["malformed_packets"]) == ([], 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_capture_that_ends_within_the_inner_headers_is_truncated(tmp_path, shape):
    """Cut before the inner ports: counted as truncated, and the outer packet is no flow in its stead."""
    whole = ethernet(SHAPES[shape][2](QUESTION, ENDS))
    replay = replay_frames(tmp_path, [Frame(START, whole[: -len(QUESTION) + 22], len(whole))])
    assert (replay.records, replay.counters["truncated_packets"]) == ([], 1)
    whole = ethernet(SHAPES[shape][2](ip(*V4, 17, udp(5000, 53, bytes(900))), ENDS))
    assert replay_frames(tmp_path, [Frame(START, whole[:-800], len(whole))]).only["tx_bytes"] == 928


def test_padding_behind_the_inner_packet_is_the_tunnels(tmp_path):
    """An inner frame that was filled up to Ethernet's least length counts its IP length."""
    short = ip(*V4, 6, tcp(40000, 80, SYN))
    replay = replayed(tmp_path, ip(*ENDS, 17, vxlan(1, ethernet(short) + bytes(6))))
    assert (replay.only["tx_bytes"], replay.counters["tunnel_bytes"]) == (40, 20 + 8 + 8 + 14 + 6)


def test_an_icmp_error_in_a_tunnel_finds_the_flow_in_the_same_tunnel(tmp_path):
    """Port unreachable inside a tunnel is noted on the flow that it quotes, not on its namesake outside."""
    error = ip(*V4[::-1], 1, icmp(3, 3, payload=QUESTION))
    another = ip(*V4, 17, udp(5000, 53, b"another"))
    packets = [another, ip(*ENDS, 17, vxlan(7, ethernet(QUESTION))), ip(*ENDS[::-1], 17, vxlan(7, ethernet(error)))]
    plain, quoted, own = replayed(tmp_path, *packets).records
    assert (plain["icmp_errors"], quoted["icmp_errors"], own["transport"]) == (0, 1, 1)


def test_a_tunnels_fragments_are_the_inner_flows(tmp_path):
    """An outer datagram in pieces is one inner packet in pieces: its bytes are each counted once, and no other flow begins."""
    inner = ip(*V4, 17, udp(5000, 53, bytes(200)))
    pieces = list(fragmented(ip(*ENDS, 17, vxlan(7, ethernet(inner))), 64))
    record = replayed(tmp_path, *pieces).only
    assert (record["tx_bytes"], record["tx_payload_bytes"], record["tx_packets"]) == (len(inner), 200, len(pieces))
    assert record["tx_tunnel_bytes_total"] == sum(map(len, pieces))
    assert (record["tx_fragments"], record["tx_incomplete_datagrams"]) == (len(pieces), 0)


def test_fragments_inside_a_tunnel(tmp_path):
    """The pieces of an inner datagram belong to its flow; the same pieces in another tunnel do not."""
    pieces = list(fragmented(ip(*V4, 17, udp(5000, 53, bytes(200))), 64))
    packets = [ip(*ENDS, 17, vxlan(1, ethernet(piece))) for piece in pieces]
    strange = ip(*ENDS, 17, vxlan(2, ethernet(pieces[1])))
    replay = replayed(tmp_path, *packets, strange)
    assert (replay.only["tx_packets"], replay.only["tx_payload_bytes"]) == (len(pieces), 200)
    assert (replay.only["tx_incomplete_datagrams"], replay.counters["fragment_packets"]) == (0, 1)


def test_fragments_in_fragments(tmp_path):
    """Cut inside and outside: every piece of every piece finds the flow."""
    pieces = [ip(*ENDS, 4, piece) for piece in fragmented(ip(*V4, 17, udp(5000, 53, bytes(400))), 160)]
    packets = []
    for number, piece in enumerate(pieces):
        packets += fragmented(piece, 64, number)
    replay = replayed(tmp_path, *packets)
    assert replay.only["tx_packets"] == len(packets)
    assert replay.only["tx_bytes"] == sum(map(len, pieces)) - 20 * len(pieces)
    assert replay.counters["fragment_packets"] == 0
