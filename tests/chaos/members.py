"""The processes of a run, each started again when it ends, as a kubelet does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self

from services.cli.run.ledger import read_progress
from tests.chaos.traffic import Generator, Key, Sum

ROOT: Final = Path(__file__).parents[2]
_INSIDE: Final = Path(__file__).parent / "inside"
_REST_SECONDS: Final = 0.3
_END_SECONDS: Final = 40
_OURS: Final = ("OTEL_", "NATS_", "WIRESPAN_")
_LEFT_BY_FAKETIME: Final = ("/dev/shm/faketime_shm_{pid}", "/dev/shm/sem.faketime_sem_{pid}")


class Member:
    """One replica of a service."""

    def __init__(self, service: str, name: str, folder: Path, environ: Mapping[str, str], port: int = 0) -> None:
        """`port` is where it serves its metrics."""
        self.service, self.name = service, name
        self._port = port
        self.log = folder / f"{name}.log"
        self.given_up: list[int] = []
        """Exit codes of ends that nobody asked for, and errors of those that somebody did: who lives through all has none."""
        self._settings = environ
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self._environ |= {"PYTHONPATH": str(_INSIDE), **environ}
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._killed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def differences(self) -> list[str]:
        """Lines of its /metrics that say that records have come in of which nobody knows what became, or nothing has."""
        found = [
            line for line in self._metrics() if "_ledger_" in line and line.split(" ")[0].endswith(("_difference", "_held"))
        ]
        wrong = [f"{self.name}: {line}" for line in found if float(line.split(" ")[1])]
        return wrong if found else [f"{self.name} shows no account"]

    def metric(self, name: str) -> float | None:
        """A number of its /metrics, None where it does not say."""
        found = [line for line in self._metrics() if line.split(" ")[0].partition("{")[0] == name]
        return float(found[0].rpartition(" ")[2]) if found else None

    def _metrics(self) -> list[str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as response:
                return list(response.read().decode().splitlines())
        except OSError:
            return []

    @property
    def ready(self) -> bool:
        """Whether it says so, as a kubelet asks it."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as response:
                return bool(response.status == HTTPStatus.OK)
        except OSError:
            return False

    def successor(self, port: int) -> Self:
        """Another process of it, which has the same links."""
        settings = {**self._settings, "WIRESPAN_HEALTH_PORT": str(port)}
        return type(self)(self.service, self.name, self.log.parent, settings, port)

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

    def terminate(self) -> None:
        """Tell it to end, as a supervisor does that starts it again."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)

    def stall(self) -> None:
        """Hold up its event loop for some seconds, while its other threads go on."""
        self._signal(signal.SIGUSR1)

    def stop(self) -> None:
        """End it for good, as its supervisor would."""
        self._ending.set()
        self.terminate()
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
        for left in _LEFT_BY_FAKETIME:  # which it shares with its children, and cannot take with it where it is killed
            Path(left.format(pid=self._process.pid)).unlink(missing_ok=True)
        # Told to end before it had a handler for that, it ends as any process does.
        if code not in {0, -signal.SIGTERM} and not self._killed:
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
        """Of the files that were begun since `forget`."""
        self.account: Counter[str] = Counter()
        """What capture says of those that it has replayed: packets that it has seen, spans that its records become."""

    def forget(self) -> None:
        """Begin a new account."""
        self.known, self.account = {}, Counter()

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
            while not self._replayed(path) and not self._ending.wait(_REST_SECONDS):
                pass
            path.unlink()

    def _replayed(self, path: Path) -> bool:
        """Replay a file; return whether all of it was, since one that is told to stop leaves the rest to the next start."""
        report = path.with_suffix(".json")
        report.unlink(missing_ok=True)
        settings = {"WIRESPAN_CAPTURE_REPLAY_FILES": str(path), "WIRESPAN_CAPTURE_PROGRESS_FILE": str(report)}
        code = self._once(settings)
        progress = read_progress(report)
        if code or not progress.finished:
            return False
        self.account += Counter(packets=progress.packets, spans=progress.expected_spans)
        return True
