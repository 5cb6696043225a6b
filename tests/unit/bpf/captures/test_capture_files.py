"""Capture files as they come: both formats, any mix of interfaces and clocks, cut ones, broken ones, compressed ones."""

from __future__ import annotations

import gzip
import struct
import sys

import pytest

from services.capture.errors import CaptureFileError
from services.capture.replay.source import ReplaySource, Stop
from tests.support.packets import pcap
from tests.support.packets.pcap import ACK, PSH, SECOND, START, Conversation, Frame, Interface, link
from tests.support.packets.replayed import replay_files

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def talk(port=40000):
    """A short connection, as Ethernet frames."""
    return Conversation(client_port=port).handshake().tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=b"hello").frames


def as_link(frames, link_type, interface=0):
    """The same on another link."""
    return [Frame(frame.time_ns, link(link_type, frame.data[14:]), interface=interface) for frame in frames]


def read_all(path):
    """The faults and the counters of a file that is read to where it can be."""
    with ReplaySource([path], 16) as source:
        source.open_next_file()
        while source.advance(2**63).stop not in {Stop.END_OF_FILE, Stop.CUT}:
            pass
        return dict(source.faults), source.counters


def kept(path, content):
    """A file with this content."""
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("link_type", pcap.LINK_TYPES)
@pytest.mark.parametrize("client", ["10.0.0.1", "2001:db8::1"])
def test_every_link_type_gives_the_same_flow(tmp_path, link_type, client):
    """What is around the IP packets changes nothing of the flow that they are."""
    ends = (client, "10.0.0.2" if "." in client else "2001:db8::2")
    frames = Conversation(*ends).handshake().tcp(1, "client", PSH | ACK, seq=1001, ack=5001, payload=b"hello").frames
    plain = replay_files([pcap.write(tmp_path / "plain", frames)]).only
    assert replay_files([pcap.write(tmp_path / "other", as_link(frames, link_type), link_type=link_type)]).only == plain


@pytest.mark.parametrize("head", [b"\xff\x03\x00\x21", b"\xff\x03\x21", b"\x00\x21", b"\x21", b"\x0f\x00\x08\x00"])
def test_serial_links_say_by_their_first_bytes_what_they_are(tmp_path, head):
    """PPP's address, control and a protocol's zero may be left out; Cisco's framing is told from it."""
    frames = [Frame(frame.time_ns, head + frame.data[14:]) for frame in talk()]
    assert replay_files([pcap.write(tmp_path / "ppp", frames, link_type=pcap.PPP_HDLC)]).only["tx_packets"] == 3


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [6, 2])
def test_interfaces_of_every_link_type_in_one_file(tmp_path, order, kind):
    """A packet has its own interface's link type and snapshot length: libpcap refuses such a file."""
    interfaces = [Interface(link_type, 1000 + link_type) for link_type in pcap.LINK_TYPES]
    frames = [
        frame for number, link_type in enumerate(pcap.LINK_TYPES) for frame in as_link(talk(40000 + number), link_type, number)
    ]
    replayed = replay_files([kept(tmp_path / "mix", pcap.pcapng_file(frames, order=order, interfaces=interfaces, kind=kind))])
    assert [record["tx_payload_bytes"] for record in replayed.records] == [5] * len(pcap.LINK_TYPES)
    assert replayed.counters["flow_packets"] == len(frames)


@pytest.mark.parametrize(
    ("resolution", "offset"),
    [
        *((resolution, offset) for resolution in (9, 6, 3, 0, 0x80 | 30, 0x80 | 10) for offset in (0, 1_699_999_000, -7)),
        *((resolution, 1_699_999_000) for resolution in (12, 15, 0x80 | 50)),
    ],
)
def test_clocks_of_any_resolution_and_zero(tmp_path, resolution, offset):
    """Times are Unix nanoseconds whatever an interface counts in, to its precision."""
    interfaces = [Interface(resolution=resolution, offset=offset)]
    frames = Conversation().udp(0, "client", b"x").udp(2, "server", b"y").frames
    record = replay_files([kept(tmp_path / "clock", pcap.pcapng_file(frames, interfaces=interfaces))]).only
    assert (record["start_unix_ns"], record["end_unix_ns"]) == (START, START + 2 * SECOND)


def test_simple_packets_stand_at_the_time_of_the_one_before(tmp_path):
    """They have none of their own; their length is the wire's, of which the interface's snapshot length was captured."""
    timed = pcap.pcapng_file(talk()[:1], interfaces=[Interface(snaplen=60)])
    simple = pcap.pcapng_file([Frame(0, frame.data[:60], len(frame.data)) for frame in talk()[1:]], kind=3)
    blocks = simple[28 + 44 :]  # behind section and interface
    record = replay_files([kept(tmp_path / "simple", timed + blocks)]).only
    assert (record["start_unix_ns"], record["end_unix_ns"]) == (START, START)
    assert (record["tx_packets"], record["rx_packets"], record["tx_payload_bytes"]) == (3, 1, 5)


def test_sections_one_behind_the_other(tmp_path):
    """Files that were written behind each other, in either byte order, with interfaces of their own each."""
    parts = [
        pcap.pcapng_file(as_link(talk(40000 + number), link_type), link_type=link_type, order=order)
        for number, (link_type, order) in enumerate([(pcap.ETHERNET, "<"), (pcap.RAW, ">"), (pcap.PPP, "<")])
    ]
    assert len(replay_files([kept(tmp_path / "sections", b"".join(parts))]).records) == 3


def test_blocks_of_other_kinds_are_passed_over(tmp_path):
    """Names, statistics, secrets, comments, and what nobody knows yet."""
    head = pcap.pcapng_file([])
    packets = pcap.pcapng_file(talk())[len(head) :]
    others = b"".join(pcap._block("<", kind, bytes(20)) for kind in (4, 5, 9, 10, 0xBAD, 0x0BAD, 0x80000001))
    assert replay_files([kept(tmp_path / "others", head + others + packets)]).only["tx_packets"] == 3


@pytest.mark.parametrize("count", [1, 3])
def test_a_packet_of_an_interface_that_is_not_described_is_said_and_passed_over(tmp_path, count):
    """It is malformed, and its number is told; all the others are read."""
    odd = [Frame(START, b"x" * 60, interface=9)] * count
    path = kept(tmp_path / "odd", pcap.pcapng_file(talk()[:2] + odd + talk()[2:]))
    faults, counters = read_all(path)
    assert faults == {
        path: "packet 3: of an interface that the file does not describe" + (f" (and {count - 1} more packets)" * (count > 1))
    }
    assert (counters["flow_packets"], counters["malformed_packets"], counters["truncated_file"]) == (4, count, 0)
    assert counters["packets"] == 4 + count


def test_a_block_that_is_shorter_than_its_packet(tmp_path):
    """What it claims to hold is not read from what lies behind it."""
    body = struct.pack("<IIIII", 0, 0, 0, 100, 100) + bytes(60)
    path = kept(tmp_path / "short", pcap.pcapng_file(talk()) + pcap._block("<", 6, body) + pcap._block("<", 3, b""))
    faults, counters = read_all(path)
    assert faults == {path: "packet 5: it claims more bytes than its block has (and 1 more packets)"}
    assert (counters["flow_packets"], counters["malformed_packets"]) == (4, 2)


@pytest.mark.parametrize(
    ("make", "lost", "fault"),
    [
        (pcap.pcap_file, 1, "packet 4: the file ends in the middle of it"),
        (pcap.pcap_file, 70, "packet 4: the file ends in the middle of it"),
        (pcap.pcapng_file, 1, "behind packet 3: the file ends in the middle of a block"),
        (pcap.pcapng_file, 85, "behind packet 3: the file ends in the middle of a block"),
    ],
)
def test_a_file_that_is_cut_says_where(tmp_path, make, lost, fault):
    """By the number of the packet; what was before it counts."""
    path = kept(tmp_path / "cut", make(talk())[:-lost])
    assert len(talk()[-1].data) == 59
    faults, counters = read_all(path)
    assert (faults, counters["truncated_file"], counters["flow_packets"]) == ({path: fault}, 1, 3)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (pcap.pcap_file(talk()[:1]) + struct.pack("<IIII", 1, 1, 2**31, 2**31) + bytes(9), "packet 2: it claims 2147483648"),
        (pcap.pcapng_file(talk()[:1]) + struct.pack("<III", 6, 2**31, 0), "behind packet 1: a block that claims 2147483648"),
        (pcap.pcapng_file(talk()[:1]) + struct.pack("<III", 5, 13, 0), "behind packet 1: a block that claims 13 bytes"),
        (pcap.pcapng_file(talk()[:1]) + struct.pack("<III", 0x0A0D0D0A, 28, 7), "behind packet 1: a section of no byte order"),
    ],
)
def test_a_file_that_is_broken_says_where(tmp_path, content, fault):
    """Nothing behind such a place can be found; what was before it counts."""
    path = kept(tmp_path / "broken", content)
    faults, counters = read_all(path)
    assert faults[path].startswith(fault)
    assert (counters["truncated_file"], counters["flow_packets"]) == (1, 1)


def test_old_versions_of_pcap(tmp_path):
    """Lengths the other way round before 2.3, and eight bytes more before each packet in Kuznetzov's."""
    (frame,) = talk()[:1]
    seconds = START // SECOND
    old = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 2, 0, 0, 65535, 1)
    old += struct.pack("<IIII", seconds, 0, len(frame.data) + 6, len(frame.data)) + frame.data
    patched = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    patched += struct.pack("<IIIIIHBx", seconds, 0, len(frame.data), len(frame.data), 2, 8, 4) + frame.data
    for content, wire in ((old, len(frame.data) + 6), (patched, len(frame.data))):
        replayed = replay_files([kept(tmp_path / "old", content)])
        assert (replayed.counters["bytes"], replayed.only["start_unix_ns"]) == (wire, START)


@pytest.mark.parametrize("make", [pcap.pcap_file, pcap.pcapng_file])
@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_compressed_files(tmp_path, make, pack):
    """They give what the plain file gives, and how far reading is, is told of the file as it lies there."""
    plain, packed = kept(tmp_path / "plain", make(talk())), kept(tmp_path / "packed", pack(make(talk())))
    assert replay_files([packed]).records == replay_files([plain]).records
    assert replay_files([packed, plain]).counters["flow_packets"] == 8


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_a_compressed_file_that_is_cut_says_so(tmp_path, pack):
    """What could be unpacked is read."""
    frames = [frame for number in range(3000) for frame in talk(30000 + number)]
    path = kept(tmp_path / "cut", pack(pcap.pcap_file(frames))[:-2000])
    faults, counters = read_all_of_many(path)
    assert "its compressed bytes cannot be read to their end" in faults[path]
    assert counters["truncated_file"] == 1
    assert 0 < counters["flow_packets"] < len(frames)


def read_all_of_many(path):
    """As read_all, with room for thousands of flows."""
    with ReplaySource([path], 4096) as source:
        source.open_next_file()
        source.advance(2**63)
        return dict(source.faults), source.counters


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b", gzip.compress(b"no capture", mtime=0), zstd.compress(b""), b"\x28\xb5\x2f\xfd"]
)
def test_compressed_things_that_are_no_captures_are_refused(tmp_path, content):
    """Before anything is read, and in words."""
    with pytest.raises(CaptureFileError) as caught:
        ReplaySource([kept(tmp_path / "no", content)])
    assert caught.value.detail


def test_reading_of_a_compressed_file_can_be_given_up(tmp_path):
    """The thread that unpacks it ends with the source."""
    frames = [frame for number in range(20000) for frame in talk(number)]
    with ReplaySource([kept(tmp_path / "large", gzip.compress(pcap.pcap_file(frames), 1))], 64) as source:
        source.open_next_file()
        source.advance(2**63, max_packets=10)
    assert source.packets == 10
