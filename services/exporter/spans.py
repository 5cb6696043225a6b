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

Span id, 64 bits: a(b(a(low ^ seed[4]) ^ high) ^ (side << 32 | record number)), and 1 where that is 0. The last step is a
bijection, so two records of one side never share an id within their trace. Capture files may have seen one connection at
several points, before and after a translation or on both nodes, so for them b(...) is b(b(...) ^ start of the flow): the same
file gives the same ids, another point others.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from proto.columns import Observer, Role
from proto.flow_batch import Array, FlowBatch

Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

CLUSTER_ENTITY_TYPES: Final = frozenset({"k8s.pod", "k8s.node", "host"})
"""Entities that own sockets where capture runs: where there is one of these, there is or will be a span told by it. A `host` is
the remote end of a connection within one machine that is no node.
"""

FLAG_SAMPLED: Final = 0x001
FLAG_HAS_IS_REMOTE: Final = 0x100
FLAG_IS_REMOTE: Final = 0x200

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

    def take(self, rows: Array) -> Perspective:
        """Return the same of some rows (an index array)."""
        return Perspective(
            self.source_is_local[rows], self.told_by_local[rows], self.side[rows], self.kind[rows], self.client_has_span[rows]
        )


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


def perspective(batch: FlowBatch) -> Perspective:
    """Return the ends and kinds of a batch's records.

    A socket tells its own end's span. A capture file stands at neither end: its spans are told by the end that is a workload of
    this cluster; where both are or neither is, by the source. Records after a flow's first are INTERNAL.
    """
    role = batch.column("role")
    server, client = role == Role.SERVER, role == Role.CLIENT
    captured = batch.column("observer") == Observer.CAPTURE
    source_is_local = ~server
    local_of_cluster, remote_of_cluster = _of_cluster(batch)
    one_of_cluster = local_of_cluster ^ remote_of_cluster
    told_by_local = ~captured | np.where(one_of_cluster, local_of_cluster, source_is_local)
    told_by_source = told_by_local == source_is_local
    first = (batch.column("record") == 0) & (client | server)
    kind = np.where(first, np.where(told_by_source, Kind.CLIENT, Kind.SERVER), Kind.INTERNAL).astype(np.uint8)
    side = np.where(captured, Side.CAPTURE, np.where(client | server, role, Side.UNKNOWN)).astype(np.uint8)
    return Perspective(source_is_local, told_by_local, side, kind, server & remote_of_cluster)


def _of_cluster(batch: FlowBatch) -> tuple[Mask, Mask]:
    """Where the local and the remote entity are a pod or node of this cluster."""
    entities = batch.entities or ()
    known = np.array([*(entity.type in CLUSTER_ENTITY_TYPES for entity in entities), False])
    local, remote = (known[np.minimum(batch.column(name), len(entities))] for name in ("local_entity", "remote_entity"))
    return local, remote


class IdMixer:
    """Derives trace and span ids for one cluster."""

    def __init__(self, cluster_name: str) -> None:
        digest = hashlib.blake2b(cluster_name.encode(errors="replace"), digest_size=40, key=b"wirespan.trace.v1").digest()
        self._seeds: Words = np.frombuffer(digest, "<u8").astype(np.uint64)

    def ids(self, batch: FlowBatch, seen: Perspective) -> SpanIds:
        """Return the ids of a batch's records.

        A flow's later records are children of its first. A server's first record is the child of the client's where that span
        exists or will: the handshake was seen and the client is a pod or node of this cluster.
        """
        both_isn = (batch.column("isn_seen") & _ISN_BOTH) == _ISN_BOTH
        high, low = self._trace_ids(batch, seen, both_isn)
        record = batch.column("record").astype(np.uint64)
        side = seen.side.astype(np.uint64) << np.uint64(32)
        base = self._span_base(high, low)
        captured = seen.side == Side.CAPTURE
        if captured.any():
            base = np.where(captured, _mix_b(base ^ batch.column("flow_start_unix_ns").astype(np.uint64)), base)
        later = record > 0
        joins_client = ~later & both_isn & (seen.side == Side.SERVER) & seen.client_has_span
        client = np.uint64(Side.CLIENT << 32)
        parent = np.where(later, _last_step(base, side), np.uint64(0))
        if joins_client.any():
            parent = np.where(joins_client, _last_step(base, np.full_like(base, client)), parent)
        flags = np.where(joins_client, FLAG_SAMPLED | FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE, FLAG_SAMPLED | FLAG_HAS_IS_REMOTE)
        return SpanIds(high, low, _last_step(base, side | record), parent, flags.astype(np.uint32))

    def _trace_ids(self, batch: FlowBatch, seen: Perspective, both_isn: Mask) -> tuple[Words, Words]:
        high, low = np.empty(batch.count, np.uint64), np.empty(batch.count, np.uint64)
        if both_isn.any():
            source, destination = oriented(batch, "isn", seen.source_is_local)
            word = source.astype(np.uint64) << np.uint64(32) | destination
            high, low = _mix_a(word ^ self._seeds[0]), _mix_b(word ^ self._seeds[1])
        if not both_isn.all():
            rest = ~both_isn
            high[rest], low[rest] = self._tuple_ids(batch, seen.source_is_local, rest)
        low[(high | low) == 0] = 1
        return high, low

    def _tuple_ids(self, batch: FlowBatch, source_is_local: Mask, rows: Mask) -> tuple[Words, Words]:
        high, low = self._seeds[2:3], self._seeds[3:4]
        for word in _tuple_words(batch, source_is_local, rows):
            high, low = _mix_a(high ^ word), _mix_b(low ^ word)
        return high, low

    def _span_base(self, high: Words, low: Words) -> Words:
        return _mix_b(_mix_a(low ^ self._seeds[4]) ^ high)


def oriented(batch: FlowBatch, name: str, source_is_local: Mask) -> tuple[Array, Array]:
    """Return `local_<name>` and `remote_<name>` as source's and destination's."""
    return swapped(batch.column(f"local_{name}"), batch.column(f"remote_{name}"), source_is_local)


def swapped(local: Array, remote: Array, source_is_local: Mask) -> tuple[Array, Array]:
    """Return two columns exchanged in the rows whose source is not local."""
    if source_is_local.all():
        return local, remote
    return np.where(source_is_local, local, remote), np.where(source_is_local, remote, local)


def _tuple_words(batch: FlowBatch, source_is_local: Mask, rows: Mask) -> Iterator[Words]:
    for address in oriented(batch, "address", source_is_local):
        halves = np.ascontiguousarray(address[rows]).view(">u8").reshape(-1, 2).astype(np.uint64)
        yield halves[:, 0]
        yield halves[:, 1]
    word: Words = np.zeros(np.count_nonzero(rows), np.uint64)
    source_port, destination_port = oriented(batch, "port", source_is_local)
    small = (batch.column(name) for name in ("transport", "icmp_type", "icmp_code"))
    for column, shift in zip((source_port, destination_port, *small), (48, 32, 16, 8, 0), strict=True):
        word |= column[rows].astype(np.uint64) << np.uint64(shift)
    yield word
    yield batch.column("flow_start_unix_ns")[rows].astype(np.uint64)


def _last_step(base: Words, side_and_record: Words) -> Words:
    span_id = _mix_a(base ^ side_and_record)
    span_id[span_id == 0] = 1
    return span_id


def _mix_a(x: Words) -> Words:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mix_b(x: Words) -> Words:
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))
