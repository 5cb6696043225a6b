"""One client, one server: was it the connect, the path, the queue or the server?"""

from __future__ import annotations

from typing import Final

from deploy.grafana.source.panels import Json, dashboard, label_values, promql, row, spans, stat, timeseries, traceql
from deploy.grafana.source.selections import (
    BOTH_WAYS,
    FAILED,
    GRAPH,
    PAIR,
    TCP,
    flow_quantile,
    flows,
    over_time,
    quantiles,
    rate,
    selected,
)

_ENDS: Final = (
    'span.source.service.name =~ "${client:pipe}"'
    ' && (span.destination.service.name =~ "${server:pipe}" || span.peer.service =~ "${server:pipe}")'
)
_CLIENT: Final = f'{{ {_ENDS} && span.flow.observer != "server" }}'
_SERVER: Final = f'{{ {_ENDS} && span.flow.observer = "server" }}'
_RESPONSE: Final = "span.flow.response.time"
_LONGEST_RESPONSE: Final = "span.flow.response.time_max"
_CONNECT: Final = "span.flow.tcp.connect.time"


def pair() -> Json:
    """The dashboard."""
    return dashboard(
        "wirespan-pair",
        "Wirespan / Workload pair",
        "Was it the connect, the path, the queue or the server?",
        [*_numbers(), row("Time"), *_times(), row("Path"), *_path(), row("Outcome"), *_outcome(), *_requests()],
        [
            label_values("client", "Client", f"label_values({GRAPH}_total, client)"),
            label_values("server", "Server", f'label_values({GRAPH}_total{{client=~"$client"}}, server)'),
        ],
    )


def _numbers() -> list[Json]:
    edges = '{client=~"$client",server=~"$server"}[$__rate_interval]'
    failed = promql(f"sum(rate({GRAPH}_failed_total{edges}))")
    return [
        stat("Connections", promql(f"sum(rate({GRAPH}_total{edges}))"), unit="cps", width=6),
        stat("Failed", failed, unit="cps", width=6, bad_above=0.001),
        stat("Longest connect", traceql(over_time("max_over_time", _CLIENT, _CONNECT)), unit="ns", width=6),
        stat("Longest response", traceql(over_time("max_over_time", _CLIENT, _LONGEST_RESPONSE)), unit="ns", width=6),
    ]


def _times() -> list[Json]:
    return [
        timeseries(
            "Connect",
            traceql(quantiles(_CLIENT, _CONNECT, 0.5, 0.99)),
            unit="ns",
            about="First SYN to the ACK that completes the handshake; a lost SYN costs a second.",
        ),
        timeseries(
            "Round trip",
            traceql(quantiles(_CLIENT, "span.flow.tcp.handshake.latency", 0.5, 0.99)),
            traceql(quantiles(_CLIENT, "span.flow.tcp.socket.rtt.smoothed", 0.5)),
            unit="ns",
            about="A: SYN to SYN-ACK. B: the kernel's smoothed round-trip time at the client, live only.",
        ),
        timeseries(
            "Response time, as the client waits",
            traceql(quantiles(_CLIENT, _RESPONSE, 0.5, 0.99)),
            traceql(over_time("max_over_time", _CLIENT, _LONGEST_RESPONSE)),
            unit="ns",
        ),
        timeseries(
            "Response time, as the server takes",
            traceql(quantiles(_SERVER, _RESPONSE, 0.5, 0.99)),
            traceql(over_time("max_over_time", _SERVER, _LONGEST_RESPONSE)),
            unit="ns",
            about="What the client waits longer than this is the path. Empty where the server's node is not captured.",
        ),
    ]


def _path() -> list[Json]:
    both_ways = {"Bytes": ("bytes.delta", "bytes"), "Segments sent again": ("tcp.retransmits", "short")}
    return [
        timeseries(
            title,
            traceql(over_time("sum_over_time", _CLIENT, f"span.flow.{measure}")),
            traceql(over_time("sum_over_time", _CLIENT, f"span.flow.reverse.{measure}")),
            unit=unit,
            about=BOTH_WAYS,
        )
        for title, (measure, unit) in both_ways.items()
    ]


def _requests() -> list[Json]:
    sent_again = [
        f"{flows(f'flow_{way}tcp_retransmits_total', **PAIR)} / {flows(f'flow_{way}packets_total', **PAIR, **TCP)}"
        for way in ("", "reverse_")
    ]
    quantiles_of_time = [
        promql(flow_quantile(rank, "flow_response_time_seconds", **PAIR), f"{rank:.0%}") for rank in (0.5, 0.95, 0.99)
    ]
    verdicts = flows("flow_records_total", "by (flow_verdict)", **PAIR, flow_verdict='!~"ok|unknown"')
    return [
        row("Every request (metrics of flows, where the exporter makes them)"),
        timeseries("Response time", *quantiles_of_time, unit="s", about="Of requests, not of records, none left out.", width=8),
        timeseries(
            "Share of segments sent again", *map(promql, sent_again), unit="percentunit", about="A: forth, B: back.", width=8
        ),
        timeseries(
            "Trouble by verdict", promql(verdicts, "{{flow_verdict}}"), unit="cps", about="Records.", width=8, stack=True
        ),
    ]


def _outcome() -> list[Json]:
    slow = selected(f"{{ {_ENDS} && {_LONGEST_RESPONSE} > 100000000 }}", "span.flow.observer", _LONGEST_RESPONSE, _CONNECT)
    failed = selected(f"{{ {_ENDS} && status = error }}", "span.flow.observer", "span.error.type", "span.flow.tcp.syn_repeats")
    return [
        timeseries(
            "By outcome",
            promql(rate("by (flow_connection_outcome)", **PAIR), "{{flow_connection_outcome}}"),
            unit="cps",
            about="Records; a connection that lives longer than 30 s has several.",
            stack=True,
        ),
        timeseries("Errors", promql(rate("by (error_type)", **PAIR, **FAILED), "{{error_type}}"), unit="cps"),
        spans("Slow responses", slow, about="Over 100 ms."),
        spans("Failed", failed),
    ]
