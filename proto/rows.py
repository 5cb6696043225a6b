"""A FlowBatch for people and their tools: one dict per record, everything by name. For looking, not for the pipeline.

Every record of every batch has the same keys, whether its batch carried the column or not, so that a jq filter written for
one works on all; the enricher's keys are there once a batch is enriched.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from proto.columns import COLUMNS, ENRICHED, EXCHANGE, FILE, NAMES, NAT, NO_INDEX, RAW, SET_UP, SOCKET, TLS, VERDICT, Column
from proto.errors import DecodeError
from proto.flow_batch import Array, Entity, FlowBatch

TRANSPORTS: Final = {
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    89: "ospf",
    103: "pim",
    112: "vrrp",
    132: "sctp",
    136: "udplite",
}
"""Names of IANA protocol numbers, as OpenTelemetry's `network.transport` and packet analysers spell them."""

_NUMBERS: Final = {name: number for number, name in TRANSPORTS.items()}
_BATCH_KEYS: Final = frozenset({"node", "epoch", "sequence"})
_ADDRESSES: Final = frozenset(
    {"local_address", "remote_address", "local_tunnel_address", "remote_tunnel_address", "remote_nat_address"}
    | {"lookup_local_address", "lookup_remote_address"}
)
_NAME_INDEXES: Final = frozenset(column.name for column in NAMES + TLS if column.default == NO_INDEX)
_ENTITY_INDEXES: Final = frozenset({"local_entity", "remote_entity", "local_service", "remote_service"})


def rows(batch: FlowBatch) -> Iterator[dict[str, Any]]:
    """Yield one JSON-able dict per record of `batch`.

    `node`, `epoch` and `sequence` say which batch the record is from. Addresses are text, enumerations and transports names,
    times integer nanoseconds; a number that has no name stays a number. An index column holds what it points at, or None:
    a map of strings for a container, `{"type": ..., **attributes}` for an entity, text for a name. What only a socket or only a
    file knows, only DNS, TLS or an exchange has, or somebody has judged, is there where the batch has it. Columns that the
    schema does not know come last and as they are; raw bytes are in hexadecimal.
    """
    known: tuple[Column, ...] = RAW
    for some in (SOCKET, NAT, NAMES, TLS, FILE, EXCHANGE, SET_UP):
        if any(column.name in batch.columns for column in some):
            known += some
    if batch.entities is not None:
        known += ENRICHED
    if any(column.name in batch.columns for column in VERDICT):
        known += VERDICT
    values = {column.name: _known_values(batch, column) for column in known}
    for name, array in batch.columns.items():
        if name not in COLUMNS and name not in _BATCH_KEYS:
            values[name] = _unknown_values(array)
    head = {"node": batch.node, "epoch": batch.epoch, "sequence": batch.sequence}
    for row in zip(*values.values(), strict=True):
        yield {**head, **dict(zip(values, row, strict=True))}


def address_text(packed: bytes) -> str:
    """Return 16 bytes in network order as dotted IPv4 where they are an IPv4-mapped address, else as IPv6 (RFC 5952)."""
    address = ipaddress.IPv6Address(packed)
    mapped = address.ipv4_mapped
    return str(address if mapped is None else mapped)


def _known_values(batch: FlowBatch, column: Column) -> list[Any]:
    array = batch.column(column.name)
    if column.name in _ADDRESSES:
        return _each(array, address_text)
    if column.name == "transport":
        return [TRANSPORTS.get(number, number) for number in array.tolist()]
    table = _side_table(batch, column.name)
    if table is not None:
        return _pointed_at(array, *table)
    if column.enum is not None:
        names = {member.value: member.name.lower() for member in column.enum}
        return [names.get(number, number) for number in array.tolist()]
    return _as_it_is(array)


def _side_table(batch: FlowBatch, column: str) -> tuple[Sequence[Any], Callable[[Any], Any]] | None:
    """Return what an index column points into, and how a row of it is shown; None for any other column."""
    if column == "local_container":
        return batch.containers, dict
    if column in _ENTITY_INDEXES:
        return batch.entities or (), _entity
    return (batch.names, str) if column in _NAME_INDEXES else None


def _unknown_values(array: Array) -> list[Any]:
    # JSON has no NaN and no infinity.
    return _finite(array.tolist()) if array.dtype.kind == "f" else _as_it_is(array)


def _as_it_is(array: Array) -> list[Any]:
    if array.dtype.kind == "V":
        return _each(array, bytes.hex)
    values: list[Any] = array.tolist()
    return values


def _finite(values: list[Any]) -> list[Any]:
    return [_finite(value) if isinstance(value, list) else value if math.isfinite(value) else None for value in values]


def _each(array: Array, show: Callable[[bytes], str]) -> list[Any]:
    """Show each row of a raw-bytes column; of a column with several values a row, each of them."""
    size = array.dtype.itemsize
    data = np.ascontiguousarray(array).tobytes()
    shown = [show(data[at : at + size]) for at in range(0, len(data), size)]
    if array.ndim == 1:
        return shown
    width = array.shape[1]
    return [shown[at : at + width] for at in range(0, len(shown), width)]


def _pointed_at(array: Array, table: Sequence[Any], show: Callable[[Any], Any]) -> list[Any]:
    shown = [show(row) for row in table]
    return [None if index == NO_INDEX else shown[index] for index in array.tolist()]


def _entity(entity: Entity) -> dict[str, Any]:
    attributes: Mapping[str, Any] = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in entity.attributes.items()
    }
    return {"type": entity.type, **attributes}


def batches(shown: Iterable[Mapping[str, Any]]) -> Iterator[FlowBatch]:
    """Yield the batches that `rows` showed: the way back, one batch for each run of rows of the same node, epoch and sequence.

    Keys that the schema does not know are left out, missing ones have their column's default. Raises DecodeError for a row
    that `rows` would not have made.
    """
    for (node, epoch, sequence), run in itertools.groupby(shown, key=_batch_of):
        yield _batch(node, epoch, sequence, list(run))


def _batch_of(row: Mapping[str, Any]) -> tuple[str, str, int]:
    node, epoch, sequence = (row.get(key) for key in ("node", "epoch", "sequence"))
    if not (isinstance(node, str) and isinstance(epoch, str) and isinstance(sequence, int)):
        raise DecodeError("no record: node, epoch or sequence is missing")
    return node, epoch, sequence


def _batch(node: str, epoch: str, sequence: int, run: Sequence[Mapping[str, Any]]) -> FlowBatch:
    columns, tables = {}, _Tables()
    try:
        for column in COLUMNS.values():
            if any(column.name in row for row in run):
                values = [_wire_value(column, row.get(column.name), tables) for row in run]
                columns[column.name] = np.array(values, column.numpy_dtype.base).reshape(len(run), *column.numpy_dtype.shape)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DecodeError(f"no record: {column.name}: {error}") from error
    enriched = any(column.name in row for column in ENRICHED for row in run)
    times = [int(time) for name in ("start_unix_ns", "end_unix_ns") if name in columns for time in columns[name]]
    return FlowBatch(
        node=node,
        epoch=epoch,
        sequence=sequence,
        count=len(run),
        interval=(min(times, default=0), max(times, default=0)),
        columns=columns,
        containers=tables.containers,
        entities=tables.entities if enriched else None,
        names=tuple(tables.names),
    )


class _Tables:
    """The side tables of a batch that is made of rows: each thing once."""

    def __init__(self) -> None:
        self.containers: list[dict[str, str]] = []
        self.entities: list[Entity] = []
        self.names: list[str] = []
        self._places: dict[tuple[int, str], int] = {}

    def place(self, column: str, value: Any) -> int:
        """Return the index of what a row says that its index column points at."""
        if column in _NAME_INDEXES:
            return self._place(self.names, str(value), str(value))
        key = json.dumps(value, sort_keys=True)
        if column == "local_container":
            return self._place(self.containers, key, dict(value))
        attributes = {name: each for name, each in value.items() if name != "type"}
        return self._place(self.entities, key, Entity(value["type"], attributes))

    def _place(self, table: list[Any], key: str, row: Any) -> int:
        place = self._places.setdefault((id(table), key), len(table))
        if place == len(table):
            table.append(row)
        return place


def _wire_value(column: Column, value: Any, tables: _Tables) -> Any:
    is_bytes, size = column.dtype.startswith("|V"), column.numpy_dtype.itemsize
    if value is None:
        return np.void(bytes(size)) if is_bytes else np.full(column.numpy_dtype.shape, column.default)
    if is_bytes:
        packed = _packed_address(value) if column.name in _ADDRESSES else bytes.fromhex(value)
        if len(packed) != size:
            raise ValueError(f"{len(packed)} bytes for {size}")
        return np.void(packed)
    if column.name == "local_container" or column.name in _ENTITY_INDEXES | _NAME_INDEXES:
        return tables.place(column.name, value)
    if isinstance(value, str):
        return _NUMBERS[value] if column.name == "transport" else column.enum[value.upper()] if column.enum else int(value)
    return value


def _packed_address(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
