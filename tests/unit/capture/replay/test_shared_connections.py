"""What a connection of HTTP/2 did in the time of a span, in a capture file: in slices, once it is known what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from proto.asked.columns import SpanKind
from proto.columns import CONNECTION_PART, Reason
from proto.flow_batch import decode
from services.capture.progress import ProgressReport
from services.capture.replay.reader import ReplayReader
from services.capture.settings import CaptureSettings
from tests.support.packets.pcap import SECOND, START, write
from tests.support.packets.talks.http2_talk import DATA, HELLO, WELCOME, frame
from tests.support.packets.talks.http_talk import Talk
from tests.unit.capture.replay.test_spans import SERVER, asked


def test_a_part_is_what_was_said_in_the_time_of_its_span(tmp_path: Path) -> None:
    """Not before and not behind, to the slice; what was lost and sent again counts once as payload, and as sent again."""
    talk = Talk(client="10.1.0.1", server="10.1.0.9", client_port=40_000, server_port=50_051)
    talk.say(1, "client", HELLO).say(1.01, "server", WELCOME)
    talk.say(2.5, "client", frame(DATA, 1, bytes(100))).say(2.6, "server", frame(DATA, 1, bytes(100)))
    for number, at in enumerate((5.0, 5.02, 5.04)):
        talk.say(at, "client", frame(DATA, 3 + 2 * number, bytes(91)))
    again = frame(DATA, 5, bytes(991))
    talk.say(5.1, "server", frame(DATA, 3, bytes(991)))
    talk.say(5.12, "server", again, lost=True).say(5.122, "server", frame(DATA, 7, bytes(991)))
    talk.again(5.3, "server", again, before=1000)
    talk.say(5.4, "client", frame(DATA, 9, bytes(91))).say(5.45, "server", frame(DATA, 9, bytes(91)))
    questions = asked(
        tmp_path,
        (1, SpanKind.CLIENT, (SERVER, 50_051), 4.99, 5.31),
        (2, SpanKind.CLIENT, (SERVER, 50_051), 5.03, 5.11),
        (3, SpanKind.CLIENT, (SERVER, 50_051), 5.39, 5.46),
        (4, SpanKind.CLIENT, (SERVER, 50_051), 5.32, 5.38),
    )
    settings = CaptureSettings(replay_files=(write(tmp_path / "talk.pcap", talk.frames),), replay_questions=questions)
    report = ProgressReport(None)
    reader = ReplayReader(settings, "epoch", report)
    told = {}
    while batches := reader.read():
        for batch in (decode(ready.message) for ready in batches):
            for row in np.flatnonzero(batch.column("reason") == Reason.EXCHANGE).tolist():
                assert batch.column("exchange_shared")[row] == CONNECTION_PART
                names = ("request_bytes", "response_bytes", "response_retransmits", "start_unix_ns", "end_unix_ns")
                bytes_out, bytes_in, resent, *times = (int(batch.column(name)[row]) for name in names)
                span = batch.column("parent_span_id")[row].tobytes()[-1]
                told[span] = (bytes_out, bytes_in, resent, *(round((at - START) / SECOND, 3) for at in times))
    reader.close()
    assert told == {1: (300, 3000, 1, 5.0, 5.3), 2: (100, 1000, 0, 5.04, 5.1), 3: (100, 100, 0, 5.4, 5.45)}
    assert {name: count for name, count in report.counters.items() if name.startswith("asked_") and count} == {
        "asked_connection": 3, "asked_no_exchange": 1,
    }  # fmt: skip
