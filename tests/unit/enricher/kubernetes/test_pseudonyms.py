"""Other names and addresses in the place of a cluster's own."""

from __future__ import annotations

import ipaddress
import json
import re

import msgspec
import pytest

from services.enricher.kubernetes.export import _slim
from services.enricher.kubernetes.pseudonyms import Pseudonyms
from services.enricher.kubernetes.resources import ALL_RESOURCES
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import KubeSettings
from tests.unit.enricher.objects_as_json import Tree, backend, endpoint_slice, node, owner_object, pod, service

SELECTOR = {"matchLabels": {"app": "cart"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["cart"]}]}
TOLD = ("cart", "shop", "node-a", "registry.example.com", "10.42.", "10.96.", "172.18.", "fd00::1")


def test_the_same_is_the_same_and_nothing_of_it_shows() -> None:
    """A name or address has one pseudonym wherever it stands; another key gives others."""
    pseudonyms = Pseudonyms("key")
    assert pseudonyms.name("cart") == pseudonyms.name("cart") == Pseudonyms("key").name("cart") != Pseudonyms("no").name("cart")
    assert pseudonyms.given == {"cart": pseudonyms.name("cart")}
    replaced = json.dumps(
        pseudonyms.replaced(pod("cart-0", "10.42.0.10", "fd00::1", labels={"app.kubernetes.io/name": "cart"}))
    )
    assert not [told for told in ('cart"', "shop", "node-a", "registry.example.com", "10.42.", 'fd00::1"') if told in replaced]


def test_owners_are_still_found_by_name() -> None:
    """A ReplicaSet's name is its Deployment's and a hash, a pod's has the hash in it: so have their pseudonyms."""
    pseudonyms = Pseudonyms("key")
    deployment = pseudonyms.name("cart")
    tree = pod("cart-6f8d4-x1y2z", owner=("ReplicaSet", "cart-6f8d4"), labels={"pod-template-hash": "6f8d4"})
    metadata = pseudonyms.replaced(tree)["metadata"]
    assert metadata["name"] == f"{deployment}-6f8d4-x1y2z"
    assert metadata["ownerReferences"][0]["name"] == f"{deployment}-6f8d4"


def test_addresses_stay_addresses_and_apart() -> None:
    """Of the same family, no two the same; what a node's networks were is left out."""
    pseudonyms = Pseudonyms("key")
    own = [str(ipaddress.IPv4Address(0xC0A8_0000 + number)) for number in range(3000)]
    made = [pseudonyms.address(each) for each in own]
    assert len(set(made)) == len(own)
    assert [pseudonyms.address(each) for each in own] == made
    assert ipaddress.ip_address(pseudonyms.address("2001:db8::1")).version == 6
    assert pseudonyms.address("None") == "None"
    assert "podCIDR" not in json.dumps(pseudonyms.replaced(node("node-a", "172.18.0.2", spec={"podCIDR": "10.42.0.0/24"})))


@pytest.mark.parametrize(
    "tree",
    [
        pod(
            "cart-0",
            "10.42.0.10",
            "fd00::1",
            owner=("ReplicaSet", "cart-6f8d4"),
            labels={"app": "cart"},
            annotations={"a": "shop"},
        ),
        node("node-a", "172.18.0.2"),
        service("cart", "10.96.0.10"),
        endpoint_slice("cart", [backend("cart-0", "10.42.0.10", ready=True)], 8080),
        owner_object("ReplicaSet", "cart-6f8d4", ("Deployment", "cart")),
        {"kind": "NetworkPolicy", "metadata": {"name": "cart", "namespace": "shop"}, "spec": {"podSelector": SELECTOR}},
    ],
    ids=lambda tree: tree["kind"],
)
def test_nothing_shows_of_any_object_that_a_snapshot_holds(tree: Tree) -> None:
    """Objects as the API gives them, cut down to what the index reads, whatever is chosen of them."""
    resource = next(each for each in ALL_RESOURCES if each.kind == tree["kind"])
    selection = Selection(KubeSettings(pod_labels=("*",), pod_annotations=("*",), network_policies=True))
    text = re.sub(r'"uid": "[^"]*"', '"uid": "u"', json.dumps(tree))  # uids stay
    slim = _slim(resource, selection, msgspec.Raw(text.encode()))
    assert slim is not None
    replaced = json.dumps(Pseudonyms("key").replaced(slim))
    assert not [told for told in TOLD if told in replaced], replaced
