"""docs/kubernetes.md says which object gives which attribute: nothing that is read or said is missing there."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.enricher.kubernetes.objects import KINDS
from services.enricher.kubernetes.resources import ALL_RESOURCES
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import KubeSettings
from tests.unit.enricher.objects_as_json import (
    Tree,
    backend,
    cluster_of,
    decoded,
    endpoint_slice,
    node,
    owner_object,
    pod,
    service,
)

DOCUMENT = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()
STRUCTURE = {"metadata", "spec", "status", "items", "uid", "labels", "annotations", "name", "namespace", "kind"}
"""Names that every object has, or that stand in every path."""
EVERYTHING = KubeSettings(
    pod_labels=("*",), pod_annotations=("*",), namespace_labels=("*",), namespace_annotations=("*",), node_labels=("*",),
    node_annotations=("*",), network_policies=True,
)  # fmt: skip
ZONED = {"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "kubernetes.io/hostname": "h"}


def trees() -> list[Tree]:
    """Objects that between them give every attribute."""
    chosen: Tree = {"labels": {"a": "b"}, "annotations": {"c": "d"}}
    owners = ("StatefulSet", "DaemonSet", "Job", "ReplicationController", "Rollout")
    return [
        node("node-a", "172.18.0.2", labels=ZONED),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", **chosen}},
        owner_object("ReplicaSet", "cart-1", ("Deployment", "cart")),
        owner_object("Job", "work", ("CronJob", "nightly")),
        pod("cart-0", "10.42.0.10", owner=("ReplicaSet", "cart-1"), started="2026-01-01T00:00:00Z", **chosen),
        *(pod(f"pod-{kind}", "10.42.0.11", owner=(kind, "work")) for kind in owners),
        service("cart", "10.96.0.10", ports=[{"port": 80, "nodePort": 30080}]),
        endpoint_slice("cart", [backend("cart-0", "10.42.0.10", ready=True)], 8080),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
    ]


def test_every_attribute_is_in_the_document() -> None:
    """Whatever an entity of the index says stands there with where it comes from."""
    selection = Selection(EVERYTHING)
    cluster = cluster_of(name="demo", selection=selection)
    for tree in trees():
        obj = decoded(tree)
        selection.trim(obj)
        cluster.feed(obj)
    index = cluster.compile()
    said = {name for entity in index.entities(range(len(index))) for name in entity.attributes}
    said = {re.sub(r"(label|annotation)\..*", r"\1.<key>", name) for name in said}
    assert len(said) > 30
    assert {name for name in said if f"`{name}`" not in DOCUMENT} == set()


def fields(model: type[msgspec.Struct]) -> Iterator[str]:
    """The names that a model, and what it holds, reads from the API."""
    hints = typing.get_type_hints(model)
    for field in msgspec.structs.fields(model):
        yield field.encode_name
        yield from _inner(hints[field.name])


def _inner(kind: Any) -> Iterator[str]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from fields(kind)
    for part in typing.get_args(kind):
        yield from _inner(part)


@pytest.mark.parametrize("kind", sorted(KINDS), ids="/".join)
def test_every_field_that_is_read_is_in_the_document(kind: tuple[str, str]) -> None:
    """So somebody who gives us the right to read pods can see what we take of them."""
    read = set(fields(KINDS[kind])) - STRUCTURE
    assert {name for name in read if not re.search(rf"\b{name}\b", DOCUMENT)} == set()
    assert kind[1] in DOCUMENT


@pytest.mark.parametrize("resource", ALL_RESOURCES, ids=lambda resource: resource.name)
def test_every_right_is_in_the_document(resource: Any) -> None:
    """The least that the service account needs is all that is asked for."""
    rules = re.findall(r"- \{apiGroups: \[(.*?)\], resources: \[(.*?)\], verbs: \[list, watch\]\}", DOCUMENT)
    allowed = {(group.strip('"'), plural) for group, plurals in rules for plural in plurals.split(", ")}
    assert (resource.group, resource.plural) in allowed
