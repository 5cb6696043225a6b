"""One record, one line: for `wirespan tap` and for `wirespan up` without a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from services.cli.views import units
from services.cli.views.flow_view import ExchangeView, FlowView, LookupView

OUTCOME_STYLES: Final = {
    "closed": "green",
    "established": "green",
    "half open": "yellow",
    "refused": "bold red",
    "timeout": "bold red",
    "unanswered": "bold red",
    "reset": "red",
    "waiting": "yellow",
    "exchange": "cyan",
    "question": "cyan",
}
"""Colours of the outcomes, the same wherever one is shown."""

_ENDS_WIDTH: Final = 56


def flow_line(view: FlowView, *, again: bool = False) -> Text:
    """Return the record as one line:
    time, source -> destination, transport, outcome, bytes each way, then only what there is to say.

    `<>` in place of the arrow: nobody saw who began. The time is that of the record's last packet, in the local time zone, with
    the date where that is not today.
    `again`: the other end of the connection has told of it too, so that this line is its second telling and says so.
    """
    line = Text(no_wrap=True)
    line.append(f"{units.moment(view.end_unix_ns)}  ", style="dim")
    ends = f"{view.source} {'->' if view.directed else '<>'} {view.destination}"
    line.append(f"{ends:<{_ENDS_WIDTH}}  {view.transport:<4} ")
    line.append(f"{view.outcome:<11}", style=OUTCOME_STYLES.get(view.outcome, ""))
    if not view.question:
        line.append(f"  {units.byte_count(view.bytes_out)} out, {units.byte_count(view.bytes_in)} in")
    if view.connect_ns is not None:
        line.append(f"  connect {units.duration(view.connect_ns)}")
    if view.exchange is not None:
        line.append(_exchange(view.exchange))
    if view.responses:
        line.append(f"  response {_response(view)}")
    for lookup in view.lookups:
        line.append(_lookup(lookup), style="red" if lookup.failed else "")
    for trouble in _troubles(view):
        line.append(f"  {trouble}", style="yellow")
    if again:
        line.append(f"  again, as {_teller(view)} saw it", style="dim")
    line.rstrip()
    return line


def _troubles(view: FlowView) -> Iterator[str]:
    """What went wrong beside the outcome, and at the end what it comes to."""
    if view.waiting and view.over:
        yield f"{units.counted(view.waiting, 'request')} without a response"
    if view.syn_repeats:
        yield f"{view.syn_repeats + 1} SYNs"
    if view.retransmits:
        yield units.counted(view.retransmits, "retransmission")
    if view.verdict_measure and view.verdict != view.outcome:
        yield f"{view.verdict} ({view.verdict_measure})"


def _lookup(lookup: LookupView) -> str:
    """What was asked, what it was answered, how long that took, and how often it was asked again."""
    time = f" in {units.duration(lookup.time_ns)}" if lookup.time_ns else ""
    repeats = f", {units.counted(lookup.repeats, 'repeat')}" if lookup.repeats else ""
    return f"  {lookup.type} {lookup.name} {lookup.code}{time}{repeats}"


def _exchange(exchange: ExchangeView) -> str:
    """Where its time went, how it ended where no response did, and whose it is."""
    phases = {"request": exchange.request_ns, "server wait": exchange.wait_ns, "response": exchange.response_ns}
    said = "".join(f"  {name} {units.duration(time)}" for name, time in phases.items() if time)
    silent = "" if exchange.wait_ns is not None else f"  no response ({exchange.end})"
    if exchange.is_part:
        silent = "  its connection, which others share"
    return f"{said}{silent}  trace {exchange.trace_id}"


def _teller(view: FlowView) -> str:
    if not view.directed:
        return "the other end"
    return "the client" if view.local_is_source else "the server"


def _response(view: FlowView) -> str:
    if view.responses == 1:
        return units.duration(view.response_max_ns)
    mean = units.duration(view.response_sum_ns // view.responses)
    return f"{mean} (max {units.duration(view.response_max_ns)}, {view.responses} times)"
