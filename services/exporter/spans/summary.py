"""Flows summed up: what had no trouble and was not drawn becomes one span for each workload pair and minute.

Sums are made within one message of the bus, never across: so a message that is delivered again gives the same spans, with the
same ids, whatever it is delivered with, and nothing has to be held back until a minute is over. Every `Kind.DELTA` column is
added up (those that say a longest, compared), so bytes, packets and all other counts of the summaries and of the flows that
have spans of their own add up to those of the records. What failed has summaries of its own, so that errors can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from proto.columns import COLUMNS, NO_INDEX, UNANSWERED, Kind, Outcome, Reason
from proto.dns import SERVER_FAILURE
from proto.flow_batch import Array, FlowBatch
from services.exporter.spans.bundle import Bundle
from services.exporter.spans.facts import PORTS
from services.exporter.spans.identity import FLAG_IS_REMOTE, NOTHING_CONTINUED, Mask, Perspective, SpanIds, mixed_again
from services.exporter.spans.names.handshakes import failed_handshakes

MINUTE_NS: Final = np.uint64(60_000_000_000)
_RANDOM_BITS: Final = 56
"""Of a trace id's low half that decide whether a flow is drawn."""
_FAILED: Final = np.isin(np.arange(256), [Outcome.HALF_OPEN, Outcome.REFUSED, Outcome.TIMEOUT])
_HAVE_ERRORS: Final = np.isin(np.arange(256), [Outcome.REFUSED, Outcome.TIMEOUT])
_ENTITY_COLUMNS: Final = ("local_entity", "remote_entity", "local_service", "remote_service")
_SAME: Final = ("observer", "role", "transport", "local_resolution", "remote_resolution")
"""Columns that are the same for all records of a summary."""
_SIGNS: Final = ("local_address", "local_container", "remote_name", *_ENTITY_COLUMNS, *_SAME)
"""Columns that a summary has from its first record."""

_NO_REMOTE_PARENT: Final = np.uint32(~FLAG_IS_REMOTE & 0xFFFFFFFF)
_MAPPED: Final = np.uint32(0xFFFF0000)
"""What stands before an IPv4 address, as the second half of one begins in memory."""

NOT_OF_A_SUMMARY: Final = re.compile(
    r"flow\.(reverse\.)?(bytes|packets)\.total|flow\.(record|start)|source\.port|(network\.(local|peer)|client)\.(port|address)"
    r"|(source|destination)\.address|flow\.(reverse\.)?tcp\.rtt\.(min|max)|flow\.(request|response)\.transfer_time_max"
    r"|flow\.icmp\.error\..*"
)
"""Attributes of one flow or record, which several have no one value of."""


@dataclass(frozen=True, slots=True)
class Thinning:
    """Which flows get spans of their own."""

    keep_ratio: float
    """Share of the flows without trouble that do, from 0 to 1."""
    slow_ns: int
    """A response or a handshake that takes as long is slow."""
    keep_troubles: bool = True
    """Whether all do that had trouble."""

    def kept(self, batch: FlowBatch, drawn: Mask) -> Mask:
        """Which records are spans of their own."""
        return drawn | self.troubled(batch) if self.keep_troubles else drawn

    def drawn(self, ids: SpanIds) -> Mask:
        """Which records are of flows that were drawn: by trace id, so that all spans of a trace are or none."""
        random = ids.drawn_by & np.uint64((1 << _RANDOM_BITS) - 1)
        drawn: Mask = random >= np.uint64(round((1 - self.keep_ratio) * 2**_RANDOM_BITS))
        return drawn

    def troubled(self, batch: FlowBatch) -> Mask:
        """Which records failed, were slow or lossy, or ended with a request that was never answered."""
        column = batch.column
        syn, acknowledged = column("syn_unix_ns"), column("handshake_ack_unix_ns")
        shaken = (syn != 0) & (acknowledged >= np.maximum(column("start_unix_ns"), syn))
        slow: Mask = column("response_time_max_ns") >= self.slow_ns
        slow |= column("tls_handshake_time_ns") >= self.slow_ns
        slow |= shaken & (acknowledged - np.minimum(syn, acknowledged) >= self.slow_ns)
        failed = _FAILED.take(column("outcome")) | (column("cut_short") != 0) | (_never_answered(batch) != 0)
        failed |= column("dns_codes")[:, [SERVER_FAILURE, UNANSWERED]].any(axis=1)
        failed |= failed_handshakes(column("tls_flags"), column("tls_alert"))
        found: Mask = slow | failed | (column("icmp_errors") != 0) | _lossy(batch)
        return found


def _never_answered(batch: FlowBatch) -> Array:
    """Requests that wait for a response which will not come."""
    return np.where(batch.column("reason") != Reason.ACTIVE_TIMEOUT, batch.column("request_waits"), 0)


def _lossy(batch: FlowBatch) -> Mask:
    """Which records had something sent again that had not arrived: segments, or questions of datagrams."""
    lost: Mask = batch.column("question_repeats") != 0
    for way in ("tx", "rx"):
        lost |= batch.column(f"{way}_retransmits") > batch.column(f"{way}_spurious_retransmits")
    return lost


def _failure(batch: FlowBatch) -> Array:
    """The outcome of records whose spans have an `error.type`; unknown for all others."""
    failed = np.where(_HAVE_ERRORS.take(batch.column("outcome")), batch.column("outcome"), Outcome.UNKNOWN)
    return np.where(batch.column("cut_short") != 0, Outcome.RESET, failed).astype(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Summaries:
    """Records summed up, one row for each summary."""

    batch: FlowBatch
    first: Array
    """The first record of each, as a row of what was summed up."""
    summary: Array
    """For each row of what was summed up, which summary it is in."""


def without_lost_parents(ids: SpanIds, drawn: Mask) -> SpanIds:
    """The ids with parents only for drawn flows: the parents of the others may be in a summary, and never come."""
    parent = np.where(drawn, ids.parent_span_id, np.uint64(0))
    flags = np.where(drawn, ids.flags, ids.flags & _NO_REMOTE_PARENT)
    return replace(ids, parent_span_id=parent, flags=flags, continued=ids.continued.where(drawn[ids.continued.rows]))


def summary_ids(ids: SpanIds, first: Array) -> SpanIds:
    """Ids of summaries, made of those of their first records: each has a trace of its own."""
    trace_high, trace_low, span = (mixed_again(words[first]) for words in (ids.trace_id_high, ids.trace_id_low, ids.span_id))
    parent, flags = np.zeros(len(first), np.uint64), ids.flags[first] & _NO_REMOTE_PARENT
    return SpanIds(trace_high, trace_low, span, parent, flags, trace_low, NOTHING_CONTINUED)


def summed_up(whole: Bundle, source: Array, seen: Perspective, entities: Array) -> Summaries:
    """Sum up all rows of a bundle (at least one): by message (`source` says of which each is), workload pair and minute."""
    batch = whole.batch
    key = np.stack([word.astype(np.uint64) for word in _key(batch, source, seen, entities)], axis=1)
    _, first, summary = np.unique(
        np.ascontiguousarray(key).view(f"V{8 * key.shape[1]}").ravel(), return_index=True, return_inverse=True
    )
    order = np.argsort(summary, kind="stable")
    starts = np.searchsorted(summary[order], np.arange(len(first)))
    columns = {name: batch.column(name)[first] for name in _SIGNS if name in batch.columns}
    columns |= _summed(batch, order, starts)
    columns["start_unix_ns"] = np.minimum.reduceat(batch.column("start_unix_ns")[order], starts)
    columns["end_unix_ns"] = np.maximum.reduceat(batch.column("end_unix_ns")[order], starts)
    columns["record"] = np.ones(len(first), "<u4")  # none is a flow's first: its kind is INTERNAL
    columns["outcome"] = _failure(batch)[first]
    columns["cut_short"] = (columns["outcome"] == Outcome.RESET).astype(np.uint8)
    columns["request_waits"] = np.bincount(summary, _never_answered(batch)).astype(np.uint64)
    columns["summary_records"] = np.bincount(summary).astype(np.uint64)
    columns["summary_flows"] = np.bincount(summary, batch.column("record") == 0).astype(np.uint64)
    local, remote = _responders_port(batch, seen)
    columns["local_port"], columns["remote_port"] = local[first], remote[first]
    return Summaries(replace(batch, count=len(first), columns=columns), first, summary)


def _key(batch: FlowBatch, source: Array, seen: Perspective, entities: Array) -> list[Array]:
    nothing = len(entities) - 1
    containers: dict[Hashable, int] = {}
    numbers = [containers.setdefault(tuple(sorted(row.items())), len(containers)) for row in batch.containers]
    container = np.array([*numbers, len(numbers)]).take(np.minimum(batch.column("local_container"), len(numbers)))
    address = np.ascontiguousarray(batch.column("local_address")).view("<u8").reshape(-1, 2)
    return [
        source,
        batch.column("end_unix_ns") // MINUTE_NS,
        *(entities.take(np.minimum(batch.column(name), nothing)) for name in _ENTITY_COLUMNS),
        container,
        (address[:, 0] == 0) & (address[:, 1].astype(np.uint32) == _MAPPED),
        seen.told_by_local,
        np.maximum(*_responders_port(batch, seen)),
        _failure(batch),
        _name_alone(batch),
        *(batch.column(name) for name in _SAME),
    ]


def _name_alone(batch: FlowBatch) -> Array:
    """The name that was looked up for a destination of which nothing else is known: nothing for all others."""
    known = (batch.column("remote_entity") != NO_INDEX) | (batch.column("remote_service") != NO_INDEX)
    return np.where(known, NO_INDEX, batch.column("remote_name"))


def _responders_port(batch: FlowBatch, seen: Perspective) -> tuple[Array, Array]:
    """Local and remote port, of which only the responder's is left."""
    ported = np.isin(batch.column("transport"), PORTS)
    local, remote = batch.column("local_port"), batch.column("remote_port")
    return local * (ported & ~seen.source_is_local), remote * (ported & seen.source_is_local)


def _summed(batch: FlowBatch, order: Array, starts: Array) -> dict[str, Array]:
    """Every delta, added up as 64 bits; of a longest, the longest."""
    sums = {}
    for name, column in COLUMNS.items():
        if column.kind is Kind.DELTA and name in batch.columns:
            longest = name.endswith("_max_ns")
            values = batch.column(name)[order].astype(np.uint64)
            sums[name] = (np.maximum if longest else np.add).reduceat(values, starts, axis=0)
    return sums
