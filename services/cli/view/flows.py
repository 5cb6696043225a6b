"""Records as rows of the page's table: what `tap -o table` shows, and what each is ordered by."""

from __future__ import annotations

from collections import deque
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
    rows: deque[dict[str, Any]] = deque(maxlen=MOST_ROWS)
    found = 0
    pieces = kept.pieces
    # What comes meanwhile is of the next answer.
    last = pieces[-1].first + pieces[-1].batch.count - 1 if pieces else 0
    for piece in pieces:
        if piece.first + piece.batch.count <= after:
            continue
        for number, at, view in piece.wanted(which, after):
            found += 1
            rows.append(_row(number, view, int(piece.batch.column("flow_id")[at])))
    return {
        "columns": [column.heading.lower() for column in FLOW_COLUMNS],
        "numeric": ORDERED,
        "rows": list(rows),
        "last": last,
        "left_out": found - len(rows),
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
