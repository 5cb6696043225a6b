"""Settings of the exporter. Where spans go over the network is said by the standard OTEL_EXPORTER_OTLP_* variables
(`delivery/environment.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from services.exporter.presets import PRESETS, Choice, Preset, contradictions
from services.exporter.spans.identity import TRACE_RECORDS
from services.exporter.spans.profiles import Profile
from services.exporter.spans.summary import Thinning
from services.runtime.settings import ClusterSettings, ServiceSettings


class ExporterSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the exporter can be told."""

    cluster: ClusterSettings = ClusterSettings()
    output_file: Annotated[
        Path | None, Meta(description="file to append spans to as OTLP/JSON lines, instead of sending them over the network")
    ] = None
    preset: Annotated[
        Preset,
        Meta(
            description="how much is sent: `everything`, every flow as spans of its own with the attributes of `standard`; "
            "`troubles`, flows that failed, were slow or lossy, the others summed up by workload pair and minute; `map`, all "
            "summed up, with the attributes of `lean`. The three settings below go before it"
        ),
    ] = "everything"
    output_max_bytes: Annotated[
        int,
        Meta(ge=0, description="a file that would grow beyond this is renamed to `<file>.1` and a new one begun; 0: it grows"),
    ] = 0
    output_kept_files: Annotated[
        int, Meta(ge=1, le=1000, description="how many renamed files are kept, `.1` being the latest; older ones are deleted")
    ] = 5
    attributes: Annotated[
        Profile | None,
        Meta(description="how much a span carries; docs/attributes.md says which attributes that are; empty: the preset's"),
    ] = None
    looked_up_peers: Annotated[
        bool,
        Meta(
            description="`peer.service` and `service.peer.name` are the name that was looked up, in the place of `external`, "
            "where nobody knows the destination: a service graph then has a node for each name"
        ),
    ] = False
    entity_refs: Annotated[
        bool,
        Meta(
            description="resources say which of their attributes identify which entity (OTLP's `entity_refs`, in development): "
            "service, pod, node, container, workload"
        ),
    ] = False
    trace_records: Annotated[
        int,
        Meta(
            ge=2,
            le=1 << 31,
            description="records after which a flow goes on in another trace, linked to its first and to the one before; the "
            "same for all exporters",
        ),
    ] = TRACE_RECORDS
    keep_ratio: Annotated[
        float | None,
        Meta(
            ge=0,
            le=1,
            description="share of the flows without trouble that are spans of their own; the others are summed up by workload "
            "pair and minute; empty: the preset's, 1 of `everything`, 0 of the others",
        ),
    ] = None
    keep_troubles: Annotated[
        bool | None,
        Meta(
            description="flows that failed, were slow or lossy are spans of their own even where others are summed up; empty: "
            "the preset's, false of `map` alone"
        ),
    ] = None
    slow_seconds: Annotated[
        float, Meta(ge=0, description="a flow with a response or a handshake that takes as long is slow")
    ] = 1.0
    max_request_bytes: Annotated[
        int, Meta(ge=4096, description="most bytes of spans in one request, before compression; many servers take 4 MiB")
    ] = 3_500_000
    concurrency: Annotated[int, Meta(ge=1, le=1000, description="most requests in flight at a time")] = 8
    bytes_in_flight: Annotated[int, Meta(ge=1, description="most bytes of requests in flight at a time")] = 32 << 20
    first_backoff_seconds: Annotated[
        float, Meta(gt=0, description="wait after a first failed attempt where the backend asks for none; doubles each time")
    ] = 1.0
    longest_backoff_seconds: Annotated[float, Meta(gt=0, description="longest wait between attempts of our own choosing")] = (
        30.0
    )
    header_files: Annotated[
        tuple[str, ...],
        Meta(
            description="headers whose values are in files that are renewed: `name=FILE`, or `authorization=Bearer FILE` for "
            "one that holds the token alone; read again when they change, and when the backend rejects the credentials"
        ),
    ] = ()
    unauthorized: Annotated[
        Literal["hold", "dead_letter"],
        Meta(
            description="what becomes of spans while the backend rejects the credentials: `hold` leaves them in the stream and "
            "asks every 30 s whether it takes them now; `dead_letter` makes dead letters of them as of all that is rejected"
        ),
    ] = "hold"
    failover_endpoints: Annotated[
        tuple[str, ...],
        Meta(
            description="where spans go while OTEL_EXPORTER_OTLP_ENDPOINT fails, in this order: endpoints of the same form, "
            "protocol, headers and certificates"
        ),
    ] = ()
    failover_seconds: Annotated[
        float, Meta(ge=0, description="how long an endpoint has to fail before the next one is tried")
    ] = 5.0
    failback_seconds: Annotated[
        float, Meta(gt=0, description="between two requests that try the endpoints before the one in use")
    ] = 30.0
    flow_metrics: Annotated[
        tuple[Literal["otlp", "prometheus"], ...],
        Meta(
            description="where metrics of flows go, made of every record: `otlp`, to where the standard variables for metrics "
            "say; `prometheus`, to be scraped beside the exporter's own; empty: none are made"
        ),
    ] = ()
    flow_metrics_pairs: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="most workload pairs that have series of their own; those beyond are counted as one, marked "
            "`otel.metric.overflow`",
        ),
    ] = 2000
    concurrent_batches: Annotated[
        int, Meta(ge=1, le=1000, description="most batches taken from the bus and not yet acknowledged, per exporter")
    ] = 64
    batch_bytes: Annotated[
        int, Meta(ge=1, description="no more batches are taken from the bus while those in hand have this many bytes")
    ] = 16 << 20
    max_ack_pending: Annotated[
        int,
        Meta(ge=1, description="most batches of each partition in hand of all exporters together; the same for all of them"),
    ] = 1024
    ack_wait_seconds: Annotated[
        float, Meta(ge=1, description="silence after which a batch is given to another exporter; the same for all of them")
    ] = 30.0

    @property
    def choice(self) -> Choice:
        """What the preset stands for, with what was set by itself."""
        preset = PRESETS[self.preset]
        return Choice(
            self.attributes or preset.attributes,
            preset.keep_ratio if self.keep_ratio is None else self.keep_ratio,
            preset.keep_troubles if self.keep_troubles is None else self.keep_troubles,
        )

    @property
    def thinning(self) -> Thinning | None:
        """Which flows are spans of their own; None: all."""
        choice = self.choice
        if choice.keep_ratio == 1:
            return None
        return Thinning(choice.keep_ratio, round(self.slow_seconds * 1e9), keep_troubles=choice.keep_troubles)

    @property
    def contradictions(self) -> list[str]:
        """What was set that turns the preset into what it is not."""
        return contradictions(self.preset, self.keep_ratio, keep_troubles=self.keep_troubles)
