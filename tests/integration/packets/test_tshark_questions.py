"""Answers and their questions as tshark matches them, and as our records tell: of captures that we make, and of real ones."""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from services.capture.errors import CaptureFileError
from tests.support.packets.pcap import Conversation, icmp, write
from tests.support.packets.replayed import replay_files
from tests.support.packets.talks import dns

FOLDER = os.environ.get("WIRESPAN_PCAPS")
FIELDS = ("dns.time", "dns.flags.response", "dns.retransmit_request", "icmp.resptime", "icmp.type")
AS_LONG_AS_WE_REMEMBER = ("-o", "dns.retransmission_timer:60")
"""tshark takes a question that comes again after 5 s for another; a resolver library's timeout is 5 s."""

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def of_tshark(path: Path, protocol: str) -> tuple[int, int, list[int]]:
    """Questions, repeats and the answers' times."""
    command = ["tshark", *AS_LONG_AS_WE_REMEMBER, "-r", path, "-Y", protocol, "-T", "fields", "-E", "separator=,"]
    command += ["-E", "occurrence=f"]
    for name in FIELDS:
        command += ["-e", name]
    rows = list(csv.DictReader(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines(), FIELDS))
    if protocol == "icmp":
        # Milliseconds, as text of a floating-point number
        waits = [round(float(row["icmp.resptime"]) * 1e6) for row in rows if row["icmp.resptime"]]
        return len([row for row in rows if row["icmp.type"] == "8"]), 0, waits
    asked = [row for row in rows if row["dns.flags.response"] == "0"]
    repeats = [row for row in asked if row["dns.retransmit_request"]]
    answers = [row for row in rows if row["dns.time"]]
    return len(asked) - len(repeats), len(repeats), [int(Decimal(row["dns.time"]) * 1_000_000_000) for row in answers]


def of_wirespan(path: Path, transport: int) -> tuple[int, int, int, int, int]:
    """Questions, repeats, answers, the sum of their times and the longest."""
    records = [record for record in replay_files([path], capacity=4096).records if record["transport"] == transport]
    columns = ("questions", "question_repeats", "responses", "response_time_sum_ns")
    sums = [sum(record[name] for record in records if record["questions"]) for name in columns]
    return (*sums, max((record["response_time_max_ns"] for record in records if record["questions"]), default=0))


def test_every_answer_has_the_question_that_tshark_gives_it(tmp_path):
    """Stub resolvers with one to four questions under way each, some asked again, some never answered, answers in any order."""
    chance = random.Random(5)
    frames = []
    for client in range(200):
        talk = Conversation(client_port=20000 + client, server_port=53)
        begin = client * 0.013
        for number in range(chance.randint(1, 4)):
            identifier, kind = chance.randrange(65536) & ~3 | number, chance.choice((dns.A, dns.AAAA, dns.SRV))
            name = f"host{chance.randrange(1000)}.shop.example.org"
            asked = begin + number * 0.0001
            talk.udp(asked, "client", dns.question(identifier, name, kind, edns=chance.random() < 0.5))
            for repeat in range(chance.choice((0, 0, 0, 1, 2))):
                asked = begin + number * 0.0001 + 5 * (repeat + 1)
                talk.udp(asked, "client", dns.question(identifier, name, kind))
            if chance.random() < 0.9:
                talk.udp(
                    asked + chance.uniform(0.0001, 2), "server", dns.answer(identifier, name, kind, code=chance.choice((0, 3)))
                )
        frames += talk.frames
    frames.sort(key=lambda frame: frame.time_ns)
    path = write(tmp_path / "names.pcap", frames)
    questions, repeats, waits = of_tshark(path, "dns")
    assert min(questions, repeats, len(waits)) > 100
    assert of_wirespan(path, 17) == (questions, repeats, len(waits), sum(waits), max(waits))


def test_every_ping_has_the_reply_that_tshark_gives_it(tmp_path):
    """Three pings of one host, ten of each under way, some lost."""
    chance = random.Random(7)
    talk = Conversation()
    for identifier in range(3):
        for sequence in range(50):
            sent = 0.1 * sequence + 0.001 * identifier
            talk.icmp(sent, "client", icmp(8, identifier=identifier, sequence=sequence))
            if chance.random() < 0.8:
                talk.icmp(sent + chance.uniform(0.9, 1.1), "server", icmp(0, identifier=identifier, sequence=sequence))
    talk.frames.sort(key=lambda frame: frame.time_ns)
    path = write(tmp_path / "pings.pcap", talk.frames)
    questions, repeats, waits = of_tshark(path, "icmp")
    told = of_wirespan(path, 1)
    assert told[:3] == (questions, repeats, len(waits)) == (150, 0, len(waits))
    assert told[3] == pytest.approx(sum(waits), abs=1000 * len(waits))


def captures():
    """Every file of the folder that is meant to be a capture."""
    return sorted(path for path in Path(FOLDER).iterdir() if path.suffix in {".pcap", ".pcapng", ".cap"}) if FOLDER else []


OTHERWISE = {
    "dns_fragmented.pcap": "tshark times an answer in fragments by the last of them, we by its first",
    "fuzz-2006-06-26-2594.pcap": "names that were damaged on the way: tshark matches by number alone, we by the question too",
}


@pytest.mark.parametrize("path", [path for path in captures() if path.name not in OTHERWISE], ids=lambda path: path.name)
def test_dns_of_real_captures_is_told_as_tshark_tells_it(path):
    """Answers, and how long they took together and at most."""
    try:
        told = of_wirespan(path, 17)
    except CaptureFileError:
        pytest.skip("no capture")
    _, _, waits = of_tshark(path, "udp.port == 53 && dns")
    assert told[2:] == (len(waits), sum(waits), max(waits, default=0))
