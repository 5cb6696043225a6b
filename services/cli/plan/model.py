"""From nodes and flows to what has to run: arithmetic over `figures`, nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from services.cli.plan.figures import PRESETS, Attributes, Preset, figure
from services.runtime.settings import NatsSettings, StreamSettings

_MIB: Final = 1 << 20
_US: Final = 1e-6
_MANY_NODES: Final = 1000
_FEW_NODES: Final = 100
_LONGEST_DRAIN_SECONDS: Final = 3.0
_OTHER_STREAMS_BYTES: Final = 512 * _MIB
"""FLOWS_DEAD and KUBE_CACHE, as they are by default."""
_FILE_SHARE: Final = 0.9
_TWO_STREAMS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What there is to be seen, and what is asked for."""

    nodes: int
    flows_per_node: float
    """New flows a second on each node. A connection between two pods of the cluster is a flow at each of its ends."""
    open_flows: int = 200
    """Flows that live for long, on each node at a time."""
    pods_per_node: int = 30
    outage_minutes: float = 10.0
    """How long the backend, or the enrichers, may be away before the streams are full."""
    preset: Preset = "everything"
    attributes: Attributes | None = None
    """None: the preset's."""
    pairs_per_node: int | None = None
    """Workload pairs and ports that a node sees in a minute; None: so many for each of its pods."""
    troubled_ratio: float | None = None
    """Of all records, of flows that failed, were slow or lossy; None: the assumption."""
    gzip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """How many of a service, and what each asks for."""

    replicas: int
    cores: float
    """Of all together, at the planned load."""
    cpu_millicores: int
    """Request of each."""
    memory_mib: int
    """Request of each; the limit is twice that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. Rates are of the whole cluster; replicas, streams and volumes are of each release."""

    load: Load
    records_per_second: float
    batches_per_second: float
    drain_interval_seconds: float
    releases: int
    """Installations of the chart, each with a NATS of its own and its share of the nodes."""
    partitions: int
    """Streams that FLOWS_RAW and FLOWS_ENRICHED are each in a release; the bytes of a stream are those of one of them."""
    nodes_per_release: int
    capture: Replicas
    enricher: Replicas
    exporter: Replicas
    nats: Replicas
    raw_bytes_per_second: float
    enriched_bytes_per_second: float
    raw_stream_bytes: int
    enriched_stream_bytes: int
    unsynced_bytes: int
    """Most that a service keeps of what NATS has stored and may not have synced; an enricher needs the most."""
    volume_gib: int
    connections_per_server: int
    leaf_nodes: bool
    attributes: Attributes
    spans_per_second: float
    summaries_per_second: float
    """Of these spans, those that stand for several flows."""
    backend_bytes_per_second: float
    """As they travel: compressed where that is asked for."""
    backend_bytes_per_day: float
    """As they are encoded; what the backend stores depends on the backend."""


def plan(load: Load) -> Plan:
    """Return what to run for the load."""
    drain = _drain_seconds(load)
    records = load.flows_per_node + load.open_flows / figure("active_interval")
    batches = _batches(records, drain)
    all_records, all_batches = records * load.nodes, batches * load.nodes
    nats_cores = _cores("nats", all_batches, all_records)
    raw = _bytes("raw", batches, records) * load.nodes
    enriched = _bytes("enriched", batches, records) * load.nodes
    releases = _releases(nats_cores, raw + enriched)
    partitions = _partitions(nats_cores / releases)
    nodes = math.ceil(load.nodes / releases)
    queues = releases * partitions
    raw_stream, enriched_stream = (_stream_bytes(rate / queues, load.outage_minutes) for rate in (raw, enriched))
    raw_stream = max(raw_stream, _share_bytes(batches, load.outage_minutes))
    spans, summaries = (each * load.nodes for each in _spans(load, records, batches))
    exporting = _cores("exporter", all_batches, all_records) + load.gzip * spans * figure("gzip_record_us") * _US
    enricher = _service(_cores("enricher", all_batches, all_records) / releases, _enricher_mib(load))
    unsynced = _unsynced_bytes(enriched / releases, enricher.replicas)
    enricher = replace(enricher, memory_mib=_rounded_up(_enricher_mib(load) + unsynced / _MIB, 64))
    exporter = _service(exporting / releases, figure("exporter_memory"))
    servers = 1 if load.nodes < _FEW_NODES else 3
    connections = math.ceil((nodes + enricher.replicas + exporter.replicas) / servers)
    attributes = load.attributes or PRESETS[load.preset].attributes
    sent = (spans - summaries) * figure(f"span_bytes_{attributes}") + summaries * _summary_bytes(attributes)
    return Plan(
        load=load,
        records_per_second=all_records,
        batches_per_second=all_batches,
        drain_interval_seconds=round(drain, 1),
        releases=releases,
        partitions=partitions,
        nodes_per_release=nodes,
        capture=_capture(records, batches, drain, load.nodes),
        enricher=enricher,
        exporter=exporter,
        nats=_nats(servers, nats_cores / releases, all_batches / releases, connections),
        raw_bytes_per_second=raw,
        enriched_bytes_per_second=enriched,
        raw_stream_bytes=raw_stream,
        enriched_stream_bytes=enriched_stream,
        unsynced_bytes=unsynced,
        volume_gib=math.ceil((partitions * (raw_stream + enriched_stream) + _OTHER_STREAMS_BYTES) / _FILE_SHARE / 1024 / _MIB),
        connections_per_server=connections,
        leaf_nodes=connections > figure("most_connections"),
        attributes=attributes,
        spans_per_second=spans,
        summaries_per_second=summaries,
        backend_bytes_per_second=sent / (figure("gzip_ratio") if load.gzip else 1),
        backend_bytes_per_day=sent * 86_400,
    )


def _releases(nats_cores: float, bytes_per_second: float) -> int:
    """Each server of a release stores all of it, so what one server can do is what a release can."""
    return max(1, math.ceil(nats_cores / figure("server_cores")), math.ceil(bytes_per_second / figure("server_disk_rate")))


def _partitions(nats_cores: float) -> int:
    """Streams enough that no leader has more than a stream is planned to have."""
    return max(1, math.ceil(nats_cores / (figure("stream_cores") * _TWO_STREAMS)))


def _drain_seconds(load: Load) -> float:
    """How often capture looks. Sums are made within what a look finds, so where there are sums it looks less often."""
    if PRESETS[load.preset].sums_up:
        return figure("summing_drain")
    return min(max(1.0, load.nodes / _MANY_NODES), _LONGEST_DRAIN_SECONDS)


def _spans(load: Load, records_per_second: float, batches_per_second: float) -> tuple[float, float]:
    """Spans a second of a node, and how many of them are summaries.

    A batch of n records of p equally busy pairs has p * (1 - (1 - 1/p)**n) of the pairs in it. Real traffic has few busy pairs
    and many quiet ones, and so fewer.
    """
    preset = PRESETS[load.preset]
    if not preset.sums_up or not batches_per_second:
        return records_per_second, 0.0
    troubled = figure("troubled_ratio") if load.troubled_ratio is None else load.troubled_ratio
    kept = records_per_second * troubled if preset.keeps_troubles else 0.0
    pairs = load.pairs_per_node or max(1, round(load.pods_per_node * figure("pairs_of_a_pod")))
    records = (records_per_second - kept) / batches_per_second
    summaries = min(records, pairs * (1 - (1 - 1 / pairs) ** records)) * batches_per_second
    return kept + summaries, summaries


def _summary_bytes(attributes: Attributes) -> float:
    """What a summary weighs. `full` was not measured: no more than a span of its own."""
    return figure("span_bytes_full" if attributes == "full" else f"summary_bytes_{attributes}")


def _batches(records_per_second: float, drain_seconds: float) -> float:
    """Batches a second of a node: one for each drain that finds records, more where they do not fit into one."""
    drains = min(1 / drain_seconds, records_per_second)
    if not drains:
        return 0.0
    size = figure("raw_batch_bytes") + records_per_second / drains * figure("raw_record_bytes")
    return drains * math.ceil(size / figure("batch_limit_bytes"))


def _cores(service: str, batches: float, records: float) -> float:
    return (batches * figure(f"{service}_batch_us") + records * figure(f"{service}_record_us")) * _US


def _bytes(stage: str, batches: float, records: float) -> float:
    return batches * figure(f"{stage}_batch_bytes") + records * figure(f"{stage}_record_bytes")


def _stream_bytes(bytes_per_second: float, outage_minutes: float) -> int:
    """What an outage leaves in a stream, in whole MiB and never less than 256 of them."""
    return max(256, math.ceil(bytes_per_second * outage_minutes * 60 * figure("headroom") / _MIB)) * _MIB


def _share_bytes(batches_per_second: float, outage_minutes: float) -> int:
    """The stream of which the batches that an outage leaves of one node are a node's share."""
    batches = batches_per_second * outage_minutes * 60 * figure("headroom")
    return math.ceil(batches * figure("batch_limit_bytes") / StreamSettings().raw_node_share / _MIB) * _MIB


def _unsynced_bytes(enriched_bytes_per_second: float, enrichers: int) -> int:
    """What an enricher stores within the time for which it keeps it, one of them being away."""
    seconds = figure("sync_interval") * figure("unsynced_intervals")
    kept = enriched_bytes_per_second / max(1, enrichers - 1) * seconds * figure("headroom")
    return max(NatsSettings().unsynced_bytes, _rounded_up(kept, _MIB))


def _service(cores: float, memory_mib: float) -> Replicas:
    """One core is what a replica can use; two are there, so that one may go."""
    replicas = max(2, math.ceil(cores / figure("utilisation")))
    return Replicas(
        replicas=replicas,
        cores=cores,
        cpu_millicores=_millicores(cores / replicas),
        memory_mib=_rounded_up(memory_mib, 64),
    )


def _capture(records: float, batches: float, drain: float, nodes: int) -> Replicas:
    cores = _cores("capture", batches, records) + figure("capture_drain_us") * _US / drain
    return Replicas(replicas=nodes, cores=cores * nodes, cpu_millicores=_millicores(cores), memory_mib=128)


def _enricher_mib(load: Load) -> float:
    """Every replica of every release knows the pods of the whole cluster: anybody may be at the other end."""
    return figure("enricher_memory") + load.nodes * load.pods_per_node * figure("pod_memory") / 1024


def _nats(servers: int, cores: float, batches_per_second: float, connections: int) -> Replicas:
    """Each server of a cluster stores what the leader does, so each is given what one alone would need."""
    remembered = batches_per_second * _TWO_STREAMS * figure("duplicate_window") * figure("nats_message_memory")
    memory = 256 + remembered / _MIB + connections * figure("connection_memory") / 1024
    return Replicas(
        replicas=servers, cores=cores * servers, cpu_millicores=_millicores(cores), memory_mib=_rounded_up(memory, 128)
    )


def _millicores(cores: float) -> int:
    return max(50, _rounded_up(cores * 1000 / figure("utilisation"), 50))


def _rounded_up(number: float, step: int) -> int:
    return math.ceil(number / step) * step
