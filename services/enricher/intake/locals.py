"""Who made a span, and on which node that is."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from services.enricher.index.claims import packed_address
from services.enricher.index.index import Index
from services.enricher.index.interval_table import NOBODY, address_words
from services.enricher.intake.scan import Resource

_MOST_KNOWN: Final = 65_536
_CONTAINER_ID_CHARACTERS: Final = 64


class Local(NamedTuple):
    """Where a span was made."""

    node: str
    local: str
    """UID of the pod, or id of the container; empty: whoever it was on the node."""
    namespace: str
    """In which names of services are meant."""


class Locals:
    """What resources mean. What was found is remembered for as long as the index is the same."""

    def __init__(self, *, this_host: str, node: str = "") -> None:
        self._this_host = this_host
        self._node = node
        self._index: Index | None = None
        self._known: dict[tuple[Resource, str], Local | None] = {}

    def find(self, resource: Resource, sender: str, index: Index | None, now_unix_ns: int) -> Local | None:
        """Return where a resource is, None where nobody knows.

        A pod that it names and that nobody knows is unknown: who sends its spans may be a Collector.
        """
        if index is not self._index or len(self._known) >= _MOST_KNOWN:
            self._index = index
            self._known.clear()
        key = (resource, sender)
        if key not in self._known:
            self._known[key] = (
                self._of_cluster(resource, sender, index, now_unix_ns)
                if index is not None and len(index)
                else self._of_host(resource)
            )
        return self._known[key]

    def node_of(self, address: bytes, index: Index | None, now_unix_ns: int) -> str | None:
        """Return the node that somebody with an address is on, None where nobody knows."""
        found = self._holder(address, index, now_unix_ns) if index is not None and len(index) else None
        return found.node if found else None

    def _of_host(self, resource: Resource) -> Local:
        container = resource.container_id.rpartition("/")[2]
        node = self._node or resource.host_name or self._this_host
        return Local(node, container if len(container) == _CONTAINER_ID_CHARACTERS else "", "")

    def _of_cluster(self, resource: Resource, sender: str, index: Index, now_unix_ns: int) -> Local | None:
        if resource.pod_uid or resource.container_id:
            identity = {"pod_uid": resource.pod_uid, "container_id": resource.container_id.rpartition("/")[2]}
            number = index.container(identity)
            if number != NOBODY:
                return _of_target(index, number)
        if resource.pod_address:
            return self._at(resource.pod_address, index, now_unix_ns)
        if resource.pod_uid or resource.container_id:
            return None
        if resource.host_name and index.node(resource.host_name) != NOBODY:
            return Local(resource.host_name, "", "")
        return self._at(sender, index, now_unix_ns)

    def _at(self, address: str, index: Index, now_unix_ns: int) -> Local | None:
        packed = packed_address(address)
        return None if packed is None else self._holder(packed, index, now_unix_ns)

    def _holder(self, packed: bytes, index: Index, now_unix_ns: int) -> Local | None:
        high, low = address_words(np.frombuffer(packed, "V16"))
        number = int(index.holders(high, low, np.array([now_unix_ns], np.uint64))[0])
        return None if number == NOBODY else _of_target(index, number)


def _of_target(index: Index, number: int) -> Local | None:
    (entity,) = index.entities([number])
    attributes = entity.attributes
    node = str(attributes.get("k8s.node.name", ""))
    if not node or entity.type not in ("k8s.pod", "k8s.node"):
        return None
    if entity.type == "k8s.node":
        return Local(node, "", "")
    return Local(node, str(attributes.get("k8s.pod.uid", "")), str(attributes.get("k8s.namespace.name", "")))
