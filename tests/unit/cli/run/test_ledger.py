"""Every packet, record and span accounted for."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from proto.flow_batch import FlowBatch, encode
from proto.subjects import DETAIL_HEADER, MESSAGE_ID_HEADER, REASON_HEADER, RECORDS_HEADER, SPANS_HEADER, batch_id, part_id
from services.cli.run.ledger import CaptureProgress, DeadLetter, Ledger, is_of_run, read_dead_letter, read_progress
from services.cli.run.shown.ledger_table import ledger_table, packets_in_no_flow
from tests.support.pipeline.batches import fixed_batch

DONE = CaptureProgress(packets=100, bytes=9000, flows=10, records=12, batches=2, finished=True)


def printed(ledger: Ledger) -> str:
    """The ledger as a person sees it."""
    console = Console(file=io.StringIO(), width=120)
    console.print(ledger_table(ledger, "spans.jsonl"))
    return console.file.getvalue()


def test_nothing_lost_is_complete() -> None:
    """Every record became a span that the backend took."""
    ledger = Ledger(DONE)
    assert (ledger.accepted, ledger.refused, ledger.dead, ledger.complete, ledger.faults()) == (12, 0, 0, True, [])
    assert "unknown" not in printed(ledger)


def test_an_exchange_is_several_spans() -> None:
    """They are in the account: shown, and taken from the accepted as spans, not as records."""
    progress = CaptureProgress(records=12, exchanges=2, spans=16, batches=2, finished=True)
    assert Ledger(progress).accepted == 16
    assert "requests in application traces" in printed(Ledger(progress))
    assert Ledger(progress, (DeadLetter("exporter", "rejected", "no", 2, 5),)).accepted == 11
    columns = {
        "reason": [6, 1],
        "request_last_unix_ns": [5, 0],
        "response_first_unix_ns": [9, 0],
        "response_last_unix_ns": [9, 0],
    }
    batch = FlowBatch("n", "e", 0, 2, (0, 1), {name: np.array(values, np.uint64) for name, values in columns.items()})
    typed = {"reason": np.array([6, 1], np.uint8), "trace_id": np.array([b"\1" * 16, bytes(16)], "V16")}
    message = encode(replace(batch, columns=batch.columns | typed))
    letter = read_dead_letter("flows.dead.enricher", {REASON_HEADER: "broken"}, message)
    assert (letter.records, letter.spans) == (2, 4)
    partly = read_dead_letter("flows.dead.exporter", {RECORDS_HEADER: "1", SPANS_HEADER: "2"}, message)
    assert (partly.records, partly.lost) == (1, 2)


def test_live_packets_are_seen_and_not_read() -> None:
    """What capture counts in no flow is said by name there too."""
    console = Console(file=io.StringIO(), width=120)
    progress = CaptureProgress(packets=9, counters={"flow_packets": 5, "filtered_packets": 4, "used_slots": 7})
    console.print(ledger_table(Ledger(progress), "spans.jsonl", live=True))
    assert "packets seen" in console.file.getvalue()
    assert "4 filtered" in console.file.getvalue()
    assert "packets read" not in console.file.getvalue()


def test_refused_and_dead_are_taken_from_the_accepted_and_named() -> None:
    """Partial success is refused, everything else is dead, and what is left was accepted."""
    letters = (
        DeadLetter("exporter", "partial_success", "no room", 3),
        DeadLetter("exporter", "rejected", "bad request", 2),
        DeadLetter("exporter", "rejected", "bad request", 1),
    )
    ledger = Ledger(DONE, letters)
    assert (ledger.accepted, ledger.refused, ledger.dead, ledger.complete) == (6, 3, 3, False)
    assert ledger.faults() == [
        "exporter, partial success: 3 records: no room",
        "exporter, rejected: 3 records: bad request",
    ]


def test_what_nobody_counted_is_never_guessed() -> None:
    """A dead letter of unknown content, or batches under way, make the accepted spans unknown."""
    unknown = Ledger(DONE, (DeadLetter("enricher", "undecodable", "not msgpack", None),))
    assert (unknown.accepted, unknown.complete) == (None, False)
    assert unknown.faults() == ["enricher, undecodable: 1 messages of unknown content: not msgpack"]
    under_way = Ledger(DONE, batches_under_way=1)
    assert (under_way.accepted, under_way.complete) == (None, False)
    assert "not delivered" in printed(under_way)


def test_an_unfinished_capture_is_not_complete() -> None:
    """All spans so far accepted, and still more to come."""
    assert not Ledger(CaptureProgress(records=12)).complete


def test_a_letter_says_who_why_and_how_many() -> None:
    """Headers are taken at their word; without a number the records of a batch are counted."""
    headers = {REASON_HEADER: "rejected", DETAIL_HEADER: "no", RECORDS_HEADER: "7"}
    assert read_dead_letter("flows.dead.exporter", headers, b"") == DeadLetter("exporter", "rejected", "no", 7)
    assert read_dead_letter("flows.dead.exporter", {}, encode(fixed_batch())).records == 3
    assert read_dead_letter("flows.dead.enricher", {RECORDS_HEADER: "x"}, b"junk").records is None


def test_letters_of_other_runs_are_told_apart() -> None:
    """Only the batches of this epoch are in this run's account."""
    mine = f"dead/exporter/{part_id(batch_id('replay-1', 'abc', 4), 0, 3)}/0011"
    assert is_of_run({MESSAGE_ID_HEADER: mine}, "replay-1", "abc")
    assert not is_of_run({MESSAGE_ID_HEADER: mine}, "replay-1", "ab")
    assert is_of_run({MESSAGE_ID_HEADER: mine}, "replay-1", "")
    assert not is_of_run({MESSAGE_ID_HEADER: mine}, "replay", "")
    assert not is_of_run({}, "replay-1", "abc")


def test_packets_in_no_flow_are_named_by_what_they_are() -> None:
    """What is in a flow, what is zero and what counts no packets is left out."""
    counters = {
        "packets": 9,
        "flow_packets": 5,
        "arp_packets": 1,
        "non_first_fragment_packets": 3,
        "ip_packets": 0,
        "arp_bytes": 60,
    }
    assert packets_in_no_flow(CaptureProgress(counters=counters)) == {"non first fragment": 3, "arp": 1}


def test_progress_is_read_whether_there_is_any_or_not(tmp_path) -> None:
    """No file yet is no progress yet; what a newer capture adds is ignored."""
    path = tmp_path / "progress.json"
    assert read_progress(path) == CaptureProgress()
    path.write_text('{"packets": 3, "finished": true, "error": null, "counters": {"arp_packets": 1}, "new": []}')
    assert read_progress(path) == CaptureProgress(packets=3, finished=True, counters={"arp_packets": 1})


def test_what_a_letter_says_commands_no_terminal() -> None:
    """Details come from whoever may write to the bus."""
    letter = DeadLetter(service="exporter", reason="x\x1b[2J", detail="y\x9b31m", records=1)
    (fault,) = Ledger(CaptureProgress(), (letter,)).faults()
    assert fault.isprintable()
