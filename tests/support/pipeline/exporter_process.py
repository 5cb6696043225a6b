"""The exporter as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support.pipeline.watched import watched

ROOT = Path(__file__).parents[3]


class Exporter:
    """The exporter as a process, started and ended as its supervisor would."""

    def __init__(self, nats_url: str, folder: Path, **environ: str) -> None:
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_"))}
        self._environ |= {
            "WIRESPAN_NATS_URL": nats_url,
            "WIRESPAN_LOG_FORMAT": "json",
            "WIRESPAN_EXPORTER_ACK_WAIT_SECONDS": "2",
            "WIRESPAN_EXPORTER_FIRST_BACKOFF_SECONDS": "0.05",
            "WIRESPAN_EXPORTER_LONGEST_BACKOFF_SECONDS": "0.2",
            **environ,
        }
        self._log = folder / "exporter.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._watching = ExitStack()

    def set(self, **environ: str) -> None:
        """Have the next start find these variables too."""
        self._environ |= environ

    def start(self) -> None:
        """Start the process."""
        command = [sys.executable, "-m", "services.exporter"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environ, stderr=log)
        self._watching.close()
        self._watching.enter_context(watched(self._process, self._log))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        assert self._process is not None
        self._watching.close()
        return self._process.wait(60)

    def close(self) -> None:
        """End a process that a test has left running."""
        self._watching.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    @property
    def events(self) -> list[str]:
        """The events it has logged."""
        return [json.loads(line)["event"] for line in self.log.splitlines()]
