"""What an exchange record becomes: one span for the exchange, one for each of its phases that took place, and one for each step
of its connection's set-up that it waited for.

Here because two have to agree on it: the exporter makes the spans, and the ledger says beforehand how many there will be.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

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
    present, begin, end = zip(*_each(batch), strict=True)
    return Phases(np.column_stack(present), np.column_stack(begin), np.column_stack(end))


_Times: TypeAlias = tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]


def _each(batch: FlowBatch) -> Iterator[_Times]:
    """Yield of each `Phase` whether records have it, and from when to when."""
    first, asked, begun, done = (
        batch.column(f"{name}_unix_ns") for name in ("request_first", "request_last", "response_first", "response_last")
    )
    over = batch.column("end_unix_ns")
    answered = begun != 0
    waited = np.where(answered, begun, over)
    # A response that was broken off lasted until then.
    done = np.maximum(np.where(is_broken_off(batch.column("exchange_end")), over, done), begun)
    yield np.ones(batch.count, np.bool_), batch.column("start_unix_ns"), over
    yield asked > first, first, asked
    yield np.where(answered, waited >= asked, waited > asked), asked, np.maximum(waited, asked)
    yield answered & (done > begun), begun, done
    for name, lasts in _SET_UP_TIMES.items():
        begin = batch.column(f"{name}_unix_ns")
        end = begin + batch.column(lasts) if lasts else batch.column("handshake_ack_unix_ns")
        # What went on beside the request ends as that begins.
        yield begin != 0, begin, np.maximum(np.minimum(end, first), begin)


_SET_UP_TIMES: Final = {"syn": "", "tls_handshake": "tls_handshake_time_ns", "lookup": "dns_first_time_ns"}
"""Of each of SET_UP what its beginning is named by, and its duration."""
_IS_BROKEN_OFF: Final = np.isin(np.arange(256), BROKEN_OFF)


def is_broken_off(ends: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where an exchange's end says that its connection was, or its stream."""
    broken_off: npt.NDArray[np.bool_] = _IS_BROKEN_OFF[ends]
    return broken_off


def is_traced(batch: FlowBatch) -> npt.NDArray[np.bool_]:
    """Where a record is an exchange of an application's trace."""
    if "trace_id" not in batch.columns:
        return np.zeros(batch.count, np.bool_)
    trace = np.ascontiguousarray(batch.column("trace_id")).view("<u8").reshape(-1, 2)
    traced: npt.NDArray[np.bool_] = (batch.column("reason") == Reason.EXCHANGE) & trace.any(axis=1)
    return traced


def span_count(batch: FlowBatch) -> int:
    """Return how many spans the records of a batch become."""
    traced = is_traced(batch)
    if not traced.any():
        return batch.count
    of_traced = sum(np.count_nonzero(present & traced) for present, _, _ in _each(batch))
    return int(batch.count - np.count_nonzero(traced) + of_traced)
