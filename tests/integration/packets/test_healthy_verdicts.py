"""Ten thousand connections that nothing is wrong with, of all manners, in a capture file: none is blamed for anything."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from proto.verdicts.names import Verdict
from services.cli.run.at_once import CaptureRecords
from tests.support.packets.pcap import ACK, FIN, PSH, RST, START, SYN, Frame, ethernet, ip, tcp, write

CONNECTIONS = 10_000
MS = 1_000_000
SEGMENT = 1448


class Talk:
    """One connection as its packets pass: what is sent is acknowledged, and time goes on."""

    def __init__(self, number: int, draw: random.Random) -> None:
        self.client, self.server = f"10.1.{number >> 8}.{number & 255}", f"10.2.0.{number % 200 + 1}"
        self.port = 20_000 + number % 40_000
        self.draw = draw
        self.now = START + number * MS
        self.round_trip = draw.randrange(MS // 20, 40 * MS)
        self.sent = {True: draw.getrandbits(32), False: draw.getrandbits(32)}
        self.frames: list[Frame] = []

    def packet(self, flags: int, payload: bytes = b"", *, by_client: bool, back: int = 0) -> None:
        """One segment, `back` bytes behind what was sent before."""
        ends = (self.client, self.server) if by_client else (self.server, self.client)
        ports = (self.port, 443) if by_client else (443, self.port)
        seq, ack = self.sent[by_client] - back, self.sent[not by_client]
        data = tcp(*ports, flags, seq=seq, ack=ack if flags & ACK else 0, payload=payload)
        self.frames.append(Frame(self.now, ethernet(ip(*ends, 6, data))))
        if not back:
            self.sent[by_client] += len(payload) + bool(flags & (SYN | FIN))
        self.now += 1000

    def shake(self) -> None:
        """Three packets, a round trip apart in all."""
        self.packet(SYN, by_client=True)
        self.now += self.round_trip // 2
        self.packet(SYN | ACK, by_client=False)
        self.now += self.round_trip // 2
        self.packet(ACK, by_client=True)

    def say(self, size: int, *, by_client: bool, probed: bool = False) -> None:
        """So many bytes in segments, and the ACKs of the other end, two segments each; `probed`: the tail is sent once more."""
        for at in range(0, size, SEGMENT):
            payload = bytes(min(SEGMENT, size - at))
            self.packet(ACK | PSH, payload, by_client=by_client)
            if at // SEGMENT % 2 or at + SEGMENT >= size:
                if probed and at + SEGMENT >= size:
                    self.now += 10 * MS
                    self.packet(ACK | PSH, payload, by_client=by_client, back=len(payload))
                self.now += self.round_trip // 2
                self.packet(ACK, by_client=not by_client)

    def close(self, *, by_client: bool) -> None:
        """Both streams end."""
        self.packet(FIN | ACK, by_client=by_client)
        self.packet(FIN | ACK, by_client=not by_client)
        self.packet(ACK, by_client=by_client)


def healthy(number: int) -> Iterator[Frame]:
    """A connection that is used in one of the ways in which connections are, quickly."""
    draw = random.Random(number)
    talk = Talk(number, draw)
    talk.shake()
    manner = draw.choice(["requests", "requests", "requests", "upload", "download", "probe", "idle", "open", "probed"])
    for _ in range(draw.randrange(1, 6) if manner in {"requests", "open", "probed"} else manner in {"download", "probe"}):
        talk.say(draw.randrange(1, 3000), by_client=True)
        talk.now += draw.randrange(MS // 10, 60 * MS)
        talk.say(draw.randrange(100_000, 300_000) if manner == "download" else draw.randrange(1, 9000), by_client=False)
    if manner == "upload":
        talk.say(draw.randrange(20_000, 200_000), by_client=True)
    if manner == "probed":
        talk.say(500, by_client=True, probed=True)
        talk.say(500, by_client=False)
    if manner == "probe":
        talk.packet(RST | ACK, by_client=True)
    elif manner != "open":
        talk.close(by_client=draw.random() < 0.5)
    return iter(talk.frames)


def test_none_of_ten_thousand_healthy_connections_is_blamed(tmp_path: Path) -> None:
    """Requests, uploads, downloads, probes that close by RST, idle and open ones, a tail sent twice, round trips to 40 ms."""
    frames = heapq.merge(*map(healthy, range(CONNECTIONS)), key=lambda frame: frame.time_ns)
    file = write(tmp_path / "healthy.pcap", frames)
    found: Counter[Verdict] = Counter()
    for batch in CaptureRecords([file], None).batches():
        found.update(map(Verdict, batch.column("verdict").tolist()))
    assert set(found) <= {Verdict.OK, Verdict.UNKNOWN}
    assert found[Verdict.OK] >= CONNECTIONS
