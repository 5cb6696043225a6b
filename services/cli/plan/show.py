"""A plan as rows for a table, and as values for the chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.cli.plan.model import Plan, Replicas
from services.cli.views import units


def rows(made: Plan) -> list[tuple[str, str]]:
    """What a person wants to know of a plan, one line each."""
    share = f", {made.nodes_per_release:,} nodes each" if made.releases > 1 else ""
    return [
        ("records a second", f"{made.records_per_second:,.0f} in {made.batches_per_second:,.0f} batches"),
        ("capture looks every", f"{made.drain_interval_seconds:g} s"),
        ("releases of the chart", f"{made.releases}{share}"),
        ("NATS", _replicas(made.nats)),
        ("enricher", _replicas(made.enricher)),
        ("exporter", _replicas(made.exporter)),
        ("capture on each node", f"{made.capture.cpu_millicores}m, {made.capture.memory_mib} MiB"),
        ("into FLOWS_RAW", _rate(made.raw_bytes_per_second)),
        ("into FLOWS_ENRICHED", _rate(made.enriched_bytes_per_second)),
        (f"streams for {made.load.outage_minutes:g} minutes", _streams(made)),
        ("volume of each NATS server", f"{made.volume_gib} GiB"),
        ("connections to a server", f"{made.connections_per_server:,}" + (", use leaf nodes" if made.leaf_nodes else "")),
        ("spans a second", f"{made.spans_per_second:,.0f}"),
        ("to the backend", f"{_rate(made.backend_bytes_per_second)}{', gzip' if made.load.gzip else ''}"),
        ("spans in a day", f"{units.byte_count(round(made.backend_bytes_per_day))} of OTLP"),
    ]


def values(made: Plan) -> dict[str, Any]:
    """Values for the chart, of each release."""
    return {
        "capture": {
            "settings": {"drain_interval_seconds": made.drain_interval_seconds},
            "resources": _resources(made.capture),
        },
        "enricher": {"replicas": made.enricher.replicas, "resources": _resources(made.enricher)},
        "exporter": {
            "replicas": made.exporter.replicas,
            "resources": _resources(made.exporter),
            "settings": {"attributes": made.load.attributes},
        },
        "otlp": {"compression": "gzip" if made.load.gzip else "none"},
        "nats": {
            "replicas": made.nats.replicas,
            "resources": _resources(made.nats),
            "persistence": {"size": f"{made.volume_gib}Gi"},
        },
        "settings": {"streams": {"raw_bytes": made.raw_stream_bytes, "enriched_bytes": made.enriched_stream_bytes}},
    }


def yaml_lines(tree: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """Yield a tree of texts and numbers as YAML."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield f"{' ' * indent}{name}:"
            yield from yaml_lines(value, indent + 2)
        else:
            yield f"{' ' * indent}{name}: {value}"


def _replicas(service: Replicas) -> str:
    return f"{service.replicas} x {service.cpu_millicores}m, {service.memory_mib} MiB"


def _rate(bytes_per_second: float) -> str:
    return f"{units.byte_count(round(bytes_per_second))}/s"


def _streams(made: Plan) -> str:
    raw, enriched = (units.byte_count(size) for size in (made.raw_stream_bytes, made.enriched_stream_bytes))
    return f"raw {raw}, enriched {enriched}"


def _resources(service: Replicas) -> dict[str, dict[str, str]]:
    return {
        "requests": {"cpu": f"{service.cpu_millicores}m", "memory": f"{service.memory_mib}Mi"},
        "limits": {"memory": f"{2 * service.memory_mib}Mi"},
    }
