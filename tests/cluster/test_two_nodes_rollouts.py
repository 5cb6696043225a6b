"""Two nodes, and all between the client and the backend replaced while the client asks: nothing is lost, nothing doubled."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest

from tests.cluster.asserts import ARRIVAL_SECONDS, counted_as_said, is_datagrams
from tests.cluster.conftest import Installed
from tests.support.cluster.spans import matching
from tests.support.cluster.workloads import Client, is_ready, serve

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]  # the first to ask may build the programs and the images
NODES = ("node-a", "node-b")
AFTERWARDS = 60
"""Connections after a rollout by which it is seen that all goes on."""
AT_THE_MOMENT = 2
"""Packets by UDP of the tenth of a second in which one capture goes and the other takes over (docs/upgrade.md)."""


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


def test_a_rollout_of_capture_loses_and_doubles_nothing(two_nodes: Installed, address: str) -> None:
    """Across a rollout of capture on every node, in which the new pod of a node sees before the old one goes, a client's own
    count of connections is that of CLIENT spans, each with one SERVER span as its child, and no span comes twice with different
    content; of its questions by UDP each packet is told once, but for those of the moment between both.
    """
    cluster = two_nodes.cluster
    client = Client(cluster, "client-capture", "node-a")
    client.start(address, udp_port=53)
    _until_asked(two_nodes, client, AFTERWARDS)
    before = {pod["metadata"]["name"] for pod in two_nodes.chart.pods("capture")}
    two_nodes.chart.roll_out("capture")
    assert before.isdisjoint(pod["metadata"]["name"] for pod in two_nodes.chart.pods("capture"))
    _until_asked(two_nodes, client, len(client.asked()) + AFTERWARDS)
    asked = client.stop()
    counted_as_said(cluster, client, asked)
    questions = Counter(each.port for each in asked if each.transport == "udp")
    for packets in ("flow.packets.delta", "flow.reverse.packets.delta"):
        told = _datagrams(two_nodes, client, packets, questions.total())
        assert told - questions == Counter()
        assert (questions - told).total() <= AT_THE_MOMENT


def _datagrams(installed: Installed, client: Client, attribute: str, number: int) -> Counter[int]:
    """Datagrams by the client's port, as all of its records have them, once there are so many, or no more come."""
    receiver = installed.cluster.receiver

    def told() -> Counter[int]:
        found = Counter[int]()
        for span in matching(receiver, lambda span: span.resource.get("k8s.pod.name") == client.name and is_datagrams(span)):
            found[span["source.port"]] += span[attribute]
        return found

    with contextlib.suppress(TimeoutError):
        receiver.wait_for(lambda: told().total() >= number, ARRIVAL_SECONDS)
    return told()


def _until_asked(installed: Installed, client: Client, times: int) -> None:
    installed.cluster.api.until(f"{client.name} has asked {times} times", lambda: len(client.asked()) >= times)
