"""Records as rows of the page's table: what `tap -o table` shows, and what each is ordered by."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final

from services.cli.tap.filters import FlowFilter
from services.cli.view.kept import Kept
from services.cli.views.conversations import SLOW_NS
from services.cli.views.flow_columns import FLOW_COLUMNS
from services.cli.views.flow_view import FlowView

MOST_ROWS: Final = 5_000
ORDERED: Final = [column.order is not None for column in FLOW_COLUMNS]


def flows(kept: Kept, which: FlowFilter, *, after: int) -> dict[str, Any]:
    """Return the latest records that are wanted, of those with a number beyond `after`."""
    pieces = kept.pieces
    # What comes meanwhile is of the next answer.
    last = max((int(piece.numbers[-1]) for piece in pieces), default=0)
    newer = [piece for piece in pieces if piece.numbers[-1] > after]
    found = [
        (number, view, piece.batch.column("flow_id")[at]) for piece in newer for number, at, view in piece.wanted(which, after)
    ]
    found.sort(key=itemgetter(0))
    rows = [_row(number, view, int(flow_id)) for number, view, flow_id in found[-MOST_ROWS:]]
    return {
        "columns": [column.heading.lower() for column in FLOW_COLUMNS],
        "numeric": ORDERED,
        "rows": rows,
        "last": last,
        "left_out": len(found) - len(rows),
    }


def level(view: FlowView) -> int:
    """How bad a record is: 3 failed, 2 slow, 1 something was sent again or judged, 0 nothing."""
    if view.failed:
        return 3
    waits = (view.connect_ns or 0, view.response_max_ns, (view.exchange and view.exchange.wait_ns) or 0)
    if max(*waits, *(lookup.time_ns for lookup in view.lookups)) >= SLOW_NS:
        return 2
    return 1 if view.verdict_measure or view.retransmits or view.syn_repeats else 0


def _row(number: int, view: FlowView, flow_id: int) -> dict[str, Any]:
    return {
        "n": number,
        "flow": f"{flow_id:#x}",
        "trace": view.exchange.trace_id if view.exchange else "",
        "level": level(view),
        "cells": [column.cell(view) for column in FLOW_COLUMNS],
        "order": [column.order(view) if column.order else 0 for column in FLOW_COLUMNS],
    }
