"""TLS handshakes of a capture as tshark reads them and as we do: connections that begin with one, or come to one."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from proto.tls import ALERT, ALERT_ENCRYPTED, QUIC, RESUMED, RESUMPTION_KNOWN
from services.capture.names.reader import NameReader
from tests.support.packets.oracle.handshakes_alike import handshakes_alike
from tests.support.packets.replayed import replay_files

FIELDS = (
    *("tcp.srcport", "tcp.dstport", "tls.handshake.type", "tls.handshake.extensions_server_name"),
    *("tls.handshake.extensions_alpn_str", "tls.handshake.ciphersuite", "tls.handshake.version"),
    *("tls.handshake.extensions.supported_version", "tls.handshake.session_id", "tls.handshake.extension.type"),
    *("tls.handshake.extension.len", "tls.alert_message.level", "tls.alert_message.desc"),
)
OTHERWISE = {
    "4in6tunnel.pcap": "the record that begins with the ServerHello is not all in the capture: tshark reads nothing of it",
}
"""Captures of which the two tell something else, and why."""

_PRE_SHARED_KEY = "41"


def of_tshark(path):
    """What each connection that has a ClientHello says, by the ports of client and server."""
    command = ["tshark", "-r", path, "-Y", "tls && tcp", "-T", "fields", "-E", "separator=;", "-E", "occurrence=a"]
    command += ["-o", "tcp.desegment_tcp_streams:TRUE"]
    for name in FIELDS:
        command += ["-e", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {}
    for row in csv.reader(output.splitlines(), delimiter=";"):
        _take(found, [part.split(",") if part else [] for part in row])
    return {key: {name: value for name, value in told.items() if name[0] != "_"} for key, told in found.items()}


def _take(found, row):
    (source,), (target,), messages, names, protocols, ciphers, versions, chosen, sessions, kinds, lengths, levels, alerts = row
    if "1" in messages and (source, target) not in found:
        found[source, target] = {
            "server_name": names[0].lower() if names else None, "offered": ",".join(protocols) or None, "version": None,
            "cipher": None, "resumed": None, "alert": None, "_session": sessions[:1],
            "_ticket": any(each != ("35", "0") for each in zip(kinds, lengths, strict=True) if each[0] == "35"),
        }  # fmt: skip
        return
    told = found.get((source, target)) or found.get((target, source))
    if told is None:
        return
    if "2" in messages and (target, source) in found and told["version"] is None:
        told["version"] = int(chosen[0], 16) if chosen else int(versions[0], 16)
        told["cipher"] = int(ciphers[0], 16) if ciphers[0].startswith("0x") else int(ciphers[0])
        if told["version"] >= 0x0304:
            told["resumed"] = _PRE_SHARED_KEY in kinds
        elif told["_session"]:
            told["resumed"] = sessions[:1] == told["_session"]
        elif not told["_ticket"]:
            told["resumed"] = False
    if levels[:1] == ["2"] and told["alert"] is None:
        told["alert"] = int(alerts[0])


def of_wirespan(path):
    """The same of what replay tells."""
    found = {}
    for record in replay_files([path], capacity=4096, names=NameReader()).records:
        if record.get("tls_flags", 0) & QUIC:
            continue
        if record.get("tls_server_name") is None and not record.get("tls_version") and not record.get("tls_flags"):
            continue
        ports = str(record["local_port"]), str(record["remote_port"])
        flags = record["tls_flags"]
        told = found.setdefault(ports, {"alert": None})
        told |= {
            "server_name": record["tls_server_name"], "offered": record["tls_offered_protocols"],
            "version": record["tls_version"] or None, "cipher": record["tls_cipher"] or None,
            "resumed": bool(flags & RESUMED) if flags & RESUMPTION_KNOWN else None,
        }  # fmt: skip
        if flags & ALERT and not flags & ALERT_ENCRYPTED:
            told["alert"] = record["tls_alert"]
    return found


def accuracy(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the section of docs/accuracy.md: handshakes that both read alike, file by file."""
    yield """
## TLS handshakes

Connections that begin with a ClientHello, or come to one (behind HAProxy's protocol, CONNECT, a database's request for TLS,
STARTTLS), by server's name, protocols offered, version, cipher suite, whether a session goes on, and fatal alert.
`tests/integration/packets/test_tshark_tls.py` holds that all are alike, here and in a capture of 255 handshakes of OpenSSL that
it makes. Which record ends a handshake tshark does not say: its time is held by `tests/unit/bpf/payloads/test_handshakes.py`
against when the test sent what. Live, the same is held against what OpenSSL, Go, GnuTLS and PostgreSQL say themselves
(`tests/kernel/names/test_handshakes.py`, `test_tls_stacks.py`).
"""
    yield from handshakes_alike(paths, of_tshark, of_wirespan, OTHERWISE)
