"""Every tunnel that replay opens: what it is, its identifier, and how it wraps an IP packet between two ends."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final

from proto.columns import Tunnel
from tests.support.packets.pcap import Frame, ethernet, geneve, gre, gtpu, ip, udp, vxlan


def _pptp(packet: bytes) -> bytes:
    head = struct.pack("!BBHHH", 0x30, 0x81, 0x880B, len(packet) + 4, 9) + bytes(8)
    return head + b"\xff\x03" + (b"\x00\x21" if packet[0] >> 4 == 4 else b"\x57")


def _type(packet: bytes) -> int:
    return 0x0800 if packet[0] >> 4 == 4 else 0x86DD


SHAPES: Final[dict[str, tuple[Tunnel, int, Callable[[bytes, tuple[str, str]], bytes]]]] = {
    "vxlan": (Tunnel.VXLAN, 77, lambda inner, ends: ip(*ends, 17, vxlan(77, ethernet(inner)))),
    "vxlan of linux": (Tunnel.VXLAN, 1, lambda inner, ends: ip(*ends, 17, vxlan(1, ethernet(inner), port=8472))),
    "vxlan with a group policy": (
        Tunnel.VXLAN,
        5,
        lambda inner, ends: ip(*ends, 17, udp(1, 4789, b"\x88\0\x12\x34\0\0\5\0" + ethernet(inner))),
    ),
    "vxlan, tagged inside": (Tunnel.VXLAN, 77, lambda inner, ends: ip(*ends, 17, vxlan(77, ethernet(inner, tags=(0x8100,))))),
    "geneve": (Tunnel.GENEVE, 9, lambda inner, ends: ip(*ends, 17, geneve(9, ethernet(inner)))),
    "geneve with options": (
        Tunnel.GENEVE,
        0xABCDEF,
        lambda inner, ends: ip(*ends, 17, geneve(0xABCDEF, ethernet(inner), options=bytes(12))),
    ),
    "geneve of ip": (
        Tunnel.GENEVE,
        9,
        lambda inner, ends: ip(*ends, 17, geneve(9, inner, kind=0x0800 if inner[0] >> 4 == 4 else 0x86DD)),
    ),
    "gre": (Tunnel.GRE, 0, lambda inner, ends: ip(*ends, 47, gre(inner, kind=_type(inner)))),
    "gre with everything": (
        Tunnel.GRE,
        0xDEADBEEF,
        lambda inner, ends: ip(*ends, 47, gre(inner, kind=_type(inner), key=0xDEADBEEF, checksum=True, sequence=3)),
    ),
    "gre with a sequence number": (Tunnel.GRE, 0, lambda inner, ends: ip(*ends, 47, gre(inner, kind=_type(inner), sequence=3))),
    "gre with a frame": (Tunnel.GRE, 0, lambda inner, ends: ip(*ends, 47, gre(ethernet(inner), kind=0x6558))),
    "nvgre": (Tunnel.GRE, 0x1234501, lambda inner, ends: ip(*ends, 47, gre(ethernet(inner), kind=0x6558, key=0x1234501))),
    "pptp": (Tunnel.GRE, 9, lambda inner, ends: ip(*ends, 47, _pptp(inner) + inner)),
    "ip in ip": (Tunnel.IPIP, 0, lambda inner, ends: ip(*ends, 4 if inner[0] >> 4 == 4 else 41, inner)),
    "gtp-u": (Tunnel.GTPU, 0x1001, lambda inner, ends: ip(*ends, 17, gtpu(0x1001, inner))),
    "gtp-u with extensions": (
        Tunnel.GTPU,
        0x1001,
        lambda inner, ends: ip(*ends, 17, gtpu(0x1001, inner, extensions=[(0x85, b"\0\t"), (0x20, bytes(6))])),
    ),
}


def in_tunnel(shape: str, frames: Iterable[Frame], ends: tuple[str, str]) -> list[Frame]:
    """Ethernet frames of a talk between IPv4 ends in a tunnel; `ends` are the tunnel's, the first sender's side first."""
    frames = list(frames)
    first = frames[0].data[26:30]
    wrap = SHAPES[shape][2]
    ways = {True: ends, False: ends[::-1]}
    return [Frame(frame.time_ns, ethernet(wrap(frame.data[14:], ways[frame.data[26:30] == first]))) for frame in frames]
