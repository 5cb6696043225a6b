"""What `wirespan plan` computes with: each figure once, with its unit and where it is from.

Measured figures are those of docs/performance.md, on a small shared machine, so they err towards more. What nobody has measured
says that it is an assumption.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Figure(NamedTuple):
    """A number that the plan depends on."""

    value: float
    unit: str
    source: str


Attributes = Literal["full", "standard", "lean"]
Preset = Literal["everything", "troubles", "map"]


class Planned(NamedTuple):
    """What a preset of the exporter means for the plan."""

    attributes: Attributes
    sums_up: bool
    keeps_troubles: bool


PRESETS: Final[dict[Preset, Planned]] = {
    "everything": Planned("standard", sums_up=False, keeps_troubles=True),
    "troubles": Planned("standard", sums_up=True, keeps_troubles=True),
    "map": Planned("lean", sums_up=True, keeps_troubles=False),
}
"""The presets, by their names in WIRESPAN_EXPORTER_PRESET."""

_BUS: Final = "bench_bus"
_SPANS: Final = "bench_encoder; gzip by Python's zlib at the level that gRPC takes"
_CHOSEN: Final = "chosen"

FIGURES: Final[dict[str, Figure]] = {
    "raw_batch_bytes": Figure(2_753, "bytes a batch", _BUS),
    "raw_record_bytes": Figure(318, "bytes a record", _BUS),
    "enriched_batch_bytes": Figure(
        11_160, "bytes a batch", f"{_BUS}; the entities of a batch of 20 records, fewer in smaller ones"
    ),
    "enriched_record_bytes": Figure(675, "bytes a record", _BUS),
    "capture_batch_us": Figure(310, "µs of a core a batch", f"{_BUS}: packing and publishing"),
    "capture_record_us": Figure(4, "µs of a core a record", f"bench_socket_tap (an ended record) and {_BUS}"),
    "capture_drain_us": Figure(500, "µs of a core a drain", "bench_socket_tap, some ten thousand live flows"),
    "enricher_batch_us": Figure(900, "µs of a core a batch", _BUS),
    "enricher_record_us": Figure(4.8, "µs of a core a record", _BUS),
    "exporter_batch_us": Figure(510, "µs of a core a batch", _BUS),
    "exporter_record_us": Figure(10, "µs of a core a record", _BUS),
    "gzip_record_us": Figure(14, "µs of a core a span", _SPANS),
    "gzip_ratio": Figure(9, "times smaller", f"{_SPANS}: 8 to 12"),
    "nats_batch_us": Figure(340, "µs of a core a batch", f"{_BUS}: one server, both streams on disk"),
    "nats_record_us": Figure(4.9, "µs of a core a record", _BUS),
    "nats_message_memory": Figure(231, "bytes a message in the duplicate window", "200,000 messages into a server, its growth"),
    "span_bytes_full": Figure(2_155, "bytes a span", "bench_encoder"),
    "span_bytes_standard": Figure(1_456, "bytes a span", "bench_encoder"),
    "span_bytes_lean": Figure(896, "bytes a span", "bench_encoder"),
    "summary_bytes_standard": Figure(1_010, "bytes a summary", "bench_encoder's records, all summed up"),
    "summary_bytes_lean": Figure(770, "bytes a summary", "bench_encoder's records, all summed up"),
    "pairs_of_a_pod": Figure(5, "workload pairs and ports that a pod is an end of in a minute", "assumption"),
    "troubled_ratio": Figure(0.02, "of all records, of flows that failed, were slow or lossy", "assumption"),
    "summing_drain": Figure(10, "seconds between two looks of capture where flows are summed up", _CHOSEN),
    "enricher_memory": Figure(130, "MiB", f"{_BUS}, its peak over 10,000 pods"),
    "exporter_memory": Figure(170, "MiB", f"{_BUS}, its peak"),
    "pod_memory": Figure(2.5, "KiB a pod in each enricher", "bench_index: 118 MiB for 50,000 pods"),
    "connection_memory": Figure(50, "KiB a connection to NATS", "assumption"),
    "batch_limit_bytes": Figure(512 * 1024, "bytes a batch", "proto: larger ones are split"),
    "active_interval": Figure(30, "seconds between records of a flow that lives", "capture's default"),
    "duplicate_window": Figure(600, "seconds that a stream remembers message ids", "the streams' default"),
    "sync_interval": Figure(1, "seconds between two syncs of NATS' files", "the chart's default, `nats.syncInterval`"),
    "unsynced_intervals": Figure(
        4, "sync intervals for which an enricher keeps what it stored", "two, and as many until a quiet server is heard again"
    ),
    "utilisation": Figure(0.6, "of a core that a replica is planned to use", _CHOSEN),
    "stream_cores": Figure(
        0.6, "of a core that the leader of one stream is planned to use", "assumption: one stream is one leader"
    ),
    "server_cores": Figure(4, "cores that one NATS server is planned to use", _CHOSEN),
    "server_disk_rate": Figure(400 << 20, "bytes a second that the volume of a NATS server is to take", "assumption"),
    "headroom": Figure(1.25, "times the bytes of the outage that a stream can hold", _CHOSEN),
    "most_connections": Figure(5_000, "connections to one server before leaf nodes are advised", "assumption"),
}


def figure(name: str) -> float:
    """Return the number."""
    return FIGURES[name].value
