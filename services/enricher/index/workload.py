"""Which workload a pod belongs to: the chain of its owners, from the ReplicaSet or Job up to what a person deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.enricher.kubernetes.object_meta import TEMPLATE_HASH_LABEL, KubeObject, OwnerReference, object_key
from services.enricher.kubernetes.pods import Pod

OWNER_ATTRIBUTES: Final = {
    "Deployment": "k8s.deployment.name",
    "ReplicaSet": "k8s.replicaset.name",
    "StatefulSet": "k8s.statefulset.name",
    "DaemonSet": "k8s.daemonset.name",
    "CronJob": "k8s.cronjob.name",
    "Job": "k8s.job.name",
    "ReplicationController": "k8s.replicationcontroller.name",
}
"""Kinds of owners that the semantic conventions name, in the order in which one gives `service.name`."""
OWNER_KIND: Final = "k8s.owner.kind"
OWNER_NAME: Final = "k8s.owner.name"

_MOST_OWNERS: Final = 4
_SCHEDULED_MINUTES: Final = range(23_667_840, 68_374_080)
"""Minutes since 1970 that lie between 2015 and 2100; dates such as 20260528 are none of them."""


def owners(pod: Pod, objects: Mapping[str, KubeObject]) -> list[OwnerReference]:
    """Return the pod's controllers, nearest first.

    The owner of one that is not among `objects` is read from its name: a Deployment calls its ReplicaSets after itself and the
    hash that it labels their pods with, a CronJob calls its Jobs after itself and the minute they are due.
    """
    chain: list[OwnerReference] = []
    owner = pod.metadata.controller()
    while owner is not None and len(chain) < _MOST_OWNERS:
        chain.append(owner)
        found = objects.get(object_key(owner.kind, pod.metadata.namespace or "", owner.name))
        owner = found.metadata.controller() if found is not None else _owner_by_name(owner, pod)
    return chain


def owner_attributes(chain: list[OwnerReference]) -> dict[str, str]:
    """Return the attributes that name the owners: those of the semantic conventions, and for another kind at the end of the
    chain (a Rollout, say) `k8s.owner.kind` and `k8s.owner.name`.
    """
    attributes = {OWNER_ATTRIBUTES[owner.kind]: owner.name for owner in chain if owner.kind in OWNER_ATTRIBUTES}
    if chain and chain[-1].kind not in OWNER_ATTRIBUTES:
        attributes |= {OWNER_KIND: chain[-1].kind, OWNER_NAME: chain[-1].name}
    return attributes


def workload_name(attributes: Mapping[str, str]) -> str:
    """Return the name of the workload among the attributes of owners, empty where there is none."""
    names = (attributes.get(name, "") for name in (OWNER_NAME, *OWNER_ATTRIBUTES.values()))
    return next((name for name in names if name), "")


def _owner_by_name(owner: OwnerReference, pod: Pod) -> OwnerReference | None:
    name, _, suffix = owner.name.rpartition("-")
    if owner.kind == "ReplicaSet" and name and suffix == pod.metadata.label(TEMPLATE_HASH_LABEL):
        return OwnerReference("Deployment", name, controller=True)
    if owner.kind == "Job" and name and suffix.isdecimal() and int(suffix) in _SCHEDULED_MINUTES:
        return OwnerReference("CronJob", name, controller=True)
    return None
