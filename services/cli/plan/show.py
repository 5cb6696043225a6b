"""A plan as rows for a table, and as values for the chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from services.cli.plan.figures import PRESETS, Preset
from services.cli.plan.model import Load, Plan, Replicas, plan
from services.cli.views import units

_PRESETS: Final[dict[Preset, str]] = {
    "everything": "every connection has spans of its own",
    "troubles": "what failed, was slow or lossy has; the rest is summed up by workload pair and minute",
    "map": "all is summed up by workload pair and minute, failures by their kind",
}
"""What each preset is."""


def rows(made: Plan) -> list[tuple[str, str]]:
    """What a person wants to know of a plan, one line each."""
    share = f", {made.nodes_per_release:,} nodes each" if made.releases > 1 else ""
    return [
        ("records a second", f"{made.records_per_second:,.0f} in {made.batches_per_second:,.0f} batches"),
        ("capture looks every", f"{made.drain_interval_seconds:g} s"),
        ("releases of the chart", f"{made.releases}{share}"),
        ("NATS", _replicas(made.nats)),
        ("partitions of its streams", f"{made.partitions}"),
        ("enricher", _replicas(made.enricher)),
        ("exporter", _replicas(made.exporter)),
        ("capture on each node", f"{made.capture.cpu_millicores}m, {made.capture.memory_mib} MiB"),
        ("into FLOWS_RAW", _rate(made.raw_bytes_per_second)),
        ("into FLOWS_ENRICHED", _rate(made.enriched_bytes_per_second)),
        (f"streams for {made.load.outage_minutes:g} minutes", _streams(made)),
        ("kept until NATS has synced", f"{units.byte_count(made.unsynced_bytes)} in each enricher at the most"),
        ("volume of each NATS server", f"{made.volume_gib} GiB"),
        ("connections to a server", f"{made.connections_per_server:,}" + (", use leaf nodes" if made.leaf_nodes else "")),
        ("preset", f"{made.load.preset}, {made.attributes} attributes"),
        ("spans a second", _spans(made)),
        ("to the backend", f"{_rate(made.backend_bytes_per_second)}{', gzip' if made.load.gzip else ''}"),
        ("spans in a day", f"{units.byte_count(round(made.backend_bytes_per_day))} of OTLP"),
    ]


def costs(load: Load) -> list[tuple[str, str, str]]:
    """What each preset sends of the same load: its name, its spans a second and bytes in a day, and what it is."""
    return [(name, _cost(plan(replace(load, preset=name, attributes=None))), _PRESETS[name]) for name in PRESETS]


def _cost(made: Plan) -> str:
    day = units.byte_count(round(made.backend_bytes_per_day))
    return f"{made.spans_per_second:,.0f} spans/s, {day} a day"


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
            "preset": made.load.preset,
            "settings": {"attributes": made.load.attributes} if made.load.attributes else {},
        },
        "otlp": {"compression": "gzip" if made.load.gzip else "none"},
        "nats": {
            "replicas": made.nats.replicas,
            "resources": _resources(made.nats),
            "persistence": {"size": f"{made.volume_gib}Gi"},
        },
        "settings": {
            "nats": {"unsynced_bytes": made.unsynced_bytes},
            "streams": {
                **({"partitions": made.partitions} if made.partitions > 1 else {}),
                "raw_bytes": made.raw_stream_bytes,
                "enriched_bytes": made.enriched_stream_bytes,
            },
        },
    }


def yaml_lines(tree: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """Yield a tree of texts and numbers as YAML."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            if not value:
                continue
            yield f"{' ' * indent}{name}:"
            yield from yaml_lines(value, indent + 2)
        else:
            yield f"{' ' * indent}{name}: {value}"


def _replicas(service: Replicas) -> str:
    return f"{service.replicas} x {service.cpu_millicores}m, {service.memory_mib} MiB"


def _spans(made: Plan) -> str:
    summaries = f", {made.summaries_per_second:,.0f} of them summaries" if made.summaries_per_second else ""
    return f"{made.spans_per_second:,.0f}{summaries}"


def _rate(bytes_per_second: float) -> str:
    return f"{units.byte_count(round(bytes_per_second))}/s"


def _streams(made: Plan) -> str:
    raw, enriched = (units.byte_count(size) for size in (made.raw_stream_bytes, made.enriched_stream_bytes))
    return f"raw {raw}, enriched {enriched}" + (f", each of {made.partitions}" if made.partitions > 1 else "")


def _resources(service: Replicas) -> dict[str, dict[str, str]]:
    return {
        "requests": {"cpu": f"{service.cpu_millicores}m", "memory": f"{service.memory_mib}Mi"},
        "limits": {"memory": f"{2 * service.memory_mib}Mi"},
    }
