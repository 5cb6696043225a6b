"""The addresses that network plugins give to nodes."""

from __future__ import annotations

import ipaddress

import pytest

from services.enricher.join import join
from services.enricher.kubernetes.node_annotations import annotated_addresses
from services.enricher.kubernetes.pseudonyms import Pseudonyms
from services.enricher.kubernetes.selection import Selection
from tests.unit.enricher.objects_as_json import Tree, batch_of, cluster_of, decoded, flow, name_at, node, pod

OVN = {
    "k8s.ovn.org/node-subnets": '{"default":["10.128.6.0/23","fd01:0:0:6::/64"]}',
    "k8s.ovn.org/node-gateway-router-lrp-ifaddrs": '{"default":{"ipv4":"100.64.0.14/16","ipv6":"fd98::e/64"}}',
    "k8s.ovn.org/node-transit-switch-port-ifaddr": '{"ipv4":"100.88.0.14/16"}',
    "k8s.ovn.org/host-cidrs": '["192.168.4.191/24","192.168.5.191/24"]',
}


def names(tree: Tree, *addresses: str, others: tuple[Tree, ...] = ()) -> list[str]:
    """Who is at addresses, for the enricher that has trimmed the object as it does."""
    obj = decoded(tree)
    Selection().trim(obj)
    cluster = cluster_of(*others)
    cluster.feed(obj)
    rows = [flow("10.9.9.9:1", f"[{each}]:2" if ":" in each else f"{each}:2") for each in addresses]
    batch = join(batch_of(*rows), cluster.compile())
    return [name_at(batch, "remote_entity", row) for row in range(len(addresses))]


@pytest.mark.parametrize(
    ("annotations", "own"),
    [
        ({"projectcalico.org/IPv4Address": "172.19.0.2/16", "projectcalico.org/IPv4VXLANTunnelAddr": "10.244.86.128"},
         ["172.19.0.2", "10.244.86.128"]),
        ({"projectcalico.org/IPv4IPIPTunnelAddr": "10.244.93.192", "projectcalico.org/IPv6VXLANTunnelAddr": "fd00:10::80"},
         ["10.244.93.192", "fd00:10::80"]),
        ({"projectcalico.org/IPv4WireguardInterfaceAddr": "10.244.93.193"}, ["10.244.93.193"]),
        ({"network.cilium.io/ipv4-cilium-host": "10.0.0.28", "network.cilium.io/ipv6-health-ip": "fd00::9"},
         ["10.0.0.28", "fd00::9"]),
        ({"io.cilium.network.ipv4-cilium-host": "10.0.0.28"}, ["10.0.0.28"]),
        (OVN, ["10.128.6.1", "10.128.6.2", "fd01:0:0:6::2", "100.64.0.14", "fd98::e", "100.88.0.14", "192.168.5.191"]),
        ({"k8s.ovn.org/node-gateway-router-lrp-ifaddr": '{"ipv4":"100.64.0.5/16"}'}, ["100.64.0.5"]),
        ({"flannel.alpha.coreos.com/public-ip": "172.20.0.2"}, ["172.20.0.2"]),
        ({"kube-router.io/pod-cidrs": "10.22.5.0/24,fd22::/64"}, ["10.22.5.1", "fd22::1"]),
        ({"node.antrea.io/transport-addresses": "172.20.0.2,fd20::2"}, ["172.20.0.2", "fd20::2"]),
        ({"k3s.io/internal-ip": "172.20.0.2,fd20::2"}, ["172.20.0.2", "fd20::2"]),
    ],
)  # fmt: skip
def test_what_a_network_plugin_gave_a_node_is_the_node(annotations: dict[str, str], own: list[str]) -> None:
    """Kubelet's probes and what a node sends to pods of others come from there."""
    assert names(node("node-a", "172.18.0.2", annotations=annotations), *own) == ["node-a"] * len(own)


def test_a_pod_at_such_an_address_is_the_pod() -> None:
    """Annotations outlive the plugin that made them."""
    tree = node("node-a", "172.18.0.2", annotations={"projectcalico.org/IPv4VXLANTunnelAddr": "10.244.86.128"})
    assert names(tree, "10.244.86.128", others=(pod("cart-0", "10.244.86.128"),)) == ["cart-0"]


@pytest.mark.parametrize("value", ["", "none", "{}", "10.0.0", "10.0.0.0/99", "a:b:c", "::::", "[]", "deadbeef", "1", "ipv4:"])
def test_a_value_that_is_no_address_says_nothing(value: str) -> None:
    """Whoever may annotate nodes may write anything."""
    assert list(annotated_addresses({"projectcalico.org/IPv4Address": value})) == []
    assert names(node("node-a", "172.18.0.2", annotations={"k8s.ovn.org/node-subnets": value}), "172.18.0.2") == ["node-a"]


def test_pseudonyms_replace_the_addresses_in_annotations() -> None:
    """The same address has the same pseudonym there as everywhere else, and no other is left."""
    pseudonyms = Pseudonyms("key")
    tree = node("node-a", "192.168.4.191", annotations=OVN)
    replaced = pseudonyms.replaced(tree)
    own = set(annotated_addresses(replaced["metadata"]["annotations"]))
    assert replaced["status"]["addresses"][0]["address"] in own
    assert own & set(annotated_addresses(OVN)) == set()
    assert all(ipaddress.ip_address(each).is_private for each in own)
