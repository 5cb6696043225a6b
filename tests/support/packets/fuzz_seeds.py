"""Inputs of the fuzz targets from packets of our own making: `python -m tests.support.packets.fuzz_seeds FOLDER`."""

from __future__ import annotations

import ssl
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support import otlp_requests
from tests.support.packets import pcap
from tests.support.packets.pcap import ACK, FIN, PSH, RST, SYN, Conversation, Frame, ethernet, icmp, ip, link, tcp, udp
from tests.support.packets.talks import dns, quic_talk, tls_talk
from tests.support.packets.talks import http2_talk as http2
from tests.support.packets.talks.http_talk import Talk, reply, request

_LINKS = (
    *(pcap.ETHERNET, pcap.RAW, pcap.SLL, pcap.SLL2, pcap.NULL, pcap.LOOP),
    *(pcap.PPP, pcap.CISCO_HDLC, pcap.PPP_ETHER, pcap.PPP_WITH_DIRECTION, pcap.PPI),
)
"""In the order of link_types in bpf/replay/fuzz.c."""


def fuzz_input(frames: Iterable[Frame], link_index: int = 0) -> bytes:
    """Frames as bpf/replay/fuzz.c reads them, a millisecond apart."""
    parts = [bytes([link_index])]
    for frame in frames:
        more = min(max((frame.wire_bytes or 0) - len(frame.data), 0), 255)
        parts.append(struct.pack("!HBB", len(frame.data), more, 20) + frame.data)
    return b"".join(parts)


def seeds() -> Iterator[bytes]:
    """Conversations and headers that reach every part of the engine."""
    talk = Conversation().tcp(0, "client", SYN, seq=1, options=b"\1\3\3\7")
    talk.tcp(0, "server", SYN | ACK, seq=9, ack=2, options=b"\2\4\5\xb4\3\3\2")
    talk.tcp(0, "client", ACK, seq=2, ack=10).tcp(0, "client", PSH | ACK, seq=2, ack=10, payload=b"abc")
    talk.tcp(0, "client", PSH | ACK, seq=2, ack=10, payload=b"abc").tcp(0, "server", ACK, seq=10, ack=5, window=0)
    talk.tcp(0, "server", ACK, seq=13, ack=5, payload=b"xyz").tcp(0, "server", ACK, seq=10, ack=5, payload=b"uvw")
    for _ in range(4):
        talk.tcp(0, "client", ACK, seq=5, ack=10)
    talk.tcp(0, "client", ACK, seq=4, ack=16).tcp(0, "server", FIN | ACK, seq=16, ack=5).tcp(0, "client", RST, seq=5)
    traced = f"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{'4b' * 16}-{'f0' * 8}-01\r\n\r\n".encode()
    asking = Conversation().handshake()
    for number in range(2):
        sequence = {"seq": 1001 + number * len(traced), "ack": 5001 + number * 8}
        asking.tcp(0, "client", PSH | ACK, payload=traced, **sequence).tcp(0, "client", PSH | ACK, payload=traced, **sequence)
        asking.tcp(0, "server", PSH | ACK, seq=sequence["ack"], ack=sequence["seq"] + len(traced), payload=b"HTTP/1.1")
    six = Conversation("2001:db8::1", "2001:db8::2").handshake().icmp(1, "client", icmp(128, identifier=2))
    asked = ip("10.0.0.1", "10.0.0.2", 17, udp(40000, 53, b"?"))
    chain = bytes([43, 0]) + bytes(6) + bytes([44, 1]) + bytes(14) + struct.pack("!BBHI", 17, 0, 1, 9)
    v6 = ("2001:db8::1", "2001:db8::2")
    names = Conversation(client_port=40000, server_port=53)
    for number in (1, 2, 1):
        names.udp(0, "client", dns.question(number, "a.example.org", edns=number == 1))
    names.udp(1, "server", dns.answer(2, "A.example.org")).udp(1, "server", dns.refusal(1))
    names.icmp(2, "client", icmp(8, identifier=3)).icmp(2, "server", icmp(0, identifier=3))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        yield fuzz_input(tls_talk.talk(*tls_talk.contexts(version), segment=300)[0].frames)
        yield fuzz_input(tls_talk.talk(*tls_talk.contexts(version, trusted=False))[0].frames)
    client, server = quic_talk.hellos()
    answer = quic_talk.initial(quic_talk.crypto(server), of_server=True)
    yield fuzz_input(quic_talk.conversation(("client", quic_talk.initial(quic_talk.crypto(client))), ("server", answer)).frames)
    turns = Conversation(client_port=40000, server_port=123)
    for sender in ("client", "server", "client", "client", "server"):
        turns.udp(3, sender, b"?")
    odd = [
        asked,
        ip("10.0.0.2", "10.0.0.1", 1, icmp(3, 3, payload=asked)),
        ip(*v6[::-1], 58, icmp(1, 4, payload=ip(*v6, 17, udp(1, 2)))),
        ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, bytes(16)), fragment=0x2000, identification=9),
        ip("10.0.0.1", "10.0.0.2", 17, bytes(16), fragment=2, identification=9),
        ip(*v6, 0, udp(5, 6, b"data"), extensions=chain),
        ip("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, SYN, options=bytes(20)), options=bytes(8)),
        ip(*v6, 132, bytes(20)),
    ]
    frames = (
        talk.frames
        + six.frames
        + asking.frames
        + names.frames
        + turns.frames
        + [Frame(pcap.START, ethernet(packet)) for packet in odd]
    )
    yield fuzz_input(frames)
    yield fuzz_input(
        [Frame(pcap.START, ethernet(odd[6], tags=(0x88A8, 0x8100))), Frame(0, ethernet(bytes(28), ethertype=0x806))]
    )
    for index, link_type in enumerate(_LINKS):
        yield fuzz_input([Frame(0, link(link_type, frame.data[14:])) for frame in frames], index)
    for frame in [*frames, *tunnelled()]:
        yield fuzz_input([frame])
    for talk in (*http_talks(), pipelined(), pipelined_apart(), http2_streams()):
        yield fuzz_input(talk.frames)
    yield fuzz_input(http2_streams().frames[5:])
    yield fuzz_input(http2_calls().frames[3:])
    yield fuzz_input(tunnelled())
    yield fuzz_input(reversed(list(tunnelled())))


def http_talks() -> Iterator[Talk]:
    """Requests and responses in whatever pieces, what stands before them, and what ends them."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    first, second = request(0, size=0, line="M-SEARCH * HTTP/1.1"), request(1, size=120)
    yield (
        Talk().ask(0, first[:2]).ask(0, first[2:]).answer(0, hints[:7]).answer(0, hints[7:-1] + b"\n" + reply()).ask(0, second)
    )
    yield Talk().ask(0, b"PROXY UNKNOWN\r\n").ask(0, second).answer(0, hints * 3 + reply(0, "413 Too Large")).ask(0, b"y" * 90)
    yield (
        Talk()
        .ask(0, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + first)
        .answer(0, reply(60, "101 Switching"))
        .ask(0, b"\x81")
    )
    yield Talk().ask(0, first + first).answer(0, reply(60)).ask(0, second)
    yield Talk().ask(0, first).ask(0, second).answer(0, reply(60))
    yield Talk().ask(0, request(0, size=0, line="CONNECT a:1 HTTP/1.1")).answer(0, reply(0, "200 OK")).ask(0, b"\x16\x03")
    yield (
        Talk()
        .ask(0, request(0, size=0).replace(b"\r", b"") + b"\n")
        .answer(0, b"ICY 200 OK!!!!")
        .ask(0, b"\r\n")
        .ask(0, second)
    )
    yield Talk().ask(0, first).end(0, "client", FIN | ACK).end(0, "server", RST | ACK)
    yield (
        Talk()
        .ask(0, first)
        .answer(0, reply(0))
        .ask(0, b"PO")
        .ask(0, b"ST / HTTP/1.1\r\n\r\n")
        .answer(0, b"?")
        .ask(0, b"PRI * HTTP/2.0\r\n")
    )


def pipelined() -> Talk:
    """Requests that do not wait, and every way in which a message ends."""
    first = request(0, size=0, line="GET /0 HTTP/1.1")
    more = request(1, size=0, line="PUT /1 HTTP/1.1")[:-2] + b"Content-Length: 3\r\n\r\nabc"
    more += (
        request(2, size=0, line="HEAD /2 HTTP/1.1")
        + b"POST /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\nT: x\r\n\r\n"
    )
    talk = (
        Talk()
        .ask(0, first + more[:40])
        .ask(0, more[40:] + first)
        .answer(0, b"HTTP/1.1 103 Hints\r\nA: b\r\n c\r\n\r\nHTTP/1.1 200 OK\r\n")
    )
    talk.answer(0, b"Content-Length: 4\r\n\r\n12").answer(
        0, b"34HTTP/1.1 204 None\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    )
    talk.answer(0, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n")
    return talk.answer(0, b"HTTP/1.1 200 OK\r\n\r\nuntil").end(0, "server", FIN | ACK)


def http2_streams() -> Talk:
    """Streams that are open at once, every kind of frame, fields and padding, and blocks and heads in pieces."""
    coder = http2.Coder()
    ends, whole = http2.END_STREAM, http2.END_HEADERS
    padded = b"\3" + bytes(4) + b"\x10" + coder.asks(1) + bytes(3)
    asked = http2.frame(http2.HEADERS, 1, coder.asks(0), whole)
    asked += http2.frame(http2.HEADERS, 3, padded, http2.PADDED | http2.HAS_PRIORITY | whole | ends)
    more = coder.asks(2)
    cut = http2.frame(http2.HEADERS, 5, more[:9], ends) + http2.frame(http2.CONTINUATION, 5, more[9:], whole)
    talk = Talk().ask(0, http2.HELLO + asked).answer(0, http2.WELCOME).ask(0, cut[:5]).ask(0, cut[5:20]).ask(0, cut[20:])
    answered = http2.frame(http2.HEADERS, 1, coder.answers(100), whole) + http2.frame(http2.HEADERS, 3, coder.answers(), whole)
    answered += http2.frame(http2.PUSH_PROMISE, 1, b"\0\0\0\2" + coder.answers(), whole)
    talk.answer(0, answered + http2.frame(http2.DATA, 3, bytes(99))).answer(0, http2.frame(http2.DATA, 3, b"\1??", 9))
    talk.ask(0, http2.frame(http2.DATA, 1, bytes(9))[:12]).ask(0, bytes(6)).ask(0, http2.frame(http2.RST_STREAM, 1, bytes(4)))
    return talk.answer(0, http2.frame(http2.PING, 0, bytes(8)) + http2.frame(http2.GOAWAY, 0, bytes(8))).end(1, "server", RST)


def http2_calls() -> Talk:
    """Calls of a connection whose preface is left out, one segment of them lost on either side."""
    coder, talk, whole = http2.Coder(), Talk(), http2.END_HEADERS | http2.END_STREAM
    for number in range(12):
        asked = http2.frame(http2.HEADERS, 2 * number + 1, coder.asks(number), http2.END_HEADERS)
        asked += http2.frame(http2.DATA, 2 * number + 1, b"q", http2.END_STREAM)
        answered = http2.frame(http2.HEADERS, 2 * number + 1, coder.answers(), whole)
        talk.say(0, "client", asked, lost=number == 4).say(0, "server", answered, lost=number == 8)
    return talk


def pipelined_apart() -> Talk:
    """Requests in segments of their own, the first of them of no trace."""
    talk = Talk().ask(0, request(0, "00", size=0, line="HEAD /0 HTTP/1.1")).ask(0, request(1, size=0, line="GET /1 HTTP/1.1"))
    return talk.ask(0, request(2, size=0, line="DELETE /2 HTTP/1.1")).answer(0, b"HTTP/1.1 404 No\r\n\r\n" * 3)


def tunnelled() -> Iterator[Frame]:
    """A packet in every kind of tunnel, tunnels in tunnels, and fragments inside, outside and both."""
    plain = ip("10.0.0.1", "10.0.0.2", 6, tcp(40000, 80, PSH | ACK, seq=1, ack=1, payload=b"hello"))
    six = ip("fd00::1", "fd00::2", 17, udp(5000, 53, b"?" * 40))
    ends = ("192.0.2.1", "192.0.2.2")
    wrapped = [
        *(ip(*ends, 17, pcap.vxlan(7, ethernet(inner))) for inner in (plain, six)),
        ip(*ends, 17, pcap.vxlan(7, ethernet(bytes(28), ethertype=0x806), port=8472)),
        ip(*ends, 17, pcap.geneve(7, ethernet(plain), options=bytes(8))),
        ip(*ends, 47, pcap.gre(ethernet(six), kind=0x6558, key=5, checksum=True, sequence=1)),
        ip(*ends, 17, pcap.gtpu(9, plain, extensions=[(0x85, bytes(2)), (0x20, bytes(6))])),
        ip("2001:db8::a", "2001:db8::b", 4, plain),
        ip(*ends, 41, six),
    ]
    nest = plain
    for _ in range(5):
        nest = ip(*ends, 4, nest)
        wrapped.append(nest)
    yield from (Frame(pcap.START, ethernet(packet)) for packet in wrapped)
    inside = [ip(*ends, 4, piece) for piece in fragmented(ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, bytes(90))), 48)]
    for number, packet in enumerate([*wrapped[:1], *inside]):
        for piece in fragmented(packet, 40, number):
            yield Frame(pcap.START, ethernet(piece))


def fragmented(packet: bytes, size: int, identification: int = 7) -> Iterator[bytes]:
    """An IPv4 packet as fragments of at most `size` bytes of payload, a multiple of 8."""
    head, payload = packet[:20], packet[20:]
    for offset in range(0, len(payload), size):
        piece = payload[offset : offset + size]
        field = offset // 8 | (0x2000 if offset + size < len(payload) else 0)
        yield head[:2] + struct.pack("!HHH", 20 + len(piece), identification, field) + head[8:] + piece


def files() -> Iterator[bytes]:
    """Capture files of every kind that bpf/files/ reads."""
    frames = Conversation().handshake().frames
    yield pcap.pcap_file(frames)
    yield pcap.pcap_file(frames, order=">", nanoseconds=False)
    interfaces = [pcap.Interface(), pcap.Interface(pcap.RAW, 64, resolution=0x8A, offset=3)]
    mixed = [*frames, Frame(pcap.START, frames[0].data[14:], interface=1), Frame(pcap.START, b"", interface=7)]
    for order in "<>":
        yield pcap.pcapng_file(mixed, order=order, interfaces=interfaces) + pcap.pcapng_file(frames, kind=3)
        yield pcap.pcapng_file(mixed, order=order, interfaces=interfaces, kind=2)


def calls() -> Iterator[bytes]:
    """What is told of frames, as bpf/calls/fuzz.c reads it: connections with requests and responses, whole and in parts."""
    opens, frames, whole = 0, 1, http2.END_HEADERS | http2.END_STREAM
    for flow in range(2):
        coder = http2.Coder()
        told = bytes([opens, 0, 0, 0, flow, 0, 64]) + bytes(64)
        for number in range(4):
            for side, block in ((0, coder.asks(number)), (8, coder.answers(100 if number == 2 else 200))):
                parts = 3 if side else 7
                told += bytes([frames, http2.HEADERS, whole, parts, flow | side, 2 * number + 1, len(block)]) + block
        more = coder.asks(5)
        told += bytes([frames, http2.HEADERS, 0, 7, flow, 11, 5]) + more[:5]
        told += bytes([frames, http2.CONTINUATION, http2.END_HEADERS, 7, flow, 11, len(more) - 5]) + more[5:]
        yield told + bytes([frames, http2.DATA, http2.END_STREAM, 7, flow, 11, 0, 2, 0, 0, 32, flow, 0, 0])
        yield told + bytes([frames, http2.RST_STREAM, 0, 3, flow | 8, 11, 0, 3, 0, 0, 0, flow, 0, 0])
        yield told + bytes([frames, http2.HEADERS, whole, 7, flow | 0xF0, 13, 0]) + told
    messages, line = 5, request(0, size=0).split(b"\r\n")[1] + b"\r\n"
    told = bytes([opens, 0, 0, 0, 0, 0, 64]) + bytes(64)
    for number, handed_over in enumerate((1, 0, 0)):
        head = line.ljust(128, b"\0") + bytes([0, 0, len(line), 1, 1, handed_over, 0, 0])
        told += bytes([messages, 0, 0, 7, 0, number, len(head)]) + head
    for number in range(3):
        told += bytes([messages, 0, 0, 1, 8, number, 136]) + bytes(136) + bytes([messages, 0, 0, 2, 8, number, 0])
    yield told


TARGETS = {"replay": seeds, "files": files, "calls": calls, "otlp": otlp_requests.seeds}
"""The folders of bpf/ that have a fuzz.c, and what begins its corpus."""


def write(folder: Path, target: str) -> int:
    """Write every seed of a target into a folder; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for count, seed in enumerate(TARGETS[target](), start=1):
        (folder / f"seed-{count:03}").write_bytes(seed)
    return count


if __name__ == "__main__":
    for name in TARGETS:
        sys.stdout.write(f"{name}: {write(Path(sys.argv[1], name, 'corpus'), name)} seeds\n")
