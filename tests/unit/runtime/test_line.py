"""Processes that stand in line for one machine, by the kernel's own locks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from services.runtime.host.line import Line

MS = 1_000_000
PARENT_WAITS = """
import sys
from pathlib import Path
from services.runtime.host.line import Line
line = Line(Path(sys.argv[1]), "release")
line.join(5_000_000)
print("joined", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def stand(tmp_path):
    """Joins a line, through a file that may not be written to."""
    file = tmp_path / "cgroup.procs"
    file.touch(mode=0o444)
    with contextlib.ExitStack() as stack:

        def stand(since_ns: int, name: str = "release") -> Line:
            line = stack.enter_context(Line(file, name))
            line.join(since_ns)
            return line

        yield stand


def test_who_stands_before_and_who_behind(stand) -> None:
    """The first knows that it is, and since when the one next to it sees; the next one knows when the first is gone."""
    first = stand(1000 * MS)
    assert (first.is_first, first.next_since_ns) == (True, None)
    last, middle = stand(3000 * MS), stand(2000 * MS)
    assert [line.is_first for line in (first, middle, last)] == [True, False, False]
    assert [line.next_since_ns for line in (first, middle, last)] == [2000 * MS, 3000 * MS, None]
    first.leave(4000 * MS)
    assert middle.left_ns == 4000 * MS
    assert [line.is_first for line in (middle, last)] == [True, False]
    middle.leave(5000 * MS + 1)
    assert last.left_ns == 5000 * MS
    middle.close()
    assert last.left_ns == 4000 * MS
    first.close()
    assert last.left_ns is None
    assert last.is_first


def test_lines_of_other_names_are_others(stand) -> None:
    """Two releases on a node do not know of each other."""
    one, other = stand(1000 * MS), stand(2000 * MS, "other")
    assert one.is_first
    assert other.is_first
    assert one.next_since_ns is None


@pytest.mark.parametrize("since_ns", [1, MS, MS + 1, (1 << 39) * MS])
def test_since_when_is_said_to_a_millisecond(tmp_path, since_ns) -> None:
    """A place is never earlier than what it stands for, and the other reads what this one was told."""
    (tmp_path / "file").touch()
    with Line(tmp_path / "file", "a") as first, Line(tmp_path / "file", "a") as second:
        first.join(0)
        told = second.join(since_ns)
        assert since_ns <= told < since_ns + MS
        assert first.next_since_ns == told


def test_two_that_see_since_the_same_moment(stand) -> None:
    """One of them is first."""
    one, other = stand(1000 * MS), stand(1000 * MS)
    assert (one.is_first, other.is_first) == (True, False)


def test_whoever_is_killed_is_gone(stand, tmp_path) -> None:
    """The kernel takes the place of a process that was killed."""
    command = [sys.executable, "-c", PARENT_WAITS, str(tmp_path / "cgroup.procs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"joined\n"
        line = stand(9 * MS)
        assert not line.is_first
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert line.is_first
