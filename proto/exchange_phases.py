"""What an exchange record becomes: one span for the exchange, one for each of its phases that took place, and one for each step
of its connection's set-up that it waited for.

Here because two have to agree on it: the exporter makes the spans, and the ledger says beforehand how many there will be.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from proto.columns import BROKEN_OFF, Reason
from proto.flow_batch import FlowBatch


class Phase(enum.IntEnum):
    """A span of an exchange. The values are part of span ids."""

    EXCHANGE = 0
    """The whole of it, from the request's first byte to the response's last."""
    REQUEST_TRANSFER = 1
    """The request's first byte to its last; there is none where both were in one segment."""
    SERVER_WAIT = 2
    """The request's last byte to the response's first, or to the end of a connection that brought none; there is none where the
    server answered before the request was over."""
    RESPONSE_TRANSFER = 3
    """The response's first byte to its last, likewise."""
    CONNECT = 4
    """The first SYN to the ACK that completes the handshake. This and the next two are steps of set-up: before the exchange."""
    TLS_HANDSHAKE = 5
    DNS_LOOKUP = 6


SET_UP: Final = (Phase.CONNECT, Phase.TLS_HANDSHAKE, Phase.DNS_LOOKUP)


@dataclass(frozen=True, slots=True, eq=False)
class Phases:
    """Of each exchange (row) and `Phase` (column): whether there is one, and from when to when, Unix nanoseconds."""

    present: npt.NDArray[np.bool_]
    begin: npt.NDArray[np.uint64]
    end: npt.NDArray[np.uint64]


def phases(batch: FlowBatch) -> Phases:
    """Return the phases of a batch all of whose records are exchanges."""
    first, asked, begun, done = (
        batch.column(f"{name}_unix_ns") for name in ("request_first", "request_last", "response_first", "response_last")
    )
    over = batch.column("end_unix_ns")
    answered = begun != 0
    waited = np.where(answered, begun, over)
    # A response that was broken off lasted until then.
    done = np.maximum(np.where(np.isin(batch.column("exchange_end"), BROKEN_OFF), over, done), begun)
    waits = np.where(answered, waited >= asked, waited > asked)
    everyone = np.ones(batch.count, np.bool_)
    steps, steps_end = _set_up(batch)
    return Phases(
        np.column_stack([everyone, asked > first, waits, answered & (done > begun), steps != 0]),
        np.column_stack([batch.column("start_unix_ns"), first, asked, begun, steps]),
        np.column_stack([over, asked, np.maximum(waited, asked), done, steps_end]),
    )


def _set_up(batch: FlowBatch) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """From when to when each of SET_UP took place; 0 where it did not. What went on beside the request ends as that begins."""
    column = batch.column
    begin = np.column_stack([column(f"{name}_unix_ns") for name in ("syn", "tls_handshake", "lookup")])
    tls, lookup = (column(f"{name}_time_ns") for name in ("tls_handshake", "dns_first"))
    end = np.column_stack([column("handshake_ack_unix_ns"), begin[:, 1] + tls, begin[:, 2] + lookup])
    end = np.minimum(end, column("request_first_unix_ns")[:, None])
    return begin, np.maximum(end, begin)


def is_traced(batch: FlowBatch) -> npt.NDArray[np.bool_]:
    """Where a record is an exchange of an application's trace."""
    if "trace_id" not in batch.columns:
        return np.zeros(batch.count, np.bool_)
    trace = np.ascontiguousarray(batch.column("trace_id")).view("<u8").reshape(-1, 2)
    traced: npt.NDArray[np.bool_] = (batch.column("reason") == Reason.EXCHANGE) & trace.any(axis=1)
    return traced


def span_count(batch: FlowBatch) -> int:
    """Return how many spans the records of a batch become."""
    exchanges = np.flatnonzero(is_traced(batch))
    if not len(exchanges):
        return batch.count
    return batch.count - len(exchanges) + int(phases(batch.take(exchanges)).present.sum())
