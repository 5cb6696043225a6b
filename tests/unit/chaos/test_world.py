"""What `make chaos` sets up: what it waits for in vain is said, and whenever it is told to end nothing stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import signals, world
from tests.chaos.members import Member
from tests.chaos.servers import Server, has_disks
from tests.chaos.world import World

ROOT = Path(__file__).parents[3]
# Told to end where something is mounted already and no disk is on it yet.
SET_UP = """
import signal, sys
from contextlib import ExitStack
from pathlib import Path
from tests.chaos import servers, signals, world

class Told(servers.Disk):
    def __init__(self, *given):
        super().__init__(*given)
        signal.raise_signal(signal.SIGTERM)

signals.heed()
servers.Disk, world._power_cut = Told, lambda: Path("/bin/false")
with world.World(Path(sys.argv[1]), 1, servers=1, power_cuts=True):
    print("set up")
"""


def test_what_is_not_ready_in_time_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By where it logs: a run over services that never came up would be a run of nothing."""
    monkeypatch.setattr(world, "_START_SECONDS", 0.0)
    made = World(tmp_path, 1, servers=1, power_cuts=False)
    made.members = [Member("enricher", "enricher-0", tmp_path, {})]
    with made.network, made.api_server, pytest.raises(TimeoutError, match=r"not ready within 0 s: \S+enricher-0.log"):
        made._wait_ready()


@pytest.mark.skipif(not has_disks(), reason="takes root, to mount a disk")
def test_a_disk_that_does_not_come_up_is_not_left_mounted(tmp_path: Path) -> None:
    """Nor the file system that it is on."""
    server = Server(tmp_path, 0, [1], Path("/bin/false"))
    try:
        with pytest.raises(RuntimeError, match="was not mounted"):
            server.set_up()
    finally:
        server.close()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.mark.skipif(not has_disks(), reason="takes root, to mount a disk")
def test_a_run_that_is_told_to_end_while_it_sets_up_leaves_nothing_mounted(tmp_path: Path) -> None:
    """Wherever that comes."""
    command = [sys.executable, "-c", SET_UP, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_who_takes_down_a_run_is_told_to_end_afterwards() -> None:
    """Not in the middle of it, and not never."""
    steps: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: steps.append("told"))
    try:
        with signals.later():
            signal.raise_signal(signal.SIGTERM)
            steps.append("taken down")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps == ["taken down", "told"]
