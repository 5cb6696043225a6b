"""DNS messages of a capture as tshark reads them and as we do: every question, and every answer that has one."""

from __future__ import annotations

import csv
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path

from proto.columns import NO_ANSWER
from services.capture.names.dns_message import read_message
from services.capture.names.pieces import PieceKind
from services.capture.names.question_records import QuestionRules
from services.capture.names.reader import NameReader
from tests.support.packets.replayed import replay_files

FIELDS = (
    *("dns.flags.response", "dns.qry.name", "dns.qry.type", "dns.flags.rcode", "dns.count.answers", "dns.time"),
    "dns.retransmit_request",
)
AS_LONG_AS_WE_REMEMBER = ("-o", "dns.retransmission_timer:60")
"""tshark takes a question that comes again after 5 s for another; a resolver library's timeout is 5 s."""
OTHERWISE = {
    "dns_fragmented.pcap": "tshark times an answer in fragments by the last of them, we by its first",
    "fuzz-2006-06-26-2594.pcap": "names that were damaged on the way: tshark matches by number alone, we by the question too",
}
"""Captures of which the two tell something else, and why."""


def of_tshark(path, transport="udp"):
    """Questions, once each, and the answers to them: what is asked, and the code, records and time of an answer."""
    command = ["tshark", *AS_LONG_AS_WE_REMEMBER, "-r", path, "-Y", f"{transport}.port == 53 && dns && !icmp", "-T", "fields"]
    command += ["-E", "separator=;", "-E", f"occurrence={'a' if transport == 'tcp' else 'f'}"]
    for name in FIELDS:
        command += ["-e", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    asked, answered = Counter(), Counter()
    for row in _messages(csv.DictReader(output.splitlines(), FIELDS, delimiter=";")):
        name = row["dns.qry.name"].lower().replace("<root>", ".")
        question = (name, int(row["dns.qry.type"] or 0))
        if row["dns.flags.response"] in {"0", "False"}:
            asked[question] += not row["dns.retransmit_request"]
        elif row["dns.time"]:
            time_ns = int(Decimal(row["dns.time"]) * 1_000_000_000)
            answered[*question, int(row["dns.flags.rcode"]), int(row["dns.count.answers"]), time_ns] += 1
    return +asked, answered


def _messages(rows):
    """A row for each message, where a segment ends several: each has all fields but questions the time."""
    for row in rows:
        split = {name: row[name].split(",") for name in FIELDS}
        times = iter(split["dns.time"])
        for number, response in enumerate(split["dns.flags.response"]):
            answers = response not in {"0", "False"}
            values = {name: split[name][number] if number < len(split[name]) else "" for name in FIELDS}
            yield values | {
                "dns.time": next(times, "") if answers else "",
                "dns.retransmit_request": row["dns.retransmit_request"],
            }


class Listening(NameReader):
    """A reader that remembers every message."""

    def __init__(self):
        super().__init__("dns")
        self.asked, self.answered = Counter(), Counter()

    def read(self, pieces):
        """Take over what pieces say."""
        pieces = list(pieces)
        for piece in (piece for piece in pieces if piece.kind == PieceKind.DNS):
            message = read_message(piece.content)
            question = (message.name, message.type)
            if message.is_answer:
                self.answered[*question, message.code & 15, message.answers, piece.time_ns - piece.since_ns] += 1
            elif not piece.since_ns:
                self.asked[question] += 1
        super().read(pieces)


def of_wirespan(path):
    """The same, and the sums over the records."""
    names = Listening()
    records = replay_files([path], capacity=4096, names=names).records
    codes = [sum(record["dns_codes"][code] for record in records if "dns_codes" in record) for code in range(8)]
    return names.asked, names.answered, codes


def of_wirespan_by_question(path):
    """The answers as records of single questions tell them; a record of a flow has 16 of them at the most."""
    told = replay_files([path], capacity=4096, names=NameReader(rules=QuestionRules("all"))).questions
    members = ("name", "type", "code", "answers", "time_ns")
    answered = (tuple(record[f"dns_first_{member}"] for member in members) for record in told)
    return Counter(answer for answer in answered if answer[2] != NO_ANSWER)


def accuracy(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the section of docs/accuracy.md: questions and answers that both read alike, file by file."""
    yield """
## Names that were looked up

Questions over UDP, each once however often it was sent, by name and type; and the answers to them by name, type, response
code, number of records and time to the nanosecond. `tests/integration/packets/test_tshark_names.py` holds that all are alike,
here and in a capture of 760 questions that it makes; over TCP the answers, in a capture of 100 connections, and the two of
dns_fragmented.pcap. Live, `tests/kernel/names/test_resolvers.py` holds what is told of Unbound and dnsmasq against Unbound's
own log, and a capture of it against tshark; `test_coredns.py` there does the same of CoreDNS, whose log has each question by
port, with spans from end to end: search domains, A and AAAA at once, NXDOMAIN, SERVFAIL, a chain of CNAMEs, EDNS and a
version of it that nobody has, compression, an answer cut short and asked for over TCP, one that waits for another server. All
names, types and codes are alike. The times are two things: CoreDNS counts from when its own code has the question until it
has sent the answer and goes on, Wirespan from socket to socket, so the time in which a question waits for the process is in
it: most for the first question of a resolver that has to be woken.

| capture | questions: tshark | Wirespan | alike | answers: tshark | Wirespan | alike | why not all |
|---|---|---|---|---|---|---|---|
"""
    for path in paths:
        theirs, (asked, answered, _) = of_tshark(path), of_wirespan(path)
        counts = []
        for left, right in zip(theirs, (asked, answered), strict=True):
            counts += [left.total(), right.total(), (left & right).total()]
        if any(counts):
            yield f"| {path.name} | {' | '.join(map(str, counts))} | {OTHERWISE.get(path.name, '')} |\n"
