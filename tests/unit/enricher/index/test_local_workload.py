"""What a socket's control group says of it where Kubernetes says nothing."""

from __future__ import annotations

import pytest

from proto.columns import NO_INDEX, Observer, Resolution, Role
from services.enricher.join import join
from tests.unit.enricher.objects_as_json import at, batch_of, cluster_of, flow, node, pod

SOCKET = {"observer": Observer.SOCKET}
CONTAINER = "c0ffee" + "0" * 58


@pytest.mark.parametrize(
    ("row", "entity_type", "service_name"),
    [
        ({"cgroup": "/system.slice/nginx.service", "systemd_unit": "nginx.service"}, "systemd.unit", "nginx"),
        ({"cgroup": "/x", "systemd_unit": "nginx.service", "process": "nginx-worker"}, "systemd.unit", "nginx"),
        ({"cgroup": "/x", "systemd_unit": "session-3.scope", "process": "curl"}, "systemd.unit", "curl"),
        ({"cgroup": "/x", "systemd_unit": "session-3.scope"}, "systemd.unit", "session-3"),
        ({"cgroup": "/", "process": "curl"}, "host", "curl"),
        ({"cgroup": "/x", "container_id": "ab" * 32, "container_name": "web", "container_image": "nginx"}, "container", "web"),
        ({"cgroup": "/x", "systemd_unit": "postgresql@15-main.service"}, "systemd.unit", "postgresql"),
        ({"cgroup": "/x", "systemd_unit": "user@7.service", "systemd_user_unit": "web.service"}, "systemd.unit", "web"),
        ({"cgroup": "/x", "container_id": CONTAINER, "container_runtime": "docker"}, "container", CONTAINER[:12]),
        ({"cgroup": "/x", "container_id": CONTAINER, "container_name": "db"}, "container", "db"),
        ({"cgroup": "/"}, "host", "host-a"),
    ],
)
def test_a_host_that_is_no_node_names_its_units_and_containers(row, entity_type, service_name) -> None:
    """Without Kubernetes the local end is the unit, the container, or at least the host; the remote end stays unknown."""
    enriched = join(
        batch_of(flow("192.0.2.1:5000", "192.0.2.2:80", local_container=0, **SOCKET), containers=[row], node_name="host-a"),
        None,
    )
    entity = at(enriched, "local_entity")
    assert (entity.type, entity.attributes["service.name"], entity.attributes["host.name"]) == (
        entity_type,
        service_name,
        "host-a",
    )
    assert enriched.column("local_resolution").tolist() == [Resolution.RESOLVED]
    assert enriched.column("remote_entity").tolist() == [NO_INDEX]
    assert enriched.column("remote_resolution").tolist() == [Resolution.UNRESOLVED]


def test_a_container_on_a_host_says_what_image_it_runs() -> None:
    """Name and tag apart, as the semantic conventions and containers of pods have them."""
    row = {"cgroup": "/x", "container_id": CONTAINER, "container_name": "web", "container_image": "registry:5000/nginx:1.27"}
    enriched = join(batch_of(flow("192.0.2.1:5000", "192.0.2.2:80", local_container=0, **SOCKET), containers=[row]), None)
    said = at(enriched, "local_entity").attributes
    assert (said["container.image.name"], said["container.image.tags"]) == ("registry:5000/nginx", ["1.27"])


def test_a_unit_of_a_node_is_named_on_top_of_its_node() -> None:
    """Kubelet's flows are kubelet's, on that node; a node's process without a unit stays the node's."""
    rows = [{"cgroup": "/system.slice/kubelet.service", "systemd_unit": "kubelet.service"}, {"cgroup": "/"}]
    index = cluster_of(node("node-a", "172.18.0.2")).compile()
    flows = [flow(f"172.18.0.2:{port}", "172.18.0.9:443", local_container=row, **SOCKET) for port, row in ((1, 0), (2, 1))]
    enriched = join(batch_of(*flows, containers=rows), index)
    kubelet, other = at(enriched, "local_entity", 0), at(enriched, "local_entity", 1)
    assert (kubelet.type, kubelet.attributes["service.name"], kubelet.attributes["k8s.node.name"]) == (
        "k8s.node",
        "kubelet",
        "node-a",
    )
    assert other.attributes["service.name"] == "kubernetes-node"


def test_a_pod_is_never_taken_for_the_host() -> None:
    """Neither a pod that the index knows nor one that it does not gets the host's name."""
    index = cluster_of(node("node-a", "172.18.0.2"), pod("cart", "10.0.0.1")).compile()
    flows = [
        flow("10.0.0.1:1", "10.0.0.2:80", local_container=0, **SOCKET),
        flow("10.0.0.8:1", "10.0.0.2:80", local_container=1, **SOCKET),
    ]
    enriched = join(batch_of(*flows, containers=[{"cgroup": "/a"}, {"cgroup": "/b", "pod_uid": "unheard-of"}]), index)
    assert at(enriched, "local_entity", 0).attributes["k8s.pod.name"] == "cart"
    assert at(enriched, "local_entity", 1) is None
    assert enriched.column("local_resolution").tolist() == [Resolution.RESOLVED, Resolution.UNRESOLVED]


@pytest.mark.parametrize("remote", ["127.0.0.1:80", "127.9.8.7:80", "[::1]:80"])
def test_the_other_end_of_a_loopback_connection_is_this_host(remote) -> None:
    """It is no stranger; which of the host's workloads it is, its own record tells."""
    local = remote.replace(":80", ":5000")
    enriched = join(
        batch_of(flow(local, remote, local_container=0, **SOCKET), containers=[{"cgroup": "/"}], node_name="host-a"), None
    )
    assert at(enriched, "remote_entity").attributes == {"host.name": "host-a"}
    assert enriched.column("remote_resolution").tolist() == [Resolution.RESOLVED]


def test_both_ends_of_a_loopback_connection_in_one_batch_name_each_other() -> None:
    """Each socket knows whose it is: that is who the other end's remote is, and no mere host."""
    ends = {"isn_seen": 3, "local_isn": 1, "remote_isn": 2}, {"isn_seen": 3, "local_isn": 2, "remote_isn": 1}
    client = flow("127.0.0.1:5000", "127.0.77.2:80", local_container=0, role=Role.CLIENT, **SOCKET, **ends[0])
    server = flow("127.0.77.2:80", "127.0.0.1:5000", local_container=1, role=Role.SERVER, **SOCKET, **ends[1])
    other = flow("127.0.0.1:5001", "127.0.77.2:80", local_container=0, role=Role.CLIENT, **SOCKET)
    units = [{"cgroup": f"/{name}.service", "systemd_unit": f"{name}.service"} for name in ("load", "web")]
    enriched = join(batch_of(client, server, other, containers=units, node_name="host-a"), None)
    names = [
        [enriched.entities[row].attributes.get("service.name") for row in enriched.column(f"{end}_entity")]
        for end in ("local", "remote")
    ]
    assert names == [["load", "web", "load"], ["web", "load", None]]


def test_a_capture_file_has_no_control_groups() -> None:
    """Its ends stay what the addresses say."""
    enriched = join(batch_of(flow("127.0.0.1:5000", "127.0.0.1:80")), None)
    assert enriched.entities == []


def test_the_same_workload_is_the_same_entity_in_every_batch() -> None:
    """Encoders cache by identity."""
    batch = batch_of(flow("192.0.2.1:1", "192.0.2.2:80", local_container=0, **SOCKET), containers=[{"cgroup": "/"}])
    assert at(join(batch, None), "local_entity") is at(join(batch, None), "local_entity")
