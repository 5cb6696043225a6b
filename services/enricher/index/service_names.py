"""What Kubernetes' DNS answers: the addresses behind a name, as a pod of a namespace asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, NamedTuple

from services.enricher.index.claims import packed_address
from services.enricher.kubernetes.object_meta import KubeObject, object_key
from services.enricher.kubernetes.objects import EndpointSlice, Service

MOST_ADDRESSES: Final = 16
"""Endpoints of a service that are told of, its own addresses aside: where there are more, none of them is."""


class ServiceName(NamedTuple):
    """A service, or one of its endpoints by the name of its pod."""

    key: str
    pod: str = ""


def readings(name: str, namespace: str) -> Iterator[ServiceName]:
    """Yield what a name may mean in a namespace, the likeliest first. The cluster's domain may be any."""
    labels = name.rstrip(".").lower().split(".")
    if len(labels) > 2 and labels[2] == "svc":
        yield ServiceName(object_key("Service", labels[1], labels[0]))
    elif len(labels) > 3 and labels[3] == "svc":
        yield ServiceName(object_key("Service", labels[2], labels[1]), labels[0])
    elif len(labels) == 1 and namespace:
        yield ServiceName(object_key("Service", namespace, labels[0]))
    elif len(labels) == 2:
        yield ServiceName(object_key("Service", labels[1], labels[0]))
        if namespace:
            yield ServiceName(object_key("Service", namespace, labels[1]), labels[0])
    elif len(labels) == 3:
        yield ServiceName(object_key("Service", labels[2], labels[1]), labels[0])


def addresses(
    name: str, namespace: str, objects: Mapping[str, KubeObject], slices: Mapping[str, Mapping[str, EndpointSlice]]
) -> tuple[bytes, ...]:
    """Return the addresses at which a peer of that name may be seen, empty where no service is meant.

    Those are the service's own and its endpoints': which of them a socket has is the network plugin's matter.
    """
    for reading in readings(name, namespace):
        service, of_service = objects.get(reading.key), slices.get(reading.key, {}).values()
        if not isinstance(service, Service) and not of_service:
            continue
        own = () if reading.pod or not isinstance(service, Service) else tuple(_packed(service.addresses))
        behind = tuple(dict.fromkeys(_packed(_endpoint_addresses(of_service, reading.pod))))
        return own + behind if len(behind) <= MOST_ADDRESSES else own
    return ()


def _endpoint_addresses(slices: Iterable[EndpointSlice], pod: str) -> Iterator[str]:
    for endpoint in chain.from_iterable(each.endpoints or () for each in slices):
        if not pod or (endpoint.target_ref is not None and endpoint.target_ref.name == pod):
            yield from endpoint.addresses or ()


def _packed(texts: Iterable[str]) -> Iterator[bytes]:
    return (packed for text in texts if (packed := packed_address(text)) is not None)
