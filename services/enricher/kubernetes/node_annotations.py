"""The addresses that network plugins give to nodes beside those of their status, as the nodes' annotations name them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

_NODES_OWN: Final = (
    "alpha.kubernetes.io/provided-node-ip",
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ipv6",
    "io.cilium.network.ipv4-cilium-host",
    "io.cilium.network.ipv4-health-ip",
    "io.cilium.network.ipv6-cilium-host",
    "io.cilium.network.ipv6-health-ip",
    "k3s.io/external-ip",
    "k3s.io/internal-ip",
    "k8s.ovn.org/host-addresses",
    "k8s.ovn.org/host-cidrs",
    "k8s.ovn.org/node-gateway-router-lrp-ifaddr",
    "k8s.ovn.org/node-gateway-router-lrp-ifaddrs",
    "k8s.ovn.org/node-primary-ifaddr",
    "k8s.ovn.org/node-transit-switch-port-ifaddr",
    "network.cilium.io/ipv4-Ingress-ip",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv4-health-ip",
    "network.cilium.io/ipv6-Ingress-ip",
    "network.cilium.io/ipv6-cilium-host",
    "network.cilium.io/ipv6-health-ip",
    "node.antrea.io/transport-addresses",
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
)
"""Annotations whose addresses are all the node's."""
POD_CIDR_OWN: Final = (0, 1)
"""Which addresses of a network of pods are the node's: that of a VXLAN device (flannel), that of a bridge or gateway."""
_OF_PODS: Final[Mapping[str, tuple[int, ...]]] = {
    "k8s.ovn.org/node-subnets": (1, 2),  # the logical router's, the management port's
    "kube-router.io/pod-cidr": POD_CIDR_OWN,
    "kube-router.io/pod-cidrs": POD_CIDR_OWN,
    "io.cilium.network.ipv4-pod-cidr": (),
    "io.cilium.network.ipv6-pod-cidr": (),
    "network.cilium.io/ipv4-pod-cidr": (),
    "network.cilium.io/ipv6-pod-cidr": (),
}
"""Annotations that name networks of pods, with which of their addresses are the node's."""
NODE_ANNOTATIONS: Final = frozenset((*_NODES_OWN, *_OF_PODS))
"""All that are read."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TOKEN: Final = re.compile(r"[0-9A-Fa-f.:]+(?:/[0-9]+)?")
"""What may be an address or a network, in a list as in JSON."""


def annotated_addresses(annotations: Mapping[str, str]) -> Iterator[str]:
    """Yield the addresses that annotations say are the node's own."""
    for name in annotations.keys() & NODE_ANNOTATIONS:
        if name not in _OF_PODS:
            yield from (str(found.ip) for found in _interfaces(annotations[name]))


def annotated_networks(annotations: Mapping[str, str]) -> Iterator[tuple[Network, tuple[int, ...]]]:
    """Yield the networks of the node's pods that annotations name, each with which of its addresses are the node's own."""
    for name in annotations.keys() & _OF_PODS.keys():
        yield from ((found.network, _OF_PODS[name]) for found in _interfaces(annotations[name]))


def with_addresses(text: str, replace: Callable[[str], str]) -> str:
    """Return an annotation's value with other addresses in the place of its own, without their networks."""

    def replaced(match: re.Match[str]) -> str:
        found = _interface(match[0])
        return replace(str(found.ip)) if found else match[0]

    return _TOKEN.sub(replaced, text)


def _interfaces(text: str) -> Iterator[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    return (found for token in _TOKEN.findall(text) if (found := _interface(token)) is not None)


def _interface(token: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    try:
        return ipaddress.ip_interface(token)
    except ValueError:
        return None
