"""The same engine in the kernel: it compiles with our own headers, passes the verifier and gives what replay gives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import bpf
from services.capture.flows.layout import FLOW, Disposition
from services.capture.replay.source import ReplaySource
from tests.support.packets.pcap import ACK, FIN, RST, SYN, Conversation, Frame, ethernet, icmp, ip, udp, write
from tests.support.packets.talks import dns

SYSTEM_PYTHON = "/usr/bin/python3"
HOSTS = {"id", "state"}
OF_INTEREST = 0x80
"""Members that the host fills."""
DEEP = {
    *(
        f"{way}_{name}"
        for way in ("tx", "rx")
        for name in ("rtt_samples", "rtt_sum_ns", "rtt_min_ns", "rtt_max_ns", "window_full")
    ),
    *("request_transfer_sum_ns", "request_transfer_max_us", "response_transfer_sum_ns", "response_transfer_max_us"),
    *("icmp_errors", "icmp_error_type", "icmp_error_code"),
}
"""Members that only bpf/replay/flow_deep.h fills, which the kernel does without."""


def in_kernel(frames, client_ends):
    """Run frames through the kernel's engine; those from `client_ends` (IPv4 bytes) leave, the others arrive."""
    if os.geteuid() != 0:
        pytest.skip("loading a program needs root")
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"{SYSTEM_PYTHON} is not there; the distribution's bcc belongs to it")
    packets = [[f.time_ns, "egress" if f.data[26:30] in client_ends else "ingress", f.data.hex()] for f in frames]
    command = [SYSTEM_PYTHON, Path(__file__).with_name("engine_tap_host.py"), bpf.SOURCE_DIRECTORY]
    result = subprocess.run(command, input=json.dumps(packets), capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    flows = np.frombuffer(bytes.fromhex("".join(answer["flows"])), FLOW)
    return flows[np.lexsort((flows["local_port"], flows["first_ns"]))], answer["dispositions"]


def in_replay(frames, path):
    """The same of the replay library."""
    with ReplaySource([write(path, frames)], 64) as source:
        source.open_next_file()
        source.advance(2**63)
        used = source.slots[: source.high_slot]
        counters = source.counters
    dispositions = [counters[f"{kind.name.lower()}_packets"] for kind in Disposition]
    return used[np.lexsort((used["local_port"], used["first_ns"]))], dispositions


def test_a_receiver_tells_reordering_from_repetition_by_time():
    """In the kernel: within half the handshake's round trip of the gap, overtaken, duplicate ACKs or not; later, sent again.

    What was sent again and fills the gap was not seen before.
    """
    talk = Conversation().handshake(rtt=0.02)

    def received(seconds, offset):
        talk.tcp(seconds, "client", ACK, seq=1001 + offset, ack=5001, payload=bytes(100))

    def asked(seconds, offset):
        talk.tcp(seconds, "server", ACK, seq=5001, ack=1001 + offset)

    for step, offset in enumerate((0, 200, 300, 400)):
        received(1 + step / 1000, offset)
        asked(1.0001 + step / 1000, 100)
    received(1.005, 100)
    asked(1.0051, 500)
    received(2, 600)
    asked(2.0001, 500)
    received(2.015, 700)
    received(2.021, 500)
    asked(2.0211, 800)
    received(3, 700)
    (flow,), _ = in_kernel(talk.frames, {bytes([10, 0, 0, 2])})
    assert (flow["rx_out_of_order"], flow["rx_retransmits"], flow["rx_retransmit_bytes"]) == (1, 2, 100)
    assert flow["rx_spurious_retransmits"] == 1


def test_kernel_and_replay_agree_on_every_member(tmp_path):
    """A talk of every kind, packet by packet through both hosts: equal slots, equal dispositions."""
    web = Conversation().handshake(client_isn=2**32 - 3)
    web.tcp(1, "client", ACK, seq=2**32 - 2, ack=5001, payload=b"GET / HTTP").tcp(
        1.2, "client", ACK, seq=2**32 - 2, payload=b"GET"
    )
    web.tcp(1.5, "server", ACK, seq=5001, ack=8, payload=bytes(100)).tcp(2, "server", FIN | ACK, seq=5101, ack=8)
    web.tcp(2.1, "client", FIN | ACK, seq=8, ack=5102).tcp(2.2, "server", ACK, seq=5102, ack=9)
    refused = Conversation(client_port=40001).tcp(3, "client", SYN, seq=1).tcp(4, "client", SYN, seq=1)
    refused.tcp(4.1, "server", RST | ACK, ack=2)
    names = Conversation(client_port=40002, server_port=53).udp(5, "client", dns.question(1, "a.example.org"))
    names.udp(5.001, "client", dns.question(2, "a.example.org", dns.AAAA, edns=True))
    names.udp(5.02, "server", dns.answer(2, "A.eXample.org", dns.AAAA)).udp(7, "client", dns.question(1, "a.example.org"))
    names.udp(7.5, "client", dns.question(3, "")).udp(7.6, "server", dns.answer(1, "a.example.org"))
    names.udp(7.7, "client", dns.question(3, "x" * 63)).udp(7.8, "server", dns.refusal(3)).udp(8, "client", b"?")
    clocks = Conversation(client_port=40003, server_port=123).udp(5, "client", b"?").udp(5.02, "server", b"!")
    stream = Conversation(client_port=40004, server_port=443).udp(5, "client", b"?").udp(5.02, "client", b"!")
    unknown = Conversation(client_port=40005, server_port=8125).udp(5, "client", b"?").udp(5.02, "server", b"!")
    ping = Conversation().icmp(6, "client", icmp(8, identifier=3)).icmp(6.004, "server", icmp(0, identifier=3))
    odd = [
        ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2), total=900)),
        ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2), fragment=5)),
    ]
    talks = (web, refused, names, ping, clocks, stream, unknown)
    frames = [frame for talk in talks for frame in talk.frames] + [Frame(web.frames[0].time_ns, data) for data in odd]
    kernel, kernel_dispositions = in_kernel(frames, {bytes([10, 0, 0, 1])})
    library, library_dispositions = in_replay(frames, tmp_path / "frames.pcap")
    assert len(kernel) == len(library) == len(talks)
    for member in set(FLOW.names) - HOSTS - DEEP:
        # Replay has looked at the first payload of each end; the program here looks for no handshake.
        mask = ~OF_INTEREST & 0xFF if member.endswith("_known") else None
        told = [host[member] if mask is None else host[member] & mask for host in (kernel, library)]
        assert told[0].tolist() == told[1].tolist(), member
    assert not any(kernel[member].any() for member in DEEP)
    assert library["rx_rtt_samples"].sum() > 0
    assert (library["questions"].max(), library["question_repeats"].max()) == (4, 1)
    assert kernel_dispositions == library_dispositions
    assert kernel_dispositions[Disposition.MALFORMED] == kernel_dispositions[Disposition.FRAGMENT] == 1
