"""The fields of pods that the index reads, decoded straight from the API's JSON as those of all objects are."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, TypeVar, cast

import msgspec

from services.enricher.kubernetes.object_meta import KubeObject, object_key, share


class ContainerPort(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """A port that a container says it listens on."""

    container_port: int
    protocol: str | None = None

    def __post_init__(self) -> None:
        share(self, "protocol")


_HAS_NETWORK: Final = "PodReadyToStartContainers"
"""Condition of a pod whose sandbox is there, with its addresses; kubelets of 1.29 and later say it."""

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
    ephemeral_containers: tuple[Container, ...] | None = None
    """What `kubectl debug` added to the pod while it ran."""

    def __post_init__(self) -> None:
        share(self, "node_name")
        msgspec.structs.force_setattr(self, "containers", shared(self.containers))
        msgspec.structs.force_setattr(self, "init_containers", shared(self.init_containers))
        msgspec.structs.force_setattr(self, "ephemeral_containers", shared(self.ephemeral_containers))


class PodIP(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One address of a pod."""

    ip: str = ""


class Terminated(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"container_id": "containerID", "finished_at": "finishedAt", "started_at": "startedAt"},
):
    """How a container ended."""

    finished_at: datetime | None = None
    container_id: str | None = None
    started_at: datetime | None = None


class Running(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """Since when a container runs."""

    started_at: datetime | None = None


class ContainerState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A container's state; of one that waits nothing matters here."""

    terminated: Terminated | None = None
    running: Running | None = None

    @property
    def started_at(self) -> datetime | None:
        """When the container was started, where it was."""
        known = self.running or self.terminated
        return known.started_at if known else None


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
            if state is not None and state.terminated is None and state.running is None:
                msgspec.structs.force_setattr(self, field, None)


class PodCondition(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """Something that is so of the pod, or is not, since a time."""

    type: str = ""
    status: str = ""
    last_transition_time: datetime | None = None


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
        "ephemeral_container_statuses": "ephemeralContainerStatuses",
    },
):
    """What became of the pod."""

    phase: str | None = None
    pod_ip: str | None = None
    pod_ips: tuple[PodIP, ...] | None = None
    start_time: datetime | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    ephemeral_container_statuses: tuple[ContainerStatus, ...] | None = None
    conditions: tuple[PodCondition, ...] | None = None

    def __post_init__(self) -> None:
        share(self, "phase")
        if self.conditions:
            # The others come and go with the pod's health.
            kept = [each for each in self.conditions if each.type == _HAS_NETWORK]
            for each in kept:
                share(each, "type", "status")
            msgspec.structs.force_setattr(self, "conditions", tuple(kept) or None)
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
    def containers(self) -> tuple[Container, ...]:
        """All its containers, those that ran before the others and those that were added to it included."""
        spec = self.spec
        return (*(spec.containers or ()), *(spec.init_containers or ()), *(spec.ephemeral_containers or ()))

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
    def statuses(self) -> tuple[ContainerStatus, ...]:
        """What became of all its containers."""
        status = self.status
        known = (status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses)
        return tuple(each for statuses in known for each in statuses or ())

    @property
    def finished_at(self) -> datetime | None:
        """When its last container ended, else when its network did; None where neither is said."""
        states = (status.state.terminated for status in self.statuses if status.state)
        ends = [state.finished_at for state in states if state and state.finished_at]
        return max(ends, default=self.network_since("False"))

    @property
    def started_at(self) -> frozenset[datetime]:
        """Times at which it had its addresses: its containers were started, its network was ready."""
        times = [status.state.started_at for status in self.statuses if status.state]
        return frozenset([time for time in (*times, self.network_since("True")) if time])

    @property
    def restarted(self) -> bool:
        """Whether it may have had its addresses before all times that `started_at` still knows."""
        return not self.network_since("True") and any(status.last_state for status in self.statuses)

    def network_since(self, status: str) -> datetime | None:
        """Return since when it is so that it has its network, or has not; None where that is not said."""
        for each in self.status.conditions or ():
            if each.status == status:
                return each.last_transition_time
        return None
