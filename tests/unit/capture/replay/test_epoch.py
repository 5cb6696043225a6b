"""Which starts of a replay are the same run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.capture.replay.epoch import replay_epoch
from services.capture.settings import CaptureSettings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file; what is in it is of no concern."""
    path = tmp_path / "a.pcap"
    path.write_bytes(b"a")
    return path


def test_a_start_of_the_same_is_the_same_run(file: Path) -> None:
    """Same host, files and settings: same epoch, of a form that a setting may have."""
    settings = CaptureSettings(replay_files=(file,))
    assert replay_epoch(settings) == replay_epoch(CaptureSettings(replay_files=(file,)))
    assert replay_epoch(CaptureSettings(replay_files=(file,), epoch=replay_epoch(settings))) == replay_epoch(settings)


@pytest.mark.parametrize(
    "other",
    [{"node": "b"}, {"linger_seconds": 2.0}, {"max_flows": 2048}, {"replay_files": ()}],
    ids=lambda other: next(iter(other)),
)
def test_what_decides_on_the_messages_makes_another_run(file: Path, other: dict) -> None:
    """Another node, other times of records, another size of the table, other files."""
    assert replay_epoch(CaptureSettings(**{"replay_files": (file,), **other})) != replay_epoch(
        CaptureSettings(replay_files=(file,))
    )


def test_another_host_is_another_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new container, which is one that was asked for anew, has another host name."""
    epochs = set()
    for name in ("0123456789ab", "ba9876543210"):
        monkeypatch.setattr("services.capture.replay.epoch.socket.gethostname", lambda name=name: name)
        epochs.add(replay_epoch(CaptureSettings(replay_files=(file,), node="node-a")))
    assert len(epochs) == 2


def test_a_file_that_changed_makes_another_run(file: Path) -> None:
    """A message id stands for the same bytes for ever, so a file that is written anew gets others."""
    before = replay_epoch(CaptureSettings(replay_files=(file,)))
    os.utime(file, ns=(1, 1))
    assert replay_epoch(CaptureSettings(replay_files=(file,))) != before


def test_every_start_of_a_loop_is_a_run_of_its_own(file: Path) -> None:
    """Its passes are of the time of day."""
    looping = CaptureSettings(replay_files=(file,), replay_loop=True)
    assert replay_epoch(looping) != replay_epoch(looping)
