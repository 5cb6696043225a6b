"""Connections whose bytes are known, as capture files: what a run must find in the backend, each once and to the byte."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tests.chaos.cluster import SERVERS, server_address
from tests.support.packets.pcap import ACK, FIN, PSH, Conversation, write

CONNECTIONS: Final = 120
"""In one file."""
_FILE_SECONDS: Final = 40.0
"""By the file's clock: some forty messages of the bus, since what is due is told once a second of it."""
_LONG: Final = 0.1
"""Share of the connections that live through most of their file, so that several records tell them."""
_ETHERNET_BYTES: Final = 14


class Key(NamedTuple):
    """Which connection: no two of a run have the same."""

    client: str
    client_port: int


@dataclass(frozen=True, slots=True)
class Sum:
    """IP bytes and packets of a connection, client to server and back."""

    bytes: int
    packets: int
    reverse_bytes: int
    reverse_packets: int


class Generator:
    """Makes one file after the other, all of them told by the seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._files = 0

    def file(self) -> tuple[Path, dict[Key, Sum]]:
        """Write the next file; return it with what its connections sent."""
        self._files += 1
        known: dict[Key, Sum] = {}
        frames = []
        for number in range(CONNECTIONS):
            key = Key(f"10.{self._files >> 8}.{self._files & 255}.{1 + number % 250}", 20_000 + number)
            talk = self._talk(key)
            frames += talk.frames
            known[key] = _sum(talk)
        frames.sort(key=lambda frame: frame.time_ns)
        return write(self._folder / f"traffic-{self._files}.pcap", frames), known

    def _talk(self, key: Key) -> Conversation:
        chance = self._chance
        long = chance.random() < _LONG
        begin, length = (0.5, _FILE_SECONDS - 3) if long else (chance.uniform(0, _FILE_SECONDS - 5), chance.uniform(0.05, 2))
        turns = chance.randint(20, 40) if long else chance.randint(1, 6)
        # The trace's id is made of both: another pair for each connection of a run.
        mine, theirs = chance.randrange(1 << 31), chance.randrange(1 << 31)
        talk = Conversation(key.client, server_address(chance.randint(1, SERVERS)), key.client_port, 8080)
        talk.handshake(begin, client_isn=mine, server_isn=theirs, rtt=0.002)
        mine, theirs = mine + 1, theirs + 1
        for turn in range(turns):
            at = begin + 0.01 + turn * length / turns
            asked, answered = (chance.randbytes(chance.randint(1, 1400)) for _ in range(2))
            talk.tcp(at, "client", PSH | ACK, seq=mine, ack=theirs, payload=asked)
            mine += len(asked)
            talk.tcp(at + 0.001, "server", PSH | ACK, seq=theirs, ack=mine, payload=answered)
            theirs += len(answered)
        end = begin + length + 0.02
        talk.tcp(end, "client", FIN | ACK, seq=mine, ack=theirs)
        talk.tcp(end + 0.001, "server", FIN | ACK, seq=theirs, ack=mine + 1)
        talk.tcp(end + 0.002, "client", ACK, seq=mine + 1, ack=theirs + 1)
        return talk


def _sum(talk: Conversation) -> Sum:
    """Counted in the frames themselves, by the address that they come from."""
    client = bytes(int(part) for part in talk.client.split("."))
    packets = [frame.data[_ETHERNET_BYTES:] for frame in talk.frames]
    sent = [len(packet) for packet in packets if packet[12:16] == client]
    received = [len(packet) for packet in packets if packet[12:16] != client]
    return Sum(sum(sent), len(sent), sum(received), len(received))
