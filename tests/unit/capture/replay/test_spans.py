"""Spans of applications that are asked for in a replay: which exchange of the file is whose, without a bus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from proto.asked.batch import AskedBatch, encode_asked
from proto.asked.columns import ASKED, SpanKind
from proto.columns import NO_INDEX, ExchangeMatched, Reason, Role
from proto.flow_batch import decode
from proto.frames import write_frame
from services.capture.progress import ProgressReport
from services.capture.replay.reader import ReplayReader
from services.capture.settings import CaptureSettings
from tests.support.packets.pcap import ACK, FIN, SECOND, START, Conversation, write
from tests.support.packets.talks import dns
from tests.support.packets.talks.http_talk import Talk

CARRIED = ("transport", "request_bytes", "response_bytes", "request_retransmits", "response_first_unix_ns", "end_unix_ns")
CLIENT, SERVER = (bytes(10) + b"\xff\xff" + bytes(address) for address in ((10, 1, 0, 1), (10, 1, 0, 9)))


def asked(folder: Path, *spans: tuple[int, SpanKind, tuple[bytes, int], float, float]) -> Path:
    """A file of questions: number, kind and peer of a span, from when to when."""
    values = {
        "question": range(len(spans)), "trace_id": [bytes(16)] * len(spans),
        "span_id": [number.to_bytes(8, "big") for number, *_ in spans], "flags": [1] * len(spans),
        "kind": [kind for _, kind, *_ in spans], "local": [0] * len(spans), "local_port": [0] * len(spans),
        "peer_address": [peer[0] for _, _, peer, *_ in spans], "peer_port": [peer[1] for _, _, peer, *_ in spans],
        "start_ns": [START + round(begin * SECOND) for *_, begin, _ in spans],
        "end_ns": [START + round(end * SECOND) for *_, end in spans],
    }  # fmt: skip
    columns = {column.name: np.array(values[column.name], column.dtype) for column in ASKED}
    with (folder / "questions").open("wb") as stream:
        write_frame(stream, encode_asked(AskedBatch("file", len(spans), [""], columns)))
    return folder / "questions"


def met(
    folder: Path, questions: Path, talks: Sequence[Talk | Conversation]
) -> tuple[dict[int, dict[str, Any]], dict[str, int]]:
    """What is told of spans by their numbers, and what became of the questions."""
    frames = sorted((frame for talk in talks for frame in talk.frames), key=lambda frame: frame.time_ns)
    settings = CaptureSettings(replay_files=(write(folder / "talk.pcap", frames),), replay_questions=questions)
    report = ProgressReport(None)
    reader = ReplayReader(settings, "epoch", report)
    told: dict[int, dict[str, Any]] = {}
    while batches := reader.read():
        for batch in (decode(ready.message) for ready in batches):
            of_spans = (batch.column("reason") == Reason.EXCHANGE) & (batch.column("parent_span_id") != np.void(bytes(8)))
            for row in np.flatnonzero(of_spans).tolist():
                assert batch.column("exchange_matched")[row] == ExchangeMatched.SPAN
                names = ("local_address", "local_port", "role", "start_unix_ns", "exchange_series", *CARRIED)
                span = int.from_bytes(batch.column("parent_span_id")[row].tobytes(), "big")
                told[span] = {name: batch.column(name)[row].item() for name in names}
    reasons = {name.removeprefix("asked_"): count for name, count in report.counters.items() if name.startswith("asked_")}
    reader.close()
    return told, {name: count for name, count in reasons.items() if count}


def test_an_exchange_is_the_clients_spans_or_else_the_servers(tmp_path: Path) -> None:
    """Each is told once, as its client's, whichever of the two ends asked; a server's span names its connection."""
    talks = [Talk(client="10.1.0.1", server="10.1.0.9", client_port=40_000 + each, server_port=8443) for each in range(2)]
    for number, talk in enumerate(talks):
        talk.ask(1 + 0.01 * number, b"\x07" * 40).answer(1.1 + 0.01 * number, b"\x09" * 40)
        talk.ask(3 + 0.01 * number, b"\x07" * 40).answer(3.1 + 0.01 * number, b"\x09" * 40)
    questions = asked(
        tmp_path,
        (1, SpanKind.CLIENT, (SERVER, 8443), 0.9998, 1.1003),
        (2, SpanKind.SERVER, (CLIENT, 40_000), 1.0002, 1.0999),
        (3, SpanKind.SERVER, (CLIENT, 40_001), 3.0102, 3.1099),
        (4, SpanKind.SERVER, (CLIENT, 40_007), 3.0102, 3.1099),
    )
    told, reasons = met(tmp_path, questions, talks)
    assert reasons == {"matched": 2, "no_exchange": 2}
    assert {span: (row["local_port"], row["start_unix_ns"] - START) for span, row in told.items()} == {
        1: (40_000, SECOND), 3: (40_001, round(3.01 * SECOND)),
    }  # fmt: skip
    assert {(row["local_address"], row["role"]) for row in told.values()} == {(CLIENT, Role.CLIENT)}


def test_what_a_file_ends_with_is_met_too(tmp_path: Path) -> None:
    """A transaction whose last response nothing follows in the file, nor any time in which questions would wait."""
    talk = Talk(client="10.1.0.1", server="10.1.0.9", client_port=40_000, server_port=5432)
    for number in range(3):
        talk.ask(1 + 0.1 * number, b"\x07" * 40).answer(1.05 + 0.1 * number, b"\x09" * 40)
    told, reasons = met(tmp_path, asked(tmp_path, (9, SpanKind.CLIENT, (SERVER, 5432), 0.9998, 1.2503)), [talk])
    assert reasons == {"matched": 1}
    assert told[9]["exchange_series"] == 3


def test_no_exchange_has_the_file_of_another_flow(tmp_path: Path) -> None:
    """A connection that is long over when its span is asked for, while those of the next file are in its place."""
    talks = [Talk(client="10.1.0.1", server="10.1.0.9", client_port=40_000 + each, server_port=5432) for each in range(3)]
    for number, talk in enumerate(talks):
        talk.ask(1, b"\x07" * 40).answer(1.1 + 0.01 * number, b"\x09" * 40)
        for sender in ("client", "server"):
            talk.end(1.2, sender, FIN | ACK)
    later = [replace(each, time_ns=each.time_ns + 100 * SECOND) for talk in talks[1:] for each in talk.frames]
    later.sort(key=lambda each: each.time_ns)
    files = (write(tmp_path / "a.pcap", talks[0].frames), write(tmp_path / "b.pcap", later))
    peer = (SERVER, 5432)
    questions = asked(tmp_path, (1, SpanKind.CLIENT, peer, 0.9998, 1.1003), (2, SpanKind.CLIENT, peer, 100.9998, 101.1103))
    reader = ReplayReader(CaptureSettings(replay_files=files, replay_questions=questions), "epoch", ProgressReport(None))
    told = [
        (batch.column("parent_span_id")[row].tobytes()[-1], batch.column("file")[row])
        for ready in iter(reader.read, None)
        for batch in (decode(each.message) for each in ready)
        for row in np.flatnonzero(batch.column("reason") == Reason.EXCHANGE).tolist()
    ]
    reader.close()
    assert sorted(told) == [(1, NO_INDEX), (2, 1)]


def test_a_lookup_has_its_questions_over_udp(tmp_path: Path) -> None:
    """A and AAAA at once, one of which is lost and sent again: from when it was first asked to its answer, by the number."""
    name = "cart.shop.svc.cluster.local"
    talk = Conversation(client="10.1.0.1", server="10.1.0.9", client_port=40_000, server_port=53)
    talk.udp(1, "client", question := dns.question(1, name)).udp(1.0001, "client", dns.question(2, name, dns.AAAA))
    talk.udp(1.003, "server", dns.answer(2, name, dns.AAAA)).udp(6, "client", question)
    talk.udp(6.01, "server", answer := dns.answer(1, name))
    told, reasons = met(tmp_path, asked(tmp_path, (9, SpanKind.CLIENT, (SERVER, 53), 0.9998, 6.0103)), [talk])
    assert reasons == {"matched": 1}
    row = told[9]
    assert (row["start_unix_ns"], row["end_unix_ns"]) == (START + SECOND, START + round(6.01 * SECOND))
    assert (row["request_bytes"], row["response_bytes"], row["request_retransmits"]) == (len(question), len(answer), 1)
    assert (row["transport"], row["local_address"], row["role"]) == (17, CLIENT, Role.CLIENT)


def test_datagrams_of_any_protocol_are_exchanges_while_both_ends_take_turns(tmp_path: Path) -> None:
    """Such as SNMP's; what comes behind two in a row from one end is none, whatever it answers."""
    talk = Conversation(client="10.1.0.1", server="10.1.0.9", client_port=40_000, server_port=161)
    for second in (1, 2, 3):
        talk.udp(second, "client", b"\x30" * (40 + second)).udp(second + 0.05, "server", b"\x30" * 90)
    talk.udp(4, "client", b"\x30" * 40).udp(4.5, "client", b"\x30" * 40).udp(4.55, "server", b"\x30" * 90)
    spans = [(second, SpanKind.CLIENT, (SERVER, 161), second - 0.0002, second + 0.0503) for second in (1, 2, 3)]
    told, reasons = met(tmp_path, asked(tmp_path, *spans, (4, SpanKind.CLIENT, (SERVER, 161), 3.9998, 4.5503)), [talk])
    assert reasons == {"matched": 3, "no_exchange": 1}
    assert {span: row["request_bytes"] for span, row in told.items()} == {1: 41, 2: 42, 3: 43}
    assert {row["response_first_unix_ns"] - row["start_unix_ns"] for row in told.values()} == {SECOND // 20}


def test_a_handshake_of_quic_is_no_exchange(tmp_path: Path) -> None:
    """Its first datagram and the server's first one take turns, and ask for nothing."""
    initial = b"\xc0\0\0\0\x01" + bytes(1_195)
    talk = Conversation(client="10.1.0.1", server="10.1.0.9", client_port=40_000, server_port=443)
    talk.udp(1, "client", initial).udp(1.01, "server", initial)
    other = Conversation(client="10.1.0.1", server="10.1.0.9", client_port=40_001, server_port=161)
    other.udp(5, "client", b"\x30").udp(5.1, "server", b"\x30")
    told, reasons = met(tmp_path, asked(tmp_path, (9, SpanKind.CLIENT, (SERVER, 443), 0.9998, 1.0103)), [talk, other])
    assert (told, reasons) == ({}, {"no_exchange": 1})
