"""What a batch's records are as spans: which end is which, whose span it is, and its place in a trace.

Everything here is arithmetic over whole columns. Identifiers come from raw columns and the cluster's name alone, so a batch
that is delivered again, enriched differently, overwrites its own spans; a golden test pins them.

Trace id, 128 bits, in two halves. `seed[i]` is word i (little-endian) of blake2b(cluster name in UTF-8,
key=b"wirespan.trace.v1", 40 bytes); all arithmetic is modulo 2**64:

    a(x): x ^= x >> 30; x *= 0xbf58476d1ce4e5b9; x ^= x >> 27; x *= 0x94d049bb133111eb; x ^= x >> 31    (splitmix64)
    b(x): x ^= x >> 33; x *= 0xff51afd7ed558ccd; x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53; x ^= x >> 33    (MurmurHash3)

- Both initial sequence numbers seen: w = source's << 32 | destination's; high = a(w ^ seed[0]), low = b(w ^ seed[1]).
  Sequence numbers survive address translation, so both ends of a connection arrive at the same id.
- Otherwise high = seed[2], low = seed[3], then for each word w: high = a(high ^ w), low = b(low ^ w). The words: source
  address (two, big-endian halves), destination address (two), source port << 48 | destination port << 32 | transport << 16 |
  ICMP type << 8 | ICMP code, start of the flow in Unix nanoseconds.
- An id of zero is not valid in OTLP: low becomes 1.
- A trace is bounded: after so many records (`trace_records`) a flow goes on in another one. Part p of a flow, from 0, holds its
  records from p * trace_records on; from part 1 on, high = a(high ^ p), low = b(low ^ p). Both ends number their records alike,
  so they arrive at the same ids without a word. A part's first record is its root, with links to the flow's first record and to
  the record before it, which is in the part before.

Span id, 64 bits: a(b(a(low ^ seed[4]) ^ high) ^ (side << 32 | record number)), and 1 where that is 0; high and low are those of
part 0. The last step is a bijection, so two records of one side never share an id within their traces. Capture files may have
seen one connection at several points, before and after a translation or on both nodes, and traffic generators use the same
sequence numbers for many connections at once, so for them each of the words above is mixed in: b(b(...) ^ word). The same file
gives the same ids, another point others. The trace is one all the same: it is how one connection under two addresses is known.

A DNS question's span has the number of its record in the place of the record number; its parent is its flow's first record in
the trace of the record beside which it is told.

Exchanges stand in the application's trace, under the span that asked: both ids are those of the wire. Their spans' ids are
a(b(a(flow ^ (side << 32 | record number)) ^ trace low ^ a(trace high ^ parent)) ^ phase), where flow is b(...) from above.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from proto.columns import FIRST_EXCHANGE, MOST_QUESTIONS, Observer, Role
from proto.flow_batch import SOURCE_NAT, Array, FlowBatch

Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

CLUSTER_ENTITY_TYPES: Final = frozenset({"k8s.pod", "k8s.node", "host"})
"""Entities that own sockets where capture runs: where there is one of these, there is or will be a span told by it. A `host` is
the remote end of a connection within one machine that is no node.
"""

FLAG_SAMPLED: Final = 0x001
FLAG_HAS_IS_REMOTE: Final = 0x100
FLAG_IS_REMOTE: Final = 0x200

TRACE_RECORDS: Final = 256
"""Records of one end that a trace holds at the most, unless somebody says otherwise."""

_ISN_BOTH: Final = 3


class Kind(enum.IntEnum):
    """Span kinds, as OTLP numbers them."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


class Side(enum.IntEnum):
    """Whose eyes saw the record. The values are part of span ids."""

    UNKNOWN = 0
    """A socket that may be either end's."""
    CLIENT = 1
    SERVER = 2
    CAPTURE = 3


@dataclass(frozen=True, slots=True)
class Perspective:
    """Which end is the source, and which end's span it is. One row per record."""

    has_initiator: Mask
    """It is known which end began."""
    source_is_local: Mask
    """The initiator is local; also assumed where the initiator is unknown."""
    told_by_local: Mask
    """The span's resource is the local end."""
    side: npt.NDArray[np.uint8]
    """A `Side`."""
    kind: npt.NDArray[np.uint8]
    """A `Kind`."""
    client_has_span: Mask
    """Local is the server, and its client is a pod or node of this cluster: it tells the connection too."""

    told_by_source: Mask
    """The span's resource is the source."""


@dataclass(frozen=True, slots=True)
class Continued:
    """The records with which flows go on in another trace: their rows, ascending, and where each of them links to."""

    rows: Array
    first: Links
    """The flow's first record."""
    before: Links
    """The record before, in the trace before."""

    def among(self, rows: Array, count: int) -> Continued:
        """Return those of some rows (an index array) of `count`, in their places there."""
        if not len(self.rows):
            return self
        place = np.full(count, -1)
        place[self.rows] = np.arange(len(self.rows))
        found = place[rows]
        at = (found >= 0).nonzero()[0]
        return replace(self.where(found[at]), rows=at)

    def where(self, chosen: Array) -> Continued:
        """Return some of them, by a mask or an index array."""
        first, before = (Links(*(word[chosen] for word in links)) for links in (self.first, self.before))
        return Continued(self.rows[chosen], first, before)


class Links(NamedTuple):
    """Ids of spans in other traces."""

    trace_id_high: Words
    trace_id_low: Words
    span_id: Words


@dataclass(frozen=True, slots=True)
class SpanIds:
    """Where each record stands in a trace. One row per record."""

    trace_id_high: Words
    trace_id_low: Words
    span_id: Words
    parent_span_id: Words
    """0 where the span is a root."""
    flags: npt.NDArray[np.uint32]
    """`Span.flags`: sampled, and whether the parent is of another process."""
    drawn_by: Words
    """Low half of the flow's first trace, by which flows are drawn: all of their traces or none."""
    continued: Continued

    def take(self, rows: Array) -> SpanIds:
        """Return the ids of some rows (an index array)."""
        words = {name: getattr(self, name)[rows] for name in self.__slots__ if name != "continued"}
        return SpanIds(**words, continued=self.continued.among(rows, len(self.span_id)))


@dataclass(frozen=True, slots=True)
class ExchangeIds:
    """Where each exchange stands in the application's trace, and which flow it is of. One row per record."""

    trace_id_high: Words
    trace_id_low: Words
    exchange: Words
    """What `phase_ids` makes the ids of its spans of."""
    parent_span_id: Words
    """The caller's."""
    flow_trace_id_high: Words
    flow_trace_id_low: Words
    flow_span_id: Words
    """Of its flow's first record, at the same side."""
    linked: Mask
    """That span's id is known for sure."""


def perspective(batch: FlowBatch) -> Perspective:
    """Return the ends and kinds of a batch's records.

    A socket tells its own end's span. A capture file stands at neither end: its spans are told by the end that is a workload of
    this cluster; where both are or neither is, by the source. Records after a flow's first are INTERNAL.
    """
    role = batch.column("role")
    server, client = role == Role.SERVER, role == Role.CLIENT
    known = server | client
    source_is_local = ~server
    captured = batch.column("observer") == Observer.CAPTURE
    side = role * known
    remote_of_cluster = _of_cluster(batch, "remote_entity")
    told_by_local = np.ones(batch.count, np.bool_)
    if captured.any():
        side[captured] = Side.CAPTURE
        local_of_cluster = _of_cluster(batch, "local_entity")
        one_of_cluster = local_of_cluster ^ remote_of_cluster
        told_by_local = ~captured | np.where(one_of_cluster, local_of_cluster, source_is_local)
    told_by_source = told_by_local == source_is_local
    first = (batch.column("record") == 0) & known
    # INTERNAL, or SERVER and one more for CLIENT.
    kind = np.uint8(Kind.INTERNAL) + first * (np.uint8(1) + told_by_source)
    return Perspective(known, source_is_local, told_by_local, side, kind, server & remote_of_cluster, told_by_source)


def _of_cluster(batch: FlowBatch, name: str) -> Mask:
    """Where the entity that a column points at is a pod or node of this cluster, and does not stand for anybody outside."""
    entities = batch.entities or ()
    own = [entity.type in CLUSTER_ENTITY_TYPES and SOURCE_NAT not in entity.attributes for entity in entities]
    known = np.array([*own, False])
    return known.take(np.minimum(batch.column(name), len(entities)))


class IdMixer:
    """Derives trace and span ids for one cluster."""

    def __init__(self, cluster_name: str, trace_records: int = TRACE_RECORDS) -> None:
        self._trace_records = np.uint64(trace_records)
        digest = hashlib.blake2b(cluster_name.encode(errors="replace"), digest_size=40, key=b"wirespan.trace.v1").digest()
        self._seeds: Words = np.frombuffer(digest, "<u8").astype(np.uint64)

    def ids(self, batch: FlowBatch, seen: Perspective) -> SpanIds:
        """Return the ids of a batch's records.

        A flow's later records are children of the first in their trace. A server's first record is the child of the client's
        where that span exists or will: the handshake was seen and the client is a pod or node of this cluster.
        """
        both_isn = (batch.column("isn_seen") & _ISN_BOTH) == _ISN_BOTH
        trace = self._trace_ids(batch, seen, both_isn)
        high, low = trace
        base = self._span_base(batch, seen, trace)
        record = batch.column("record").astype(np.uint64)
        side = seen.side.astype(np.uint64) << np.uint64(32)
        first = record - record % self._trace_records
        later = record > first
        joins_client = (record == 0) & both_isn & (seen.side == Side.SERVER) & seen.client_has_span
        # A span's own id, then those of the parents that some have, in one go.
        rows = np.concatenate([joins_client.nonzero()[0], later.nonzero()[0]])
        parents = side[rows] | first[rows]
        parents[: len(rows) - np.count_nonzero(later)] = Side.CLIENT << 32
        ids = _last_step(np.concatenate([base ^ (side | record), base[rows] ^ parents]))
        parent = np.zeros(batch.count, np.uint64)
        parent[rows] = ids[batch.count :]
        flags = np.uint32(FLAG_SAMPLED | FLAG_HAS_IS_REMOTE) | joins_client * np.uint32(FLAG_IS_REMOTE)
        continued = ((record == first) & (first > 0)).nonzero()[0]
        part = first // self._trace_records
        goes_on = self._continued(continued, trace, base ^ side, record, part)
        high, low = _of_part(high, low, part)
        return SpanIds(high, low, ids[: batch.count], parent, flags, trace[1], goes_on)

    @staticmethod
    def _continued(rows: Array, trace: Words, side: Words, record: Words, part: Words) -> Continued:
        high, low = trace[0][rows], trace[1][rows]
        before = Links(*_of_part(high, low, part[rows] - 1), _last_step(side[rows] ^ (record[rows] - np.uint64(1))))
        return Continued(rows, Links(high, low, _last_step(side[rows])), before)

    def _trace_ids(self, batch: FlowBatch, seen: Perspective, both_isn: Mask) -> Words:
        """High and low halves, (2, rows)."""
        trace = np.empty((2, batch.count), np.uint64)
        numbered, rest = np.flatnonzero(both_isn), np.flatnonzero(~both_isn)
        if len(numbered):
            source, destination = oriented(batch, "isn", seen.source_is_local, numbered)
            trace[:, numbered] = _mix((source.astype(np.uint64) << np.uint64(32) | destination) ^ self._seeds[:2, None])
        if len(rest):
            ids = self._seeds[2:4, None]
            for word in _tuple_words(batch, seen.source_is_local, rest):
                ids = _mix(ids ^ word)
            trace[:, rest] = ids
        trace[1][(trace[0] | trace[1]) == 0] = 1
        return trace

    def exchange_ids(self, batch: FlowBatch, seen: Perspective) -> ExchangeIds:
        """Return the ids of a batch all of whose records are exchanges."""
        both_isn = (batch.column("isn_seen") & _ISN_BOTH) == _ISN_BOTH
        flow = self._trace_ids(batch, seen, both_isn)
        base = self._span_base(batch, seen, flow)
        side = seen.side.astype(np.uint64) << np.uint64(32)
        high, low = np.ascontiguousarray(batch.column("trace_id")).view(">u8").reshape(-1, 2).astype(np.uint64).T
        parent = np.ascontiguousarray(batch.column("parent_span_id")).view(">u8").astype(np.uint64)
        own = _mix_b(_mix_a(base ^ (side | batch.column("record").astype(np.uint64))) ^ low ^ _mix_a(high ^ parent))
        # At a socket, a flow that was joined has its start to itself: what that comes to in nanoseconds is told by its records.
        linked = both_isn | (seen.side == Side.CAPTURE)
        return ExchangeIds(high, low, own, parent, flow[0], flow[1], _last_step(base ^ side), linked)

    def question_ids(self, batch: FlowBatch, seen: Perspective) -> SpanIds:
        """Return the ids of a batch all of whose records are DNS questions: in the traces of their flows."""
        both_isn = (batch.column("isn_seen") & _ISN_BOTH) == _ISN_BOTH
        trace = self._trace_ids(batch, seen, both_isn)
        base = self._span_base(batch, seen, trace) ^ seen.side.astype(np.uint64) << np.uint64(32)
        record = batch.column("record").astype(np.uint64)
        part = (record - np.uint64(FIRST_EXCHANGE)) // np.uint64(MOST_QUESTIONS) // self._trace_records
        high, low = _of_part(trace[0], trace[1], part)
        flags = np.full(batch.count, FLAG_SAMPLED | FLAG_HAS_IS_REMOTE, np.uint32)
        parent = _last_step(base ^ part * self._trace_records)
        return SpanIds(high, low, _last_step(base ^ record), parent, flags, trace[1], NOTHING_CONTINUED)

    def _span_base(self, batch: FlowBatch, seen: Perspective, trace: Words) -> Words:
        """What all span ids of a flow are made of."""
        high, low = trace
        base = _mix_b(_mix_a(low ^ self._seeds[4]) ^ high)
        captured = np.flatnonzero(seen.side == Side.CAPTURE)
        if len(captured):
            own = base[captured]
            for word in _tuple_words(batch, seen.source_is_local, captured):
                own = _mix_b(own ^ word)
            base[captured] = own
        return base


def _of_part(high: Words, low: Words, part: Words) -> tuple[Words, Words]:
    """Trace ids of parts of flows, from those of their first traces."""
    at = part.nonzero()[0]
    if not len(at):
        return high, low
    mixed = _mix(np.stack([high[at], low[at]]) ^ part[at])
    mixed[1][(mixed[0] | mixed[1]) == 0] = 1
    high, low = high.copy(), low.copy()
    high[at], low[at] = mixed
    return high, low


NOTHING_CONTINUED: Final = Continued(np.empty(0, np.int64), *(Links(*(np.empty(0, np.uint64),) * 3),) * 2)


def phase_ids(exchange: Words, phase: Words) -> Words:
    """Return the span id of each phase (`proto.exchange_phases.Phase`) of an exchange."""
    return _last_step(exchange ^ phase)


def mixed_again(words: Words) -> Words:
    """Return other ids made of ids: distinct for distinct ones, and none of them 0."""
    return _last_step(words ^ _AGAIN)


def oriented(batch: FlowBatch, name: str, source_is_local: Mask, rows: Array) -> tuple[Array, Array]:
    """Return `local_<name>` and `remote_<name>` of some rows (an index array) as source's and destination's."""
    local, remote = batch.column(f"local_{name}")[rows], batch.column(f"remote_{name}")[rows]
    as_is = source_is_local[rows]
    return np.where(as_is, local, remote), np.where(as_is, remote, local)


def _tuple_words(batch: FlowBatch, source_is_local: Mask, rows: Array) -> Iterator[Words]:
    for address in oriented(batch, "address", source_is_local, rows):
        halves = np.ascontiguousarray(address).view(">u8").reshape(-1, 2).astype(np.uint64)
        yield halves[:, 0]
        yield halves[:, 1]
    word: Words = np.zeros(len(rows), np.uint64)
    ports = oriented(batch, "port", source_is_local, rows)
    small = (batch.column(name)[rows] for name in ("transport", "icmp_type", "icmp_code"))
    for column, shift in zip((*ports, *small), (48, 32, 16, 8, 0), strict=True):
        word |= column.astype(np.uint64) << np.uint64(shift)
    yield word
    yield batch.column("flow_start_unix_ns")[rows].astype(np.uint64)


def _last_step(words: Words) -> Words:
    span_id = _mix_a(words)
    span_id[span_id == 0] = 1
    return span_id


_AGAIN: Final = np.uint64(0x9E3779B97F4A7C15)
_A: Final = (30, 27, 31), (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_B: Final = (33, 33, 33), (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
"""Shifts and factors of `a` and `b`."""


def _words(*numbers: int) -> Words:
    return np.array(numbers, np.uint64)


_A_WORDS: Final = tuple(map(_words, _A[0])), tuple(map(_words, _A[1]))
_B_WORDS: Final = tuple(map(_words, _B[0])), tuple(map(_words, _B[1]))
_AB_WORDS: Final = tuple(
    tuple(_words(first, second)[:, None] for first, second in zip(a, b, strict=True)) for a, b in zip(_A, _B, strict=True)
)


def _mix_a(x: Words) -> Words:
    return _mix(x, _A_WORDS)


def _mix_b(x: Words) -> Words:
    return _mix(x, _B_WORDS)


def _mix(x: Words, words: tuple[tuple[Words, ...], ...] = _AB_WORDS) -> Words:
    """`a` or `b` of each; by default, of two rows, `a` of the first and `b` of the second."""
    shifts, factors = words
    for shift, factor in zip(shifts, factors, strict=False):
        x = x ^ (x >> shift)
        x *= factor
    return x ^ (x >> shifts[2])
