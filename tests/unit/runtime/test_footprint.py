"""Which libraries a process loads: only those that it is going to use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

_LOADED = """
import sys
from services.{service}.__main__ import main
assert main() == 2
print(*sorted({{name.partition(".")[0] for name, module in sys.modules.items() if module}}))
"""
"""A start with settings that cannot be used: by then all is loaded."""


@pytest.mark.parametrize("service", ["enricher", "exporter"])
def test_a_service_starts_without_what_it_may_never_use(service: str, tmp_path: Path) -> None:
    """Clients of Kubernetes, gRPC and HTTP are loaded by who has somewhere to reach with them; rich by no service."""
    environ = {
        "WIRESPAN_LOG_LEVEL": "nonsense",
        "WIRESPAN_EXPORTER_OUTPUT_FILE": str(tmp_path / "spans"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(service=service)], env=environ, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {"nats", "numpy", "structlog"} <= loaded
    assert not {"aiohttp", "grpc", "kubernetes", "rich", "urllib3"} & loaded


def test_what_was_hidden_for_a_while_can_be_imported_after() -> None:
    """The bus's client is loaded without aiohttp, and the exporter may still send over HTTP with it."""
    source = (
        "from services.runtime.nats import bus; import nats.aio.transport as t; assert t.aiohttp is None; "
        "import services.exporter.delivery.http, aiohttp; assert aiohttp.ClientSession"
    )
    subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True)
