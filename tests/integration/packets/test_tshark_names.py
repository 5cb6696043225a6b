"""DNS messages as tshark reads them, and as we do: every question and answer, of captures that we make, and of real ones."""

from __future__ import annotations

import os
import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from services.capture.errors import CaptureFileError
from tests.support.packets.oracle.tshark_names import OTHERWISE, of_tshark, of_wirespan, of_wirespan_by_question
from tests.support.packets.pcap import ACK, Conversation, write
from tests.support.packets.talks import dns

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


def test_messages_over_tcp_are_what_tshark_reads(tmp_path):
    """Several at once and one after the other, cut anywhere into segments, with answers of some 1,000 bytes."""
    chance = random.Random(12)
    talks = [tcp_talk(chance, client) for client in range(100)]
    frames = sorted((frame for talk in talks for frame in talk.frames), key=lambda frame: frame.time_ns)
    path = write(tmp_path / "tcp.pcap", frames)
    answered = of_tshark(path, "tcp")[1]
    assert answered.total() > 200
    assert of_wirespan_by_question(path) == answered


def tcp_talk(chance, client):
    """A connection over which names are asked for, and answered in any order: short answers together, long ones each alone."""
    talk = Conversation(client_port=20000 + client, server_port=53).handshake(client * 0.5)
    sent, now = {"client": 1001, "server": 5001}, client * 0.5 + 0.1
    for turn in range(chance.randint(1, 3)):
        names = [f"{'x' * chance.randint(1, 60)}.{turn}.example" for _ in range(chance.randint(1, 3))]
        asked, most = [dns.question(number, name) for number, name in enumerate(names)], chance.choice((3, 60))
        answers = [dns.answer(number, name, records=chance.randint(0, most)) for number, name in enumerate(names)]
        chance.shuffle(answers)
        writes = [("client", "server", asked)]
        writes += [("server", "client", answers)] if most == 3 else [("server", "client", [answer]) for answer in answers]
        for sender, other, messages in writes:
            content = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
            places = sorted({0, len(content), *(chance.randrange(len(content)) for _ in range(chance.randint(0, 3)))})
            for begin, end in pairwise(places):
                now += chance.uniform(0.0001, 0.01)
                talk.tcp(now, sender, ACK, seq=sent[sender], ack=sent[other], payload=content[begin:end])
                sent[sender] += end - begin
    return talk


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


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.name)
def test_answers_over_tcp_of_real_captures_are_what_tshark_reads(path):
    """Name, type, code, records and time of each."""
    try:
        told = of_wirespan_by_question(path)
    except CaptureFileError:
        pytest.skip("no capture")
    assert of_tshark(path, "tcp")[1] <= told
