"""Other names and addresses in the place of a cluster's own."""

from __future__ import annotations

import ipaddress
import json

from services.enricher.pseudonyms import Pseudonyms
from tests.unit.enricher.objects_as_json import node, pod


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
