"""Settings of the enricher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from services.runtime.settings import ClusterSettings, ServiceSettings


class EnricherSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the enricher can be told. Variables begin with `WIRESPAN_ENRICHER_`, those of groups with `WIRESPAN_<GROUP>_`."""

    cluster: ClusterSettings = ClusterSettings()
    kube_snapshot: Annotated[
        Path | None, Meta(description="file of `kubectl get ... -A -o json` to take the cluster's objects from")
    ] = None
    service_name_from_labels: Annotated[
        bool, Meta(description="let `service.name` and `service.version` come from the `app.kubernetes.io/*` labels of pods")
    ] = False
    tombstone_seconds: Annotated[
        float, Meta(ge=0, description="how long a deleted or replaced object answers for the time when it was there")
    ] = 300.0
    concurrent_batches: Annotated[int, Meta(ge=1, le=256, description="batches in work at once, and as many waiting")] = 8
    ack_wait_seconds: Annotated[
        float, Meta(ge=1, description="a batch without a sign of life for so long goes to another replica")
    ] = 30.0
