"""The parts of a span that are strings, made once per distinct value: words, and what is known of the ends."""

from __future__ import annotations

import ipaddress
from typing import Final

import numpy as np

from proto.columns import Resolution
from proto.flow_batch import Array, AttributeValue, Entity, FlowBatch
from services.exporter.otlp.piece_table import CACHE_LIMIT, Column, Table
from services.exporter.otlp.protobuf_wire import RESOURCE_ATTRIBUTES, attribute, field
from services.exporter.spans.entities import (
    EXTERNAL_PEER,
    Origin,
    Reference,
    end_attributes,
    references,
    resource_attributes,
    service_name,
)
from services.exporter.spans.facts import facts, facts_key, transport_name
from services.exporter.spans.identity import Kind, Mask
from services.exporter.spans.records import Records
from services.exporter.spans.selection import Selection

SPAN_NAME, _SPAN_STATUS = 5, 15
_STATUS_MESSAGE: Final = 2
_ENTITY_REFS: Final = 3
_STATUS_ERROR: Final = b"\x18\x02"
_MAPPED: Final = bytes(10) + b"\xff\xff"
_RESOLUTIONS: Final[dict[int, str]] = {
    each: each.name.lower() for each in (Resolution.EXTERNAL, Resolution.UNRESOLVED, Resolution.UNKNOWN)
}
_ENDS: Final = ("source", "destination")

# The last word of an end's key: from bit 0 the transport, then these flags and fields; the transport and CLIENT only of a
# destination, NAMED where it is known which end began. A message holds far fewer than 2**24 entities.
_CLIENT, _NAMED, _DESTINATION, _OWN = 1 << 8, 1 << 9, 1 << 13, 1 << 14
_RESOLUTION, _SERVICE, _ENTITY = 10, 15, 39
_RESOLUTION_MASK: Final = 7
_ENTITY_MASK: Final = (1 << 24) - 1
_NAMELESS: Final = 1 << 63
"""The span has its name from elsewhere."""


def status(message: str) -> bytes:
    """Return `Span.status` of a failure."""
    return field(_SPAN_STATUS, field(_STATUS_MESSAGE, message.encode()) + _STATUS_ERROR)


class Words:
    """Status and attributes made from the small facts of a record."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._table = Table(self._make)

    def column(self, records: Records) -> Column:
        """Return each record's piece."""
        if self._table.full:
            self._table.clear()
        return self._table.column(facts_key(records))

    def _make(self, key: tuple[int, ...]) -> bytes:
        known = facts(key[0])
        values = ((word.name, word.value(known)) for word in self._selection.words)
        out = b"".join(attribute(name, value) for name, value in values if value is not None)
        if known.error:
            out += status(known.error[1])
        return out


class Tunnels:
    """`tunnel.source.address` and `tunnel.destination.address`."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._table = Table(self._make, words=3)

    def columns(self, records: Records) -> tuple[Column, ...]:
        """Return the piece of each record's tunnel ends; none where no record of the batch is in a tunnel."""
        tunnelled = records.nonzero("tunnel")
        if not tunnelled.any():
            return ()
        if self._table.full:
            self._table.clear()
        ends = (records.source("tunnel_address"), records.destination("tunnel_address"))
        return tuple(self._end(halves, number * tunnelled) for number, halves in enumerate(ends, start=1))

    def _end(self, halves: Array, which: Array) -> Column:
        return self._table.column(halves[:, 0], halves[:, 1], which.astype(np.uint64))

    def _make(self, key: tuple[int, ...]) -> bytes:
        first, last, end = key
        name = f"tunnel.{_ENDS[end - 1]}.address"
        if not end or not self._selection.has(name):
            return b""
        return attribute(name, address_text(first.to_bytes(8, "little") + last.to_bytes(8, "little")))


class Files:
    """`flow.capture.file`."""

    def __init__(self, selection: Selection) -> None:
        self._carried = selection.has("flow.capture.file")
        self._table = Table(self._make, words=1)
        self._numbers: dict[str, int] = {}
        self._names = [""]

    def columns(self, records: Records) -> tuple[Column, ...]:
        """Return the piece of each record's file; none where no record of the batch has one."""
        if not self._carried or not records.has("file"):
            return ()
        if self._table.full:
            self._table.clear()
            self._numbers, self._names = {}, [""]
        numbers = [self._number(file.get("name", "")) for file in records.batch.files]
        known = np.array([*numbers, 0], np.uint64)
        return (self._table.column(known[np.minimum(records.column("file"), len(numbers))]),)

    def _number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self._names)) if name else 0
        if number == len(self._names):
            self._names.append(name)
        return number

    def _make(self, key: tuple[int, ...]) -> bytes:
        name = self._names[key[0]]
        return attribute("flow.capture.file", name) if name else b""


class Backends:
    """`destination.nat.ip`."""

    def __init__(self, selection: Selection) -> None:
        self._carried = selection.has("destination.nat.ip")
        self._table = Table(self._make, words=3)

    def columns(self, records: Records) -> tuple[Column, ...]:
        """Return the piece of each record's backend; none where no record of the batch has one."""
        chosen = records.has_backend
        if not self._carried or not chosen.any():
            return ()
        if self._table.full:
            self._table.clear()
        halves = np.ascontiguousarray(records.column("remote_nat_address")).view("<u8").reshape(-1, 2)
        return (self._table.column(halves[:, 0], halves[:, 1], chosen.astype(np.uint64)),)

    def _make(self, key: tuple[int, ...]) -> bytes:
        first, last, chosen = key
        address = first.to_bytes(8, "little") + last.to_bytes(8, "little")
        return attribute("destination.nat.ip", address_text(address)) if chosen else b""


class Ends:
    """What is known of the ends: address and workload, the span's name and who the peer is; and the spans' resources.

    The same workloads come again in batch after batch, so an entity is given a number by its content, and what is made of it
    is kept under that number.
    """

    def __init__(self, selection: Selection, *, entity_refs: bool = False) -> None:
        """`entity_refs`: resources say which of their attributes identify which entity."""
        self._selection = selection
        self._entity_refs = entity_refs
        self._numbers: dict[bytes, int] = {}
        self._entities: list[Entity | None] = [None]
        self._table = Table(self._make, words=3)
        self._without_address: dict[int, bytes] = {}
        self._resources: dict[tuple[int, Origin], bytes] = {}

    def numbers(self, batch: FlowBatch) -> Array:
        """Return the number of each of a batch's entities that its records point at; behind them 0, for no entity.

        Numbers hold until the next call.
        """
        if self._table.full or max(len(self._numbers), len(self._resources)) > CACHE_LIMIT:
            self._forget()
        entities = batch.entities or ()
        used = np.zeros(len(entities) + 1, np.bool_)
        for name in ("local_entity", "remote_entity", "local_service", "remote_service"):
            if name in batch.columns:
                used[np.minimum(batch.column(name), len(entities))] = True
        at = used[:-1].nonzero()[0]
        numbers = np.zeros(len(entities) + 1, np.int64)
        named = [entities[index] for index in at.tolist()]
        found = [self._numbers.get(entity.packed, 0) for entity in named]
        if 0 in found:
            found = [self._number(entity) for entity in named]
        numbers[at] = found
        return numbers

    def _number(self, entity: Entity) -> int:
        number = self._numbers.setdefault(entity.packed, len(self._entities))
        if number == len(self._entities):
            self._entities.append(entity)
        return number

    def columns(
        self, records: Records, numbers: Array, *, named: bool = True, other_peers: Mask | None = None
    ) -> tuple[Column, Column]:
        """Return the pieces of each record's source and of its destination; the second has the span's name where `named`, and
        says of no peer where that is said elsewhere: `other_peers`.
        """
        count, nothing = records.count, len(numbers) - 1
        entity, service = (numbers.take(np.minimum(records.ends(name), nothing)) for name in ("entity", "service"))
        key = entity << _ENTITY | service << _SERVICE
        key |= (records.ends("resolution") & np.uint8(_RESOLUTION_MASK)).astype(np.int64) << _RESOLUTION
        initiated = records.has_initiator() * np.int64(_NAMED)
        key[:count] |= initiated | records.told_by_source() * np.int64(_OWN)
        key[count:] |= (
            records.column("transport")
            | (records.seen.kind == Kind.CLIENT) * (True if other_peers is None else ~other_peers) * np.int64(_CLIENT)
            | initiated
            | np.where(records.told_by_source(), _DESTINATION, _DESTINATION | _OWN)
        )
        if not named:
            key[count:] |= np.int64(_NAMELESS - 2**64)
        halves = records.ends("address")
        both = self._table.column(halves[:, 0], halves[:, 1], key.view(np.uint64))
        return both.part(slice(0, count)), both.part(slice(count, 2 * count))

    def resource(self, number: int, origin: Origin) -> bytes:
        """Return `ResourceSpans.resource` of an entity's spans."""
        kept = self._resources.get((number, origin))
        if kept is None:
            attributes = resource_attributes(self._entities[number], origin)
            fields = [attribute(name, value, RESOURCE_ATTRIBUTES) for name, value in attributes.items()]
            if self._entity_refs:
                fields += [field(_ENTITY_REFS, _entity_ref(each)) for each in references(attributes)]
            kept = self._resources[number, origin] = field(1, b"".join(fields))
        return kept

    def _forget(self) -> None:
        for cache in (self._numbers, self._table, self._without_address, self._resources):
            cache.clear()
        del self._entities[1:]

    def _make(self, key: tuple[int, ...]) -> bytes:
        first, last, known = key
        text = address_text(first.to_bytes(8, "little") + last.to_bytes(8, "little"))
        of_end = f"{_ENDS[bool(known & _DESTINATION)]}.address"
        of_resource = "network.local.address" if known & _OWN else "network.peer.address"
        names = (of_end, of_resource) if known & _DESTINATION or not known & _NAMED else (of_end, of_resource, "client.address")
        # A workload has few addresses, but whoever calls from outside has one of very many.
        rest = self._without_address.get(known)
        if rest is None:
            rest = self._without_address[known] = self._make_without_address(known)
        return b"".join(attribute(name, text) for name in names if self._selection.has(name)) + rest

    def _make_without_address(self, known: int) -> bytes:
        end = _ENDS[bool(known & _DESTINATION)]
        entity, service = self._entities[known >> _ENTITY & _ENTITY_MASK], self._entities[known >> _SERVICE & _ENTITY_MASK]
        attributes = end_attributes(end, entity, service)
        resolution = _RESOLUTIONS.get(known >> _RESOLUTION & _RESOLUTION_MASK)
        if resolution:
            attributes[f"flow.{end}.resolution"] = resolution
        name = b""
        if known & _DESTINATION:
            found = service_name(entity, service)
            name = _name(known, found)
            if known & _CLIENT:
                attributes |= peer_attributes(found, external=resolution == "external")
        chosen = (item for item in attributes.items() if self._selection.has(item[0]))
        return name + b"".join(attribute(*item) for item in chosen)


def _entity_ref(of: Reference) -> bytes:
    """`EntityRef`: type, id_keys, description_keys."""
    described = field(4, of.description_key.encode()) if of.description_key else b""
    return field(2, of.type.encode()) + field(3, of.id_key.encode()) + described


def _name(key: int, known: tuple[str, str] | None) -> bytes:
    """The span's name, as a field of it; nothing where it stands elsewhere."""
    if key & _NAMELESS:
        return b""
    name = transport_name(key & 0xFF)
    if known and key & _NAMED:
        name = f"{name} {known[0]}"
    return field(SPAN_NAME, name.encode())


def peer_attributes(known: tuple[str, str] | None, *, external: bool) -> dict[str, AttributeValue]:
    """Return who the destination of a CLIENT span is, in both of the names that conventions gave it."""
    if known is None:
        return {"peer.service": EXTERNAL_PEER} if external else {}
    name, namespace = known
    space = {"service.peer.namespace": namespace} if namespace else {}
    return {"peer.service": name, "service.peer.name": name, **space}


def address_text(address: bytes) -> str:
    """Return an address as text: dotted IPv4 where it is mapped, else IPv6 as RFC 5952 writes it."""
    if address.startswith(_MAPPED):
        return ".".join(map(str, address[12:]))
    return ipaddress.IPv6Address(address).compressed
