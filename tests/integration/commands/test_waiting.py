"""Commands whose bus does not let them in: they say what they wait for and why, give up in time, end at the first Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from tests.support.pipeline.nats_server import NatsServer

CAPTURE = Path(__file__).parents[2] / "data" / "cluster.pcapng"
COMMANDS = [
    ["tap", "--last", "3"],
    ["tap"],
    ["dead-letters", "list"],
    ["replay", str(CAPTURE), "--output", "spans.jsonl"],
    ["up", "--demo", "--output", "spans.jsonl"],
]
NOBODY = "nats://127.0.0.1:1"

pytestmark = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))


class Wirespan:
    """A command that runs; what it says goes to a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._said = folder / "said"
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", *arguments],
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CAPTURE.parents[2]), "COLUMNS": "300", "TMPDIR": str(folder)},
                stderr=said,
                stdout=subprocess.DEVNULL,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def until_waiting(self) -> None:
        """Return once it says what it waits for."""
        while "waiting for NATS at " not in self._said.read_text():
            assert self._process.poll() is None, self._said.read_text()
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return exit status and what it said."""
        return self._process.wait(), self._said.read_text()


def test_it_gives_up_and_says_why(tmp_path: Path, command: list[str]) -> None:
    """Nobody listens: said with the reason, and exit 1 after the time that was given."""
    with Wirespan(tmp_path, *command, "--nats-url", NOBODY, "--timeout", "2") as process:
        process.until_waiting()
        status, said = process.ended()
    assert status == 1
    assert "waiting for NATS at nats://127.0.0.1:1 ...: " in said
    assert "has not let us in for 2 s: " in said
    assert "Traceback" not in said


def test_the_first_interruption_ends_it(tmp_path: Path, command: list[str]) -> None:
    """Ctrl-C while it waits: it ends, with the status that a shell expects."""
    with Wirespan(tmp_path, *command, "--nats-url", NOBODY) as process:
        process.until_waiting()
        process.interrupt()
        status, said = process.ended()
    assert status == (0 if command[0] == "tap" else 130)
    assert "Traceback" not in said


def test_a_wrong_token_is_said(tmp_path: Path, command: list[str]) -> None:
    """The server is there and refuses: that is the reason, and the token is in no message."""
    with NatsServer(tmp_path / "nats", extra_config='authorization { token: "right" }') as server:
        url = f"nats://s3cret@127.0.0.1:{server.port}"
        with Wirespan(tmp_path, *command, "--nats-url", url, "--timeout", "3") as process:
            process.until_waiting()
            _status, said = process.ended()
    assert "authorization violation" in said.lower()
    assert "s3cret" not in said
