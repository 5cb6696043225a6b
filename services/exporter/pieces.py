"""The parts of a span that are strings, made once per distinct value: words, addresses, and what is known of the ends."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from proto.columns import Resolution
from proto.flow_batch import Array, AttributeValue, Entity, FlowBatch
from services.exporter.attributes import WORDS
from services.exporter.entities import EXTERNAL_PEER, Origin, end_attributes, resource_attributes, service_name
from services.exporter.facts import facts, facts_key, transport_name
from services.exporter.protobuf_wire import RESOURCE_ATTRIBUTES, attribute, field
from services.exporter.records import Records
from services.exporter.spans import Kind

Pieces: TypeAlias = list[bytes]
"""One piece per row."""

CACHE_LIMIT: Final = 1 << 16
"""Entries that a cache may hold when a batch begins; beyond that it starts anew."""

_SPAN_NAME, _SPAN_STATUS = 5, 15
_STATUS_MESSAGE: Final = 2
_STATUS_ERROR: Final = b"\x18\x02"
_MAPPED: Final = bytes(10) + b"\xff\xff"
_RESOLUTIONS: Final[dict[int, str]] = {Resolution.EXTERNAL: "external", Resolution.UNRESOLVED: "unresolved"}
_ENDS: Final = ("source", "destination")

# The key of an end: from bit 0 the transport, then these flags and fields; the transport and flags only of a destination.
# A message holds far fewer than 2**24 entities.
_CLIENT, _NAMED = 1 << 8, 1 << 9
_RESOLUTION, _SERVICE, _ENTITY = 10, 12, 36

_SLOT_BITS: Final = 16
_FIRST_SIZE: Final = 1024
_NO_KEY: Final = np.uint64(2**64 - 1)
_SPREADING: Final = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: the high bits of multiples lie far apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A piece of every span."""

    pieces: Pieces
    lengths: Array
    """Bytes of each piece."""


class Table:
    """Bytes by key, made when first asked for. A key is a few words, each below 2**64 and the last below 2**64 - 1.

    Rows find their entry by columns: each key has one slot that may remember its entry's number. A row whose key is not in its
    slot, because it is new or because another key has the same slot, is looked up by itself.
    """

    def __init__(self, make: Callable[[tuple[int, ...]], bytes], words: int = 1) -> None:
        self._make = make
        self._words = words
        self.clear()

    def __len__(self) -> int:
        return len(self._numbers)

    def clear(self) -> None:
        """Start anew."""
        self._numbers: dict[tuple[int, ...], int] = {}
        self._pieces = np.empty(_FIRST_SIZE, object)
        self._lengths = np.zeros(_FIRST_SIZE, np.int64)
        self._slot_keys = [np.full(1 << _SLOT_BITS, _NO_KEY, np.uint64) for _ in range(self._words)]
        self._slot_numbers = np.zeros(1 << _SLOT_BITS, np.int64)

    def bound(self) -> None:
        """Start anew if there are too many."""
        if len(self) > CACHE_LIMIT:
            self.clear()

    def column(self, *key: Array) -> Column:
        """Return the bytes of each row's key, given as one uint64 array per word."""
        mixed = key[0]
        for word in key[1:]:
            mixed = (mixed ^ mixed >> np.uint64(32)) * _SPREADING ^ word
        slots = (mixed * _SPREADING) >> np.uint64(64 - _SLOT_BITS)
        numbers = self._slot_numbers[slots]
        strange = self._slot_keys[-1][slots] != key[-1]
        for kept, word in zip(self._slot_keys[:-1], key, strict=False):
            strange |= kept[slots] != word
        missed = np.flatnonzero(strange)
        if len(missed):
            wanted = [word[missed] for word in key]
            numbers[missed] = [self._number(one) for one in zip(*(word.tolist() for word in wanted), strict=True)]
            places = slots[missed]
            for kept, word in zip(self._slot_keys, wanted, strict=True):
                kept[places] = word
            self._slot_numbers[places] = numbers[missed]
        return Column(self._pieces[numbers].tolist(), self._lengths[numbers])

    def _number(self, key: tuple[int, ...]) -> int:
        number = self._numbers.get(key)
        if number is None:
            piece = self._make(key)
            number = len(self._numbers)
            if number == len(self._pieces):
                self._pieces = np.concatenate([self._pieces, np.empty(number, object)])
                self._lengths = np.concatenate([self._lengths, np.zeros(number, np.int64)])
            self._pieces[number], self._lengths[number] = piece, len(piece)
            self._numbers[key] = number
        return number


class Words:
    """Status and attributes made from the small facts of a record."""

    def __init__(self) -> None:
        self._table = Table(_words)

    def column(self, records: Records) -> Column:
        """Return each record's piece."""
        self._table.bound()
        return self._table.column(facts_key(records).view(np.uint64))


class Addresses:
    """`source.address` and `destination.address`, and the same by the resource's point of view."""

    def __init__(self) -> None:
        self._table = Table(_address_attributes, words=3)

    def columns(self, records: Records) -> tuple[Column, Column]:
        """Return the pieces of each record's source and of its destination."""
        self._table.bound()
        told_by_source = records.told_by_source()
        destination = self._end(records.destination("address"), 1, ~told_by_source)
        return self._end(records.source("address"), 0, told_by_source), destination

    def _end(self, address: Array, end: int, is_resource: Array) -> Column:
        halves = np.ascontiguousarray(address).view("<u8").reshape(-1, 2)
        return self._table.column(halves[:, 0], halves[:, 1], (is_resource * 2 + end).astype(np.uint64))


class Workloads:
    """What is known of the ends: attributes, the span's name and who the peer is.

    The same workloads come again in batch after batch, so an entity is given a number by its content, and what is made of it
    is kept under that number.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._entities: list[Entity | None] = [None]
        self._sources = Table(self._make_source)
        self._destinations = Table(self._make_destination)
        self._resources: dict[tuple[int, Origin], bytes] = {}

    def numbers(self, batch: FlowBatch) -> Array:
        """Return the number of each of a batch's entities that its records point at; behind them 0, for no entity.

        Numbers hold until the next call.
        """
        if any(len(cache) > CACHE_LIMIT for cache in self._caches()):
            self._forget()
        entities = batch.entities or ()
        used = np.zeros(len(entities) + 1, np.bool_)
        for name in ("local_entity", "remote_entity", "local_service", "remote_service"):
            used[np.minimum(batch.column(name), len(entities))] = True
        at = np.flatnonzero(used[:-1])
        numbers = np.zeros(len(entities) + 1, np.int64)
        numbers[at] = [self._number(entities[index]) for index in at.tolist()]
        return numbers

    def _number(self, entity: Entity) -> int:
        number = self._numbers.get(entity.packed)
        if number is None:
            number = self._numbers[entity.packed] = len(self._entities)
            self._entities.append(entity)
        return number

    def columns(self, records: Records, numbers: Array) -> tuple[Column, Column]:
        """Return the pieces of each record's source and of its destination; the span's name is with the destination."""
        source, destination = _end_key(records.source, numbers), _end_key(records.destination, numbers)
        destination |= records.column("transport")
        destination |= np.where(records.seen.kind == Kind.CLIENT, _CLIENT, 0) | np.where(records.has_initiator(), _NAMED, 0)
        return self._sources.column(source.view(np.uint64)), self._destinations.column(destination.view(np.uint64))

    def resource(self, number: int, origin: Origin) -> bytes:
        """Return `ResourceSpans.resource` of an entity's spans."""
        key = (number, origin)
        if key not in self._resources:
            attributes = resource_attributes(self._entities[number], origin)
            fields = (attribute(name, value, RESOURCE_ATTRIBUTES) for name, value in attributes.items())
            self._resources[key] = field(1, b"".join(fields))
        return self._resources[key]

    def _caches(self) -> tuple[dict[Any, Any] | Table, ...]:
        return self._numbers, self._sources, self._destinations, self._resources

    def _forget(self) -> None:
        for cache in self._caches():
            cache.clear()
        del self._entities[1:]

    def _make_source(self, key: tuple[int, ...]) -> bytes:
        return self._attributes(0, key[0])

    def _make_destination(self, key: tuple[int, ...]) -> bytes:
        return self._peer(key[0]) + self._attributes(1, key[0])

    def _attributes(self, end: int, key: int) -> bytes:
        attributes = end_attributes(_ENDS[end], *self._entities_of(key))
        resolution = _RESOLUTIONS.get(key >> _RESOLUTION & 3)
        if resolution:
            attributes[f"flow.{_ENDS[end]}.resolution"] = resolution
        return b"".join(attribute(name, value) for name, value in attributes.items())

    def _peer(self, key: int) -> bytes:
        """The span's name, and the peer's on a CLIENT span."""
        known = service_name(*self._entities_of(key))
        name = transport_name(key & 0xFF)
        if known and key & _NAMED:
            name = f"{name} {known[0]}"
        external = key >> _RESOLUTION & 3 == Resolution.EXTERNAL
        peer = peer_attributes(known, external=external) if key & _CLIENT else {}
        return field(_SPAN_NAME, name.encode()) + b"".join(attribute(*item) for item in peer.items())

    def _entities_of(self, key: int) -> tuple[Entity | None, Entity | None]:
        return self._entities[key >> _ENTITY], self._entities[key >> _SERVICE & 0xFFFFFF]


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


def _words(key: tuple[int, ...]) -> bytes:
    known = facts(key[0])
    values = ((word.name, word.value(known)) for word in WORDS)
    out = b"".join(attribute(name, value) for name, value in values if value is not None)
    if known.error:
        out += field(_SPAN_STATUS, field(_STATUS_MESSAGE, known.error[1].encode()) + _STATUS_ERROR)
    return out


def _address_attributes(key: tuple[int, ...]) -> bytes:
    first, last, which = key
    text = address_text(first.to_bytes(8, "little") + last.to_bytes(8, "little"))
    own = "network.local.address" if which & 2 else "network.peer.address"
    return attribute(f"{_ENDS[which & 1]}.address", text) + attribute(own, text)


def _end_key(end: Callable[[str], Array], numbers: Array) -> Array:
    """Entity, service and resolution of an end in one int64."""
    nothing = len(numbers) - 1
    entity, service = (numbers[np.minimum(end(name), nothing)] for name in ("entity", "service"))
    key: Array = entity << _ENTITY | service << _SERVICE | (end("resolution") & 3).astype(np.int64) << _RESOLUTION
    return key
