"""Labels, annotations and policies that users choose."""

from __future__ import annotations

from typing import Any

import pytest

from services.enricher.index.claims import Target
from services.enricher.kubernetes.resources import followed
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import KubeSettings
from tests.unit.enricher.objects_as_json import Tree, backend, cluster_of, decoded, endpoint_slice, node, pod, service

LABELS = {"app": "cart", "team": "shop", "pod-template-hash": "x1", "tier/name": "front"}
NAMESPACE: Tree = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "shop", "labels": {"cost": "7"}, "annotations": {"owner": "ada", "secret": "s"}},
}


def policy(name: str, selector: Tree, *types: str, namespace: str = "shop") -> Tree:
    """A NetworkPolicy."""
    metadata = {"name": name, "namespace": namespace}
    spec = {"podSelector": selector, "policyTypes": list(types)}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def described(settings: KubeSettings, key: str, *trees: Tree) -> dict[str, Any]:
    """The attributes of an object of a cluster."""
    selection = Selection(settings)
    cluster = cluster_of(selection=selection)
    for tree in trees:
        obj = decoded(tree)
        selection.trim(obj)
        cluster.feed(obj)
    return dict(cluster._describe(Target(key)).attributes)


def test_chosen_labels_and_annotations_are_shown() -> None:
    """Those of a pod, of its namespace and its node on the pod; those of a node on the node, of a namespace on its services."""
    settings = KubeSettings(
        pod_labels=("app", "tier/*"), pod_annotations=("note",), namespace_labels=("*",), namespace_annotations=("owner",),
        node_labels=("zone",), node_annotations=("rack",),
    )  # fmt: skip
    trees = [
        pod("cart-0", "10.42.0.10", labels=LABELS, annotations={"note": "n", "other": "o"}),
        {**node("node-a", "172.18.0.2", labels={"zone": "z", "other": "o"}), "metadata": {
            "name": "node-a", "labels": {"zone": "z", "other": "o"}, "annotations": {"rack": "r"}}},
        NAMESPACE,
        service("cart", "10.96.0.10"),
        endpoint_slice("cart", [backend("cart-0", "10.42.0.10", ready=True)], 8080),
    ]  # fmt: skip
    of_pod = described(settings, "uid-cart-0", *trees)
    chosen = {name: value for name, value in of_pod.items() if ".label." in name or ".annotation." in name}
    of_namespace = {"k8s.namespace.label.cost": "7", "k8s.namespace.annotation.owner": "ada"}
    of_node = {"k8s.node.label.zone": "z", "k8s.node.annotation.rack": "r"}
    of_pod_itself = {"k8s.pod.label.app": "cart", "k8s.pod.label.tier/name": "front", "k8s.pod.annotation.note": "n"}
    assert chosen == of_namespace | of_node | of_pod_itself
    assert of_node.items() <= described(settings, "Node//node-a", *trees).items()
    assert of_namespace.items() <= described(settings, "Service/shop/cart", *trees).items()


def test_what_nobody_chose_is_not_kept() -> None:
    """Without settings only what means something to the index stays, and no entity shows a label."""
    obj = decoded(pod("cart-0", "10.42.0.10", labels=LABELS, annotations={"note": "n", "resource.opentelemetry.io/a": "b"}))
    Selection().trim(obj)
    assert obj.metadata.labels == {"pod-template-hash": "x1"}
    assert obj.metadata.annotations == {"resource.opentelemetry.io/a": "b"}
    bare = decoded(pod("cart-1", "10.42.0.11", labels={"app": "cart"}))
    Selection().trim(bare)
    assert bare.metadata.labels is None


@pytest.mark.parametrize(
    ("selector", "selects"),
    [
        ({}, True),
        ({"matchLabels": {"app": "cart"}}, True),
        ({"matchLabels": {"app": "cart", "team": "bank"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["cart", "web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["cart"]}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["cart"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}, {"key": "none", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Unheard"}]}, False),
    ],
)
def test_policies_that_select_a_pod_are_named(selector: Tree, selects: bool) -> None:  # noqa: FBT001 - a table of cases
    """By direction, in order, by labels and expressions; another namespace's never."""
    of_pod = described(
        KubeSettings(network_policies=True),
        "uid-cart-0",
        pod("cart-0", "10.42.0.10", labels=LABELS),
        policy("z", selector, "Ingress", "Egress"),
        policy("a", {}, "Ingress"),
        policy("elsewhere", {}, "Ingress", "Egress", namespace="bank"),
    )
    assert of_pod["network.policy.ingress"] == (["a", "z"] if selects else ["a"])
    assert of_pod.get("network.policy.egress") == (["z"] if selects else None)


def test_only_what_is_asked_for_is_read() -> None:
    """Namespaces and NetworkPolicies need rights that an installation without these settings does not need."""
    names = [{resource.name for resource, _ in followed(settings)} for settings in (
        KubeSettings(), KubeSettings(namespace_labels=("a",)), KubeSettings(network_policies=True, namespaces=("a", "b")),
    )]  # fmt: skip
    assert names[1] - names[0] == {"namespaces"}
    assert names[2] - names[0] == {"networkpolicies.networking.k8s.io"}
