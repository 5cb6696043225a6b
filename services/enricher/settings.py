"""Settings of the enricher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proto.verdicts.terms import Thresholds
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.intake.settings import IntakeSettings
from services.enricher.kubernetes.access.configuration import Source
from services.runtime.settings import ClusterSettings

_Keys = tuple[str, ...]
_NS = 1_000_000_000


class KubeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the live cluster is followed, and what is kept of its objects."""

    api: Annotated[
        Source,
        Meta(
            description="the API server to follow where no snapshot is given: `auto` is that of the pod's service account, "
            "else that of the kubeconfig given here or by `KUBECONFIG`, else none; `kubeconfig` reads `~/.kube/config` too"
        ),
    ] = "auto"
    kubeconfig: Annotated[Path | None, Meta(description="kubeconfig file; its current context counts")] = None
    namespaces: Annotated[
        tuple[str, ...],
        Meta(description="follow only these, for a service account that may read no others; else all"),
    ] = ()
    cache: Annotated[
        Literal["shared", "direct"],
        Meta(
            description="`shared`: one enricher at a time follows the API server and tells the others over the bus, so the "
            "server's load does not grow with their number; `direct`: each follows it itself"
        ),
    ] = "shared"
    lease_seconds: Annotated[
        float,
        Meta(
            ge=1,
            description="shared: silence after which another enricher follows the API server; it is heard ten times as often",
        ),
    ] = 5.0
    pod_labels: Annotated[
        _Keys, Meta(description="labels of pods to show as `k8s.pod.label.<key>`; `*` in a key stands for anything")
    ] = ()
    pod_annotations: Annotated[_Keys, Meta(description="annotations of pods to show as `k8s.pod.annotation.<key>`")] = ()
    namespace_labels: Annotated[
        _Keys,
        Meta(description="labels of namespaces to show as `k8s.namespace.label.<key>`; needs the right to read namespaces"),
    ] = ()
    namespace_annotations: Annotated[
        _Keys, Meta(description="annotations of namespaces to show as `k8s.namespace.annotation.<key>`; as above")
    ] = ()
    node_labels: Annotated[_Keys, Meta(description="labels of nodes to show as `k8s.node.label.<key>`")] = ()
    node_annotations: Annotated[_Keys, Meta(description="annotations of nodes to show as `k8s.node.annotation.<key>`")] = ()
    network_policies: Annotated[
        bool,
        Meta(
            description="name the NetworkPolicies that select a pod, as `network.policy.ingress` and `.egress`; needs the "
            "right to read networkpolicies"
        ),
    ] = False
    wait_seconds: Annotated[
        float,
        Meta(ge=0, description="how long records wait for the first lists, or for an API server that was lost, and then pass"),
    ] = 30.0
    settle_seconds: Annotated[
        float,
        Meta(ge=0, description="how long after a record's start the news of who had its addresses then may take to arrive"),
    ] = 1.0
    index_interval_seconds: Annotated[
        float, Meta(ge=0.05, description="least time between two makings of the index; more where one takes long")
    ] = 0.5
    watch_seconds: Annotated[
        float, Meta(ge=1, description="a watch asks the server to end it after so long, or up to half more")
    ] = 300.0
    silence_seconds: Annotated[
        float, Meta(ge=1, description="a connection to the API server that brings nothing for this long is given up")
    ] = 150.0
    longest_backoff_seconds: Annotated[
        float, Meta(ge=0.5, description="longest wait between attempts where the server asks for none; jittered by half")
    ] = 30.0


class EnricherSettings(IntakeSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the enricher can be told. Variables begin with `WIRESPAN_ENRICHER_`, those of groups with `WIRESPAN_<GROUP>_`."""

    cluster: ClusterSettings = ClusterSettings()
    kube: KubeSettings = KubeSettings()
    kube_snapshot: Annotated[
        Path | None,
        Meta(description="file of `wirespan snapshot` or `kubectl get ... -A -o json`, to use instead of a live cluster"),
    ] = None
    external_networks: Annotated[
        tuple[str, ...],
        Meta(
            description="names for networks outside the cluster, `name=CIDR` each: shown as `external.name`; of several that "
            "hold an address the one with the longest prefix counts"
        ),
    ] = ()
    service_name_from_labels: Annotated[
        bool, Meta(description="let `service.name` and `service.version` come from the `app.kubernetes.io/*` labels of pods")
    ] = False
    tombstone_seconds: Annotated[
        float, Meta(ge=0, description="how long a deleted or replaced object answers for the time when it was there")
    ] = 300.0
    slow_response_seconds: Annotated[
        float,
        Meta(gt=0, description="a response that takes as long is slow: a verdict may be `server_slow`, `path_or_server` ..."),
    ] = 0.15
    slow_path_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="a round trip that takes as long is slow: a verdict may be `path_slow`. More where clients are far",
        ),
    ] = 0.05
    concurrent_batches: Annotated[int, Meta(ge=1, le=256, description="batches in work at once, and as many waiting")] = 32
    ack_wait_seconds: Annotated[
        float, Meta(ge=1, description="a batch without a sign of life for so long goes to another replica")
    ] = 30.0

    def __post_init__(self) -> None:
        """Refuse networks that are none, and what an intake cannot be. Raises ValueError."""
        super().__post_init__()
        ExternalNetworks(self.external_networks)

    @property
    def thresholds(self) -> Thresholds:
        """From where on something is slow."""
        return Thresholds(round(self.slow_response_seconds * _NS), round(self.slow_path_seconds * _NS))
