"""Clusters of one and of two nodes with the chart in them, and the record of what was held there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cluster.chart import Chart
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.images import ImagesUnavailableError
from tests.support.cluster.node import missing
from tests.support.node.namespaces import ended_by_signals
from tests.support.platforms import PASSED, record
from tests.support.tools import ToolUnavailableError

_versions: dict[str, str] = {}
"""Of Kubernetes, by the name of the cluster."""
_outcomes: dict[str, dict[str, str]] = {}
"""By the name of the cluster: what was to be held, and what became of it."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A cluster with the chart in it."""

    cluster: Cluster
    chart: Chart


@pytest.fixture(scope="session", autouse=True)
def _ended_by_signals() -> Iterator[None]:
    """Whoever ends the run has the clusters ended with it."""
    with ended_by_signals():
        yield


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """One node that runs everything."""
    with _installed("one node", tmp_path_factory.mktemp("one"), "node-a") as installed:
        yield installed


@pytest.fixture(scope="session")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Two nodes, of which `node-b` does not say which network its pods are in."""
    with _installed("two nodes", tmp_path_factory.mktemp("two"), "node-a", "node-b", without="node-b") as installed:
        yield installed


@contextlib.contextmanager
def _installed(name: str, folder: Path, *nodes: str, without: str = "") -> Iterator[Installed]:
    if why := missing():
        pytest.skip(why)
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(Cluster(*nodes, folder=folder, without_pod_cidr=(without,)))
        except (ImagesUnavailableError, ToolUnavailableError) as error:
            pytest.skip(f"no cluster can be made here: {error}")
        _versions[name] = cluster.version
        chart = Chart(cluster, folder)
        cluster.volume("nats", nodes[0])
        try:
            chart.install()
            yield Installed(cluster, chart)
        finally:
            chart.say()
            cluster.say()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember what became of each promise."""
    report = yield
    names = {"one_node": "one node", "two_nodes": "two nodes"}
    for fixture, name in names.items():
        if fixture in getattr(item, "fixturenames", ()) and (report.when == "call" or not report.passed):
            function = getattr(item, "function", None)
            promise = " ".join((function.__doc__ or item.name).split("\n\n")[0].split())
            kept = _outcomes.setdefault(name, {})
            if kept.get(promise, PASSED) == PASSED:
                kept[promise] = report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave a record of each cluster for docs/platforms.md."""
    kernel = os.uname()
    release = kernel.release.partition("-")[0]  # without the words of whoever built it
    for name, version in _versions.items():
        outcomes = _outcomes.get(name, {})
        broken = sorted(promise for promise, outcome in outcomes.items() if outcome == "failed")
        checks = [promise for promise, outcome in outcomes.items() if outcome == PASSED]
        result = f"failed: {'; '.join(broken)}" if broken else PASSED
        record("cluster", name, version=version, kernel=release, arch=kernel.machine, checks=checks, result=result)
