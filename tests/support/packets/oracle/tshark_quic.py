"""QUIC's handshakes of a capture as tshark decrypts them and as we do."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from proto.tls import QUIC, QUIC_2, RESUMED
from services.capture.names.reader import NameReader
from tests.support.packets.oracle.handshakes_alike import handshakes_alike
from tests.support.packets.replayed import replay_files

FIELDS = (
    *("udp.srcport", "udp.dstport", "quic.version", "tls.handshake.type", "tls.handshake.extensions_server_name"),
    *("tls.handshake.extensions_alpn_str", "tls.handshake.ciphersuite", "tls.handshake.extension.type"),
)
OTHERWISE = {"quic_0RTT.pcap": "one of the two is of a draft (0xff00001c), whose keys are other ones"}
"""Captures of which the two tell something else, and why."""

_PRE_SHARED_KEY = "41"


def of_tshark(path):
    """What each connection's hellos say, by the ports of client and server."""
    command = ["tshark", "-r", path, "-Y", "quic && tls.handshake.type in {1, 2}", "-T", "fields", "-E", "separator=;"]
    for name in FIELDS:
        command += ["-e", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {}
    for row in csv.reader(output.splitlines(), delimiter=";"):
        parts = [part.split(",") if part else [] for part in row]
        (source,), (target,), versions, messages, names, protocols, ciphers, kinds = parts
        if "1" in messages and (source, target) not in found:
            found[source, target] = {
                "quic": int(versions[0], 16), "server_name": names[0].lower() if names else None,
                "offered": ",".join(protocols) or None, "cipher": None, "resumed": None,
            }  # fmt: skip
        elif "2" in messages and (target, source) in found:
            told = found[target, source]
            told["cipher"], told["resumed"] = int(ciphers[0], 16), _PRE_SHARED_KEY in kinds
    return found


def of_wirespan(path):
    """The same of what replay tells."""
    found = {}
    for record in replay_files([path], capacity=4096, names=NameReader()).records:
        flags = record.get("tls_flags", 0)
        if flags & QUIC:
            found[str(record["local_port"]), str(record["remote_port"])] = {
                "quic": 0x6B3343CF if flags & QUIC_2 else 1, "server_name": record["tls_server_name"],
                "offered": record["tls_offered_protocols"], "cipher": record["tls_cipher"] or None,
                "resumed": bool(flags & RESUMED) if record["tls_version"] else None,
            }  # fmt: skip
    return found


def accuracy(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the section of docs/accuracy.md: handshakes that both read alike, file by file."""
    yield """
## QUIC's handshakes

By version, server's name, protocols offered, cipher suite and whether a session goes on.
`tests/integration/packets/test_tshark_quic.py` holds that all are alike, here and in a capture of 100 connections that it
makes, with hellos torn over two datagrams. tshark 4.0 does not decrypt version 2. Both versions are held live against what
quic-go says (`tests/kernel/names/test_tls_stacks.py`).
"""
    yield from handshakes_alike(paths, of_tshark, of_wirespan, OTHERWISE)
