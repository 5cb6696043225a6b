"""A loop keeps the pace of the files' clock, or a multiple of it, and makes nobody wait out a silence."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from proto.flow_batch import decode
from services.capture.progress import ProgressReport
from services.capture.replay.reader import ReplayReader
from services.capture.settings import CaptureSettings
from tests.support.packets.pcap import ACK, RST, SYN, Conversation, write

SECOND = 1_000_000_000


def paces(tmp_path: Path, speed: float) -> tuple[list[float], list[int]]:
    """Seconds between what one pass sends, and how long its records last: attempts at 0, 3, 6 and 20,000 s, of 0.5 s."""
    talk = [
        Conversation(client_port=port).tcp(at, "client", SYN, seq=1).tcp(at + 0.5, "server", RST | ACK, seq=0, ack=2)
        for port, at in ((1, 0), (2, 3), (3, 6), (4, 20_000))
    ]
    file = write(tmp_path / "a.pcap", [frame for each in talk for frame in each.frames])
    settings = CaptureSettings(node="n", replay_files=(file,), replay_loop=True, replay_speed=speed)
    reader = ReplayReader(settings, "e", ProgressReport(None))
    ready = [batch for _ in range(3) for batch in reader.read() or ()]
    reader.close()
    batches = [decode(each.message) for each in ready]
    lasted = [int(batch.column("end_unix_ns")[0] - batch.column("start_unix_ns")[0]) for batch in batches]
    due = [each.due_unix_ns / SECOND for each in ready]
    return [later - earlier for earlier, later in itertools.pairwise(due)], lasted


@pytest.mark.parametrize("speed", [1.0, 10.0, 0.5])
def test_a_replay_goes_so_many_times_as_fast(tmp_path: Path, speed: float) -> None:
    """Between records, not within them: what took half a second still does."""
    (first, silence), lasted = paces(tmp_path, speed)
    assert first == pytest.approx(3 / speed, rel=0.01)
    assert silence < 11 / speed
    assert lasted == [SECOND // 2] * 3
