"""Two nodes, and all between the client and the backend replaced while the client asks: nothing is lost, nothing doubled."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter

import pytest

from tests.cluster.asserts import counted_as_said, each_has_one_child, seen_by
from tests.cluster.conftest import Installed
from tests.support.cluster.spans import matching
from tests.support.cluster.workloads import Client, is_ready, serve

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]  # the first to ask may build the programs and the images
SECOND = 1_000_000_000
NODES = ("node-a", "node-b")
AFTERWARDS = 60
"""Connections after a rollout by which it is seen that all goes on."""


@pytest.fixture(scope="module")
def address(two_nodes: Installed) -> str:
    """The ClusterIP of a Service with a server on each node."""
    return serve(two_nodes.cluster, "server", NODES)


def test_every_pod_is_ready_without_a_restart(two_nodes: Installed) -> None:
    """On two nodes, capture runs on each, and no container of the chart had to be started twice."""
    assert {pod["spec"]["nodeName"] for pod in two_nodes.chart.pods("capture")} == set(NODES)
    assert all(is_ready(pod) for pod in two_nodes.chart.pods())
    assert two_nodes.chart.restarts() == {}


@pytest.mark.parametrize("component", ["enricher", "exporter", "nats"])
def test_a_rollout_behind_capture_loses_and_doubles_nothing(two_nodes: Installed, address: str, component: str) -> None:
    """Across a rollout of enricher, exporter or NATS, a client's own count through a ClusterIP is that of CLIENT spans, each
    with one SERVER span as its child, and no span comes twice with different content.
    """
    client = Client(two_nodes.cluster, f"client-{component}", "node-a")
    client.start(address)
    two_nodes.chart.roll_out(component)
    _until_asked(two_nodes, client, len(client.asked()) + AFTERWARDS)
    counted_as_said(two_nodes.cluster, client, client.stop())


def test_a_rollout_of_capture_misses_only_what_it_did_not_run_for(two_nodes: Installed, address: str) -> None:
    """Across a rollout of capture, every connection that began before its node's pod was told to go or after the new one was
    ready has its spans, and none has two.
    """
    cluster, receiver = two_nodes.cluster, two_nodes.cluster.receiver
    client = Client(cluster, "client-capture", "node-a")
    client.start(address)
    _until_asked(two_nodes, client, AFTERWARDS)
    began = time.time_ns()
    two_nodes.chart.roll_out("capture")
    _until_asked(two_nodes, client, len(client.asked()) + AFTERWARDS)
    asked = client.stop()
    ended = max(_ready_at(pod) for pod in two_nodes.chart.pods("capture")) + SECOND  # the API counts in seconds
    # The rollout goes from node to node; what begins just before the first is told to go may end after.
    outside = Counter(each.port for each in asked if not began - SECOND < each.began < ended)
    everything = Counter(each.port for each in asked)

    def found() -> Counter[int]:
        return Counter(span["source.port"] for span in matching(receiver, seen_by(client.name, "CLIENT")))

    cluster.api.until("the spans of what began outside of the rollout are there", lambda: outside <= found())
    assert found() <= everything
    clients = [span for span in matching(receiver, seen_by(client.name, "CLIENT")) if span["source.port"] in outside]
    each_has_one_child(cluster, clients)
    assert receiver.conflicts == []


def _until_asked(installed: Installed, client: Client, times: int) -> None:
    installed.cluster.api.until(f"{client.name} has asked {times} times", lambda: len(client.asked()) >= times)


def _ready_at(pod: dict) -> int:
    (at,) = [each["lastTransitionTime"] for each in pod["status"]["conditions"] if each["type"] == "Ready"]
    return int(dt.datetime.fromisoformat(at).timestamp() * SECOND)
