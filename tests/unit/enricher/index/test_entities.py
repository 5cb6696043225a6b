"""What is said of pods, nodes and services."""

from __future__ import annotations

from typing import Any

import pytest

from proto.columns import Role
from services.enricher.index.cluster import Cluster
from services.enricher.index.image import image_of
from services.enricher.join import join
from tests.unit.enricher.objects_as_json import (
    NOW,
    Tree,
    at,
    backend,
    batch_of,
    cluster_of,
    decoded,
    endpoint_slice,
    flow,
    node,
    owner_object,
    pod,
    service,
)

ADDRESS = "10.0.0.1"
TEMPLATE = {"pod-template-hash": "5d78c9869d"}


def said_of(cluster: Cluster, address: str = f"{ADDRESS}:8080", **columns: Any) -> dict[str, Any]:
    """Attributes of what is at a remote address."""
    entity = at(join(batch_of(flow("10.9.9.9:40000", address, **columns)), cluster.compile()), "remote_entity")
    assert entity is not None
    return dict(entity.attributes)


def test_a_pod_says_all_that_is_known_of_it() -> None:
    """The pod, its node's place, its owners, its only container, and the service it is an instance of."""
    labels = {"topology.kubernetes.io/zone": "eu-west-1a", "topology.kubernetes.io/region": "eu-west-1"}
    cluster = cluster_of(
        pod(
            "cart-5d78c9869d-x",
            ADDRESS,
            labels=TEMPLATE,
            owner=("ReplicaSet", "cart-5d78c9869d"),
            started="2026-05-28T07:12:09Z",
        ),
        owner_object("ReplicaSet", "cart-5d78c9869d", ("Deployment", "cart")),
        node("node-a", "172.18.0.2", labels=labels),
        name="prod-1",
    )
    assert said_of(cluster) == {
        "k8s.cluster.name": "prod-1",
        "k8s.namespace.name": "shop",
        "k8s.node.name": "node-a",
        "k8s.pod.name": "cart-5d78c9869d-x",
        "k8s.pod.uid": "uid-cart-5d78c9869d-x",
        "k8s.pod.ip": ADDRESS,
        "k8s.pod.start_time": "2026-05-28T07:12:09Z",
        "k8s.container.name": "app",
        "container.image.name": "registry.example.com:5000/shop/app",
        "container.image.tags": ["1.4.2"],
        "k8s.replicaset.name": "cart-5d78c9869d",
        "k8s.deployment.name": "cart",
        "cloud.availability_zone": "eu-west-1a",
        "cloud.region": "eu-west-1",
        "service.name": "cart",
        "service.namespace": "shop",
        "service.version": "1.4.2",
        "service.instance.id": "shop.cart-5d78c9869d-x.app",
    }


def test_a_node_says_what_it_is_and_where() -> None:
    """Its name, its host's name, and its place, by the old labels too."""
    labels = {"kubernetes.io/hostname": "a.example.com", "failure-domain.beta.kubernetes.io/zone": "z1"}
    assert said_of(cluster_of(node("node-a", ADDRESS, labels=labels))) == {
        "k8s.node.name": "node-a",
        "k8s.node.uid": "uid-node-a",
        "host.name": "a.example.com",
        "service.name": "kubernetes-node",
        "cloud.availability_zone": "z1",
    }


@pytest.mark.parametrize(
    ("owner", "others", "expected"),
    [
        (("ReplicaSet", "cart-5d78c9869d"), [], {"k8s.replicaset.name": "cart-5d78c9869d", "k8s.deployment.name": "cart"}),
        (("ReplicaSet", "bare"), [], {"k8s.replicaset.name": "bare"}),
        (
            ("ReplicaSet", "cart-5d78c9869d"),
            [owner_object("ReplicaSet", "cart-5d78c9869d")],
            {"k8s.replicaset.name": "cart-5d78c9869d"},
        ),
        (("StatefulSet", "redis"), [], {"k8s.statefulset.name": "redis"}),
        (("DaemonSet", "proxy"), [], {"k8s.daemonset.name": "proxy"}),
        (
            ("Job", "backup-29672730"),
            [owner_object("Job", "backup-29672730", ("CronJob", "backup"))],
            {"k8s.job.name": "backup-29672730", "k8s.cronjob.name": "backup"},
        ),
        (("Job", "backup-29672730"), [], {"k8s.job.name": "backup-29672730", "k8s.cronjob.name": "backup"}),
        (("Job", "report-20260528"), [], {"k8s.job.name": "report-20260528"}),
        (
            ("ReplicaSet", "cart-5d78c9869d"),
            [owner_object("ReplicaSet", "cart-5d78c9869d", ("Rollout", "cart"))],
            {"k8s.replicaset.name": "cart-5d78c9869d", "k8s.owner.kind": "Rollout", "k8s.owner.name": "cart"},
        ),
        (("Cluster", "pg-main"), [], {"k8s.owner.kind": "Cluster", "k8s.owner.name": "pg-main"}),
        (("Node", "node-a"), [], {}),
        (None, [], {}),
    ],
    ids=[
        "deployment by name",
        "bare ReplicaSet",
        "ReplicaSet without an owner",
        "StatefulSet",
        "DaemonSet",
        "CronJob",
        "CronJob by name",
        "Job named after a date",
        "Rollout",
        "another kind",
        "static pod",
        "bare pod",
    ],
)
def test_owners_are_named_to_the_top(owner: tuple[str, str] | None, others: list[Tree], expected: dict[str, str]) -> None:
    """The whole chain is named; `service.name` is its top, or the pod's name where there is none."""
    said = said_of(cluster_of(pod("p", ADDRESS, labels=TEMPLATE, owner=owner), *others))
    owners = {name: said[name] for name in said if name.startswith(("k8s.owner", *(key for key in expected)))}
    assert owners == expected
    top = ("k8s.owner.name", "k8s.deployment.name", "k8s.cronjob.name")
    assert said["service.name"] == next(
        (expected[name] for name in top if name in expected), next(iter(expected.values()), "p")
    )


def test_annotations_come_first_then_labels_where_they_are_asked_for() -> None:
    """OpenTelemetry's order: the pod's annotation, `app.kubernetes.io/*` labels if opted in, the workload."""
    labels = {"app.kubernetes.io/name": "by-name", "app.kubernetes.io/version": "7", **TEMPLATE}
    annotations = {
        "resource.opentelemetry.io/service.name": "annotated",
        "resource.opentelemetry.io/service.instance.id": "i-1",
        "resource.opentelemetry.io/deployment.environment.name": "staging",
        "resource.opentelemetry.io/k8s.pod.name": "not-this-one",
    }
    owner = ("ReplicaSet", "cart-5d78c9869d")
    plain, labelled = {}, {"service_name_from_labels": True}
    assert said_of(cluster_of(pod("p", ADDRESS, labels=labels, owner=owner), **plain))["service.name"] == "cart"
    said = said_of(cluster_of(pod("p", ADDRESS, labels=labels, owner=owner), **labelled))
    assert (said["service.name"], said["service.version"]) == ("by-name", "7")
    labels["app.kubernetes.io/instance"] = "by-instance"
    assert said_of(cluster_of(pod("p", ADDRESS, labels=labels), **labelled))["service.name"] == "by-instance"
    said = said_of(cluster_of(pod("p", ADDRESS, labels=labels, annotations=annotations), **labelled))
    assert (said["service.name"], said["service.instance.id"]) == ("annotated", "i-1")
    assert said["deployment.environment.name"] == "staging"
    assert said["k8s.pod.name"] == "p"


DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("image", "name", "version"),
    [
        ("nginx", "nginx", ""),
        ("nginx:1.27", "nginx", "1.27"),
        ("localhost:5000/nginx", "localhost:5000/nginx", ""),
        ("localhost:5000/a/nginx:v1", "localhost:5000/a/nginx", "v1"),
        (f"a/b@{DIGEST}", "a/b", DIGEST),
        (f"a/b:v1@{DIGEST}", "a/b", f"v1@{DIGEST}"),
        (DIGEST, "", DIGEST),
        ("", "", ""),
        ("a:b:c", "", ""),
    ],
)
def test_name_and_version_of_an_image(image: str, name: str, version: str) -> None:
    """The version is tag and digest, or the one that there is; a registry's port is no tag, and an image's id no name."""
    known = image_of(image)
    assert (known.name, known.version) == (name, version)
    assert known.attributes.get("container.image.tags") == ([known.tag] if known.tag else None)


def two_containers() -> Tree:
    """A pod of an application and a sidecar, an init container that was there before, and what debugs it."""
    containers = [
        {"name": "app", "image": "shop/app:1", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]},
        {"name": "proxy", "image": "mesh/proxy:2", "ports": [{"containerPort": 15090, "protocol": "TCP"}]},
    ]
    statuses = [
        {"name": "app", "containerID": "containerd://aaa", "lastState": {"terminated": {"containerID": "containerd://old"}}},
        {"name": "proxy", "containerID": "cri-o://bbb"},
    ]
    others = {
        "initContainerStatuses": [{"name": "migrate", "containerID": "docker://ccc"}],
        "ephemeralContainerStatuses": [{"name": "debugger-x", "containerID": "containerd://ddd"}],
    }
    spec = {
        "containers": containers,
        "initContainers": [{"name": "migrate", "image": "shop/migrate:3"}],
        "ephemeralContainers": [{"name": "debugger-x", "image": "busybox", "targetContainerName": "app"}],
    }
    return pod("cart-1", ADDRESS, spec=spec, status={"containerStatuses": statuses, **others})


@pytest.mark.parametrize(
    ("port", "columns", "container"),
    [
        (8080, {}, "app"),
        (15090, {}, "proxy"),
        (9999, {}, None),
        (53, {}, None),
        (53, {"transport": 17}, "app"),
        (8080, {"role": Role.SERVER}, None),
    ],
)
def test_a_container_is_known_by_the_port_it_declares(port: int, columns: dict[str, Any], container: str | None) -> None:
    """Only the end that answers is known by its port, and only where a container says that it listens there."""
    said = said_of(cluster_of(two_containers()), f"{ADDRESS}:{port}", **columns)
    assert said.get("k8s.container.name") == container
    assert said.get("service.instance.id") == (f"shop.cart-1.{container}" if container else None)


@pytest.mark.parametrize(
    ("identity", "container", "image"),
    [
        ({"pod_uid": "uid-cart-1", "container_id": "aaa"}, "app", "shop/app"),
        ({"pod_uid": "uid-cart-1", "container_id": "old"}, "app", "shop/app"),
        ({"pod_uid": "uid-cart-1", "container_id": "bbb"}, "proxy", "mesh/proxy"),
        ({"pod_uid": "uid-cart-1", "container_id": "ccc"}, "migrate", "shop/migrate"),
        ({"pod_uid": "uid-cart-1", "container_id": "ddd"}, "debugger-x", "busybox"),
        ({"container_id": "bbb"}, "proxy", "mesh/proxy"),
        ({"pod_uid": "uid-cart-1", "container_name": "proxy"}, "proxy", "mesh/proxy"),
        ({"pod_uid": "uid-cart-1", "container_id": "restarted-since"}, None, None),
    ],
)
def test_a_container_is_known_by_its_id(identity: dict[str, str], container: str | None, image: str | None) -> None:
    """The cgroup's container id says which container of the pod a socket is of, and so what runs in it: the one before a
    restart, those that ran before the others, and those that `kubectl debug` adds included.
    """
    batch = batch_of(flow(f"{ADDRESS}:40000", "203.0.113.1:443", local_container=0), containers=[identity])
    entity = at(join(batch, cluster_of(two_containers()).compile()), "local_entity")
    assert entity is not None
    assert entity.attributes["k8s.pod.name"] == "cart-1"
    assert entity.attributes.get("k8s.container.name") == container
    assert entity.attributes.get("container.image.name") == image


def test_a_sidecar_makes_two_containers() -> None:
    """An init container that is restarted for ever runs beside the application."""
    sidecar = [{"name": "mesh", "restartPolicy": "Always", "ports": [{"containerPort": 15001}]}]
    containers = [{"name": "app", "ports": [{"containerPort": 8080}]}]
    cluster = cluster_of(pod("cart-1", ADDRESS, spec={"containers": containers, "initContainers": sidecar}))
    assert said_of(cluster, f"{ADDRESS}:15001")["k8s.container.name"] == "mesh"
    assert said_of(cluster, f"{ADDRESS}:8080")["k8s.container.name"] == "app"
    assert "k8s.container.name" not in said_of(cluster, f"{ADDRESS}:1")


def service_over(*pods: Tree, ready: tuple[bool, ...] = ()) -> dict[str, Any]:
    """What is said of the service over some pods."""
    addresses = [each["status"]["podIP"] for each in pods]
    flags = ready or (True,) * len(pods)
    endpoints = [
        backend(each["metadata"]["name"], address, ready=flag)
        for each, address, flag in zip(pods, addresses, flags, strict=True)
    ]
    halves = [endpoint_slice("web", endpoints[at::2], 8080, suffix=str(at)) for at in (0, 1)]
    return said_of(cluster_of(*pods, service("web", "10.96.0.1"), *halves), "10.96.0.1:80")


def test_a_service_is_its_workload_where_it_has_one() -> None:
    """A connection to a ClusterIP names the Deployment that owns all the ready pods behind it."""
    cart = [
        pod(f"cart-{each}", f"10.0.0.{each}", labels=TEMPLATE, owner=("ReplicaSet", "cart-5d78c9869d")) for each in (1, 2, 3)
    ]
    other = pod("canary-1", "10.0.0.9", owner=("StatefulSet", "canary"))
    base = {
        "k8s.service.name": "web",
        "k8s.service.uid": "uid-svc-web",
        "k8s.namespace.name": "shop",
        "service.namespace": "shop",
    }
    workload = {"service.name": "cart", "k8s.deployment.name": "cart"}
    assert service_over(*cart) == base | workload
    assert service_over(*cart, other) == base | {"service.name": "web"}
    assert service_over(*cart, other, ready=(True, True, True, False)) == base | workload
    assert service_over(*cart, ready=(False, False, False)) == base | workload
    assert service_over() == base | {"service.name": "web"}


def test_a_service_is_described_without_its_object() -> None:
    """Its endpoints name it where the snapshot has no services."""
    cluster = cluster_of(endpoint_slice("redis", ["203.0.113.5"], 6379))
    batch = join(batch_of(flow("10.9.9.9:1", "203.0.113.5:6379")), cluster.compile())
    entity = at(batch, "remote_service")
    assert entity is not None
    expected = {"k8s.service.name": "redis", "k8s.namespace.name": "shop", "service.name": "redis", "service.namespace": "shop"}
    assert entity.attributes == expected


def test_what_changes_is_said_anew_and_the_rest_stays_the_same_object() -> None:
    """An owner that becomes known later changes what is said of its pods, and of nobody else."""
    cluster = cluster_of(pod("cart-1", ADDRESS, owner=("Job", "load")), pod("redis-0", "10.0.0.2"))
    row = batch_of(flow(f"{ADDRESS}:1", "10.0.0.2:80"))
    before = join(row, cluster.compile())
    cluster.feed(decoded(owner_object("Job", "load", ("CronJob", "nightly"))), observed_unix_ns=NOW)
    after = join(row, cluster.compile())
    local = [at(batch, "local_entity") for batch in (before, after)]
    assert [entity.attributes["service.name"] for entity in local if entity] == ["load", "nightly"]
    assert at(before, "remote_entity") is at(after, "remote_entity")
