"""QUIC's handshakes as tshark decrypts them, and as we do: of captures that we make, and of real ones."""

from __future__ import annotations

import random
import shutil

import pytest

from services.capture.errors import CaptureFileError
from tests.integration.packets.test_tshark_tls import captures
from tests.support.packets.oracle.tshark_quic import OTHERWISE, of_tshark, of_wirespan
from tests.support.packets.pcap import write
from tests.support.packets.talks.quic_talk import conversation, crypto, hellos, initial

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def test_every_handshake_is_what_tshark_decrypts(tmp_path):
    """With and without protocols, the hello in one datagram or torn over two, answered or not."""
    chance = random.Random(13)
    frames = []
    for port in range(20000, 20100):
        offered = chance.sample(("h3", "hq", "doq", "smb"), chance.randint(0, 4))
        client, server = hellos(protocols=offered, chosen=offered)
        torn = crypto(client, *chance.sample(range(1, len(client)), chance.randint(0, 5)))
        half = chance.randint(0, len(torn)) if len(torn) > 1 else 1
        ids = {"keyed_by": port.to_bytes(8), "client": port.to_bytes(4)}
        parts = [part for part in (torn[:half], torn[half:]) if part]
        talk = [("client", initial(part, number=number, **ids)) for number, part in enumerate(parts)]
        if chance.random() < 0.9:
            talk.append(("server", initial(crypto(server), of_server=True, **ids)))
        frames += conversation(*talk, port=port).frames
    path = write(tmp_path / "quic.pcap", frames)
    theirs, ours = of_tshark(path), of_wirespan(path)
    assert len(ours) == 100
    assert ours == theirs


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.name)
def test_handshakes_of_real_captures_are_what_tshark_decrypts(path):
    """Every one of the versions that are read."""
    try:
        told = of_wirespan(path)
    except CaptureFileError:
        pytest.skip("no capture")
    theirs = of_tshark(path)
    assert told == {key: value for key, value in theirs.items() if path.name not in OTHERWISE or value["quic"] == 1}
