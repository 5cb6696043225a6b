"""Who talks to whom, how much, how well."""

from __future__ import annotations

from typing import Final

from deploy.grafana.source.panels import Json, dashboard, promql, service_map, spans, stat, table, timeseries, traceql
from deploy.grafana.source.selections import (
    BEGUN,
    BOTH_WAYS,
    BY_SERVER,
    EACH_STEP,
    EDGE,
    FAILED,
    GRAPH,
    WHERE,
    flows,
    found,
    over_time,
    quantiles,
    rate,
    selected,
)

_TOLD_ONCE: Final = found('span.flow.observer != "server"')
_SLOW: Final = found('span.flow.response.time_max > 100000000 && span.flow.observer != "server"')
_ACROSS_ZONES: Final = found(
    'span.flow.observer != "server" && span.source.cloud.availability_zone != span.destination.cloud.availability_zone'
)
_OUTWARDS: Final = found(
    'span.flow.observer != "server" && (span.flow.destination.resolution = "external" || span.destination.external.name != nil)'
)
_ZONES: Final = f"{EDGE[:-1]}, span.source.cloud.availability_zone, span.destination.cloud.availability_zone)"
_OUTSIDE: Final = "by (span.source.service.name, span.server.address, span.destination.external.name)"
_BYTES: Final = ("span.flow.bytes.delta", "span.flow.reverse.bytes.delta")
_PAIR: Final = "/d/wirespan-pair?var-client=${__data.fields.Client}&var-server=${__data.fields.Server}&${__url_time_range}"
_OF_FLOWS: Final = "Of every record, with any preset: metrics of flows, where the exporter makes them."
_FAILED_SHARE: Final = f"{rate(**FAILED)} / {rate(**BEGUN)}"


def overview() -> Json:
    """The dashboard."""
    return dashboard(
        "wirespan-overview",
        "Wirespan / Overview",
        "Who talks to whom, how much and how well, as the sockets tell it.",
        [*_numbers(), _map(), *_lines(), *_tables()],
        [WHERE],
    )


def _numbers() -> list[Json]:
    longest = over_time("max_over_time", _TOLD_ONCE, "span.flow.response.time_max")
    volume = over_time("sum_over_time", _TOLD_ONCE, "span.flow.bytes.delta")
    pairs = f"count(count by (client, server) ({GRAPH}_total))"
    return [
        stat("Connections", promql(rate(**BEGUN)), unit="cps", about="Begun per second."),
        stat("Failed", promql(rate(**FAILED)), unit="cps", about="Refused, timed out or reset.", bad_above=0.001),
        stat("Failed of all", promql(_FAILED_SHARE), unit="percentunit", bad_above=0.01),
        stat("Workload pairs", promql(pairs), about="Edges of the graph below."),
        stat("Longest response", traceql(longest), unit="ns"),
        stat("Bytes", traceql(volume), unit="bytes", about=f"Client to server. {EACH_STEP}"),
    ]


def _map() -> Json:
    about = (
        "Drawn by Tempo from the two ends of each connection. `external` is outside the cluster, `user` who came in from there."
    )
    return service_map("Who talks to whom", about=about)


def _lines() -> list[Json]:
    pair = "by (source_service_name, destination_service_name)"
    ends = "{{source_service_name}} → {{destination_service_name}}"
    return [
        timeseries(
            "Connections by outcome",
            promql(rate("by (flow_connection_outcome)", **BEGUN), "{{flow_connection_outcome}}"),
            unit="cps",
            about="As it was known with the connection's first record; without a name: not TCP.",
            stack=True,
        ),
        timeseries(
            "Failed connections", promql(f"topk(10, {rate(pair, **FAILED)})", ends), unit="cps", about="The ten worst pairs."
        ),
        timeseries(
            "Response time, 95 %",
            traceql(quantiles(_TOLD_ONCE, "span.flow.response.time", 0.95, by=BY_SERVER)),
            unit="ns",
            about="From a request's last byte to its response's first, at the client's socket; each record counts once.",
        ),
        timeseries(
            "Bytes by pair",
            *(traceql(over_time("sum_over_time", _TOLD_ONCE, way, f"{EDGE} | topk(10)")) for way in _BYTES),
            unit="bytes",
            about=BOTH_WAYS,
        ),
        timeseries(
            "Bytes across zones",
            *(traceql(over_time("sum_over_time", _ACROSS_ZONES, way, f"{_ZONES} | topk(10)")) for way in _BYTES),
            unit="bytes",
            about=f"Between workloads whose nodes are in different zones. {BOTH_WAYS}",
        ),
        timeseries(
            "Bytes to the outside, by workload and name",
            *(traceql(over_time("sum_over_time", _OUTWARDS, way, f"{_OUTSIDE} | topk(10)")) for way in _BYTES),
            unit="bytes",
            about=f"The name is the one that was looked up, or that of the network. {BOTH_WAYS}",
        ),
        timeseries(
            "Leaving the cluster, exactly",
            promql(f"topk(10, {flows('flow_egress_bytes_total', 'by (source_service_name, destination_service_name)')})", ends),
            unit="Bps",
            about=_OF_FLOWS,
        ),
        timeseries(
            "Across zones, exactly",
            promql(
                f"topk(10, {flows('flow_cross_zone_bytes_total', 'by (source_service_name, destination_service_name)')})", ends
            ),
            unit="Bps",
            about=f"Both ways. {_OF_FLOWS}",
        ),
    ]


def _tables() -> list[Json]:
    columns = ("span.flow.response.time_max", "span.source.service.name", "span.destination.service.name")
    return [
        table(
            "Edges",
            *(
                promql(f"sum by (client, server) (rate({GRAPH}{kind}[$__range]))", now=True)
                for kind in ("_total", "_failed_total")
            ),
            columns={"client": "Client", "server": "Server", "Value #A": "Connections/s", "Value #B": "Failed/s"},
            units={"Connections/s": "cps", "Failed/s": "cps"},
            link={"title": "This pair", "url": _PAIR},
        ),
        spans("Slow responses", selected(_SLOW, *columns), about="Over 100 ms."),
    ]
