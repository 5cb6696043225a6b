"""What runs beside an application: nothing, capture alone, all of Wirespan on the same machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.application.loads import end
from tests.bench.harness import ROOT, environment
from tests.support.pipeline.nats_server import NatsServer

_START_SECONDS = 90
_SETTLE_SECONDS = 1.0
"""Between the start of capture and the first figure."""


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    over = time.monotonic() + _START_SECONDS
    while not holds():
        assert process.poll() is None, "it ended before it captured"
        assert time.monotonic() < over, "it does not capture"
        time.sleep(0.1)
    time.sleep(_SETTLE_SECONDS)


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    """Nothing."""
    yield


@contextlib.contextmanager
def capture_only() -> Iterator[None]:
    """The capture service, live. Its bus has a processor's least share: in a cluster it is on another node."""
    with tempfile.TemporaryDirectory() as folder, NatsServer(Path(folder) / "nats") as bus:
        subprocess.run(["renice", "-n", "19", str(bus.pid)], check=True, stdout=subprocess.DEVNULL)
        progress = Path(folder) / "progress"
        variables = environment(
            WIRESPAN_NATS_URL=bus.url, WIRESPAN_CAPTURE_LOOPBACK="true", WIRESPAN_CAPTURE_PROGRESS_FILE=str(progress),
            WIRESPAN_HEALTH_PORT="0", WIRESPAN_CAPTURE_DENY_PORTS=str(bus.port),
        )  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "services.capture"], cwd=ROOT, env=variables)
        try:
            _until(lambda: progress.exists() and json.loads(progress.read_bytes())["capturing"], process)
            yield
        finally:
            end(process)


@contextlib.contextmanager
def everything() -> Iterator[None]:
    """`wirespan up`, its spans to a file."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("wb") as said:
        command = [sys.executable, "-m", "services.cli", "up", "--output", f"{folder}/spans.jsonl"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(TMPDIR=folder), stdout=subprocess.DEVNULL, stderr=said)
        try:
            _until(lambda: b"capturing live" in (Path(folder) / "said").read_bytes(), process)
            yield
        finally:
            end(process)


SURROUNDINGS = {"nothing": nothing, "capture only": capture_only, "the whole": everything}
