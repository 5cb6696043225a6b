"""DNS messages as tshark reads them, and as we do: every question and answer, of captures that we make, and of real ones."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from services.capture.errors import CaptureFileError
from tests.support.packets import dns
from tests.support.packets.pcap import Conversation, write
from tests.support.packets.tshark_names import OTHERWISE, of_tshark, of_wirespan

FOLDER = os.environ.get("WIRESPAN_PCAPS")
pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def test_every_question_and_answer_is_what_tshark_reads(tmp_path):
    """Of names long and short, in any case, with and without EDNS, all codes, answered, repeated or lost."""
    chance = random.Random(11)
    frames = []
    for client in range(300):
        talk = Conversation(client_port=20000 + client, server_port=53)
        for number in range(chance.randint(1, 4)):
            identifier, kind = chance.randrange(65536) & ~3 | number, chance.choice((dns.A, dns.AAAA, dns.SRV, 16, 65))
            name = ".".join("x" * chance.randint(1, 63) for _ in range(chance.randint(0, 3)))
            name = "".join(chance.choice((str.upper, str.lower))(letter) for letter in name)
            begin = client * 0.013 + number * 0.0001
            talk.udp(begin, "client", dns.question(identifier, name, kind, edns=chance.random() < 0.5))
            if chance.random() < 0.9:
                code, records = chance.choice((0, 0, 0, 1, 2, 3, 5)), chance.randint(0, 30) if kind != 65 else 0
                told = dns.answer(identifier, name, kind, code=code, records=records)
                talk.udp(begin + chance.uniform(0.0001, 2), "server", told)
        frames += talk.frames
    frames.sort(key=lambda frame: frame.time_ns)
    path = write(tmp_path / "names.pcap", frames)
    asked, answered = of_tshark(path)
    assert min(asked.total(), answered.total()) > 500
    told = of_wirespan(path)
    assert told[:2] == (asked, answered)
    assert told[2][:7] == [sum(count for key, count in answered.items() if key[2] == code) for code in range(7)]


def captures():
    """Every file of the folder that is meant to be a capture."""
    return sorted(path for path in Path(FOLDER).iterdir() if path.suffix in {".pcap", ".pcapng", ".cap"}) if FOLDER else []


@pytest.mark.parametrize("path", [path for path in captures() if path.name not in OTHERWISE], ids=lambda path: path.name)
def test_names_of_real_captures_are_what_tshark_reads(path):
    """Every answer that has its question: name, type, code, records and time."""
    try:
        told = of_wirespan(path)
    except CaptureFileError:
        pytest.skip("no capture")
    assert told[1] == of_tshark(path)[1]
