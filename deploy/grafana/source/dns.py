"""What asking for names costs: how long it takes, who waits, which names fail, and what search domains cost."""

from __future__ import annotations

from typing import Final

from deploy.grafana.source.panels import Json, dashboard, spans, stat, timeseries, traceql
from deploy.grafana.source.selections import BY_CLIENT, BY_SERVER, EACH_STEP, WHERE, found, over_time, quantiles, selected

_CLIENTS: Final = 'span.destination.port = 53 && span.flow.observer != "server"'
_UDP: Final = f'{_CLIENTS} && span.network.transport = "udp"'
_ASKED: Final = found(_UDP)
_OVER_TCP: Final = found(f'{_CLIENTS} && span.network.transport = "tcp"')
_SILENT: Final = found(f"{_UDP} && span.flow.request.unanswered > 0")
_SLOW: Final = found(f"{_UDP} && span.flow.response.time_max > 150000000")
_QUESTION: Final = 'name = "dns question" && span.flow.direction != "reverse"'
_FAILED_QUESTION: Final = found(f"{_QUESTION} && status = error")
_SLOW_QUESTION: Final = found(f"{_QUESTION} && span.flow.dns.time > 100000000")
_NAME: Final = "span.dns.question.name"
_TIME: Final = "span.flow.response.time"
_LONGEST: Final = "span.flow.response.time_max"
_COLUMNS: Final = (
    "span.source.service.name",
    "span.destination.service.name",
    _NAME,
    "span.flow.dns.slowest.name",
    _LONGEST,
    "span.flow.packets.total",
)
_OF_QUESTION: Final = (
    "span.source.service.name",
    "span.destination.service.name",
    _NAME,
    "span.dns.question.type",
    "span.dns.response_code",
    "span.flow.dns.time",
    "span.flow.dns.repeats",
)


def dns() -> Json:
    """The dashboard."""
    about = "How long names take, who waits, and which fail."
    return dashboard("wirespan-dns", "Wirespan / DNS", about, [*_numbers(), *_lines(), *_tables()], [WHERE])


def _numbers() -> list[Json]:
    return [
        stat(
            "Asked",
            traceql(over_time("rate", _ASKED)),
            unit="cps",
            about="Flows; a resolver library may ask twice in one.",
            width=6,
        ),
        stat("Never answered", traceql(over_time("rate", _SILENT)), unit="cps", width=6, bad_above=0.001),
        stat("Slow", traceql(over_time("rate", _SLOW)), unit="cps", about="Over 150 ms.", width=6, bad_above=0.001),
        stat("Longest", traceql(over_time("max_over_time", _ASKED, _LONGEST)), unit="ns", width=6),
    ]


def _lines() -> list[Json]:
    return [
        timeseries(
            "Response time",
            traceql(quantiles(_ASKED, _TIME, 0.5, 0.95, 0.99)),
            unit="ns",
            about="Question to answer, at the client.",
        ),
        timeseries("Response time by resolver, 95 %", traceql(quantiles(_ASKED, _TIME, 0.95, by=BY_SERVER)), unit="ns"),
        timeseries("Asked, by client", traceql(over_time("rate", _ASKED, by=f"{BY_CLIENT} | topk(10)")), unit="cps"),
        timeseries(
            "Never answered, by client",
            traceql(over_time("count_over_time", _SILENT, by=BY_CLIENT)),
            about=EACH_STEP,
        ),
        timeseries(
            "Failing, by name",
            traceql(over_time("count_over_time", _FAILED_QUESTION, by=f"by ({_NAME}) | topk(10)")),
            about=f"Answered by SERVFAIL, or not at all. {EACH_STEP}",
        ),
        timeseries(
            "Slow, by name",
            traceql(over_time("max_over_time", _SLOW_QUESTION, "span.flow.dns.time", f"by ({_NAME}) | topk(10)")),
            unit="ns",
            about="The longest of those over 100 ms.",
        ),
        timeseries(
            "Names that do not exist, by client",
            traceql(over_time("sum_over_time", _ASKED, "span.flow.dns.responses.nxdomain", f"{BY_CLIENT} | topk(10)")),
            about=f"Most are search domains that were tried first (ndots); beside, what was found. {EACH_STEP}",
        ),
        timeseries(
            "Names that exist, by client",
            traceql(over_time("sum_over_time", _ASKED, "span.flow.dns.responses.noerror", f"{BY_CLIENT} | topk(10)")),
            about=f"Three misses for each of them are what `ndots:5` and three search domains cost. {EACH_STEP}",
        ),
        timeseries(
            "Over TCP, by client",
            traceql(over_time("rate", _OVER_TCP, by=BY_CLIENT)),
            unit="cps",
            about="Answers too large for a datagram, or a resolver that is told to use TCP.",
        ),
        timeseries(
            "Bytes of answers, by resolver",
            traceql(over_time("sum_over_time", _ASKED, "span.flow.reverse.bytes.delta", BY_SERVER)),
            unit="bytes",
            about=EACH_STEP,
        ),
    ]


def _tables() -> list[Json]:
    return [
        spans("Never answered", selected(_SILENT, *_COLUMNS)),
        spans("Slow", selected(_SLOW, *_COLUMNS), about="Over 150 ms."),
        spans("Questions that failed", selected(_FAILED_QUESTION, *_OF_QUESTION)),
        spans("Slow questions", selected(_SLOW_QUESTION, *_OF_QUESTION), about="Over 100 ms."),
    ]
