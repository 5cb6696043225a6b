"""What traffic that is neither DNS nor TLS pays for names, and TCP that is no HTTP for the look for trace contexts, in
instructions: those that a packet runs through in the tap.

    python -m tests.bench.bench_names_steps

Times of two taps that are the same differ by more than names cost (bench_names), and few machines in a cloud count a
processor's instructions. So the programs are run here, one BPF instruction after the other, as they are loaded for each
setting: packets of an established connection, whose flow the socket's storage has. Needs neither root nor traffic, and says the
same every time. Jumps that always go one way are not counted: the kernel takes most of them out. Nor is what the kernel's own
functions take, of which a packet calls some five.
"""

from __future__ import annotations

import struct
import sys
from typing import Final, get_args

import numpy as np

from proto.columns import Outcome, Role
from services.capture.flows.layout import KNOWN_ACKNOWLEDGED, KNOWN_NEXT, State
from services.capture.live.tap.loader import Switch, TapConstants
from services.capture.live.tap.slot_layout import SLOT
from services.capture.names.pieces import KINDS, Names, PieceKind
from services.runtime.host.programs import building
from services.runtime.host.programs.telling import told
from tests.support.node.bpf_machine import SLOTS, Machine

TCP, UDP = 6, 17
TRANSPORTS: Final = {TCP: "TCP", UDP: "UDP"}
LABELS: Final = ("64 B, sent", "64 B, received", "no payload, sent", "no payload, received")
LOCAL, REMOTE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
GIVEN_UP: Final = 1
"""FLOW_REQUESTS_OPAQUE of bpf/engine/flow.h."""
SWITCHES: Final = {
    PieceKind.DNS: Switch.PIECES_DNS, PieceKind.DNS_TCP: Switch.PIECES_DNS,
    PieceKind.TLS: Switch.PIECES_TLS, PieceKind.QUIC: Switch.PIECES_QUIC,
}  # fmt: skip


def packets(label: str, transport: int) -> list[bytes]:
    """Packets as they come one after the other; the first of them settle what is settled once."""
    payload = bytes(64) if "64 B" in label else b""
    source, destination, ports = (LOCAL, REMOTE, (4000, 5000)) if "sent" in label else (REMOTE, LOCAL, (5000, 4000))
    made = []
    for number in range(8):
        heard = 1 if payload else number + 1
        head = struct.pack(">HHIIBBHHH", *ports, number * len(payload) + 1, heard, 0x50, 0x10, 500, 0, 0)
        if transport == UDP:
            head = struct.pack(">HHHH", *ports, 8 + len(payload), 0)
        size = 20 + len(head) + len(payload)
        made.append(struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, transport, 0) + source + destination + head + payload)
    return made


def slot_of(transport: int, requests: int = 0) -> bytes:
    """An established connection's, whose client has begun to ask: what it says first is looked at, whatever it is."""
    slot = np.zeros(1, SLOT)
    ends = {"local_address": LOCAL, "remote_address": REMOTE}
    for name, address in ends.items():
        slot[name] = np.void(bytes(10) + b"\xff\xff" + address)
    values = {"id": 1 << 32, "state": State.LIVE, "transport": transport, "role": Role.CLIENT, "outcome": Outcome.ESTABLISHED}
    values |= {"requests": requests, "request_ns": 1}
    for name, value in {**values, "local_port": 4000, "remote_port": 5000, "tx_packets": 100, "rx_packets": 100}.items():
        slot[name] = value
    for side in ("tx", "rx"):
        slot[f"{side}_known"] = KNOWN_NEXT | KNOWN_ACKNOWLEDGED
        for name, value in {"next_sequence": 1, "acknowledged": 1, "window": 500}.items():
            slot[f"{side}_{name}"] = value
    return slot.tobytes()


def steps(names: Names, transport: int, label: str) -> int:
    """Return how many instructions a packet takes with this setting."""
    return _steps(frozenset({SWITCHES[kind] for kind in KINDS[names]} | {Switch.TRACE_CONTEXT}), transport, label)


def steps_without_http(*, looks: bool, transport: int, label: str) -> int:
    """Likewise of a connection that is known to be no HTTP, with the look for trace contexts and without it."""
    return _steps(frozenset({Switch.TRACE_CONTEXT} if looks else ()), transport, label, GIVEN_UP)


def _steps(switches: frozenset[Switch], transport: int, label: str, requests: int = 0) -> int:
    compiled = building.find().programs
    maps = {name: number for number, name in enumerate(compiled.maps, SLOTS + 1)} | {"slots": SLOTS}
    program = compiled.programs["tap_egress" if "sent" in label else "tap_ingress"]
    code, _ = told(program, TapConstants(4096, switches).constants(), maps)
    machine = Machine(code, slot_of(transport, requests))
    return [machine.run(packet, transport) for packet in packets(label, transport)][-1]


def main() -> None:
    """Print what each setting takes."""
    settings = get_args(Names)
    sys.stdout.write(f"{'instructions a packet':24}" + "".join(f"{name:>14}" for name in settings) + "\n")
    for transport, name in TRANSPORTS.items():
        for label in LABELS:
            found = [steps(names, transport, label) for names in settings]
            cells = "".join(f"{count:5} {count / found[0] - 1:+8.1%}" for count in found)
            sys.stdout.write(f"{name + ' ' + label:24}{cells}\n")
    sys.stdout.write("of no HTTP, without and with the look for trace contexts\n")
    for transport, name in TRANSPORTS.items():
        for label in LABELS:
            without, looked = (steps_without_http(looks=looks, transport=transport, label=label) for looks in (False, True))
            sys.stdout.write(f"{name + ' ' + label:24}{without:14}{looked:5} {looked / without - 1:+8.1%}\n")


if __name__ == "__main__":
    main()
