"""FlowBatch v1: many flow records as columns, in one msgpack map (the spec is proto/README.md).

A column is a little-endian typed array. `encode` leaves out columns that hold nothing but their default and `column` gives
them back on demand, so absent, old and new columns are one case. Decoding copies nothing: the arrays are read-only views of
the message.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from proto.columns import COLUMNS, NAMES, NO_INDEX, TLS
from proto.errors import DecodeError, ProtoError
from proto.subjects import MAX_BATCH_BYTES

SCHEMA: Final = "wirespan.flow.v1"
MAX_DECODE_BYTES: Final = 8 * 1024 * 1024
"""What readers accept at the most: the largest payload NATS recommends. It bounds the memory a hostile message can claim."""
LEAST_ROW_BYTES: Final = 32
"""What a record takes in a message at the least: its addresses. A message that claims more rows than that is no batch."""
FEW_ROWS: Final = 1024
"""So many rows cost nobody anything: as many may hold nothing but defaults."""
MAX_NODE_CHARACTERS: Final = 253
"""Of a node's name: RFC 1123's, as Kubernetes has it. It becomes part of subjects, whose length servers bound."""
MAX_NAME_CHARACTERS: Final = 1016
"""Of a domain name: 254 bytes, each of which may be written as four characters."""

Array: TypeAlias = npt.NDArray[Any]
AttributeValue: TypeAlias = str | int | float | bool | list[str]

SOURCE_NAT: Final = "k8s.node.source_nat"
"""Attribute of a node at the remote end of a server's record: the Service also takes connections from outside, which come to
its pods from the address of the node that handed them on. The client is the node, or somebody whose own socket nobody sees.
"""

_DTYPE: Final = re.compile(r"(\([1-9][0-9]{0,2},\))?(\|u1|\|i1|\|V[1-9][0-9]?|<[uif][248])")
_STRING: Final = frozenset({str})
_LITTLE: Final = sys.byteorder == "little"
SIDE_TABLE_INDEXES: Final = {
    "containers": ("local_container",),
    "files": ("file",),
    "names": tuple(column.name for column in NAMES + TLS if column.default == NO_INDEX),
    "entities": ("local_entity", "remote_entity", "local_service", "remote_service"),
}


@dataclass(frozen=True, slots=True)
class Entity:
    """One workload, node or service.

    `type` is its OpenTelemetry entity type (`k8s.pod`, `k8s.node`, `k8s.service`, `host` ...); `attributes` have their
    semantic-convention names, without `source.` or `destination.`.
    """

    type: str
    attributes: Mapping[str, AttributeValue]
    _packed: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def packed(self) -> bytes:
        """The entity as msgpack, made once: an index gives the same entity to thousands of batches."""
        if not self._packed:
            tree = {"type": self.type, "attributes": dict(self.attributes)}
            object.__setattr__(self, "_packed", bytes(msgpack.packb(tree)))
        return self._packed


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """A run of flow records from one node.

    `columns` maps a column's name to an array of `count` rows; a column of the schema that is missing holds its default
    everywhere, and columns that the schema does not know are carried along untouched. `counters` are cumulative since the
    epoch began: what capture saw that is in no flow, so that totals add up.
    """

    node: str
    epoch: str
    """The capture process's run: a new one begins its sequence at 0."""
    sequence: int
    count: int
    interval: tuple[int, int]
    """Unix nanoseconds between which the records were collected."""
    columns: Mapping[str, Array]
    containers: Sequence[Mapping[str, str]] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    entities: Sequence[Entity] | None = None
    """Workloads the index columns point at; None until the batch is enriched."""
    files: Sequence[Mapping[str, str]] = ()
    """Capture files that `file` points at, each with its `name`."""
    names: Sequence[str] = ()
    """Domain names that the index columns of names point at."""

    def column(self, name: str) -> Array:
        """Return a column of the schema, filled with its default where the batch does not carry it.

        Raises KeyError for a name that neither the batch nor the schema knows.
        """
        array = self.columns.get(name)
        if array is not None:
            return array
        column = COLUMNS[name]
        return np.full(self.count, column.default, column.dtype) if column.default else np.zeros(self.count, column.dtype)

    def take(self, rows: slice | Array) -> FlowBatch:
        """Return the batch with only `rows` (a slice, or an index or boolean array); side tables stay whole."""
        columns = {name: array[rows] for name, array in self.columns.items()}
        count = len(np.empty(self.count, np.bool_)[rows])
        return replace(self, count=count, columns=columns)


def encode(batch: FlowBatch) -> bytes:
    """Return the batch as one msgpack map. Raises ProtoError where a column does not have `count` rows."""
    columns: dict[str, bytes] = {}
    types: dict[str, str] = {}
    for name, array in batch.columns.items():
        if len(array) != batch.count:
            raise ProtoError(f"column {name!r} has {len(array)} rows, the batch {batch.count}")
        as_came = _as_came(array)
        if as_came is not None:
            columns[name], types[name] = as_came, _type_string(array)
            continue
        known = COLUMNS.get(name)
        if known is not None and _holds_only(array, known.default):
            continue
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        columns[name] = little.tobytes()
        types[name] = _type_string(little)
    message = {
        "schema": SCHEMA,
        "node": batch.node,
        "epoch": batch.epoch,
        "sequence": batch.sequence,
        "count": batch.count,
        "interval": batch.interval,
        "columns": columns,
        "types": types,
        "containers": [_as_dict(container) for container in batch.containers],
        "counters": _as_dict(batch.counters),
    }
    if batch.files:
        message["files"] = [_as_dict(file) for file in batch.files]
    if batch.names:
        message["names"] = batch.names
    if batch.entities is not None:
        message["entities"] = [msgspec.Raw(entity.packed) for entity in batch.entities]
    return _WRITER.encode(message)


_WRITER: Final = msgspec.msgpack.Encoder()


def _as_dict(row: Mapping[str, Any]) -> dict[str, Any]:
    return row if isinstance(row, dict) else dict(row)


@dataclass(frozen=True, slots=True)
class Part:
    """A run of a batch's rows as a message of its own: rows `first` up to, not including, `end`."""

    first: int
    end: int
    message: bytes


def encode_parts(batch: FlowBatch, limit: int = MAX_BATCH_BYTES, first: int = 0) -> Iterator[Part]:
    """Yield the batch as one message, or as several of consecutive rows where one would exceed `limit` bytes.

    `first` is the number given to the batch's first row. The same batch always gives the same parts. Side tables are cut down
    to what each part refers to. A single record that exceeds the limit is a part all the same.
    """
    message = encode(batch)
    if len(message) <= limit:
        yield Part(first, first + batch.count, message)
        return
    if batch.count <= 1:
        yield Part(first, first + batch.count, encode(_compact(batch)))
        return
    half = batch.count // 2
    for rows in (slice(0, half), slice(half, batch.count)):
        yield from encode_parts(_compact(batch.take(rows)), limit, first + rows.start)


def decode(message: bytes, known: MutableMapping[bytes, Entity] | None = None) -> FlowBatch:
    """Return the FlowBatch in `message`; its arrays are views of the message. Raises DecodeError for anything else.

    `known` is for who reads many: entities by their bytes. Those that are in it are not read again, new ones are added.
    """
    if len(message) > MAX_DECODE_BYTES:
        raise DecodeError(f"{len(message)} bytes, more than the {MAX_DECODE_BYTES} a reader accepts")
    try:
        read = _READER.decode(message)
    except (ValueError, TypeError, RecursionError):  # msgspec's own error is a ValueError
        read = _looked_at(message)
    if read.schema != SCHEMA:
        raise DecodeError(f"schema {read.schema[:64]!r}, this reader knows {SCHEMA!r}")
    # Columns that are absent are made of their defaults: the rows that a message may claim are bounded by its own size.
    most = max(FEW_ROWS, len(message) // LEAST_ROW_BYTES)
    if not 0 <= read.count <= most:
        raise DecodeError(f"'count' is {read.count}, outside 0 to {most}")
    columns = _columns(read.columns, read.types, read.count)
    files, names = tuple(read.files), tuple(read.names)
    if any(len(name) > MAX_NAME_CHARACTERS for name in names):
        raise DecodeError("a row of 'names' is not a domain name")
    for table, pointing in ((files, "files"), (names, "names")):
        # An older service, which knows neither, hands on the columns and not the table.
        for column in SIDE_TABLE_INDEXES[pointing] if not table else ():
            columns.pop(column, None)
    entities = None if read.entities is None else [_entity_of(bytes(row), known) for row in read.entities]
    _check_indexes(columns, "containers", len(read.containers))
    _check_indexes(columns, "files", len(files))
    _check_indexes(columns, "names", len(names))
    _check_indexes(columns, "entities", len(entities or ()))
    if len(read.node) > MAX_NODE_CHARACTERS:
        raise DecodeError(f"'node' has {len(read.node)} characters, more than the {MAX_NODE_CHARACTERS} of a name")
    return FlowBatch(
        node=read.node,
        epoch=read.epoch,
        sequence=read.sequence,
        count=read.count,
        interval=read.interval,
        columns=columns,
        containers=read.containers,
        files=files,
        names=names,
        counters=read.counters,
        entities=entities,
    )


class _Read(msgspec.Struct):
    """A message's parts, of their types and otherwise as they came."""

    schema: str
    node: str
    epoch: str
    sequence: Annotated[int, Meta(ge=0)]
    count: int
    interval: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]
    columns: dict[str, bytes]
    types: dict[str, str]
    containers: list[dict[str, str]] = []
    counters: dict[str, int] = {}
    files: list[dict[str, str]] = []
    names: list[str] = []
    entities: list[msgspec.Raw] | None = None


_READER: Final = msgspec.msgpack.Decoder(_Read)


def _looked_at(message: bytes) -> _Read:
    """The same of a message that is otherwise than usual, part by part. Raises DecodeError with what is wrong."""
    try:
        tree = msgpack.unpackb(message)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"not msgpack: {error}") from error
    if not isinstance(tree, dict):
        raise DecodeError(f"a {type(tree).__name__} where the batch map should be")
    if tree.get("schema") != SCHEMA:
        raise DecodeError(f"schema {str(tree.get('schema'))[:64]!r}, this reader knows {SCHEMA!r}")
    count, columns, types = _integer(tree, "count"), _typed(tree, "columns", dict), _typed(tree, "types", dict)
    for name, data in columns.items():
        if not (isinstance(name, str) and isinstance(data, bytes) and isinstance(types.get(name), str)):
            raise DecodeError(f"column {str(name)[:64]!r} is not bytes with a type")
    return _Read(
        schema=SCHEMA,
        count=count,
        columns=columns,
        types={name: types[name] for name in columns},
        containers=[_string_map("containers", row) for row in _typed(tree, "containers", list, [])],
        files=[_string_map("files", row) for row in _typed(tree, "files", list, [])],
        names=[_name(row) for row in _typed(tree, "names", list, [])],
        entities=[_packed_again(row) for row in _typed(tree, "entities", list)] if "entities" in tree else None,
        node=_typed(tree, "node", str),
        epoch=_typed(tree, "epoch", str),
        sequence=_integer(tree, "sequence"),
        interval=_interval(_typed(tree, "interval", list)),
        counters=_counters(_typed(tree, "counters", dict, {})),
    )


def _packed_again(entity: Any) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgpack.packb(entity))
    except (ValueError, TypeError) as error:
        raise DecodeError(f"an entity that is none: {error}") from error


def _as_came(array: Array) -> bytes | None:
    """The bytes that a whole column was read from, which say what it says; None for any other array."""
    base: object = array.base
    if isinstance(base, np.ndarray):
        base = base.base
    if not (_LITTLE and isinstance(base, bytes) and len(base) == array.nbytes):
        return None
    return base if array.flags.c_contiguous and array.dtype.isnative else None


def _holds_only(array: Array, default: int) -> bool:
    if array.dtype.kind == "V":
        array = array.view(np.uint8)
    return not np.count_nonzero(array if default == 0 else array != default)


def _type_string(array: Array) -> str:
    """The dtype string of one row: `<u8`, or `(20,)<u4` for a column of shape (count, 20)."""
    row = array.dtype.str
    return f"({array.shape[1]},){row}" if array.ndim == 2 else row


def _compact(batch: FlowBatch) -> FlowBatch:
    """Drop side-table rows that no record refers to and renumber the columns that point at them."""
    columns = dict(batch.columns)
    kept: dict[str, Any] = {}
    for table, names in SIDE_TABLE_INDEXES.items():
        rows = getattr(batch, table)
        if not rows:
            continue
        used = np.unique(np.concatenate([batch.column(name) for name in names]))
        used = used[used != NO_INDEX]
        for name in names:
            old = batch.column(name)
            columns[name] = np.where(old == NO_INDEX, NO_INDEX, np.searchsorted(used, old)).astype("<u4")
        kept[table] = [rows[index] for index in used.tolist()]
    return replace(batch, columns=columns, **kept)


def _columns(columns: Mapping[str, bytes], types: Mapping[str, str], count: int) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, data in columns.items():
        kind = types.get(name, "")
        usual = _USUAL.get((name, kind))
        if usual is None:
            arrays[name] = _unusual(name, data, kind, count)
            continue
        itemsize, base, shape = usual
        if len(data) != itemsize * count:
            raise DecodeError(f"column {name!r} has {len(data)} bytes for {count} rows of {kind}")
        arrays[name] = np.frombuffer(data, base).reshape(count, *shape) if shape else np.frombuffer(data, base)
    return arrays


_USUAL: Final = {
    (column.name, column.dtype): (column.numpy_dtype.itemsize, column.numpy_dtype.base, column.numpy_dtype.shape)
    for column in COLUMNS.values()
}
"""What the known columns are, by name and type."""


def _unusual(name: str, data: bytes, kind: str, count: int) -> Array:
    """A column that another version wrote otherwise, or that nobody here knows."""
    if not kind:
        raise DecodeError(f"column {name[:64]!r} is not bytes with a type")
    dtype = _row_type(kind)
    if dtype is None:
        raise DecodeError(f"column {name!r} has a type no reader knows: {kind[:64]!r}")
    if len(data) != dtype.itemsize * count:
        raise DecodeError(f"column {name!r} has {len(data)} bytes for {count} rows of {kind}")
    array = np.frombuffer(data, dtype.base)
    if dtype.shape:
        array = array.reshape(count, *dtype.shape)
    known = COLUMNS.get(name)
    return array if known is None else _as_known(name, array, known.numpy_dtype)


@lru_cache(maxsize=256)
def _row_type(kind: str) -> np.dtype[Any] | None:
    """The type of one row, None for what no reader knows. The same few come in every message."""
    return np.dtype(kind) if _DTYPE.fullmatch(kind) else None


def _as_known(name: str, array: Array, wanted: np.dtype[Any]) -> Array:
    """Widen a known column that another version wrote narrower; refuse what could change a value."""
    if array.dtype == wanted.base and array.shape[1:] == wanted.shape:
        return array
    if array.shape[1:] != wanted.shape or not np.can_cast(array.dtype, wanted.base, "safe"):
        raise DecodeError(f"column {name!r} is {_type_string(array)}, this reader needs {COLUMNS[name].dtype}")
    return array.astype(wanted.base)


def _check_indexes(columns: Mapping[str, Array], table: str, size: int) -> None:
    for name in SIDE_TABLE_INDEXES[table]:
        array = columns.get(name)
        # NO_INDEX, the largest there is, and one more is 0.
        if array is not None and (array + np.uint32(1)).max(initial=0) > size:
            raise DecodeError(f"column {name!r} points past the {size} rows of {table!r}")


def _typed(tree: Mapping[Any, Any], key: str, wanted: type, default: Any = None) -> Any:
    value = tree.get(key, default)
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise DecodeError(f"{key!r} is {type(value).__name__}, not {wanted.__name__}")
    return value


def _integer(tree: Mapping[Any, Any], key: str, maximum: int = 2**64 - 1) -> int:
    value: int = _typed(tree, key, int)
    if not 0 <= value <= maximum:
        raise DecodeError(f"{key!r} is {value}, outside 0 to {maximum}")
    return value


def _interval(value: list[Any]) -> tuple[int, int]:
    if len(value) != 2 or any(type(end) is not int or end < 0 for end in value):
        raise DecodeError("'interval' is not two times")
    return value[0], value[1]


def _string_map(table: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not {*map(type, value), *map(type, value.values())} <= _STRING:
        raise DecodeError(f"a row of {table!r} is not a map of strings")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARACTERS:
        raise DecodeError("a row of 'names' is not a domain name")
    return value


def _counters(value: dict[Any, Any]) -> dict[str, int]:
    if any(type(name) is not str or type(number) is not int for name, number in value.items()):
        raise DecodeError("'counters' is not a map of names to integers")
    return value


def _entity_of(row: bytes, known: MutableMapping[bytes, Entity] | None) -> Entity:
    found = None if known is None else known.get(row)
    if found is not None:
        return found
    try:
        entity = _entity(msgpack.unpackb(row))
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"not msgpack: {error}") from error
    if known is not None:
        object.__setattr__(entity, "_packed", row)
        known[row] = entity
    return entity


def _entity(value: Any) -> Entity:
    if not isinstance(value, dict):
        raise DecodeError("a row of 'entities' is not a map")
    attributes = _typed(value, "attributes", dict)
    for name, attribute in attributes.items():
        listed = isinstance(attribute, list) and all(type(item) is str for item in attribute)
        if type(name) is not str or not (listed or type(attribute) in (str, int, float, bool)):
            raise DecodeError(f"attribute {str(name)[:64]!r} of an entity is not a string, number, bool or list of strings")
    return Entity(type=_typed(value, "type", str), attributes=attributes)
