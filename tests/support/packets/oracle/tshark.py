"""TCP conversations of a capture as tshark's tcp.analysis and as our records tell them, to be compared."""

from __future__ import annotations

import csv
import ipaddress
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.support.packets.oracle.without_copies import without_copies
from tests.support.packets.replayed import replay_files

if TYPE_CHECKING:
    from pathlib import Path

_FIELDS = (
    *("ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "ip.len", "ipv6.plen", "tcp.srcport", "tcp.dstport", "tcp.len", "tcp.flags"),
    *("tcp.seq_raw", "tcp.ack_raw", "frame.time_epoch", "frame.number", "tcp.analysis.retransmission"),
    *("tcp.analysis.out_of_order", "tcp.analysis.zero_window", "tcp.analysis.duplicate_ack", "tcp.analysis.keep_alive"),
    *(
        "frame.protocols",
        "tcp.analysis.window_full",
        "tcp.analysis.zero_window_probe",
        "tcp.analysis.initial_rtt",
        "tcp.stream",
    ),
)
_SYN, _RST, _ACK = 0x02, 0x04, 0x10

Key = frozenset[tuple[str, int]]
"""The two ends of a conversation: address and port."""


@dataclass(slots=True)
class Conversation:
    """One pair of ends; counts are of both directions, with the frame numbers where only tshark has them."""

    sent: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Packets and IP bytes by sender."""
    retransmits: int = 0
    out_of_order: int = 0
    zero_windows: int = 0
    duplicate_acks: int = 0
    keep_alives: int = 0
    zero_window_probes: int = 0
    window_full: int = 0
    initial_rtts_ns: list[int] = field(default_factory=list)
    """SYN to the ACK that completes the handshake, of each connection where both were seen."""
    first_frames: list[int] = field(default_factory=list)
    """Of tshark's streams, the frame that its initial round trip ends at."""
    syn_repeats: int = 0
    outcomes: list[str] = field(default_factory=list)
    """Of each connection whose SYN was seen: `answered`, `refused` or `silent`."""
    frames: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Frame numbers of what tshark counted."""

    def add(self, sender: tuple[str, int], packets: int, size: int) -> None:
        """Count what `sender` sent."""
        if packets:
            before = self.sent.get(sender, (0, 0))
            self.sent[sender] = (before[0] + packets, before[1] + size)


def of_tshark(tshark: str, path: Path) -> dict[Key, Conversation]:
    """Conversations by their ends, without copies of packets. Segments without payload are no retransmissions: SYNs and FINs
    have counts of their own.
    """
    with without_copies(tshark, path) as single:
        return _of_tshark(tshark, single)


def _of_tshark(tshark: str, path: Path) -> dict[Key, Conversation]:
    known = "-d", "udp.port==8472,vxlan"
    command = [tshark, "-r", str(path), *known, "-Y", "tcp", "-T", "fields", "-E", "separator=,", "-E", "occurrence=l"]
    for name in _FIELDS:
        command += ["-e", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[Key, Conversation] = defaultdict(Conversation)
    streams: dict[str, tuple[Key, list[dict[str, str]]]] = {}
    for row in csv.DictReader(output.splitlines(), _FIELDS):
        version, transport = innermost(row["frame.protocols"])
        if transport != "tcp" or not row["tcp.len"] or not row["tcp.flags"] or not row["tcp.srcport"]:
            continue  # cut, or quoted by an ICMP error
        source = (row[f"{version}.src"], int(row["tcp.srcport"]))
        key = frozenset((source, (row[f"{version}.dst"], int(row["tcp.dstport"]))))
        conversation = found[key]
        conversation.add(source, 1, int(row["ip.len"]) if version == "ip" else int(row["ipv6.plen"]) + 40)
        streams.setdefault(row["tcp.stream"], (key, []))[1].append(row)
        payload, late = int(row["tcp.len"]) > 0, row["tcp.analysis.out_of_order"]
        for name, told in (
            ("retransmits", payload and row["tcp.analysis.retransmission"] and not late),
            ("out_of_order", payload and late),
            ("zero_windows", row["tcp.analysis.zero_window"]),
            ("duplicate_acks", row["tcp.analysis.duplicate_ack"]),
            ("keep_alives", row["tcp.analysis.keep_alive"]),
            ("zero_window_probes", row["tcp.analysis.zero_window_probe"]),
            ("window_full", row["tcp.analysis.window_full"]),
        ):
            if told:
                setattr(conversation, name, getattr(conversation, name) + 1)
                conversation.frames[name].append(int(row["frame.number"]))
    for key, rows in streams.values():
        _handshake(found[key], rows)
    return dict(found)


def innermost(protocols: str) -> tuple[str, str]:
    """`ip` or `ipv6` and the protocol behind it, of the innermost IP packet that ICMP does not quote; of `frame.protocols`."""
    layers = protocols.split(":")
    for quoting in ("icmp", "icmpv6"):
        layers = layers[: layers.index(quoting) + 1] if quoting in layers else layers
    places = [place for place, layer in enumerate(layers) if layer in {"ip", "ipv6"}]
    if not places:
        return "", ""
    behind = [layer for layer in layers[places[-1] + 1 :] if not layer.startswith("ipv6.")]
    return layers[places[-1]], behind[0] if behind else ""


def _handshake(conversation: Conversation, rows: list[dict[str, str]]) -> None:
    """Add what tshark says of one connection's beginning."""
    flags = [int(row["tcp.flags"], 16) for row in rows]
    timed = [row for row in rows if row["tcp.analysis.initial_rtt"]]
    if timed:
        conversation.initial_rtts_ns.append(int(Decimal(timed[0]["tcp.analysis.initial_rtt"]) * 1_000_000_000))
        conversation.first_frames.append(int(timed[0]["frame.number"]))
    if not any(flag & (_SYN | _ACK) == _SYN for flag in flags):
        return
    conversation.syn_repeats += len([flag for flag in flags if flag & (_SYN | _ACK) == _SYN]) - 1
    if any(flag & (_SYN | _ACK) == _SYN | _ACK for flag in flags):
        conversation.outcomes.append("answered")
    else:
        conversation.outcomes.append("refused" if any(flag & _RST for flag in flags) else "silent")


def of_wirespan(path: Path) -> dict[Key, Conversation]:
    """The same of our records; flows of one conversation (a reused port, a pause) are added up."""
    found: dict[Key, Conversation] = defaultdict(Conversation)
    ended: dict[int, tuple[Key, dict[str, Any]]] = {}
    for record in replay_files([path], capacity=4096).records:
        if record["transport"] != 6:
            continue
        ends = []
        for end in ("local", "remote"):
            address = ipaddress.IPv6Address(record[f"{end}_address"])
            ends.append((str(address.ipv4_mapped or address), record[f"{end}_port"]))
        conversation = found[frozenset(ends)]
        for end, way in zip(ends, ("tx", "rx"), strict=True):
            conversation.add(end, record[f"{way}_packets"], record[f"{way}_bytes"])
            for name in ("retransmits", "out_of_order", "zero_windows", "duplicate_acks", "keep_alives", "window_full"):
                setattr(conversation, name, getattr(conversation, name) + record[f"{way}_{name}"])
        ended[record["flow_id"]] = (frozenset(ends), record)
    for key, record in ended.values():
        found[key].zero_window_probes += record["tx_zero_window_probes"] + record["rx_zero_window_probes"]
        if record["syn_unix_ns"] and record["handshake_ack_unix_ns"]:
            found[key].initial_rtts_ns.append(record["handshake_ack_unix_ns"] - record["syn_unix_ns"])
        if record["syn_unix_ns"]:
            refused = record["tx_resets"] or record["rx_resets"]
            outcome = "answered" if record["syn_ack_unix_ns"] else "refused" if refused else "silent"
            found[key].outcomes.append(outcome)
            found[key].syn_repeats += record["syn_repeats"]
    return dict(found)
