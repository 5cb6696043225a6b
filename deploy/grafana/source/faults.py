"""Every fault that docs/diagnosis.md tells of: how often, between whom, and the spans."""

from __future__ import annotations

from typing import Final

from deploy.grafana.source.panels import Json, dashboard, row, spans, text, timeseries, traceql
from deploy.grafana.source.selections import EACH_STEP, EDGE, WHERE, found, over_time, selected

FAULTS: Final = {
    "Refused": 'span.error.type = "connection_refused"',
    "Timed out, as the client tells": 'span.error.type = "timeout" && span.flow.observer != "server"',
    "Timed out, as the server tells: its accept queue": 'span.error.type = "timeout" && span.flow.observer = "server"',
    "Connected late: lost SYNs": 'span.flow.tcp.connect.time > 900000000 && span.flow.observer != "server"',
    "Reset by the server": 'span.error.type = "connection_reset" && span.flow.tcp.closed_by = "destination"',
    "Reset by the client": 'span.error.type = "connection_reset" && span.flow.tcp.closed_by = "source"',
    "Loss on the way to the client": (
        "span.flow.reverse.tcp.retransmits * 200 > span.flow.reverse.packets.delta"
        ' && span.flow.observer != "client" && span.flow.connection.outcome = "closed"'
    ),
    "Loss on the way to the server": (
        "span.flow.tcp.retransmits * 200 > span.flow.packets.delta"
        ' && span.flow.observer != "server" && span.flow.connection.outcome = "closed"'
    ),
    "The client does not read": "span.flow.tcp.zero_window > 0",
    "Unanswered, sent again and again: a partition": (
        "span.flow.request.unanswered > 0 && span.flow.tcp.retransmits > 1"
        ' && span.flow.observer != "server" && span.flow.connection.outcome = "established"'
    ),
    "Full segments only are lost: an MTU": (
        "span.flow.reverse.tcp.retransmit_bytes > 999 * span.flow.reverse.tcp.retransmits"
        ' && span.flow.observer != "client" && span.flow.connection.outcome = "established"'
    ),
}
"""The queries of docs/diagnosis.md; a test compares them."""
_VERDICT: Final = 'span.flow.verdict != "ok"'
_DECIDED: Final = (
    '{ span.flow.verdict = "path_or_server" && ${where:raw} }'
    ' && { span.flow.observer = "server" && span.flow.verdict =~ "server_slow|accept_queue|path_loss|path_slow|mtu" }'
)
"""What the client's end could not tell, and the server's span in the same trace could."""
_COLUMNS: Final = (
    "span.source.service.name",
    "span.destination.service.name",
    "span.flow.observer",
    "span.flow.connection.outcome",
)


def faults() -> Json:
    """The dashboard."""
    panels = [text("What each fault looks like, and what to do about it: `docs/diagnosis.md`.")]
    columns = ("span.flow.verdict", "span.flow.verdict.measure", *_COLUMNS[:3])
    of_each = over_time("count_over_time", found(_VERDICT), by="by (span.flow.verdict)")
    of_pairs = over_time("count_over_time", found(_VERDICT), by=f"{EDGE[:-1]}, span.flow.verdict) | topk(10)")
    panels += [
        row("Verdicts: what was wrong, as far as one end can tell"),
        timeseries("By verdict", traceql(of_each), about=f"Each end counts. {EACH_STEP}", stack=True),
        timeseries("Between whom", traceql(of_pairs), about=f"The ten worst. {EACH_STEP}"),
        spans("Which", selected(found(_VERDICT), *columns)),
        spans(
            "The path or the server: what the server's end says",
            selected(_DECIDED, *columns),
            about="Connections of whose two ends the client's could not tell, and the server's could.",
        ),
    ]
    for title, condition in FAULTS.items():
        panels += [
            row(title),
            timeseries("Spans", traceql(over_time("count_over_time", found(condition), by=EDGE)), about=EACH_STEP),
            spans("Which", selected(found(condition), *_COLUMNS)),
        ]
    about = "Refused, timed out, reset, sent again, not accepted, not read: between whom."
    return dashboard("wirespan-faults", "Wirespan / Faults", about, panels, [WHERE])
