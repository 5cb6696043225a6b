"""What spans were met with, as the exchanges are that are read on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from services.capture.flows.exchange_layout import MET, MET_EXCHANGE, PART, Exchanges
from services.capture.meeting.likelihood import as_times
from services.capture.meeting.parts import Part
from services.capture.meeting.ring import Rows
from services.capture.meeting.turns import TurnFlag

if TYPE_CHECKING:
    from services.capture.meeting.questions import Rows as Asked

CONNECTION_FACTS: Final = (
    "flow_id", "owner", "local_address", "remote_address", "local_port", "remote_port", "role", "isn_seen", "local_isn",
    "remote_isn", "transport",
)  # fmt: skip
"""What is told of a connection, whatever is told of it."""


def met_exchanges(spans: Asked, rows: Rows, facts: Rows) -> Exchanges:
    """Return exchanges as those are that were read on the wire, with the spans that they were met by."""
    found = np.zeros(len(spans), MET_EXCHANGE)
    for name in CONNECTION_FACTS:
        found[name] = facts[name]
    for name in ("number", "request_first_ns", "request_last_ns", "response_first_ns", "response_last_ns", "request_bytes",
                 "response_bytes"):  # fmt: skip
        found[name] = rows[name]
    # What the server said first may not have been the response: then it is not known when that began.
    tickets = rows["flags"] & np.uint8(TurnFlag.TICKETS) != 0
    found["response_first_ns"] = np.where(tickets, rows["response_last_ns"], rows["response_first_ns"])
    found["ended_ns"] = rows["response_last_ns"]
    found["flow_first_ns"] = facts["first_ns"]
    found["request_retransmits"], found["response_retransmits"] = rows["retransmits"].T
    found["trace_id"], found["parent_span_id"], found["trace_flags"] = spans["trace_id"], spans["span_id"], spans["flags"]
    found["slot"] = MET
    return found


def add_series(met: Exchanges, rows: Rows, series: list[list[int]]) -> None:
    """Say of the last exchange of each span how many it had, and how long the server took for them."""
    for number, row in enumerate(series):
        if len(row) > 1:
            each = rows[row]
            met["series"][number] = len(row)
            met["series_wait_ns"][number] = np.maximum(
                as_times(each["response_first_ns"]) - as_times(each["request_last_ns"]), 0
            ).sum()


def met_parts(spans: Asked, facts: Rows, parts: list[Part], ordinals: npt.NDArray[np.uint32]) -> Exchanges:
    """Return parts as exchanges that spans were met by. `ordinals`: which part of its connection each is."""
    found = np.zeros(len(spans), MET_EXCHANGE)
    for name in CONNECTION_FACTS:
        found[name] = facts[name]
    found["flow_first_ns"] = facts["first_ns"]
    for row, part in enumerate(parts):
        each = found[row]
        each["request_first_ns"] = each["request_last_ns"] = part.begin_ns
        each["ended_ns"] = part.end_ns
        each["request_bytes"], each["response_bytes"] = part.bytes
        each["request_retransmits"], each["response_retransmits"] = part.retransmits
        each["client_zero_windows"], each["server_zero_windows"] = part.zero_windows
        each["srtt_ns"], each["silence_ns"] = part.srtt_us * 1_000, part.silence_ns
    found["trace_id"], found["parent_span_id"], found["trace_flags"] = spans["trace_id"], spans["span_id"], spans["flags"]
    # Streams that clients open have odd numbers.
    found["number"], found["is_stream"], found["slot"] = 2 * ordinals, PART, MET
    return found
