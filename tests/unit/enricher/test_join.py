"""Joining whole batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from proto.columns import ENRICHED, NO_INDEX, Observer, Resolution, Role
from proto.flow_batch import SOURCE_NAT, FlowBatch, decode, encode
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.index.index import Index
from services.enricher.join import join
from services.enricher.kubernetes.snapshot import read_snapshot
from tests.support.pipeline.batches import flow_batches
from tests.unit.enricher.objects_as_json import at, batch_of, cluster_of, endpoint_slice, flow, name_at, node, pod, service

BUNDLED = Path(__file__).parents[2] / "data" / "cluster.json"
ADDED = {column.name for column in ENRICHED}


def bundled_index() -> Index:
    """The index of the cluster that comes with the project."""
    cluster = Cluster(name="demo")
    for obj in read_snapshot(BUNDLED).objects:
        cluster.feed(obj)
    return cluster.compile()


INDEX = cluster_of(
    pod("zero", "0.0.0.0"),
    node("node-a", "::"),
    service("web", "10.96.0.1", ports=[{"port": 80, "nodePort": 30080}]),
    endpoint_slice("web", ["::", "::1"], 1, 2),
).compile()


@given(flow_batches())
def test_any_batch_is_joined_and_decodes_again(batch: FlowBatch) -> None:
    """Whatever a batch holds, it is joined: its columns stay the same arrays, and the message is a valid one."""
    for index in (INDEX, None):
        enriched = join(batch, index)
        assert all(enriched.columns[name] is array for name, array in batch.columns.items() if name not in ADDED)
        again = decode(encode(enriched))
        assert again.count == batch.count
        assert again.entities is not None
        used = {int(each) for name in ADDED if "resolution" not in name for each in again.column(name)} - {NO_INDEX}
        assert used == set(range(len(again.entities)))
        assert Resolution.NONE not in again.column("remote_resolution").tolist()


def test_columns_of_a_newer_capture_are_carried_along() -> None:
    """What this version does not know goes through it untouched, and so does everything beside the columns."""
    raw = batch_of(flow("10.0.0.1:1", "10.0.0.2:80"))
    raw = replace(raw, columns={**raw.columns, "tx_quic_spins": np.array([7], "<u4")}, counters={"arp": 3})
    enriched = decode(encode(join(raw, INDEX)))
    assert enriched.columns["tx_quic_spins"].tolist() == [7]
    assert (enriched.counters, enriched.sequence, enriched.interval) == (raw.counters, raw.sequence, raw.interval)


def test_without_an_index_every_end_is_unresolved() -> None:
    """Nothing is called external that nobody has looked for."""
    raw = batch_of(flow("10.0.0.1:1", "10.0.0.2:80"), flow("10.0.0.1:2", "10.0.0.2:80"), flow("10.0.0.3:3", "10.0.0.2:80"))
    enriched = join(raw, None)
    assert enriched.entities == []
    for side in ("local", "remote"):
        assert enriched.column(f"{side}_resolution").tolist() == [Resolution.UNRESOLVED] * 3
        assert enriched.column(f"{side}_entity").tolist() == [NO_INDEX] * 3


def test_an_entity_is_listed_once_and_only_if_it_is_spoken_of() -> None:
    """The list of entities is a dictionary: a thousand records of two pods carry two."""
    index = cluster_of(*(pod(f"cart-{each}", f"10.0.0.{each}") for each in range(1, 50))).compile()
    enriched = join(batch_of(*(flow("10.0.0.1:1", "10.0.0.2:80") for _ in range(1000))), index)
    assert [entity.attributes["k8s.pod.name"] for entity in enriched.entities or ()] == ["cart-1", "cart-2"]


def test_an_empty_batch_and_an_empty_index() -> None:
    """Neither has anything to say, and that is no error."""
    nothing = FlowBatch("n", "e", 0, 0, (0, 0), {})
    assert join(nothing, INDEX).count == 0
    nobody = join(batch_of(flow("10.0.0.1:1", "203.0.113.2:80")), Cluster().compile())
    assert nobody.column("local_resolution").tolist() == [Resolution.UNKNOWN]
    assert nobody.column("remote_resolution").tolist() == [Resolution.EXTERNAL]


def test_an_address_that_the_index_may_have_missed_is_unresolved() -> None:
    """After the time up to which the index has the news, nobody is not external; who is known stays known."""
    row = flow("10.42.0.12:40016", "198.51.100.99:443")
    late = join(batch_of(row), bundled_index(), complete_until_unix_ns=row["start_unix_ns"] - 1)
    assert late.column("remote_resolution").tolist() == [Resolution.UNRESOLVED]
    assert late.column("local_resolution").tolist() == [Resolution.RESOLVED]
    in_time = join(batch_of(row), bundled_index(), complete_until_unix_ns=row["start_unix_ns"])
    assert in_time.column("remote_resolution").tolist() == [Resolution.EXTERNAL]


@pytest.mark.parametrize(
    ("local", "remote", "names"),
    [
        ("10.42.0.10:40012", "10.43.20.12:80", ("frontend-7d9c6b5f4-q7m4z", "payments", "payments")),
        ("10.42.0.12:40016", "10.42.1.11:6379", ("cart-6f8d4c9b7-h5t2w", "redis-0", "redis")),
        ("[fd42::11]:40011", "[fd42::12]:8080", ("frontend-7d9c6b5f4-x2k8p", "cart-6f8d4c9b7-h5t2w", "cart")),
        ("10.42.0.1:40013", "10.42.0.12:8080", ("worker-a", "cart-6f8d4c9b7-h5t2w", "cart")),
        ("203.0.113.10:50001", "10.42.0.13:80", ("", "ingress-nginx-controller-5c7b9d8f6-w9s4d", "ingress-nginx-controller")),
        ("10.42.0.11:40021", "198.51.100.99:443", ("frontend-7d9c6b5f4-x2k8p", "", "")),
    ],
)
def test_conversations_of_the_bundled_capture(local: str, remote: str, names: tuple[str, str, str]) -> None:
    """The addresses of the bundled capture are who its description says they are."""
    batch = join(batch_of(flow(local, remote)), bundled_index())
    assert (name_at(batch, "local_entity"), name_at(batch, "remote_entity"), name_at(batch, "remote_service")) == names


def test_the_workload_behind_a_cluster_ip_gives_its_name() -> None:
    """A span to a ClusterIP can name the service that the workload's own SDK reports as."""
    batch = join(batch_of(flow("10.42.0.10:40030", "10.43.0.10:53", transport=17, role=Role.CLIENT)), bundled_index())
    entity = at(batch, "remote_service")
    assert entity is not None
    assert (entity.attributes["k8s.service.name"], entity.attributes["service.name"]) == ("kube-dns", "coredns")


@pytest.mark.parametrize(
    ("more", "doubtful"), [({}, True), ({"externalTrafficPolicy": "Local"}, False), ({"ports": []}, False)]
)
def test_a_node_that_may_stand_for_somebody_outside_says_so(more: dict[str, object], doubtful: bool) -> None:  # noqa: FBT001
    """Only at the client's end of what a Service answers that takes connections from outside and hides who made them."""
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}], **more}
    web = {**service("web", "10.96.0.1"), "spec": spec}
    index = cluster_of(
        node("node-a", "172.18.0.2"),
        pod("web-0", "10.42.0.10"),
        pod("db-0", "10.42.0.11"),
        web,
        endpoint_slice("web", ["10.42.0.10"], 8080),
    ).compile()
    batch = batch_of(
        flow("10.42.0.10:8080", "172.18.0.2:40000", role=Role.SERVER),
        flow("10.42.0.11:5432", "172.18.0.2:40000", role=Role.SERVER),
        flow("10.42.0.10:40000", "172.18.0.2:10250", role=Role.CLIENT),
    )
    nodes = [at(join(batch, index), "remote_entity", row) for row in range(3)]
    assert [each.type if each else "" for each in nodes] == ["k8s.node"] * 3
    assert [each.attributes.get(SOURCE_NAT) for each in nodes if each] == [True if doubtful else None, None, None]
    assert [each.attributes["k8s.node.name"] for each in nodes if each] == ["node-a"] * 3


def chosen(address: str, port: int) -> dict[str, object]:
    """Columns of a record whose packets went to this backend."""
    return {"remote_nat_address": packed_address(address), "remote_nat_port": port, "observer": Observer.SOCKET}


def test_a_client_that_its_own_node_translates_for_reaches_the_backend_that_was_chosen() -> None:
    """The destination is the pod and its container that got the packets, the service the one that was asked for; a backend that
    nobody knows leaves the Service; and neighbours in the batch that were not translated are what they are.
    """
    containers = [{"name": name, "ports": [{"containerPort": port}]} for name, port in (("app", 8080), ("proxy", 15001))]
    index = cluster_of(
        node("node-a", "192.0.2.1"),
        pod("web-0", "10.42.0.10", spec={"containers": containers}),
        pod("web-1", "10.42.0.11"),
        service("web", "10.96.0.1"),
        endpoint_slice("web", ["10.42.0.10", "10.42.0.11"], 8080),
    ).compile()
    batch = batch_of(
        flow("192.0.2.1:40000", "10.96.0.1:80", **chosen("10.42.0.10", 8080)),
        flow("192.0.2.1:40001", "10.96.0.1:80", **chosen("10.42.0.99", 8080)),
        flow("192.0.2.1:40002", "10.96.0.1:80"),
        flow("192.0.2.1:40003", "198.51.100.7:443", **chosen("10.42.0.11", 8080)),
        flow("127.0.0.1:40004", "127.0.0.1:30080", **chosen("10.42.0.11", 8080)),
    )
    enriched = join(batch, index)
    names = [(name_at(enriched, "remote_entity", row), name_at(enriched, "remote_service", row)) for row in range(5)]
    assert names == [("web-0", "web"), ("web", "web"), ("web", "web"), ("web-1", "web"), ("web-1", "web")]
    container = at(enriched, "remote_entity", 0)
    assert container is not None
    assert container.attributes["k8s.container.name"] == "app"
    assert [name_at(enriched, "local_entity", row) for row in range(4)] == ["node-a"] * 4


TWO_NODES = (
    node("node-a", "192.168.0.1"),
    node("node-b", "192.168.0.2"),
    pod("mine", "10.0.1.1", spec={"nodeName": "node-a"}),
    pod("theirs", "10.0.2.1", spec={"nodeName": "node-b"}),
)


@pytest.mark.parametrize(
    ("told", "local", "container"),
    [
        pytest.param("node-a", "10.0.1.1", {"pod_uid": "uid-theirs"}, id="a pod by its uid"),
        pytest.param("node-a", "10.0.2.1", {"pod_uid": "uid-theirs"}, id="a pod by uid and address"),
        pytest.param("node-a", "10.0.2.1", None, id="a pod by its address"),
        pytest.param("node-a", "192.168.0.2", None, id="a node by its address"),
        pytest.param("node.a", "10.0.2.1", {"pod_uid": "uid-theirs"}, id="under another spelling of its name"),
    ],
)
@pytest.mark.parametrize("observer", [Observer.SOCKET, Observer.CAPTURE])
def test_a_node_does_not_speak_for_another(told: str, local: str, container: dict[str, str] | None, observer: Observer) -> None:
    """What it says is a socket of its own, and belongs to another node: that end is not named, and it is counted."""
    if container is None and observer == Observer.CAPTURE:
        pytest.skip("an address on the path of a capture file is nobody's claim")
    rows = [flow(f"{local}:40000", "10.0.1.1:80", local_container=0 if container else NO_INDEX, observer=observer)] * 3
    rows.append(flow("10.0.1.1:40000", "10.0.2.1:80", local_container=NO_INDEX, observer=observer))
    counted: list[int] = []
    batch = batch_of(*rows, containers=[container] if container else [], node_name=told)
    joined = join(batch, cluster_of(*TWO_NODES).compile(), on_foreign=counted.append)
    assert counted == [3]
    assert {name_at(joined, "local_entity", row) for row in range(3)} <= {"", told}  # whatever else its socket is, it is here
    assert {name_at(joined, "remote_entity", row) for row in range(3)} == {"mine"}
    assert (name_at(joined, "local_entity", 3), name_at(joined, "remote_entity", 3)) == ("mine", "theirs")


@pytest.mark.parametrize("told", ["node-b", "laptop"])
def test_a_node_speaks_for_itself_and_one_that_nobody_knows_is_believed(told: str) -> None:
    """The pod's own node names it; so does capture under a name that is no node's, which cannot be checked."""
    counted: list[int] = []
    rows = [flow("10.0.2.1:1", "10.0.1.1:80", local_container=0, observer=Observer.SOCKET)]
    batch = batch_of(*rows, containers=[{"pod_uid": "uid-theirs"}], node_name=told)
    joined = join(batch, cluster_of(*TWO_NODES).compile(), on_foreign=counted.append)
    assert (name_at(joined, "local_entity", 0), counted) == ("theirs", [])
