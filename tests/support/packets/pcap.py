"""Builds packets and capture files byte by byte, so that a test says exactly what is on the wire."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

ETHERNET, NULL, RAW, LOOP, SLL, IPV4, IPV6, SLL2 = 1, 0, 101, 108, 113, 228, 229, 276
PPP, PPP_HDLC, PPP_ETHER, CISCO_HDLC, PPI, PPP_WITH_DIRECTION = 9, 50, 51, 104, 192, 204
LINK_TYPES = (ETHERNET, RAW, SLL, SLL2, NULL, LOOP, PPP, PPP_HDLC, PPP_ETHER, CISCO_HDLC, PPI, PPP_WITH_DIRECTION)
"""LINKTYPE_ values, as they stand in files."""

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
"""Time of the first packet in most tests, Unix ns."""

_SERIAL_HEADS = {PPP: b"", PPP_HDLC: b"\xff\3", PPP_ETHER: b"\x11\0\0\1", PPP_WITH_DIRECTION: b"\1\xff\3"}
"""What stands before PPP's protocol."""
_IPV4_TYPE, _IPV6_TYPE = 0x0800, 0x86DD


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet of a capture file; `wire_bytes` (None: all of it was captured) is its length on the wire."""

    time_ns: int
    data: bytes
    wire_bytes: int | None = None
    interface: int = 0
    """Of a pcapng file."""

    @property
    def wire(self) -> int:
        """Its length on the wire."""
        return len(self.data) if self.wire_bytes is None else self.wire_bytes


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of a pcapng file."""

    link_type: int = ETHERNET
    snaplen: int = 262144
    resolution: int = 9
    """if_tsresol: 10 to the minus so much, or 2 to the minus so much with 128 added."""
    offset: int = 0
    """if_tsoffset: seconds that its time stamps lack."""

    def ticks(self, time_ns: int) -> int:
        """A time stamp in its units."""
        units = 2 ** (self.resolution & 127) if self.resolution & 128 else 10**self.resolution
        return (time_ns - self.offset * SECOND) * units // SECOND


def tcp(source_port, destination_port, flags, *, seq=0, ack=0, payload=b"", options=b"", window=65535) -> bytes:
    """A TCP segment; `options` is padded to whole words."""
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4
    fields = (source_port, destination_port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, words << 4, flags, window, 0, 0)
    return struct.pack("!HHIIBBHHH", *fields) + options + payload


def udp(source_port, destination_port, payload=b"", length=None) -> bytes:
    """A UDP datagram; `length` overrides its length field."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload) if length is None else length, 0) + payload


def icmp(kind, code=0, *, identifier=0, sequence=0, payload=b"") -> bytes:
    """An ICMP or ICMPv6 message with an identifier and a sequence number; the checksum is ICMP's (RFC 792)."""
    summed = struct.pack("!HH", identifier, sequence) + payload + b"\0" * (len(payload) % 2)
    words = struct.unpack(f"!{len(summed) // 2}H", summed)
    total = (kind << 8 | code) + sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHH", kind, code, checksum, identifier, sequence) + payload


def vxlan(vni, frame, *, port=4789, flags=8) -> bytes:
    """A UDP datagram that carries an Ethernet frame in VXLAN."""
    return udp(50000, port, struct.pack("!B3xI", flags, vni << 8) + frame)


def geneve(vni, inner, *, options=b"", kind=0x6558) -> bytes:
    """A UDP datagram that carries a frame, or an IP packet where `kind` is its ethertype, in Geneve."""
    return udp(50000, 6081, struct.pack("!BBHI", len(options) // 4, 0, kind, vni << 8) + options + inner)


def gre(inner, *, kind=0x0800, key=None, checksum=False, sequence=None) -> bytes:
    """What follows an IP header of protocol 47."""
    flags = 0x8000 * checksum | 0x2000 * (key is not None) | 0x1000 * (sequence is not None)
    optional = bytes(4) if checksum else b""
    optional += b"" if key is None else struct.pack("!I", key)
    optional += b"" if sequence is None else struct.pack("!I", sequence)
    return struct.pack("!HH", flags, kind) + optional + inner


def gtpu(teid, packet, *, extensions=()) -> bytes:
    """A UDP datagram that carries a user's IP packet in GTP-U; `extensions` are (type, content of 4n - 2 bytes) each."""
    more = b""
    if extensions:
        following = [kind for kind, _ in extensions[1:]] + [0]
        more = struct.pack("!HBB", 7, 0, extensions[0][0])
        more += b"".join(
            bytes([(len(content) + 2) // 4]) + content + bytes([after])
            for (_, content), after in zip(extensions, following, strict=True)
        )
    head = struct.pack("!BBHI", 0x34 if extensions else 0x30, 255, len(more) + len(packet), teid)
    return udp(2152, 2152, head + more + packet)


def ip(
    source, destination, protocol, payload, *, total=None, options=b"", fragment=0, identification=0, extensions=b""
) -> bytes:
    """An IP packet of the version of its addresses.

    `total` overrides the length field; `fragment` is IPv4's flags and offset; `extensions` stands between an IPv6 header and
    `payload`, and `protocol` is then the header's next-header field.
    """
    source, destination = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if source.version == 6:
        length = len(extensions) + len(payload) if total is None else total
        header = struct.pack("!IHBB", 6 << 28, length, protocol, 64)
        return header + source.packed + destination.packed + extensions + payload
    words = 5 + len(options) // 4
    length = words * 4 + len(payload) if total is None else total
    header = struct.pack("!BBHHHBBH", 4 << 4 | words, 0, length, identification, fragment, 64, protocol, 0)
    return header + source.packed + destination.packed + options + payload


def ethernet(packet, *, ethertype=None, tags=()) -> bytes:
    """An Ethernet frame around `packet`, with VLAN `tags` (the tag's own ethertype each) outside in."""
    kind = _type_of(packet) if ethertype is None else ethertype
    return bytes(12) + b"".join(struct.pack("!HH", tag, 7) for tag in tags) + struct.pack("!H", kind) + packet


def link(link_type, packet, *, big_endian=False) -> bytes:
    """`packet` (IP) as a frame of `link_type`; `big_endian` is the byte order of a NULL header's machine."""
    if link_type == ETHERNET:
        return ethernet(packet)
    if link_type in (SLL, SLL2):
        kind = _type_of(packet)
        sll = struct.pack("!HHH8sH", 0, 1, 6, bytes(8), kind)
        return (sll if link_type == SLL else struct.pack("!HHIHBB8s", kind, 0, 1, 1, 0, 6, bytes(8))) + packet
    if link_type in _SERIAL_HEADS:
        head = _SERIAL_HEADS[link_type] + (struct.pack("!H", 2 + len(packet)) if link_type == PPP_ETHER else b"")
        return head + struct.pack("!H", 0x57 if packet[0] >> 4 == 6 else 0x21) + packet
    if link_type in (CISCO_HDLC, PPI):
        cisco = struct.pack("!BBH", 0x0F, 0, _type_of(packet)) + packet
        return cisco if link_type == CISCO_HDLC else struct.pack("<BBHI8x", 0, 0, 8 + 8, ETHERNET) + ethernet(packet)
    if link_type in (NULL, LOOP):
        family = 2 if packet[0] >> 4 == 4 else 30
        return struct.pack("!I" if big_endian or link_type == LOOP else "<I", family) + packet
    return packet


def pcap_file(frames: Iterable[Frame], *, link_type=ETHERNET, order="<", nanoseconds=True) -> bytes:
    """A classic pcap file in byte `order`."""
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link_type)]
    for frame in frames:
        seconds, rest = divmod(frame.time_ns, SECOND)
        parts.append(struct.pack(order + "IIII", seconds, rest if nanoseconds else rest // 1000, len(frame.data), frame.wire))
        parts.append(frame.data)
    return b"".join(parts)


def pcapng_file(
    frames: Iterable[Frame], *, link_type=ETHERNET, order="<", interfaces: Sequence[Interface] = (), kind=6
) -> bytes:
    """A pcapng file with these interfaces, or one of `link_type` that counts nanoseconds.

    `kind` is that of the packets' blocks: 6, or 2 (obsolete), or 3, which has neither time nor interface.
    """
    interfaces = interfaces or (Interface(link_type),)
    parts = [_block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))]
    for interface in interfaces:
        options = struct.pack(order + "HHB3x", 9, 1, interface.resolution)
        options += struct.pack(order + "HHqHH", 14, 8, interface.offset, 0, 0)
        parts.append(_block(order, 1, struct.pack(order + "HHI", interface.link_type, 0, interface.snaplen) + options))
    for frame in frames:
        ticks = interfaces[frame.interface].ticks(frame.time_ns) if frame.interface < len(interfaces) else 0
        stamp = (ticks >> 32, ticks & 0xFFFFFFFF, len(frame.data), frame.wire)
        heads = {
            6: struct.pack(order + "IIIII", frame.interface, *stamp),
            2: struct.pack(order + "HHIIII", frame.interface, 0xFFFF, *stamp),
            3: struct.pack(order + "I", frame.wire),
        }
        parts.append(_block(order, kind, heads[kind] + frame.data + b"\0" * (-len(frame.data) % 4)))
    return b"".join(parts)


def write(path: Path, frames: Iterable[Frame], **how) -> Path:
    """Write frames as a pcap file (see `pcap_file`) and return its path."""
    path.write_bytes(pcap_file(frames, **how))
    return path


class Conversation:
    """Frames between a client and a server over one transport, each at `seconds` after START."""

    def __init__(self, client="10.0.0.1", server="10.0.0.2", client_port=40000, server_port=80):
        self.client, self.server, self.client_port, self.server_port = client, server, client_port, server_port
        self.frames: list[Frame] = []

    def tcp(self, seconds, sender, flags, **fields) -> Conversation:
        """Add a segment from `sender`, "client" or "server"."""
        return self._add(seconds, sender, 6, lambda source, destination: tcp(source, destination, flags, **fields))

    def udp(self, seconds, sender, payload=b"") -> Conversation:
        """Add a datagram."""
        return self._add(seconds, sender, 17, lambda source, destination: udp(source, destination, payload))

    def icmp(self, seconds, sender, message) -> Conversation:
        """Add an ICMP message (ICMPv6 between IPv6 addresses)."""
        protocol = 58 if ":" in self.client else 1
        return self._add(seconds, sender, protocol, lambda _source, _destination: message)

    def handshake(self, seconds=0.0, *, client_isn=1000, server_isn=5000, rtt=0.010) -> Conversation:
        """Add SYN, SYN-ACK and ACK, half an `rtt` apart each."""
        self.tcp(seconds, "client", SYN, seq=client_isn)
        self.tcp(seconds + rtt / 2, "server", SYN | ACK, seq=server_isn, ack=client_isn + 1)
        return self.tcp(seconds + rtt, "client", ACK, seq=client_isn + 1, ack=server_isn + 1)

    def _add(self, seconds, sender, protocol, make) -> Conversation:
        ends = [(self.client, self.client_port), (self.server, self.server_port)]
        (source, source_port), (destination, destination_port) = ends if sender == "client" else reversed(ends)
        packet = ip(source, destination, protocol, make(source_port, destination_port))
        self.frames.append(Frame(START + round(seconds * SECOND), ethernet(packet)))
        return self


def _type_of(packet: bytes) -> int:
    return _IPV6_TYPE if packet[:1] and packet[0] >> 4 == 6 else _IPV4_TYPE


def _block(order: str, kind: int, body: bytes) -> bytes:
    size = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + size + body + size
