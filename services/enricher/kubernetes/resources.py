"""What is asked of the API server: each resource's path, and how its objects are read.

Of the owners only the metadata is asked for. Nothing is ever written, and nothing is read by name.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from services.enricher.kubernetes.object_meta import KubeObject
from services.enricher.kubernetes.objects import KINDS
from services.enricher.settings import KubeSettings

_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object as the API serves it."""

    group: str
    kind: str
    plural: str
    namespaced: bool = True
    metadata_only: bool = False

    @property
    def model(self) -> type[KubeObject]:
        """The record that its objects become."""
        return KINDS[self.group, self.kind]

    @property
    def api_version(self) -> str:
        """Group and version as objects say it."""
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def name(self) -> str:
        """The name that RBAC has for it, `pods` or `replicasets.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "") -> str:
        """Path of the list of all its objects, or of those in a namespace."""
        root = f"/apis/{self.group}/v1" if self.group else "/api/v1"
        return f"{root}/namespaces/{namespace}/{self.plural}" if namespace and self.namespaced else f"{root}/{self.plural}"

    def accept(self, *, of_list: bool) -> str:
        """The form of answer to ask for."""
        if not self.metadata_only:
            return _JSON
        form = "PartialObjectMetadataList" if of_list else "PartialObjectMetadata"
        return f"{_JSON};as={form};v=v1;g=meta.k8s.io,{_JSON}"


RESOURCES: Final = (
    Resource("", "Pod", "pods"),
    Resource("", "Service", "services"),
    Resource("", "Node", "nodes", namespaced=False),
    Resource("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    Resource("apps", "ReplicaSet", "replicasets", metadata_only=True),
    Resource("apps", "Deployment", "deployments", metadata_only=True),
    Resource("apps", "StatefulSet", "statefulsets", metadata_only=True),
    Resource("apps", "DaemonSet", "daemonsets", metadata_only=True),
    Resource("batch", "Job", "jobs", metadata_only=True),
    Resource("batch", "CronJob", "cronjobs", metadata_only=True),
)
"""All that the index always reads."""
NAMESPACES: Final = Resource("", "Namespace", "namespaces", namespaced=False, metadata_only=True)
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "NetworkPolicy", "networkpolicies")
ALL_RESOURCES: Final = (*RESOURCES, NAMESPACES, NETWORK_POLICIES)
"""Those that it reads where the settings ask for what they have, too."""

ADDRESSED: Final = frozenset(("pods", "services", "nodes"))
"""Resources that hold addresses: without all of them in all namespaces, nobody at an address may still be somebody."""


def followed(settings: KubeSettings) -> list[tuple[Resource, str]]:
    """Return what is to be followed: each resource, with each namespace that the settings name, or "" for all."""
    namespaces = settings.namespaces or ("",)
    wanted = list(RESOURCES)
    if settings.namespace_labels or settings.namespace_annotations:
        wanted.append(NAMESPACES)
    if settings.network_policies:
        wanted.append(NETWORK_POLICIES)
    return [(each, namespace) for each in wanted for namespace in (namespaces if each.namespaced else ("",))]


@functools.cache
def fields_read() -> str:
    """Return what distinguishes the fields that this release reads of objects from those that another reads."""
    return hashlib.sha256(
        repr(msgspec.inspect.multi_type_info(resource.model for resource in ALL_RESOURCES)).encode()
    ).hexdigest()


class ListMeta(msgspec.Struct, frozen=True, rename={"resource_version": "resourceVersion", "following": "continue"}):
    """Where a list was taken, and where it goes on."""

    resource_version: str = ""
    following: str = ""


class Page(msgspec.Struct, frozen=True):
    """A part of a list."""

    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class Frame(msgspec.Struct, frozen=True):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class _MarkMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class Mark(msgspec.Struct, frozen=True):
    """Where in time an object or a bookmark stands."""

    metadata: _MarkMeta = _MarkMeta()


class WatchError(msgspec.Struct, frozen=True):
    """Why the server ends a watch."""

    code: int = 500
    message: str = ""


page_decoder: Final = msgspec.json.Decoder(Page)
frame_decoder: Final = msgspec.json.Decoder(Frame)
mark_decoder: Final = msgspec.json.Decoder(Mark)
watch_error_decoder: Final = msgspec.json.Decoder(WatchError)
object_decoders: Final[dict[Resource, msgspec.json.Decoder[Any]]] = {
    resource: msgspec.json.Decoder(resource.model) for resource in ALL_RESOURCES
}
