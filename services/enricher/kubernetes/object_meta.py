"""What all Kubernetes objects have: identity, owners, labels and annotations."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import ClassVar, Final

import msgspec

RESOURCE_ANNOTATION_PREFIX: Final = "resource.opentelemetry.io/"
STATIC_POD_ANNOTATION: Final = "kubernetes.io/config.hash"
"""On the mirror of a static pod: the uid that the kubelet, and so the pod's cgroup, knows it by."""
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
TEMPLATE_HASH_LABEL: Final = "pod-template-hash"


def share(struct: msgspec.Struct, *fields: str) -> None:
    """Let texts that many objects have be one in memory."""
    for field in fields:
        text = getattr(struct, field)
        if text:
            msgspec.structs.force_setattr(struct, field, sys.intern(text))


class OwnerReference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An object this one belongs to; it lives in the same namespace, or in none."""

    kind: str
    name: str
    controller: bool | None = None

    def __post_init__(self) -> None:
        share(self, "kind", "name")


class ObjectMeta(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel", kw_only=True):
    """Identity of an object. Of its labels and annotations most are let go at once, see `Selection`."""

    name: str = ""
    namespace: str | None = None
    uid: str | None = None
    creation_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None

    def __post_init__(self) -> None:
        share(self, "namespace")

    def label(self, name: str) -> str:
        """Return a label's value, empty where it is not set."""
        return (self.labels or {}).get(name, "")

    def annotation(self, name: str) -> str:
        """Return an annotation's value, empty where it is not set."""
        return (self.annotations or {}).get(name, "")

    def controller(self) -> OwnerReference | None:
        """Return the owner that controls the object. A node, which is named as the owner of its static pods, is not one."""
        owners = [owner for owner in self.owner_references or () if owner.kind != "Node"]
        return next((owner for owner in owners if owner.controller), owners[0] if owners else None)


class KubeObject(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What all kinds have."""

    kind: ClassVar[str] = ""
    metadata: ObjectMeta

    @property
    def key(self) -> str:
        """The object's key: `kind/namespace/name`, which the next object of that name shares."""
        return object_key(self.kind, self.metadata.namespace or "", self.metadata.name)


def object_key(kind: str, namespace: str, name: str) -> str:
    """Return the key of an object; the namespace of those that have none is empty."""
    return f"{kind}/{namespace}/{name}"
