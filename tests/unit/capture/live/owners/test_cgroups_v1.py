"""Pods without a cgroup of version 2 are counted and said, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.capture.live.owners.cgroups import CgroupIndex
from services.capture.live.owners.cgroups_v1 import PodsOfVersion1

UIDS = [f"1e6a2f34-90ab-4cde-8f01-23456789abc{number}" for number in range(4)]


class Host:
    """A hybrid host: a tree of each version, and time that passes when a test says so."""

    def __init__(self, tmp_path: Path) -> None:
        self.version_2, self.memory, self.pids = (tmp_path / name for name in ("unified", "memory", "pids"))
        self.mounts = tmp_path / "mounts"
        kinds = {self.version_2: "cgroup2", self.memory: "cgroup", self.pids: "cgroup", Path("/nowhere/cpu"): "cgroup"}
        self.mounts.write_text("".join(f"cgroup {path} {kind} rw 0 0\n" for path, kind in kinds.items()))
        for path in (self.version_2, self.memory, self.pids):
            path.mkdir()
        self.seconds = 0.0
        self.counted = PodsOfVersion1(self.version_2, mounts=self.mounts, monotonic_seconds=lambda: self.seconds)

    def look(self) -> int:
        """Let a minute pass, look, and return what is counted."""
        self.seconds += 60
        with CgroupIndex(self.version_2) as index:
            self.counted.look(index.pods)
        return self.counted.unidentified


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """The host."""
    return Host(tmp_path)


def test_pods_of_version_1_alone_are_counted_and_said_once(host) -> None:
    """Those that version 2 does not know, whichever hierarchy has them; a second look makes sure, further ones say nothing."""
    for uid in UIDS[:3]:
        (host.memory / "kubepods" / "burstable" / f"pod{uid}" / "c0ffee").mkdir(parents=True)
    (host.version_2 / "kubepods" / f"pod{UIDS[0]}").mkdir(parents=True)
    (host.memory / "system.slice" / "nginx.service").mkdir(parents=True)
    with capture_logs() as logs:
        assert [host.look() for _ in range(3)] == [0, 2, 2]
    (said,) = logs
    assert (said["event"], said["pods"], said["example"]) == ("cgroups.pods_of_version_1", 2, UIDS[1])
    for uid in UIDS[1:3]:
        (host.version_2 / "kubepods" / f"pod{uid}").mkdir()
    with capture_logs() as logs:
        assert host.look() == 0
    assert [line["event"] for line in logs] == ["cgroups.pods_identified"]


def test_a_pod_that_is_being_made_is_none_of_them(host) -> None:
    """What one look finds and the next one does not was on its way."""
    made = host.memory / "kubepods" / f"pod{UIDS[0]}"
    made.mkdir(parents=True)
    assert host.look() == 0
    made.rmdir()
    (host.memory / "kubepods" / f"pod{UIDS[1]}").mkdir()
    assert host.look() == 0


def test_a_host_of_version_2_alone_is_not_looked_at(tmp_path: Path) -> None:
    """Without hierarchies of version 1 beside it nobody is asked for anything."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    PodsOfVersion1(tmp_path, mounts=mounts).look(lambda: pytest.fail("asked"))
