"""AskedBatch v1: questions to one node's capture as columns, in one msgpack map (the spec is proto/README.md).

Unlike a FlowBatch's, the columns have one type each and are all there: nothing of it is stored, so readers meet no old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from proto.asked.columns import ASKED, OTHER_END
from proto.errors import DecodeError, ProtoError
from proto.flow_batch import MAX_NODE_CHARACTERS, Array
from proto.subjects import MAX_BATCH_BYTES

ASKED_SCHEMA: Final = "wirespan.asked.v1"
MAX_ASKED_BYTES: Final = 1024 * 1024
"""What readers accept at the most: the payload limit a NATS server has by default. Writers stay below MAX_BATCH_BYTES."""
MAX_LOCAL_CHARACTERS: Final = 128
"""Of a row of `locals`: a pod's UID has 36, a container's id 64."""


@dataclass(frozen=True, slots=True)
class AskedBatch:
    """Questions to the capture of one node. `columns` has all of ASKED, each an array of `count` rows."""

    node: str
    count: int
    locals: Sequence[str]
    """UIDs of pods, or ids of containers; an empty one is whoever runs on the node."""
    columns: Mapping[str, Array]

    def take(self, rows: slice | Array) -> AskedBatch:
        """Return the batch with only `rows` (a slice, or an index or boolean array); `locals` stays whole."""
        columns = {name: array[rows] for name, array in self.columns.items()}
        return replace(self, count=len(columns["question"]), columns=columns)


class _Message(msgspec.Struct):
    schema: str
    node: str
    count: int
    locals: list[str]
    columns: dict[str, bytes]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Message)


def encode_asked(batch: AskedBatch) -> bytes:
    """Return the batch as one msgpack map. Raises ProtoError where a column is not what the schema says."""
    columns: dict[str, bytes] = {}
    for column in ASKED:
        array = batch.columns.get(column.name)
        if array is None or array.dtype != column.dtype or array.shape != (batch.count,):
            what = "missing" if array is None else f"{array.dtype.str} of shape {array.shape}"
            raise ProtoError(f"column {column.name!r} is {what}, not {batch.count} rows of {column.dtype.str}")
        columns[column.name] = array.tobytes()
    return _ENCODER.encode(_Message(ASKED_SCHEMA, batch.node, batch.count, list(batch.locals), columns))


def encode_asked_parts(batch: AskedBatch, limit: int = MAX_BATCH_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yield the batch as messages of at most `limit` bytes, each with how many spans are asked for in it.

    `locals` is cut down to what a message refers to. A question is never divided: one that exceeds the limit by itself is a
    message all the same.
    """
    used, renumbered = np.unique(batch.columns["local"], return_inverse=True)
    columns = {**batch.columns, "local": renumbered.astype("<u4")}
    compact = replace(batch, columns=columns, locals=[batch.locals[index] for index in used.tolist()])
    message = encode_asked(compact)
    question = batch.columns["question"]
    first_rows = np.flatnonzero(np.concatenate(([True], question[1:] != question[:-1]))) if batch.count else np.zeros(0, "<i8")
    if len(message) <= limit or len(first_rows) <= 1:
        yield int(np.count_nonzero(batch.columns["kind"][first_rows] != OTHER_END)), message
        return
    middle = int(first_rows[len(first_rows) // 2])
    yield from encode_asked_parts(compact.take(slice(0, middle)), limit)
    yield from encode_asked_parts(compact.take(slice(middle, None)), limit)


def decode_asked(message: bytes) -> AskedBatch:
    """Return the AskedBatch in `message`; its arrays are views of the message. Raises DecodeError for anything else."""
    if len(message) > MAX_ASKED_BYTES:
        raise DecodeError(f"{len(message)} bytes, more than the {MAX_ASKED_BYTES} a reader accepts")
    try:
        tree = _DECODER.decode(message)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DecodeError(f"no questions: {error}") from error
    if tree.schema != ASKED_SCHEMA:
        raise DecodeError(f"schema {tree.schema[:64]!r}, this reader knows {ASKED_SCHEMA!r}")
    if not len(tree.node) <= MAX_NODE_CHARACTERS:
        raise DecodeError(f"'node' has {len(tree.node)} characters, more than the {MAX_NODE_CHARACTERS} of a name")
    if any(len(local) > MAX_LOCAL_CHARACTERS for local in tree.locals):
        raise DecodeError(f"a row of 'locals' has more than {MAX_LOCAL_CHARACTERS} characters")
    columns: dict[str, Array] = {}
    for column in ASKED:
        data = tree.columns.get(column.name)
        if data is None or len(data) != tree.count * column.dtype.itemsize:
            size = "no" if data is None else len(data)
            raise DecodeError(f"column {column.name!r} has {size} bytes for {tree.count} rows of {column.dtype.str}")
        columns[column.name] = np.frombuffer(data, column.dtype)
    if bool((columns["local"] >= len(tree.locals)).any()):
        raise DecodeError(f"column 'local' points past the {len(tree.locals)} rows of 'locals'")
    if bool((columns["question"][1:] < columns["question"][:-1]).any()):
        raise DecodeError("column 'question' descends")
    return AskedBatch(node=tree.node, count=tree.count, locals=tree.locals, columns=columns)
