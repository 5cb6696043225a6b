"""The columns of a table of records: what each shows and what it is ordered by. For `tap -o table` and the page's flows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.cli.views import units
from services.cli.views.flow_line import OUTCOME_STYLES
from services.cli.views.flow_view import FlowView

_TIME_OF_DAY: Final = 12


@dataclass(frozen=True, slots=True)
class FlowColumn:
    """One of them."""

    heading: str
    width: int
    """What is wider pushes the rest to the right: a name is never cut."""
    cell: Callable[[FlowView], str]
    style: Callable[[FlowView], str] = lambda _: ""
    order: Callable[[FlowView], int] | None = None
    """A number to order records by; without it they are ordered by what is shown."""


def time_cell(view: FlowView) -> str:
    """When the record's last packet came; the one column that may be wider than it says, for its date."""
    return units.moment(view.end_unix_ns)


def _seen_by(view: FlowView) -> str:
    if view.captured:
        return "capture"
    return ("client" if view.local_is_source else "server") if view.directed else "-"


def _mean_ns(view: FlowView) -> int:
    return view.response_sum_ns // view.responses if view.responses else 0


FLOW_COLUMNS: Final = (
    FlowColumn("TIME", _TIME_OF_DAY, time_cell, order=lambda view: view.end_unix_ns),
    FlowColumn("SOURCE", 34, lambda view: str(view.source)),
    FlowColumn("DESTINATION", 34, lambda view: str(view.destination)),
    FlowColumn("PROTOCOL", 8, lambda view: view.transport),
    FlowColumn("OUTCOME", 11, lambda view: view.outcome or "-", lambda view: OUTCOME_STYLES.get(view.outcome, "")),
    FlowColumn("VERDICT", 15, lambda view: view.verdict or "-", lambda view: "yellow" if view.verdict_measure else ""),
    FlowColumn("SENT", 8, lambda view: units.byte_count(view.bytes_out), order=lambda view: view.bytes_out),
    FlowColumn("RECEIVED", 8, lambda view: units.byte_count(view.bytes_in), order=lambda view: view.bytes_in),
    FlowColumn(
        "CONNECT",
        7,
        lambda view: "-" if view.connect_ns is None else units.duration(view.connect_ns),
        order=lambda view: view.connect_ns or 0,
    ),
    FlowColumn(
        "MAX RESPONSE",
        12,
        lambda view: units.duration(view.response_max_ns) if view.responses else "-",
        order=lambda view: view.response_max_ns,
    ),
    FlowColumn("MEAN", 7, lambda view: units.duration(_mean_ns(view)) if view.responses else "-", order=_mean_ns),
    FlowColumn(
        "RESENT",
        6,
        lambda view: units.count(view.retransmits + view.syn_repeats),
        order=lambda view: view.retransmits + view.syn_repeats,
    ),
    FlowColumn("SEEN BY", 7, _seen_by),
)
