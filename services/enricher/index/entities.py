"""What is said of a workload, a node or a service: objects of the cluster to attributes named by the semantic conventions.

docs/kubernetes.md has the table of which field gives which attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from proto.flow_batch import SOURCE_NAT, AttributeValue, Entity
from services.enricher.index.claims import Target
from services.enricher.index.image import Image, image_of
from services.enricher.index.workload import OWNER_ATTRIBUTES, OWNER_KIND, OWNER_NAME, owner_attributes, owners, workload_name
from services.enricher.kubernetes.network_policy import NetworkPolicy
from services.enricher.kubernetes.object_meta import RESOURCE_ANNOTATION_PREFIX, KubeObject, object_key
from services.enricher.kubernetes.objects import Node, Service
from services.enricher.kubernetes.pods import Container, Pod
from services.enricher.kubernetes.selection import Selection

STAND_IN: Final = "/stand-in"
"""In the place of a container: a node at whose address somebody outside may be seen."""

Endpoints = Callable[[str], Collection[tuple[str, bool]]]
"""From a service's key to the keys of the pods behind it, with whether each is ready."""

Policies = Callable[[str], Iterable[NetworkPolicy]]
"""From a namespace to its NetworkPolicies."""

_WORKLOAD_ATTRIBUTES: Final = (*OWNER_ATTRIBUTES.values(), OWNER_KIND, OWNER_NAME)
_POD_ONLY_OWNERS: Final = frozenset(("k8s.replicaset.name", "k8s.job.name"))

NODE_SERVICE_NAME: Final = "kubernetes-node"
"""`service.name` of what runs on a node outside any pod. One name for all nodes: backends keep a series for each pair of
services, and which node it was says `k8s.node.name`."""


class EntityFactory:
    """Describes targets. An entity is made once and is the same object until something that it says has changed."""

    def __init__(
        self,
        objects: Mapping[str, KubeObject],
        endpoints: Endpoints,
        policies: Policies,
        *,
        selection: Selection,
        cluster_name: str,
        service_name_from_labels: bool,
    ) -> None:
        self._objects = objects
        self._endpoints = endpoints
        self._policies = policies
        self._selection = selection
        self._cluster = {"k8s.cluster.name": cluster_name} if cluster_name else {}
        self._from_labels = service_name_from_labels
        self._made: dict[Target, Entity] = {}
        self._doubtful: dict[Target, Entity] = {}

    def doubt(self) -> None:
        """Look at every entity again before it is given out: an object has changed."""
        self._doubtful |= self._made
        self._made.clear()

    def forget(self, targets: Iterable[Target]) -> None:
        """Let go of the entities of targets that are gone."""
        for target in targets:
            self._made.pop(target, None)
            self._doubtful.pop(target, None)

    def describe(self, target: Target) -> Entity:
        """Return the entity of a target."""
        entity = self._made.get(target)
        if entity is None:
            entity, before = self._describe(target), self._doubtful.pop(target, None)
            self._made[target] = entity = before if before is not None and before == entity else entity
        return entity

    def _describe(self, target: Target) -> Entity:
        match self._objects.get(target.key):
            case Pod() as pod:
                return Entity("k8s.pod", {**self._pod(pod, target.container), **self._policy_names(pod)})
            case Node() as node:
                return Entity("k8s.node", self._node(node, stands_in=target.container == STAND_IN))
            case Service() as service:
                return Entity("k8s.service", self._service(target.key, service.metadata.uid))
            case None if target.key.startswith("Node/"):  # what is gone for good may still be asked for by an old index
                return Entity("k8s.node", {"k8s.node.name": target.key.rpartition("/")[2], **self._cluster})
            case None if not target.key.startswith("Service/"):
                return Entity("k8s.pod", {"k8s.pod.uid": target.key, **self._cluster})
            case _:  # a service that only its endpoints speak of
                return Entity("k8s.service", self._service(target.key, None))

    def _node(self, node: Node, *, stands_in: bool) -> dict[str, AttributeValue]:
        """The node's attributes; `stands_in` where a client at its address may be somebody outside."""
        doubt: dict[str, AttributeValue] = {SOURCE_NAT: True} if stands_in else {}
        known = {**node_attributes(node), **zone_attributes(node), **self._selection.attributes(node), **self._cluster}
        return {**known, **doubt}

    def _pod(self, pod: Pod, container_name: str) -> dict[str, AttributeValue]:
        """The pod's attributes, those of its container too where one is named or it has but one."""
        metadata, running = pod.metadata, pod.running_containers
        owned = owner_attributes(owners(pod, self._objects))
        node = self._objects.get(f"Node//{pod.spec.node_name}") if pod.spec.node_name else None
        container = _container(pod, container_name) or (running[0] if len(running) == 1 and not container_name else None)
        image = image_of(container.image or "") if container else Image()
        attributes: dict[str, AttributeValue] = {**resource_annotations(pod)}
        for chosen in (self._objects.get(object_key("Namespace", "", metadata.namespace or "")), node, pod):
            attributes |= self._selection.attributes(chosen)
        attributes |= {
            "k8s.pod.name": metadata.name,
            "k8s.pod.uid": metadata.uid or "",
            "k8s.pod.ip": pod.status.pod_ip or "",
            "k8s.pod.start_time": _rfc3339(pod.status.start_time),
            "k8s.namespace.name": metadata.namespace or "",
            "k8s.node.name": pod.spec.node_name or "",
            "k8s.container.name": container.name if container else "",
            **image.attributes,
            **owned,
            **(zone_attributes(node) if isinstance(node, Node) else {}),
            **self._cluster,
        }
        attributes |= self._service_attributes(pod, owned, container, image)
        return {name: value for name, value in attributes.items() if value}

    def _policy_names(self, pod: Pod) -> dict[str, list[str]]:
        """The NetworkPolicies that select a pod, by direction."""
        labels = pod.metadata.labels or {}
        selecting = [each for each in self._policies(pod.metadata.namespace or "") if each.spec.pod_selector.selects(labels)]
        named = {
            f"network.policy.{direction.lower()}": sorted(each.metadata.name for each in selecting if each.about(direction))
            for direction in ("Ingress", "Egress")
        }
        return {name: names for name, names in named.items() if names}

    def _service_attributes(
        self, pod: Pod, owned: Mapping[str, str], container: Container | None, image: Image
    ) -> dict[str, str]:
        """`service.*` in the order of derivation that OpenTelemetry gives for Kubernetes."""
        metadata = pod.metadata
        annotated = resource_annotations(pod)
        labelled = metadata.label if self._from_labels else lambda _: ""
        name = labelled("app.kubernetes.io/instance") or labelled("app.kubernetes.io/name")
        version = labelled("app.kubernetes.io/version") or image.version
        instance = f"{metadata.namespace}.{metadata.name}.{container.name}" if container else ""
        return {
            "service.name": annotated.get("service.name") or name or workload_name(owned) or metadata.name,
            "service.namespace": annotated.get("service.namespace") or metadata.namespace or "",
            "service.version": annotated.get("service.version") or version,
            "service.instance.id": annotated.get("service.instance.id") or instance,
        }

    def _service(self, key: str, uid: str | None) -> dict[str, AttributeValue]:
        """The service's attributes, with those of the workload behind it where all its pods agree."""
        _, namespace, name = key.split("/", 2)
        backends = list(self._backends(key))
        behind = _agreed(backends, (*_WORKLOAD_ATTRIBUTES, "service.name", "service.namespace"))
        attributes = {
            **self._selection.attributes(self._objects.get(object_key("Namespace", "", namespace))),
            "k8s.service.name": name,
            "k8s.service.uid": uid or "",
            "k8s.namespace.name": namespace,
            **self._cluster,
            **{key: value for key, value in behind.items() if key not in _POD_ONLY_OWNERS},
            "service.name": behind.get("service.name") or name,
            "service.namespace": behind.get("service.namespace") or namespace,
        }
        return {name: value for name, value in attributes.items() if value}

    def _backends(self, key: str) -> list[Mapping[str, AttributeValue]]:
        """What is said of the pods behind a service: of those that are ready, or else of all."""
        endpoints = [(pod, ready) for each, ready in self._endpoints(key) if isinstance(pod := self._objects.get(each), Pod)]
        ready = [pod for pod, is_ready in endpoints if is_ready] or [pod for pod, _ in endpoints]
        return [self._pod(pod, "") for pod in ready]


def node_attributes(node: Node) -> dict[str, str]:
    """Return the attributes that name a node."""
    metadata = node.metadata
    attributes = {
        "k8s.node.name": metadata.name,
        "k8s.node.uid": metadata.uid or "",
        "host.name": metadata.label("kubernetes.io/hostname") or metadata.name,
        "service.name": NODE_SERVICE_NAME,
    }
    return {name: value for name, value in attributes.items() if value}


def zone_attributes(node: Node) -> dict[str, str]:
    """Return the attributes that say where a node is."""
    label = node.metadata.label
    attributes = {
        "cloud.availability_zone": label("topology.kubernetes.io/zone") or label("failure-domain.beta.kubernetes.io/zone"),
        "cloud.region": label("topology.kubernetes.io/region") or label("failure-domain.beta.kubernetes.io/region"),
    }
    return {name: value for name, value in attributes.items() if value}


def resource_annotations(pod: Pod) -> dict[str, str]:
    """Return the attributes that a pod is annotated with."""
    prefix = RESOURCE_ANNOTATION_PREFIX
    annotations = (pod.metadata.annotations or {}).items()
    return {name.removeprefix(prefix): value for name, value in annotations if name.startswith(prefix) and name != prefix}


def _container(pod: Pod, name: str) -> Container | None:
    return next((container for container in pod.containers if container.name == name), None) if name else None


def _agreed(backends: list[Mapping[str, AttributeValue]], names: Collection[str]) -> dict[str, AttributeValue]:
    """The attributes of `names` that all backends have with one value, empty where they have several workloads."""
    if not backends:
        return {}
    first = backends[0]
    return {name: first[name] for name in names if name in first and all(each.get(name) == first[name] for each in backends)}


def _rfc3339(time: datetime | None) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else ""
