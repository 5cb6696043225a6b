"""The fields of Kubernetes objects that the index reads, decoded straight from the API's JSON.

Every other field is skipped while decoding, so a pod costs one or two kilobytes. A list or map that the API gives as null is as
good as absent. Field names are the API's in snake case.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, TypeVar, cast

import msgspec

from services.enricher.kubernetes.network_policy import NetworkPolicy
from services.enricher.kubernetes.object_meta import SERVICE_NAME_LABEL, KubeObject, object_key, share


class ContainerPort(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """A port that a container says it listens on."""

    container_port: int
    protocol: str | None = None

    def __post_init__(self) -> None:
        share(self, "protocol")


_Tuple = TypeVar("_Tuple", bound=tuple[object, ...])

_MOST_SHARED: Final = 1 << 14
_shared: dict[tuple[object, ...], tuple[object, ...]] = {}


def shared(items: _Tuple | None) -> _Tuple | None:
    """Return an equal tuple that another object has, if there is one: pods of one workload have most of theirs in common."""
    if len(_shared) >= _MOST_SHARED:
        _shared.clear()
    return None if items is None else cast("_Tuple", _shared.setdefault(items, items))


class Container(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """A container of a pod's specification."""

    name: str
    image: str | None = None
    ports: tuple[ContainerPort, ...] | None = None
    restart_policy: str | None = None
    """`Always` on an init container makes it a sidecar."""

    def __post_init__(self) -> None:
        share(self, "name", "image", "restart_policy")


class PodSpec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """What the pod is to run."""

    node_name: str | None = None
    host_network: bool | None = None
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None

    def __post_init__(self) -> None:
        share(self, "node_name")
        msgspec.structs.force_setattr(self, "containers", shared(self.containers))
        msgspec.structs.force_setattr(self, "init_containers", shared(self.init_containers))


class PodIP(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One address of a pod."""

    ip: str = ""


class Terminated(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"container_id": "containerID", "finished_at": "finishedAt"},
):
    """How a container ended."""

    finished_at: datetime | None = None
    container_id: str | None = None


class ContainerState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A container's state; only the end matters here."""

    terminated: Terminated | None = None


class ContainerStatus(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"container_id": "containerID", "last_state": "lastState"},
    kw_only=True,
):
    """What became of a container."""

    name: str
    container_id: str | None = None
    state: ContainerState | None = None
    last_state: ContainerState | None = None

    def __post_init__(self) -> None:
        share(self, "name")
        # The runtime's name before the id is in no cgroup's path.
        msgspec.structs.force_setattr(self, "container_id", (self.container_id or "").rpartition("/")[2] or None)
        for field in ("state", "last_state"):
            state = getattr(self, field)
            if state is not None and state.terminated is None:
                msgspec.structs.force_setattr(self, field, None)


class PodStatus(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={
        "pod_ip": "podIP",
        "pod_ips": "podIPs",
        "start_time": "startTime",
        "container_statuses": "containerStatuses",
        "init_container_statuses": "initContainerStatuses",
    },
):
    """What became of the pod."""

    phase: str | None = None
    pod_ip: str | None = None
    pod_ips: tuple[PodIP, ...] | None = None
    start_time: datetime | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None

    def __post_init__(self) -> None:
        share(self, "phase")
        if self.pod_ips is not None and len(self.pod_ips) == 1 and self.pod_ips[0].ip == self.pod_ip:
            msgspec.structs.force_setattr(self, "pod_ips", None)  # says nothing more


class Pod(KubeObject, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A pod."""

    kind: ClassVar[str] = "Pod"
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def key(self) -> str:
        """The pod's uid: another pod of the same name is another pod."""
        return self.metadata.uid or object_key(self.kind, self.metadata.namespace or "", self.metadata.name)

    @property
    def addresses(self) -> list[str]:
        """Its addresses as text; those of its node where it uses the node's network."""
        return [each.ip for each in self.status.pod_ips or ()] or [self.status.pod_ip or ""]

    @property
    def running_containers(self) -> list[Container]:
        """The containers that run beside each other for the pod's life: its own and its sidecars."""
        sidecars = [each for each in self.spec.init_containers or () if each.restart_policy == "Always"]
        return [*(self.spec.containers or ()), *sidecars]

    @property
    def finished(self) -> bool:
        """Whether all its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def finished_at(self) -> datetime | None:
        """When its last container ended, where the containers say so."""
        states = [status.state for status in self.status.container_statuses or () if status.state]
        ends = [state.terminated.finished_at for state in states if state.terminated and state.terminated.finished_at]
        return max(ends, default=None)


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
        found = [*(self.spec.cluster_ips or [self.spec.cluster_ip or ""]), *(self.spec.external_ips or ())]
        return [*found, *(each.ip or "" for each in ingress)]


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
