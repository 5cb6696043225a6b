"""The fields of Kubernetes objects that the index reads, decoded straight from the API's JSON.

Every other field is skipped while decoding, so a pod costs one or two kilobytes. A list or map that the API gives as null is as
good as absent. Field names are the API's in snake case.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import ClassVar, Final

import msgspec

from services.enricher.kubernetes.network_policy import NetworkPolicy
from services.enricher.kubernetes.node_annotations import POD_CIDR_OWN, Network, annotated_addresses, annotated_networks
from services.enricher.kubernetes.object_meta import SERVICE_NAME_LABEL, KubeObject, object_key
from services.enricher.kubernetes.pods import Pod


class ServicePort(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """A port that a service offers."""

    port: int
    protocol: str | None = None
    node_port: int | None = None


class ServiceSpec(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={
        "external_traffic_policy": "externalTrafficPolicy",
        "cluster_ip": "clusterIP",
        "cluster_ips": "clusterIPs",
        "external_ips": "externalIPs",
    },
):
    """Where a service can be reached."""

    external_traffic_policy: str | None = None
    cluster_ip: str | None = None
    cluster_ips: tuple[str, ...] | None = None
    external_ips: tuple[str, ...] | None = None
    ports: tuple[ServicePort, ...] | None = None


class LoadBalancerIngress(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An entry point of a load balancer."""

    ip: str | None = None


class LoadBalancerStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Entry points of a service's load balancer."""

    ingress: tuple[LoadBalancerIngress, ...] | None = None


class ServiceStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """What became of the service."""

    load_balancer: LoadBalancerStatus | None = None


class Service(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A service."""

    kind: ClassVar[str] = "Service"
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def hides_clients(self) -> bool:
        """Whether a client from outside may come to its pods from the address of a node that handed the connection on."""
        reachable = any(port.node_port for port in self.spec.ports or ()) or bool(self.spec.external_ips)
        return reachable and self.spec.external_traffic_policy != "Local"

    @property
    def addresses(self) -> list[str]:
        """Every address of its own as text: cluster, external and load balancer addresses. None for a headless service."""
        ingress = (self.status.load_balancer.ingress if self.status.load_balancer else None) or ()
        return [*self.internal_addresses, *(self.spec.external_ips or ()), *(each.ip or "" for each in ingress)]

    @property
    def internal_addresses(self) -> list[str]:
        """Those of them in the cluster's own networks."""
        return [*(self.spec.cluster_ips or [self.spec.cluster_ip or ""])]


class TargetReference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The object behind an endpoint."""

    kind: str | None = None
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None


class EndpointConditions(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Whether the endpoint takes traffic; absent means that it does."""

    ready: bool | None = None


class Endpoint(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """One backend of a service."""

    addresses: tuple[str, ...] | None = None
    conditions: EndpointConditions | None = None
    target_ref: TargetReference | None = None


class EndpointPort(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A port that every endpoint of the slice serves."""

    port: int | None = None
    protocol: str | None = None


class EndpointSlice(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Some of the endpoints of a service."""

    kind: ClassVar[str] = "EndpointSlice"
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None

    @property
    def service_key(self) -> str:
        """Key of the service it belongs to, empty where it belongs to none."""
        name = self.metadata.label(SERVICE_NAME_LABEL)
        return object_key("Service", self.metadata.namespace or "", name) if name else ""


class NodeAddress(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An address of a node."""

    type: str = ""
    address: str = ""


class NodeSpec(
    msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={"pod_cidr": "podCIDR", "pod_cidrs": "podCIDRs"}
):
    """What the cluster gave the node."""

    pod_cidr: str | None = None
    pod_cidrs: tuple[str, ...] | None = None


class NodeStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the node reports of itself."""

    addresses: tuple[NodeAddress, ...] | None = None


class Node(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A node."""

    kind: ClassVar[str] = "Node"
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def addresses(self) -> list[str]:
        """The addresses of its status as text."""
        return [each.address for each in self.status.addresses or () if each.type in ("InternalIP", "ExternalIP")]

    @property
    def internal_addresses(self) -> list[str]:
        """Those of them in the cluster's own networks."""
        return [each.address for each in self.status.addresses or () if each.type == "InternalIP"]

    @property
    def plugin_addresses(self) -> list[str]:
        """The addresses that its network plugin gave it for itself, as text."""
        own = (str(network[at]) for network, places in self.pod_networks for at in places if network.num_addresses > 2)
        return [*own, *annotated_addresses(self.metadata.annotations or {})]

    @property
    def pod_networks(self) -> list[tuple[Network, tuple[int, ...]]]:
        """The networks of its pods, each with which of its addresses are the node's own."""
        found = list(annotated_networks(self.metadata.annotations or {}))
        for cidr in self.spec.pod_cidrs or [self.spec.pod_cidr or ""]:
            with suppress(ValueError):
                found.append((ipaddress.ip_network(cidr, strict=False), POD_CIDR_OWN))
        return found


class Namespace(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A namespace."""

    kind: ClassVar[str] = "Namespace"


class ReplicaSet(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Owner of pods, mostly owned by a Deployment."""

    kind: ClassVar[str] = "ReplicaSet"


class Deployment(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Owner of ReplicaSets."""

    kind: ClassVar[str] = "Deployment"


class StatefulSet(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Owner of pods with lasting names."""

    kind: ClassVar[str] = "StatefulSet"


class DaemonSet(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Owner of one pod per node."""

    kind: ClassVar[str] = "DaemonSet"


class Job(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Owner of pods that end."""

    kind: ClassVar[str] = "Job"


class CronJob(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Owner of Jobs."""

    kind: ClassVar[str] = "CronJob"


KINDS: Final[dict[tuple[str, str], type[KubeObject]]] = {
    ("", "Pod"): Pod,
    ("", "Service"): Service,
    ("", "Node"): Node,
    ("", "Namespace"): Namespace,
    ("apps", "ReplicaSet"): ReplicaSet,
    ("apps", "Deployment"): Deployment,
    ("apps", "StatefulSet"): StatefulSet,
    ("apps", "DaemonSet"): DaemonSet,
    ("batch", "Job"): Job,
    ("batch", "CronJob"): CronJob,
    ("discovery.k8s.io", "EndpointSlice"): EndpointSlice,
    ("networking.k8s.io", "NetworkPolicy"): NetworkPolicy,
}
"""Kinds that are read, by API group and kind: other groups have a `Service` of their own."""
