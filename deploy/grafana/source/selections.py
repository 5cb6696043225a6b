"""What the dashboards of flows ask for.

Each connection between two nodes has a span from either end. Where it shall count once, the client's end is asked: every
observer but `server`, so that a replayed capture file, whose observer is `capture`, is told too. Metrics of spans are those of
Tempo's generator with the dimensions of deploy/compose/tempo.yaml; metrics of flows are the exporter's, where they are on.
"""

from __future__ import annotations

from typing import Final

from deploy.grafana.source.panels import textbox

WHERE: Final = textbox("where", "Only where (TraceQL)", "true")
"""One more condition, to type in."""
EDGE: Final = "by (span.source.service.name, span.destination.service.name)"
BY_SERVER: Final = "by (span.destination.service.name)"
BY_CLIENT: Final = "by (span.source.service.name)"
EACH_STEP: Final = "In each step of the line."
BOTH_WAYS: Final = "A: client to server, B: server to client, in each step of the line."
GRAPH: Final = "traces_service_graph_request"


def found(condition: str) -> str:
    """Spans that match a condition and `$where`."""
    return f"{{ {condition} && ${{where:raw}} }}"


def selected(spans: str, *attributes: str) -> str:
    """These spans, with attributes as columns."""
    return f"{spans} | select({', '.join(attributes)})"


def quantiles(spans: str, attribute: str, *ranks: float, by: str = "") -> str:
    """Quantiles of an attribute over time."""
    return f"{spans} | quantile_over_time({', '.join((attribute, *map(str, ranks)))}) {by}".rstrip()


def over_time(how: str, spans: str, attribute: str = "", by: str = "") -> str:
    """Another function over time: `rate`, `count_over_time`, or `sum_over_time`, `max_over_time` of an attribute."""
    return f"{spans} | {how}({attribute}) {by}".rstrip()


def rate(by: str = "", **labels: str) -> str:
    """PromQL: spans per second by outcome, error or workload, each connection counted once. `labels` are matchers."""
    return f"sum {by} (rate({_calls(labels)}[$__rate_interval]))"


def _calls(labels: dict[str, str]) -> str:
    matchers = "".join(f",{label}{matcher}" for label, matcher in labels.items())
    return f'traces_spanmetrics_calls_total{{flow_observer=~"client|capture"{matchers}}}'


def flows(metric: str, by: str = "", **labels: str) -> str:
    """PromQL: a metric of flows per second, each connection counted once. `labels` are matchers."""
    matchers = "".join(f",{label}{matcher}" for label, matcher in labels.items())
    return f'sum {by} (rate({metric}{{flow_observer!="server"{matchers}}}[$__rate_interval]))'.replace("sum  (", "sum (")


def flow_quantile(rank: float, metric: str, **labels: str) -> str:
    """PromQL: a quantile of a time, whether it came over OTLP (a native histogram) or was scraped (one with bounds)."""
    scraped, sent = flows(f"{metric}_bucket", "by (le)", **labels), flows(metric, **labels)
    return f"histogram_quantile({rank}, {scraped}) or histogram_quantile({rank}, {sent})"


BEGUN: Final = {"span_kind": '!="SPAN_KIND_INTERNAL"'}
"""The first record of a connection; later ones are INTERNAL."""
FAILED: Final = {"status_code": '="STATUS_CODE_ERROR"'}
PAIR: Final = {"source_service_name": '=~"$client"', "destination_service_name": '=~"$server"'}
TCP: Final = {"network_transport": '="tcp"'}
