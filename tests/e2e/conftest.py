"""Fixtures of the end-to-end tests: other people's programs, and the `wirespan` command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.kubernetes.kube_api import KubeApiServer
from tests.support.kubernetes.live_cluster import ALL_BUT_NODES, LIMITED, NODE, TENANT, create_workload
from tests.support.tools import ToolUnavailableError, tool
from tests.unit.enricher.objects_as_json import node

ROOT = Path(__file__).parents[2]
CAPTURE = ROOT / "tests" / "data" / "cluster.pcapng"
SNAPSHOT = ROOT / "tests" / "data" / "cluster.json"
WIRESPAN = (sys.executable, "-m", "services.cli")

Replay: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


def needed(name: str) -> Path:
    """The executable of a tool; where it cannot be had the test is skipped, with the reason."""
    try:
        return tool(name)
    except ToolUnavailableError as error:
        pytest.skip(f"{name} is not available: {error}")


@pytest.fixture(scope="session")
def nats_cli() -> Path:
    """The `nats` command."""
    return needed("nats")


@pytest.fixture(scope="session")
def otelcol() -> Path:
    """The Collector with OTLP in and files out."""
    return needed("otelcol")


@pytest.fixture(scope="session")
def otelcol_json() -> Path:
    """The Collector that reads files of OTLP/JSON."""
    return needed("otelcol-json")


@pytest.fixture(scope="session")
def otelcol_copy() -> Path:
    """The Collector that sends copies of what it gets over OTLP."""
    return needed("otelcol-copy")


@pytest.fixture(scope="session")
def otelcol_metrics() -> Path:
    """The Collector that makes metrics of spans and writes them to a Prometheus."""
    return needed("otelcol-metrics")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """Prometheus."""
    return needed("prometheus")


@pytest.fixture(scope="session")
def dashboard_check() -> Path:
    """Reads dashboards by Grafana's schema."""
    return needed("dashboard_check")


@pytest.fixture(scope="session")
def traceql_check() -> Path:
    """Parses TraceQL by the grammar of Grafana's editor."""
    return needed("traceql_check")


@pytest.fixture(scope="session")
def jaeger() -> Path:
    """Jaeger, all of it in one process."""
    return needed("jaeger")


@pytest.fixture(scope="session")
def flowdump() -> Path:
    """Our own reader in Go."""
    return needed("flowdump")


@pytest.fixture(scope="session")
def helm_binary() -> Path:
    """The `helm` command."""
    return needed("helm")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What commands run with: this machine's settings for OpenTelemetry, NATS and Wirespan are not in it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NATS_", "WIRESPAN_"))}
    return {**ours, "XDG_CONFIG_HOME": str(tmp_path / "config"), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def replay(tmp_path: Path, environment: dict[str, str]) -> Replay:
    """Runs `wirespan replay` of the bundled capture with more options, in the test's folder, and expects it to succeed."""

    def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*WIRESPAN, "replay", CAPTURE, "--kube-snapshot", SNAPSHOT, "--cluster-name", "shop", *options]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    """An API server with a small shop in it."""
    etcd, binary = needed("etcd"), needed("kube-apiserver")
    with KubeApiServer(binary, etcd, tmp_path_factory.mktemp("kube"), users=(LIMITED, TENANT)) as server:
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
        server.create("/api/v1/nodes", node(NODE, "172.18.0.2"))
        create_workload(server)
        server.allow(LIMITED, *ALL_BUT_NODES)
        server.allow(TENANT, *ALL_BUT_NODES, namespace="shop")
        yield server
