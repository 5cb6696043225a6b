"""Two nodes: who is at each end of a connection, where a laboratory's answer was wrong."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cluster.asserts import arrived, each_has_one_child, seen_by
from tests.cluster.conftest import Installed
from tests.support.cluster.spans import Seen
from tests.support.cluster.workloads import NAMESPACE, PORT, Asked, Client, job, serve

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]  # the first to ask may build the programs and the images
NODES = ("node-a", "node-b")
TIMES = 20
SHORT_JOBS = 15
MORE_PODS_THAN_ADDRESSES = 30


@pytest.fixture(scope="module")
def address(two_nodes: Installed) -> str:
    """The ClusterIP of a Service with a server on each node."""
    return serve(two_nodes.cluster, "ends", NODES)


@pytest.fixture(scope="module")
def host_client(two_nodes: Installed, address: str) -> tuple[Client, list[Asked]]:
    """A client in the network of node-a that has asked through the Service, by TCP and UDP, and what it says it had."""
    client = Client(two_nodes.cluster, "host-client", "node-a", host_network=True)
    client.start(address, times=TIMES, udp_port=53)
    return client, client.done()


def test_tcp_of_the_hosts_network_through_a_service(two_nodes: Installed, host_client: tuple[Client, list[Asked]]) -> None:
    """A client in the host's network has one CLIENT span for each connection through a Service, with its connect time and a
    SERVER child in the same trace; none of them is an error.
    """
    client, asked = host_client
    ports = Counter(each.port for each in asked if each.transport == "tcp")
    seen = arrived(two_nodes.cluster, seen_by(client.name, "CLIENT"), TIMES)
    assert Counter((span["source.port"], span["error.type"]) for span in seen) == {(port, None): n for port, n in ports.items()}
    assert all(span["flow.tcp.connect.time"] for span in seen)
    each_has_one_child(two_nodes.cluster, seen)


def test_udp_of_the_hosts_network_through_a_service(two_nodes: Installed, host_client: tuple[Client, list[Asked]]) -> None:
    """A question by UDP and its answer, through a Service and from the host's network, are one flow from client to server at
    the client, over connected sockets and others.
    """
    client, asked = host_client
    ports = Counter(each.port for each in asked if each.transport == "udp")
    cluster = two_nodes.cluster
    seen = arrived(cluster, lambda span: span.resource.get("k8s.pod.name") == client.name and _is_datagrams(span), TIMES)
    told = Counter(
        (span.kind, span["source.port"], span["flow.packets.total"], span["flow.reverse.packets.total"]) for span in seen
    )
    assert told == Counter({("CLIENT", port, 1, 1): times for port, times in ports.items()})


def _is_datagrams(span: Seen) -> bool:
    return span["network.transport"] == "udp" and span.kind != "INTERNAL"


@pytest.fixture(scope="module")
def short_jobs(two_nodes: Installed, address: str) -> dict[str, list[Asked]]:
    """Jobs of about a second, and what each one's pod says it has had."""
    return job(two_nodes.cluster, "short", address, pods=SHORT_JOBS, times=8, pause=0.12)


@pytest.fixture(scope="module")
def many_jobs(two_nodes: Installed, address: str, short_jobs: dict[str, list[Asked]]) -> dict[str, list[Asked]]:
    """More short pods on one node than it has addresses for, and what each one says it has had."""
    return job(two_nodes.cluster, "many", address, pods=MORE_PODS_THAN_ADDRESSES, times=4, pause=0.1, node="node-a")


def _told_by_both_ends(installed: Installed, said: dict[str, list[Asked]]) -> None:
    """Every connection that a pod says it had is told as this pod's, at either end."""
    wanted = Counter((pod, each.port) for pod, asked in said.items() for each in asked)
    for kind in ("CLIENT", "SERVER"):
        seen = arrived(
            installed.cluster,
            lambda span, kind=kind: span.kind == kind and span["source.k8s.pod.name"] in said,
            wanted.total(),
        )
        assert Counter((span["source.k8s.pod.name"], span["source.port"]) for span in seen) == wanted, kind


def test_short_jobs_are_known_at_both_ends(two_nodes: Installed, short_jobs: dict[str, list[Asked]]) -> None:
    """Jobs that live about a second have their pod's name on every span, to their last connection: 15 of 15."""
    assert len(short_jobs) == SHORT_JOBS
    _told_by_both_ends(two_nodes, short_jobs)


def test_an_address_is_its_holders_alone(two_nodes: Installed, many_jobs: dict[str, list[Asked]]) -> None:
    """Where a pod has the address that another one had just before, neither is taken for the other at either end."""
    pods = two_nodes.cluster.api.pods(NAMESPACE, "job-name=many")
    addresses = Counter(pod["status"]["podIP"] for pod in pods)
    assert max(addresses.values()) > 1, "no address was used twice"
    _told_by_both_ends(two_nodes, many_jobs)


@pytest.mark.parametrize("node", NODES)
def test_probes_are_of_the_node(two_nodes: Installed, address: str, node: str) -> None:
    """The kubelet's probes come from the node, at either end, where the node's object says which network its pods are in
    (node-a). Where it does not (node-b), no object knows the address of the node's bridge: the socket's end is the node's none
    the less, the other end says `unknown`. Nobody is taken for somebody outside.
    """
    place = two_nodes.cluster.nodes[node].place
    # The kubelet asks from its end of the bridge. The client in the host's network of node-a is masqueraded as that too.
    own = {place.address, place.gateway}

    def is_probe(span: Seen) -> bool:
        to = (span["destination.k8s.pod.name"], span["destination.port"])
        return to == (f"ends-on-{node}", PORT) and span["source.address"] in own

    seen = arrived(two_nodes.cluster, is_probe, 20)
    ends = Counter((span.kind, span["source.k8s.node.name"], span["flow.source.resolution"]) for span in seen)
    server = ("SERVER", node, None) if node == "node-a" else ("SERVER", None, "unknown")
    assert ends.keys() == {("CLIENT", node, None), server}, ends
