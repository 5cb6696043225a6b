"""Waiting for what a process is to do."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.pipeline.watched import until, watched


@pytest.fixture
def stack():
    """What ends with the test."""
    with ExitStack() as stack:
        yield stack


def test_a_process_that_fails_ends_the_waiting_with_what_it_said(stack: ExitStack, tmp_path: Path) -> None:
    """No time limit has to."""
    with (tmp_path / "log").open("w") as log:
        failing = stack.enter_context(subprocess.Popen(["sh", "-c", "echo out of cheese >&2; exit 3"], stderr=log))
    stack.enter_context(watched(failing, tmp_path / "log"))
    with pytest.raises(AssertionError, match=r"ended with 3 [\s\S]*out of cheese"):
        asyncio.run(until(lambda: False))


def test_a_process_that_a_test_has_ended_ends_nothing(stack: ExitStack, tmp_path: Path) -> None:
    """Nor does one that has done its work."""
    for command in ("true",), ("sleep", "600"):
        process = stack.enter_context(subprocess.Popen(command))
        stack.enter_context(watched(process, tmp_path / "log"))
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert asyncio.run(until(iter([0, 0, 7]).__next__)) == 7
