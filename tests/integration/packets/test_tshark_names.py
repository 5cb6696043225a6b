"""DNS messages as tshark reads them, and as we do: every question and answer, of captures that we make, and of real ones."""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from services.capture.errors import CaptureFileError
from services.capture.names.dns_message import read_message
from services.capture.names.reader import NameReader
from tests.support.packets import dns
from tests.support.packets.pcap import Conversation, write
from tests.support.packets.replayed import replay_files

FOLDER = os.environ.get("WIRESPAN_PCAPS")
FIELDS = (
    *("dns.flags.response", "dns.qry.name", "dns.qry.type", "dns.flags.rcode", "dns.count.answers", "dns.time"),
    *("dns.a", "dns.aaaa", "dns.retransmit_request"),
)
AS_LONG_AS_WE_REMEMBER = ("-o", "dns.retransmission_timer:60")
"""tshark takes a question that comes again after 5 s for another; a resolver library's timeout is 5 s."""
OTHERWISE = {
    "dns_fragmented.pcap": "tshark times an answer in fragments by the last of them, we by its first",
    "fuzz-2006-06-26-2594.pcap": "names that were damaged on the way: tshark matches by number alone, we by the question too",
}

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


def of_tshark(path):
    """Questions, once each, and the answers to them: what is asked, and the code, records and time of an answer."""
    command = ["tshark", *AS_LONG_AS_WE_REMEMBER, "-r", path, "-Y", "udp.port == 53 && dns && !icmp", "-T", "fields"]
    command += ["-E", "separator=;", "-E", "occurrence=f"]
    for name in FIELDS:
        command += ["-e", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    asked, answered = Counter(), Counter()
    for row in csv.DictReader(output.splitlines(), FIELDS, delimiter=";"):
        name = row["dns.qry.name"].lower().replace("<root>", ".")
        question = (name, int(row["dns.qry.type"] or 0))
        if row["dns.flags.response"] in {"0", "False"}:
            asked[question] += not row["dns.retransmit_request"]
        elif row["dns.time"]:
            time_ns = int(Decimal(row["dns.time"]) * 1_000_000_000)
            answered[*question, int(row["dns.flags.rcode"]), int(row["dns.count.answers"]), time_ns] += 1
    return +asked, answered


class Listening(NameReader):
    """A reader that remembers every message."""

    def __init__(self):
        super().__init__()
        self.asked, self.answered = Counter(), Counter()

    def read(self, pieces):
        """Take over what pieces say."""
        pieces = list(pieces)
        for piece in pieces:
            message = read_message(piece.content)
            question = (message.name, message.type)
            if message.is_answer:
                self.answered[*question, message.code & 15, message.answers, piece.time_ns - piece.since_ns] += 1
            else:
                self.asked[question] += 1
        super().read(pieces)


def of_wirespan(path):
    """The same, and the sums over the records."""
    names = Listening()
    records = replay_files([path], capacity=4096, names=names).records
    codes = [sum(record["dns_codes"][code] for record in records if "dns_codes" in record) for code in range(8)]
    return names.asked, names.answered, codes


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
