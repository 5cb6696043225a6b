"""The processes of a run, each started again when it ends, as a kubelet does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.chaos.traffic import Generator, Key, Sum

ROOT: Final = Path(__file__).parents[2]
_INSIDE: Final = Path(__file__).parent / "inside"
_REST_SECONDS: Final = 0.3
_END_SECONDS: Final = 40
_OURS: Final = ("OTEL_", "NATS_", "WIRESPAN_")


class Member:
    """One replica of a service."""

    def __init__(self, service: str, name: str, folder: Path, environ: Mapping[str, str], port: int = 0) -> None:
        """`port` is where it serves its metrics."""
        self.service, self.name = service, name
        self._port = port
        self.log = folder / f"{name}.log"
        self.given_up: list[int] = []
        """Exit codes of ends that nobody asked for: a service that lives through everything has none."""
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self._environ |= {"PYTHONPATH": str(_INSIDE), **environ}
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._killed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def differences(self) -> list[str]:
        """Lines of its /metrics that say that records have come in of which nobody knows what became, or that nothing does."""
        if not self._port:
            return []
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as response:
                lines = response.read().decode().splitlines()
        except OSError as error:
            return [f"{self.name}: {error}"]
        found = [line for line in lines if "_ledger_" in line and line.split(" ")[0].endswith(("_difference", "_held"))]
        return [f"{self.name}: {line}" for line in found if float(line.split(" ")[1])]

    def start(self) -> None:
        """Run it, again and again."""
        self._thread.start()

    def kill(self) -> None:
        """End it as the kernel would that has no memory left."""
        self._signal(signal.SIGKILL, killed=True)

    def pause(self) -> None:
        """Let it run no more, and nobody know."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def stall(self) -> None:
        """Hold up its event loop for some seconds, while its other threads go on."""
        self._signal(signal.SIGUSR1)

    def stop(self) -> None:
        """End it for good, as its supervisor would."""
        self._ending.set()
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM, killed=True)
        self._thread.join(_END_SECONDS)
        if self._thread.is_alive():
            self._signal(signal.SIGKILL, killed=True)
            self._thread.join(_END_SECONDS)

    def _signal(self, number: signal.Signals, *, killed: bool = False) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._killed = self._killed or killed
                self._process.send_signal(number)

    def _keep(self) -> None:
        while not self._ending.is_set():
            self._once({})
            self._ending.wait(_REST_SECONDS)

    def _once(self, more: Mapping[str, str]) -> int:
        """Run it to its end; return the exit code."""
        with self._lock, self.log.open("ab") as log:
            self._killed = False
            command = [sys.executable, "-m", f"services.{self.service}"]
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environ | more, stdout=log, stderr=log)
        code = self._process.wait()
        if code and not self._killed:
            self.given_up.append(code)
        return code


class Feeder(Member):
    """A capture that replays one file of known traffic after the other, each until it is told to have replayed it whole."""

    def __init__(self, folder: Path, environ: Mapping[str, str], generator: Generator) -> None:
        super().__init__("capture", "capture", folder, environ)
        self._generator = generator
        self._traffic = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self.known: dict[Key, Sum] = {}
        """Of the files that were begun since this was last emptied."""

    def begin(self) -> None:
        """Replay from here on."""
        self._idle.clear()
        self._traffic.set()

    def finish(self) -> None:
        """Begin no more files; `idle` says when the last one is replayed."""
        self._traffic.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to replay."""
        return self._idle.is_set()

    def stop(self) -> None:
        """End it, in the middle of a file if it has one."""
        self._ending.set()
        self._traffic.set()
        super().stop()

    def _keep(self) -> None:
        while not self._ending.is_set():
            if not self._traffic.is_set():
                self._idle.set()
                self._traffic.wait()
                continue
            path, known = self._generator.file()
            self.known |= known
            while not self._ending.is_set() and self._once({"WIRESPAN_CAPTURE_REPLAY_FILES": str(path)}):
                self._ending.wait(_REST_SECONDS)
            path.unlink()
