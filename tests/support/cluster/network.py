"""The network of a cluster: a namespace for the control plane and one for each node, on one bridge, and routes to the pods.

Nothing of the machine's own namespace is touched, and nothing leads out of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.support.node.namespaces import Namespace, Network

CONTROL_PLANE: Final = "10.88.0.1"
SERVICES: Final = "10.96.0.0/16"
API_SERVICE: Final = "10.96.0.1"
DNS_SERVICE: Final = "10.96.0.10"
PODS: Final = "10.244.0.0/16"
_FABRIC: Final = "fabric"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is."""

    name: str
    namespace: Namespace
    address: str
    pods: str
    """The network that its pods have their addresses of."""

    @property
    def gateway(self) -> str:
        """The node's own address among them."""
        return self.pods.replace(".0/24", ".1")


def lay_out(network: Network, nodes: list[str]) -> tuple[Namespace, list[Place]]:
    """Make the control plane's namespace and the nodes', all joined."""
    control = network.namespace("control")
    control.ip("link", "add", _FABRIC, "type", "bridge")
    control.ip("address", "add", f"{CONTROL_PLANE}/24", "dev", _FABRIC)
    control.ip("link", "set", _FABRIC, "up")
    # Frames between nodes are no packets of the control plane's own.
    for family in ("ip", "ip6"):
        control.set_sysctl(f"bridge/bridge-nf-call-{family}tables", 0, optional=True)
    places = [
        Place(name, network.namespace(name), f"10.88.0.{10 + number}", f"10.244.{number}.0/24")
        for number, name in enumerate(nodes, start=1)
    ]
    for number, place in enumerate(places):
        port = f"node{number}"
        control.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", place.namespace.name)
        control.ip("link", "set", port, "master", _FABRIC, "up")
        place.namespace.ip("address", "add", f"{place.address}/24", "dev", "eth0")
        place.namespace.ip("link", "set", "eth0", "up")
        place.namespace.ip("route", "add", "default", "via", CONTROL_PLANE)
        place.namespace.set_sysctl("ipv4/ip_forward", 1)
        # Answers between two pods of a node pass its packet filter too, or nobody undoes what a Service did to the question.
        for family in ("ip", "ip6"):
            place.namespace.set_sysctl(f"bridge/bridge-nf-call-{family}tables", 1)
    for place in places:
        for namespace in (control, *(other.namespace for other in places if other is not place)):
            namespace.ip("route", "add", place.pods, "via", place.address)
    return control, places
