"""What an entity of the index becomes: attributes of one end of a span, a name for it, and a span's resource."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from proto.flow_batch import AttributeValue, Entity

EXTERNAL_PEER: Final = "external"
UNKNOWN_SERVICE: Final = "unknown_service"


def end_attributes(end: str, entity: Entity | None, service: Entity | None) -> dict[str, AttributeValue]:
    """Return what is known of an end's workload and Service, under the end's name. The workload's word goes first."""
    taken = {"address", "port", "nat.ip", "nat.port"}
    named: dict[str, AttributeValue] = {}
    for known in (entity, service):
        for name, value in known.attributes.items() if known else ():
            if name and name not in taken:
                taken.add(name)
                named[f"{end}.{name}"] = value
    return named


def service_name(entity: Entity | None, service: Entity | None) -> tuple[str, str] | None:
    """Return an end's `service.name` and namespace ("" where unknown): its workload's, else its Service's, else the name that
    users gave to its network; None without one.
    """
    for name in ("service.name", "k8s.service.name", "external.name"):
        for known in (entity, service):
            found = known.attributes.get(name) if known else None
            if known and isinstance(found, str) and found:
                spaces = (known.attributes.get(key) for key in ("service.namespace", "k8s.namespace.name"))
                return found, next((space for space in spaces if isinstance(space, str) and space), "")
    return None


class Origin(NamedTuple):
    """What a span's resource is made of besides its entity."""

    cluster_name: str
    version: str
    host_name: str = ""
    """"" where no socket of a host saw the record."""
    pod_uid: str = ""
    container_id: str = ""


def resource_attributes(entity: Entity | None, origin: Origin) -> dict[str, AttributeValue]:
    """Return the attributes of a span's resource: its own end's workload."""
    of_cluster = bool(origin.host_name) or (entity is not None and entity.type.startswith("k8s."))
    known = {
        "service.name": UNKNOWN_SERVICE,
        "host.name": origin.host_name,
        "k8s.cluster.name": origin.cluster_name if of_cluster else "",
        "k8s.pod.uid": origin.pod_uid,
        "container.id": origin.container_id,
        **(entity.attributes if entity else {}),
    }
    attributes = {name: value for name, value in known.items() if name and value != ""}
    own = {"telemetry.distro.name": "wirespan", "telemetry.distro.version": origin.version}
    return {"service.name": UNKNOWN_SERVICE, **attributes, **own}


_BY_UID: Final = ("pod", "node", "deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob")
_IDENTIFIED: Final = {
    "service": ("service.name", "service.version"),
    "service.namespace": ("service.namespace", ""),
    "service.instance": ("service.instance.id", ""),
    "container": ("container.id", ""),
    "k8s.namespace": ("k8s.namespace.name", ""),
    "k8s.container": ("k8s.container.name", ""),
    **{f"k8s.{kind}": (f"k8s.{kind}.uid", f"k8s.{kind}.name") for kind in _BY_UID},
}
"""Types of entities as conventions have them: the attribute that identifies one, and the one that describes it."""


class Reference(NamedTuple):
    """An entity that a resource is of: its type, and the names of the resource's attributes that say which."""

    type: str
    id_key: str
    description_key: str
    """"" where the resource has none."""


def references(attributes: Mapping[str, AttributeValue]) -> Iterator[Reference]:
    """Yield the entities that a resource's attributes identify."""
    for kind, (id_key, description_key) in _IDENTIFIED.items():
        if attributes.get(id_key, UNKNOWN_SERVICE) != UNKNOWN_SERVICE:
            yield Reference(kind, id_key, description_key if description_key in attributes else "")
