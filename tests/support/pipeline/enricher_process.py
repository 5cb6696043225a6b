"""The enricher as a process of its own, which `until` looks after (watched.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import watched

ROOT: Final = Path(__file__).parents[3]


@contextmanager
def running_enricher(nats_server: NatsServer, folder: Path, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run an enricher with these settings alone. Its log is `enricher-<how many there were>.log`, which a failed test shows."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_", "KUBECONFIG"))}
    environ |= {"PYTHONPATH": str(ROOT), "WIRESPAN_NATS_URL": nats_server.url, **settings}
    log = folder / f"enricher-{len(list(folder.glob('enricher-*')))}.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "services.enricher"], env=environ, stderr=output, text=True)
    try:
        with watched(process, log):
            yield process
    finally:
        process.kill()
        process.wait()
        sys.stderr.write(log.read_text())
