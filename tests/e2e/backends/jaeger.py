"""A real Jaeger, for as long as a test asks it."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.ports import free_port

START_SECONDS: Final = 180


@contextmanager
def running_jaeger(
    executable: Path, folder: Path, most_traces: int = 10_000, storage: dict[str, Any] | None = None
) -> Iterator[tuple[str, str]]:
    """Run Jaeger with so many traces in memory at the most, or with this storage; yield where it takes OTLP/gRPC and where it
    answers queries.
    """
    otlp, query, query_grpc = free_port(), free_port(), free_port()
    config = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}},
        },
        "extensions": {
            "jaeger_query": {
                "storage": {"traces": "main"},
                "http": {"endpoint": f"127.0.0.1:{query}"},
                "grpc": {"endpoint": f"127.0.0.1:{query_grpc}"},
            },
            "jaeger_storage": {"backends": {"main": storage or {"memory": {"max_traces": most_traces}}}},
        },
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{otlp}"}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "main"}},
    }
    (folder / "jaeger.json").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "jaeger.log").open("w") as log:
        process = subprocess.Popen([executable, "--config", folder / "jaeger.json"], stdout=log, stderr=log)
    try:
        wait_until_it_answers(process, f"http://127.0.0.1:{query}", folder / "jaeger.log")
        yield f"http://127.0.0.1:{otlp}", f"http://127.0.0.1:{query}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return once queries are answered."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            asked(url, "/api/v3/services")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("Jaeger did not start:\n" + log.read_text()[-2000:])


def asked(url: str, path: str) -> Any:
    """What Jaeger answers."""
    with urllib.request.urlopen(url + path, timeout=30) as response:
        return json.loads(response.read())
