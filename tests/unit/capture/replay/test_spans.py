"""Spans of applications that are asked for in a replay: which exchange of the file is whose, without a bus."""

from __future__ import annotations

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
from tests.support.packets.pcap import ACK, FIN, SECOND, START, write
from tests.support.packets.talks.http_talk import Talk

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


def met(folder: Path, questions: Path, talks: list[Talk]) -> tuple[dict[int, dict[str, Any]], dict[str, int]]:
    """What is told of spans by their numbers, and what became of the questions."""
    frames = sorted((frame for talk in talks for frame in talk.frames), key=lambda frame: frame.time_ns)
    settings = CaptureSettings(replay_files=(write(folder / "talk.pcap", frames),), replay_questions=questions)
    report = ProgressReport(None)
    reader = ReplayReader(settings, "epoch", report)
    told: dict[int, dict[str, Any]] = {}
    while batches := reader.read():
        for batch in (decode(ready.message) for ready in batches):
            for row in np.flatnonzero(batch.column("reason") == Reason.EXCHANGE).tolist():
                assert batch.column("exchange_matched")[row] == ExchangeMatched.SPAN
                names = ("local_address", "local_port", "role", "start_unix_ns", "exchange_series")
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
