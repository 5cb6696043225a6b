"""TLS handshakes as tshark reads them, and as we do: of captures that we make with OpenSSL, and of real ones."""

from __future__ import annotations

import os
import random
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from proto.tls import ALERTS, CIPHERS
from services.capture.errors import CaptureFileError
from tests.support.packets.oracle.tshark_tls import OTHERWISE, of_tshark, of_wirespan
from tests.support.packets.pcap import write
from tests.support.packets.talks.tls_talk import contexts, talk

FOLDER = os.environ.get("WIRESPAN_PCAPS")
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def test_every_handshake_is_what_tshark_reads(tmp_path):
    """Of both versions, new and resumed, with and without protocols, in segments of any size, failed by either end."""
    chance = random.Random(13)
    frames, sessions = [], {}
    for port in range(20000, 20250):
        version, trusted = chance.choice((TLS_1_2, TLS_1_3)), chance.random() < 0.9
        offered = chance.sample(("h2", "http/1.1", "smtp", "grpc-exp"), chance.randint(0, 4))
        key = version, tuple(offered), trusted
        client, server, session = sessions.get(
            key, (*contexts(version, trusted=trusted, protocols=offered, chosen=offered), None)
        )
        made, end, failed = talk(client, server, port=port, segment=chance.choice((60, 300, 1400, 9000)), session=session)
        if not failed:
            sessions[key] = client, server, end.session
        else:
            assert not trusted
        frames += made.frames
    for number in range(5):
        made, _, failed = talk(contexts(TLS_1_3)[0], contexts(TLS_1_2)[1], port=21000 + number)
        assert failed
        frames += made.frames
    frames.sort(key=lambda frame: frame.time_ns)
    path = write(tmp_path / "tls.pcap", frames)
    theirs, ours = of_tshark(path), of_wirespan(path)
    assert len(ours) == 255
    assert ours == theirs
    assert len({(told["version"], told["resumed"], told["alert"]) for told in ours.values()}) >= 7


def test_names_are_those_that_tshark_has():
    """Of every cipher suite and alert that has a name here."""
    listed = subprocess.run(["tshark", "-G", "values"], check=True, capture_output=True, text=True, errors="replace").stdout
    theirs = {}
    for line in listed.splitlines():
        _, field, number, name = (*line.split("\t"), "", "", "")[:4]
        if field in {"tls.handshake.ciphersuite", "tls.alert_message.desc"}:
            theirs.setdefault((field, int(number, 0)), name)
    for number, name in CIPHERS.items():
        assert theirs["tls.handshake.ciphersuite", number] == name
    for number, name in ALERTS.items():
        assert theirs["tls.alert_message.desc", number].lower().replace(" ", "_") == name


def captures():
    """Every file of the folder that is meant to be a capture."""
    return sorted(path for path in Path(FOLDER).iterdir() if path.suffix in {".pcap", ".pcapng", ".cap"}) if FOLDER else []


@pytest.mark.parametrize("path", [path for path in captures() if path.name not in OTHERWISE], ids=lambda path: path.name)
def test_handshakes_of_real_captures_are_what_tshark_reads(path):
    """Every one that begins a connection."""
    try:
        told = of_wirespan(path)
    except CaptureFileError:
        pytest.skip("no capture")
    assert told == of_tshark(path)
