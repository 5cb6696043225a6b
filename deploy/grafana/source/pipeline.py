"""The pipeline itself: the ledger, what waits, what was lost and why. From the services' own metrics."""

from __future__ import annotations

from typing import Final

from deploy.grafana.source.panels import Json, dashboard, label_values, promql, row, stat, timeseries

_HERE: Final = '{instance=~"$instance"}'


def pipeline() -> Json:
    """The dashboard."""
    return dashboard(
        "wirespan-pipeline",
        "Wirespan / Pipeline health",
        "Capture, enricher and exporter: the ledger, what waits, what was lost and why.",
        [*_numbers(), *_ledger(), *_waits(), *_losses(), *_ends_of_the_path()],
        [label_values("instance", "Instance", 'label_values({__name__=~"wirespan_.+_records_total"}, instance)')],
    )


def _rate(counter: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate(wirespan_{counter}_total{_HERE}[$__rate_interval]))"


def _now(gauge: str, how: str = "sum") -> str:
    return f"{how}(wirespan_{gauge}{_HERE})"


def _in_range(counter: str) -> str:
    return f"sum(increase(wirespan_{counter}_total{_HERE}[$__range]))"


def _numbers() -> list[Json]:
    dead = f"{_in_range('enricher_dead')} + {_in_range('exporter_dead_letters')}"
    behind = 'max({__name__=~"wirespan_(enricher|exporter)_lag_seconds",instance=~"$instance"})'
    waiting = "How long the oldest batch in hand is in its stream. It grows while the backend takes nothing."
    return [
        stat("Records captured", promql(_rate("capture_records")), unit="cps"),
        stat("Records enriched", promql(_rate("enricher_records")), unit="cps"),
        stat("Spans accepted", promql(_rate("exporter_spans_accepted")), unit="cps"),
        stat("Behind", promql(behind), unit="s", about=waiting, bad_above=30),
        stat("Dead letters", promql(dead), about="In the time range. FLOWS_DEAD has each with its reason.", bad_above=1),
        stat(
            "Spans refused",
            promql(_in_range("exporter_spans_refused")),
            about="By the backend, in the time range.",
            bad_above=1,
        ),
    ]


def _ledger() -> list[Json]:
    return [
        row("The ledger: the lines lie upon each other while nothing waits and nothing is lost"),
        timeseries(
            "Records along the path",
            promql(_rate("capture_records"), "captured"),
            promql(_rate("enricher_records"), "enriched"),
            promql(_rate("exporter_records"), "taken by exporters"),
            promql(_rate("exporter_spans_accepted"), "accepted by the backend"),
            unit="cps",
            width=24,
        ),
    ]


def _waits() -> list[Json]:
    return [
        row("What waits"),
        timeseries(
            "Batches and requests",
            promql(_now("enricher_batches_pending", "max"), "batches that no enricher has"),
            promql(_now("exporter_batches_pending", "max"), "batches that no exporter has"),
            promql(_now("exporter_batches_in_hand"), "batches in hand of exporters"),
            promql(_now("exporter_requests_in_flight"), "requests in flight"),
        ),
        timeseries(
            "Age of the oldest batch in hand",
            promql(_now("enricher_lag_seconds", "max"), "enricher"),
            promql(_now("exporter_lag_seconds", "max"), "exporter"),
            unit="s",
            about="Since its stream took it.",
        ),
        timeseries(
            "Backpressure",
            promql(_rate("capture_refused"), "batches refused to capture"),
            promql(_rate("enricher_refused_waits"), "waits of enrichers for room"),
            promql(_rate("capture_merged"), "records merged into later ones (live)"),
            unit="cps",
            about="A full stream refuses. Capture then merges records: resolution is lost, bytes are not.",
        ),
    ]


def _losses() -> list[Json]:
    return [
        row("What was lost, refused or repeated, by reason"),
        timeseries(
            "Dead letters",
            promql(_rate("enricher_dead", "reason"), "enricher: {{reason}}"),
            promql(_rate("exporter_dead_letters", "reason"), "exporter: {{reason}}"),
            unit="cps",
        ),
        timeseries("Spans refused", promql(_rate("exporter_spans_refused", "reason"), "{{reason}}"), unit="cps"),
        timeseries("Requests repeated", promql(_rate("exporter_retries", "reason"), "{{reason}}"), unit="cps"),
        timeseries(
            "Batches taken again",
            promql(_rate("exporter_batches_given_back", "reason"), "exporter, given back: {{reason}}"),
            promql(_rate("enricher_redelivered"), "enricher, delivered again"),
            unit="cps",
        ),
    ]


def _ends_of_the_path() -> list[Json]:
    full = "When it is full, packets of new flows are counted as unattributed."
    slots = f"wirespan_capture_slots_used{_HERE} / wirespan_capture_slots{_HERE}"
    return [
        row("Packets and names"),
        timeseries(
            "Packets by what they are",
            promql(_rate("capture_packets", "kind"), "{{kind}}"),
            unit="pps",
            about="`flow` is in a flow; every other kind is a packet in no flow, and why.",
            stack=True,
        ),
        timeseries("Flow table in use, live", promql(slots, "{{instance}}"), unit="percentunit", about=full),
        timeseries(
            "Ends by what is known of them",
            promql(_rate("enricher_ends", "resolution"), "{{resolution}}"),
            unit="cps",
            about="`unresolved`: the index of the cluster could not answer in time. `unknown`: perhaps inside all the same.",
            stack=True,
        ),
        timeseries(
            "The Kubernetes API",
            promql(f"sum by (state) (wirespan_enricher_kube_resources{_HERE})", "resources {{state}}"),
            promql(_rate("enricher_kube_faults"), "failed requests and watches per second"),
        ),
    ]
