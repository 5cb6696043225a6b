"""The three services as processes over a real nats-server, as one node runs them, each serving its metrics on a port.

Capture replays the bundled capture again and again, at the speed of its clock, so that there is always something on its way:

    with Pipeline(folder, WIRESPAN_EXPORTER_OUTPUT_FILE="spans.jsonl") as pipeline:
        pipeline.wait_for("exporter", "wirespan_exporter_spans_accepted_total")
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, Self

from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import nobody_failed, watched
from tests.support.ports import free_port

ROOT: Final = Path(__file__).parents[3]
SERVICES: Final = ("capture", "enricher", "exporter")
WAIT_SECONDS: Final = 120


class Pipeline(AbstractContextManager["Pipeline"]):
    """From packets to spans. The variables in `settings` add to the defaults or replace them; empty, they are left out."""

    def __init__(self, folder: Path, *services: str, **settings: str) -> None:
        """With `services`, only these of the three."""
        folder.mkdir(parents=True, exist_ok=True)
        self.ports = {service: free_port() for service in services or SERVICES}
        self._folder = folder
        self._settings = settings

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            server = NatsServer(self._folder / "nats")
            server.start()
            stack.callback(server.stop)
            for service in self.ports:
                process = self._start(service, server.url)
                stack.callback(_end, process)
                stack.enter_context(watched(process, self._folder / f"{service}.log"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def metrics(self, service: str) -> str:
        """What the service's /metrics says now; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[service]}/metrics", timeout=10) as response:
                return str(response.read().decode())
        except (urllib.error.URLError, ConnectionError):
            return ""

    def wait_for(self, service: str, series: str) -> None:
        """Return once a series whose name and labels begin like this is above 0."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not re.search(rf"^{re.escape(series)}\S* (?!0\.0$)", self.metrics(service), re.MULTILINE):
            nobody_failed()
            if time.monotonic() > deadline:
                log = (self._folder / f"{service}.log").read_text()[-2000:]
                raise TimeoutError(f"{series} of {service} stayed 0:\n{log}")
            time.sleep(0.1)

    def _start(self, service: str, nats_url: str) -> subprocess.Popen[bytes]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NATS_", "WIRESPAN_"))}
        settings = {
            "WIRESPAN_NATS_URL": nats_url,
            "WIRESPAN_CLUSTER_NAME": "shop",
            "WIRESPAN_HEALTH_PORT": str(self.ports[service]),
            "WIRESPAN_LOG_FORMAT": "json",
            "WIRESPAN_CAPTURE_REPLAY_FILES": str(ROOT / "tests" / "data" / "cluster.pcapng"),
            "WIRESPAN_CAPTURE_REPLAY_LOOP": "true",
            "WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(ROOT / "tests" / "data" / "cluster.json"),
            **self._settings,
        }
        others = tuple(f"WIRESPAN_{other.upper()}_" for other in SERVICES if other != service)
        mine = {name: value for name, value in settings.items() if value and not name.startswith(others)}
        with (self._folder / f"{service}.log").open("wb") as log:
            command = [sys.executable, "-m", f"services.{service}"]
            return subprocess.Popen(command, cwd=ROOT, env={**ours, **mine}, stdout=log, stderr=log)


def metric_names(exposition: str) -> set[str]:
    """The names that a query can ask for, of a service's /metrics."""
    return {line.split("{")[0].split(" ")[0] for line in exposition.splitlines() if line and not line.startswith("#")}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
