"""What the index says of addresses, ports, pods and times."""

from __future__ import annotations

import pytest

from proto.columns import NO_INDEX, Observer, Resolution, Role
from proto.flow_batch import FlowBatch
from services.enricher.index.cluster import Cluster
from services.enricher.join import join
from tests.unit.enricher.objects_as_json import (
    NOW,
    SECOND,
    UDP,
    Tree,
    at,
    backend,
    batch_of,
    cluster_of,
    decoded,
    endpoint_slice,
    flow,
    name_at,
    node,
    pod,
    ran,
    rfc3339,
    service,
)

TOMBSTONE_NS = 300 * SECOND


def joined(cluster: Cluster, *rows: Tree, containers: tuple[dict[str, str], ...] = ()) -> FlowBatch:
    """A batch of records joined with the cluster as it is."""
    return join(batch_of(*rows, containers=containers), cluster.compile())


def remote(cluster: Cluster, address: str, time_unix_ns: int = NOW) -> str:
    """Name of what is at a remote address at a time."""
    return name_at(joined(cluster, flow("10.9.9.9:40000", address, start_unix_ns=time_unix_ns)), "remote_entity")


def test_both_addresses_of_a_dual_stack_pod_are_it() -> None:
    """IPv4 and IPv6 lead to one and the same entity."""
    cluster = cluster_of(pod("cart-1", "10.0.0.1", "fd00::1"))
    batch = joined(cluster, flow("10.0.0.1:40000", "203.0.113.1:443"), flow("[fd00::1]:40001", "[2001:db8::1]:443"))
    assert at(batch, "local_entity", 0) is at(batch, "local_entity", 1)
    assert batch.column("local_resolution").tolist() == [Resolution.RESOLVED] * 2
    assert batch.column("remote_resolution").tolist() == [Resolution.EXTERNAL] * 2
    assert batch.column("remote_entity").tolist() == [NO_INDEX] * 2


def test_a_node_has_its_addresses_and_its_host_network_pods_do_not() -> None:
    """The address of a node is the node's, whatever runs in its network."""
    proxy = pod("proxy-1", "172.18.0.2", spec={"hostNetwork": True})
    for trees in ((node("node-a", "172.18.0.2", "fd00:18::2"), proxy), (proxy, node("node-a", "172.18.0.2", "fd00:18::2"))):
        cluster = cluster_of(*trees)
        assert remote(cluster, "172.18.0.2:9100") == "node-a"
        assert remote(cluster, "[fd00:18::2]:9100") == "node-a"


def test_a_socket_is_its_pods_whatever_its_address() -> None:
    """The local end follows the pod's uid: a host-network pod is itself, and its remote end finds the node."""
    proxy = pod("proxy-1", "172.18.0.2", spec={"hostNetwork": True})
    cluster = cluster_of(proxy, node("node-a", "172.18.0.2"), pod("cart-1", "10.0.0.1"))
    containers = ({"pod_uid": "uid-proxy-1", "container_id": "c1"},)
    rows = [flow("172.18.0.2:40000", "10.0.0.1:8080", local_container=each) for each in (0, NO_INDEX)]
    batch = joined(cluster, *rows, containers=containers)
    assert [name_at(batch, "local_entity", row) for row in (0, 1)] == ["proxy-1", "node-a"]


def test_a_static_pod_is_found_by_the_uid_that_its_cgroup_has() -> None:
    """The API server's uid of a static pod is not the kubelet's; its annotation has that one."""
    static = pod("etcd-a", "172.18.0.2", annotations={"kubernetes.io/config.hash": "0a1b2c"}, spec={"hostNetwork": True})
    row = flow("172.18.0.2:2379", "172.18.0.3:40000", local_container=0)
    assert name_at(joined(cluster_of(static), row, containers=({"pod_uid": "0a1b2c"},)), "local_entity") == "etcd-a"


def test_a_pod_that_is_not_in_the_index_is_not_taken_for_another() -> None:
    """The address of an unknown pod that the index gives to another pod says nothing; a node's address still does."""
    cluster = cluster_of(pod("cart-1", "10.0.0.1"), node("node-a", "172.18.0.2"))
    rows = [flow(local, "203.0.113.1:443", local_container=0) for local in ("10.0.0.1:40000", "172.18.0.2:40000")]
    batch = joined(cluster, *rows, containers=({"pod_uid": "uid-of-nobody"},))
    assert [name_at(batch, "local_entity", row) for row in (0, 1)] == ["", "node-a"]
    assert batch.column("local_resolution").tolist() == [Resolution.UNRESOLVED, Resolution.RESOLVED]


def test_a_socket_outside_any_pod_is_the_nodes() -> None:
    """What a live capture sees outside a pod's cgroup is a process of the node, whichever of its addresses it uses.

    Its control group has a row of its own; the address may be one that the node has for a Service (IPVS), or any other.
    """
    cluster = cluster_of(node("node-a", "172.18.0.2"), service("web", "10.96.0.1"))
    kubelet = {"cgroup": "/system.slice/kubelet.service", "systemd_unit": "kubelet.service"}
    containers = (kubelet, {"cgroup": "/"}, {"cgroup": "/kubepods/x", "pod_uid": "unheard-of"})
    for address in ("10.244.7.9:40000", "10.96.0.1:40000"):
        rows = [
            flow(address, "203.0.113.1:443", observer=Observer.SOCKET, local_container=each) for each in (0, 1, NO_INDEX, 2)
        ]
        batch = joined(cluster, *rows, flow("10.244.7.9:1", "203.0.113.1:443"), containers=containers)
        assert [name_at(batch, "local_entity", row) for row in range(5)] == ["node-a"] * 3 + ["", ""]
        entity = at(batch, "local_entity")
        assert entity is not None
        assert entity.attributes["service.name"] == "kubelet"
        assert batch.column("local_resolution").tolist()[3:] == [Resolution.UNRESOLVED, Resolution.UNKNOWN]


def test_the_bridge_of_a_nodes_pods_is_the_node() -> None:
    """Probes come from the first address of the node's pod network, unless a pod has it."""
    cluster = cluster_of(
        node("node-a", "172.18.0.2", spec={"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd01::/64"]})
    )
    assert [remote(cluster, each) for each in ("10.244.1.1:40000", "10.244.1.0:40000", "[fd01::1]:1", "10.244.1.2:1")] == [
        "node-a",
        "node-a",
        "node-a",
        "",
    ]
    cluster.feed(decoded(pod("cart-1", "10.244.1.1")))
    assert remote(cluster, "10.244.1.1:40000") == "cart-1"


def test_a_finished_pod_leaves_its_address_to_the_running_one() -> None:
    """Of a Job's pod and the pod that has its address now, only the second is there, except for when the first one ran."""
    ended = {"containerStatuses": [{"name": "app", "state": {"terminated": {"finishedAt": rfc3339(-60)}}}]}
    job = pod("backup-1", "10.0.0.1", phase="Succeeded", started=rfc3339(-120), status=ended)
    running = pod("cart-1", "10.0.0.1", started=rfc3339(-30))
    for trees in ((job, running), (running, job)):
        cluster = cluster_of(*trees)
        assert remote(cluster, "10.0.0.1:80", NOW) == "cart-1"
        assert remote(cluster, "10.0.0.1:80", NOW - 90 * SECOND) == "backup-1"
        assert remote(cluster, "10.0.0.1:80", NOW - 3600 * SECOND) == "cart-1"
    assert remote(cluster_of(pod("backup-2", "10.0.0.1", phase="Failed")), "10.0.0.1:80") == "backup-2"
    assert remote(cluster_of(pod("backup-2", "10.0.0.1", phase="Failed"), running), "10.0.0.1:80", 1) == "cart-1"


def test_a_snapshot_answers_for_all_times() -> None:
    """A capture may be older or newer than the snapshot."""
    cluster = cluster_of(pod("cart-1", "10.0.0.1", started=rfc3339(0)))
    assert [remote(cluster, "10.0.0.1:80", time) for time in (0, NOW - 1, NOW, 2**63)] == ["cart-1"] * 4


def test_a_late_record_finds_who_had_the_address_then() -> None:
    """An address that is used again answers by time; after the tombstones have gone, only for its present holder."""
    cluster = Cluster(tombstone_seconds=300)
    old = decoded(pod("old", "10.0.0.1", started=rfc3339(-210), status=ran(-200)))
    cluster.feed(old, observed_unix_ns=NOW - 199 * SECOND)
    cluster.remove(old, observed_unix_ns=NOW)
    cluster.feed(decoded(pod("new", "10.0.0.1", started=rfc3339(10), status=ran(20))), observed_unix_ns=NOW + 30 * SECOND)
    seen = [remote(cluster, "10.0.0.1:80", NOW + offset * SECOND) for offset in (-300, -201, -1, 5, 12, 17, 100)]
    assert seen == ["", "old", "old", "", "", "new", "new"]
    cluster.expire(NOW + TOMBSTONE_NS - 1)
    assert remote(cluster, "10.0.0.1:80", NOW - 1) == "old"
    cluster.expire(NOW + TOMBSTONE_NS)
    assert remote(cluster, "10.0.0.1:80", NOW - 1) == ""


def test_a_pod_of_the_same_name_is_another_pod() -> None:
    """A StatefulSet's pod that comes back with another uid ends the one before, even where its deletion was missed."""
    cluster = Cluster()
    cluster.feed(decoded(pod("redis-0", "10.0.0.1", uid="first", started=rfc3339(-100))), observed_unix_ns=NOW - 90 * SECOND)
    cluster.feed(decoded(pod("redis-0", "10.0.0.2", uid="second", started=rfc3339(5))), observed_unix_ns=NOW + 10 * SECOND)
    assert remote(cluster, "10.0.0.1:6379", NOW) == "redis-0"
    assert remote(cluster, "10.0.0.1:6379", NOW + 11 * SECOND) == ""
    assert remote(cluster, "10.0.0.2:6379", NOW + 11 * SECOND) == "redis-0"


def test_an_endpoint_that_was_taken_out_answers_for_before() -> None:
    """A port that leaves a slice was the service's until then."""
    cluster = cluster_of(pod("cart-1", "10.0.0.1"), service("cart", "10.96.0.1"))
    cluster.feed(decoded(endpoint_slice("cart", [backend("cart-1", "10.0.0.1")], 8080)), observed_unix_ns=NOW - 50 * SECOND)
    cluster.feed(decoded(endpoint_slice("cart", [], 8080)), observed_unix_ns=NOW)
    rows = [flow("10.9.9.9:40000", "10.0.0.1:8080", start_unix_ns=NOW + offset) for offset in (-1, 1)]
    batch = joined(cluster, *rows)
    assert [name_at(batch, "remote_service", row) for row in (0, 1)] == ["cart", ""]


def test_before_the_index_was_complete_nobody_is_unresolved_not_external() -> None:
    """An address without a holder at a time that nobody watched may have had one."""
    index = cluster_of(pod("cart-1", "10.0.0.1")).compile(complete_since_unix_ns=NOW)
    rows = [flow("10.0.0.1:40000", "203.0.113.7:80", start_unix_ns=NOW + offset) for offset in (-1, 0)]
    batch = join(batch_of(*rows), index)
    assert batch.column("remote_resolution").tolist() == [Resolution.UNRESOLVED, Resolution.EXTERNAL]
    assert batch.column("local_resolution").tolist() == [Resolution.RESOLVED] * 2


def test_services_are_told_apart_by_transport_and_port() -> None:
    """DNS over UDP and another service over TCP may share a port of one pod."""
    cluster = cluster_of(
        pod("dns-1", "10.0.0.5"),
        endpoint_slice("kube-dns", [backend("dns-1", "10.0.0.5")], 53, protocol="UDP"),
        endpoint_slice("zone-transfer", [backend("dns-1", "10.0.0.5")], 53),
    )
    rows = [
        flow("10.9.9.9:40000", "10.0.0.5:53", transport=UDP),
        flow("10.9.9.9:40000", "10.0.0.5:53"),
        flow("10.9.9.9:1", "10.0.0.5:54"),
    ]
    batch = joined(cluster, *rows)
    assert [name_at(batch, "remote_service", row) for row in range(3)] == ["kube-dns", "zone-transfer", ""]
    assert [name_at(batch, "remote_entity", row) for row in range(3)] == ["dns-1"] * 3


def test_every_address_of_a_service_is_the_service() -> None:
    """Cluster, external and load balancer addresses: the service is both who is there and what answers on its ports."""
    ingress = {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"hostname": "lb.example.com"}]}}
    cluster = cluster_of(service("cart", "10.96.0.1", "fd00:96::1", spec={"externalIPs": ["192.0.2.9"]}, status=ingress))
    for address in ("10.96.0.1:80", "[fd00:96::1]:80", "192.0.2.9:80", "198.51.100.7:80"):
        batch = joined(cluster, flow("10.9.9.9:40000", address))
        assert name_at(batch, "remote_entity") == name_at(batch, "remote_service") == "cart"
    batch = joined(cluster, flow("10.9.9.9:40000", "10.96.0.1:81"))
    assert (name_at(batch, "remote_entity"), name_at(batch, "remote_service")) == ("cart", "")


def test_services_that_share_an_address_are_told_apart_by_port() -> None:
    """Load balancers give one address to several services."""
    shared = {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}
    cluster = cluster_of(
        service("web", "10.96.0.1", status=shared), service("mail", "10.96.0.2", ports=[{"port": 25}], status=shared)
    )
    rows = [flow("10.9.9.9:40000", "198.51.100.7:80"), flow("10.9.9.9:40000", "198.51.100.7:25")]
    batch = joined(cluster, *rows)
    assert [name_at(batch, "remote_entity", row) for row in (0, 1)] == ["web", "mail"]


def test_a_node_port_is_the_service_on_every_node_and_nowhere_else() -> None:
    """The node is who is there, the service is what answers."""
    ports = [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]
    cluster = cluster_of(node("node-a", "172.18.0.2"), node("node-b", "172.18.0.3"), service("web", "10.96.0.1", ports=ports))
    rows = [flow("10.9.9.9:1", f"{address}:30080") for address in ("172.18.0.2", "172.18.0.3", "203.0.113.1")]
    batch = joined(cluster, *rows, flow("10.9.9.9:1", "172.18.0.2:30080", transport=UDP))
    assert [name_at(batch, "remote_service", row) for row in range(4)] == ["web", "web", "", ""]
    assert [name_at(batch, "remote_entity", row) for row in range(4)] == ["node-a", "node-b", "", "node-a"]


def test_a_load_balancer_on_the_nodes_own_address_leaves_it_to_the_node() -> None:
    """Small clusters use the nodes' addresses for load balancers: the service is known by its port."""
    status = {"loadBalancer": {"ingress": [{"ip": "172.18.0.2"}]}}
    cluster = cluster_of(service("web", "10.96.0.1", status=status), node("node-a", "172.18.0.2"))
    batch = joined(cluster, flow("10.9.9.9:1", "172.18.0.2:80"))
    assert (name_at(batch, "remote_entity"), name_at(batch, "remote_service")) == ("node-a", "web")


def test_of_two_services_over_one_pod_the_one_with_an_address_is_named() -> None:
    """A StatefulSet's headless service stands beside the one that clients use."""
    headless = endpoint_slice(
        "redis-headless", [backend("redis-0", "10.0.0.6")], 6379, labels={"service.kubernetes.io/headless": ""}
    )
    usual = endpoint_slice("redis", [backend("redis-0", "10.0.0.6")], 6379)
    for trees in ((headless, usual), (usual, headless)):
        batch = joined(cluster_of(*trees, pod("redis-0", "10.0.0.6")), flow("10.9.9.9:1", "10.0.0.6:6379"))
        assert name_at(batch, "remote_service") == "redis"
    batch = joined(cluster_of(headless), flow("10.9.9.9:1", "10.0.0.6:6379"))
    assert name_at(batch, "remote_service") == "redis-headless"


@pytest.mark.parametrize(
    ("role", "expected"),
    [(Role.CLIENT, ("", "redis")), (Role.SERVER, ("cart", "")), (Role.UNKNOWN, ("cart", "redis"))],
)
def test_the_end_that_answers_has_the_service(role: Role, expected: tuple[str, str]) -> None:
    """A port that a service has says nothing at the end that began. Where nobody saw who began, both may answer."""
    cluster = cluster_of(
        endpoint_slice("cart", [backend("cart-1", "10.0.0.1")], 8080),
        endpoint_slice("redis", [backend("redis-0", "10.0.0.6")], 6379),
    )
    batch = joined(cluster, flow("10.0.0.1:8080", "10.0.0.6:6379", role=role))
    assert (name_at(batch, "local_service"), name_at(batch, "remote_service")) == expected


def test_a_service_outside_the_cluster_is_known_though_nobody_is_there() -> None:
    """A slice without pods, for a database elsewhere, names the service; the address stays external."""
    cluster = cluster_of(service("orders-db"), endpoint_slice("orders-db", ["203.0.113.20"], 5432))
    batch = joined(cluster, flow("10.9.9.9:1", "203.0.113.20:5432"))
    assert name_at(batch, "remote_service") == "orders-db"
    assert batch.column("remote_resolution").tolist() == [Resolution.EXTERNAL]


def test_loopback_is_the_local_end_itself() -> None:
    """Both ends of a connection over loopback are one pod."""
    cluster = cluster_of(pod("cart-1", "10.0.0.1"))
    rows = [flow("127.0.0.1:40000", "127.0.0.1:6379", local_container=0), flow("[::1]:40000", "[::1]:6379", local_container=0)]
    batch = joined(cluster, *rows, containers=({"pod_uid": "uid-cart-1"},))
    assert [name_at(batch, "remote_entity", row) for row in (0, 1)] == ["cart-1", "cart-1"]
    assert batch.column("remote_resolution").tolist() == [Resolution.RESOLVED] * 2


def test_an_index_does_not_change_once_made() -> None:
    """What is fed later is in the next index; what it did not alter is the same entity there."""
    cluster = cluster_of(pod("cart-1", "10.0.0.1"))
    row = batch_of(flow("10.0.0.1:1", "10.0.0.2:80"))
    before = cluster.compile()
    first = join(row, before)
    cluster.feed(decoded(pod("redis-0", "10.0.0.2")))
    again, after = join(row, before), join(row, cluster.compile())
    assert name_at(again, "remote_entity") == ""
    assert name_at(after, "remote_entity") == "redis-0"
    assert at(first, "local_entity") is at(again, "local_entity") is at(after, "local_entity")
