"""Our records against an independent reader's: tshark's streams of real captures, in the folder named by WIRESPAN_PCAPS."""

from __future__ import annotations

import csv
import ipaddress
import os
import shutil
import subprocess
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest

from services.capture.errors import CaptureFileError
from tests.support.packets.oracle.tshark import innermost
from tests.support.packets.oracle.without_copies import without_copies
from tests.support.packets.replayed import replay_files

FOLDER = os.environ.get("WIRESPAN_PCAPS")
EXACT = [
    *("http.pcapng", "http_ipv6.pcap", "resp.pcap", "pgsql.pcap", "dns.pcap", "kafka.pcapng", "443-curl.pcap"),
    *("amqp.pcap", "bittorrent_tcp_miss.pcapng", "discord_mid_flow.pcap", "elasticsearch.pcap", "ftp.pcap", "haproxy.pcap"),
    *("http_asymmetric.pcapng", "http_auth.pcap", "http_connect.pcap", "memcached.cap", "mongodb.pcap", "mysql.pcapng"),
    *("nats.pcap", "quic_0RTT.pcap", "raft.pcap", "ssh.pcap", "synscan.pcap", "websocket.pcap", "wireguard.pcap"),
    *("vxlan.pcap", "gre.pcapng", "4in6tunnel.pcap", "6in4tunnel.pcap"),
]
"""Captures without fragments and broken headers, which are told apart here and not there; the last are of tunnels."""
FIELDS = ("frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "ip.len", "ipv6.plen", "tcp.srcport", "tcp.dstport",
          "udp.srcport", "udp.dstport", "ip.proto", "ipv6.nxt", "frame.time_epoch")  # fmt: skip

pytestmark = pytest.mark.skipif(not FOLDER, reason="WIRESPAN_PCAPS names no folder of captures")


def captures():
    """Every file of the folder that is meant to be a capture."""
    return sorted(path for path in Path(FOLDER).iterdir() if path.suffix in {".pcap", ".pcapng", ".cap"}) if FOLDER else []


def needs(tool):
    """The tool's path; skips where it is not installed."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


class Conversation:
    """Packets and IP bytes per sender, and the times of the first and last packet in ns."""

    def __init__(self):
        self.packets = defaultdict(int)
        self.bytes = defaultdict(int)
        self.times = []

    def add(self, sender, packets, size, *times):
        """Count what `sender` sent."""
        self.packets[sender] += packets
        self.bytes[sender] += size
        self.times += times

    def summary(self):
        """What is compared; an end that sent nothing is left out."""
        senders = {sender for sender, packets in self.packets.items() if packets}
        return ({s: (self.packets[s], self.bytes[s]) for s in senders}, min(self.times), max(self.times))


def of_tshark(path):
    """Conversations by transport and ends, summed over tshark's dissection of each packet."""
    with without_copies(needs("tshark"), path) as single:
        return of_single(single)


def of_single(path):
    """The same, of a capture that has every packet once."""
    command = [needs("tshark"), "-r", path, "-Y", "tcp or udp", "-T", "fields", "-E", "separator=,", "-E", "occurrence=l"]
    for name in FIELDS:
        command += ["-e", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = defaultdict(Conversation)
    for row in csv.DictReader(output.splitlines(), FIELDS):
        version, transport = innermost(row["frame.protocols"])
        if transport not in {"tcp", "udp"}:
            continue  # in a tunnel of UDP, or quoted by an ICMP error
        source, destination = ((row[f"{version}.{end}"], int(row[f"{transport}.{end}port"])) for end in ("src", "dst"))
        size = int(row["ip.len"]) if version == "ip" else int(row["ipv6.plen"]) + 40
        time = int(Decimal(row["frame.time_epoch"]) * 1_000_000_000)
        found[transport, frozenset((source, destination))].add(source, 1, size, time)
    return {key: conversation.summary() for key, conversation in found.items()}


def of_wirespan(path):
    """The same of our records; flows of one conversation (a reused port, a pause) are added up."""
    found = defaultdict(Conversation)
    for record in replay_files([path], capacity=4096).records:
        transport = {6: "tcp", 17: "udp"}.get(record["transport"])
        if transport is None:
            continue
        ends = []
        for end in ("local", "remote"):
            address = ipaddress.IPv6Address(record[f"{end}_address"])
            ends.append((str(address.ipv4_mapped or address), record[f"{end}_port"]))
        conversation = found[transport, frozenset(ends)]
        times = record["start_unix_ns"], record["end_unix_ns"]
        conversation.add(ends[0], record["tx_packets"], record["tx_bytes"], *times)
        conversation.add(ends[1], record["rx_packets"], record["rx_bytes"], *times)
    return {key: conversation.summary() for key, conversation in found.items()}


@pytest.mark.parametrize("name", EXACT)
def test_conversations_equal_tsharks(name):
    """Packets and IP bytes per direction, first and last time, of every TCP and UDP conversation."""
    path = Path(FOLDER) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    expected = of_tshark(path)
    assert expected
    assert of_wirespan(path) == expected


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.name)
def test_every_capture_replays_and_adds_up(path):
    """No capture fails; packets in records and counters are as many as the file has."""
    try:
        replayed = replay_files([path], capacity=4096)
    except CaptureFileError as error:
        assert str(path) in str(error)  # noqa: PT017 - one of two right endings
        return
    command = [needs("capinfos"), "-Mc", "-T", "-r", path]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert replayed.counters["packets"] == int(output.split("\t")[-1])
