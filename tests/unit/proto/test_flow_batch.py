"""The codec gives back what it was given, and refuses everything else with its own error."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.columns import COLUMNS, ENRICHED, NO_INDEX, RAW
from proto.errors import DecodeError, ProtoError
from proto.flow_batch import MAX_DECODE_BYTES, Entity, FlowBatch, decode, encode, encode_parts
from proto.subjects import MAX_BATCH_BYTES
from tests.support.pipeline.batches import fixed_batch, flow_batches

GOLDEN = Path(__file__).parents[2] / "golden" / "flow_v1.msgpack"
TODAY = GOLDEN.with_name("flow_v1_today.msgpack")


def same(left: FlowBatch, right: FlowBatch) -> bool:
    """Whether two batches hold the same values, whatever columns they leave out."""
    names = {*left.columns, *right.columns, *(column.name for column in RAW + ENRICHED)}
    plain = {"columns": {}, "entities": list(left.entities) if left.entities is not None else None}
    other = {"columns": {}, "entities": list(right.entities) if right.entities is not None else None}
    return replace(left, **plain) == replace(right, **other) and all(
        left.column(name).tobytes() == right.column(name).tobytes() for name in names
    )


@given(flow_batches())
def test_decode_gives_back_what_was_encoded(batch):
    """Every well-formed batch survives the wire."""
    assert same(decode(encode(batch)), batch)


@given(flow_batches(max_rows=40), st.integers(300, 4000))
def test_parts_hold_every_row_once_and_in_order(batch, limit):
    """A split batch is the batch, in order, each part within the limit or a single record, and readable on its own."""
    parts = list(encode_parts(batch, limit))
    assert [part.first for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == batch.count
    for part in parts:
        assert len(part.message) <= limit or part.end - part.first <= 1
        got, wanted = decode(part.message), batch.take(slice(part.first, part.end))
        assert got.count == wanted.count
        for name in batch.columns:
            if COLUMNS[name].default != NO_INDEX:
                assert got.column(name).tobytes() == wanted.column(name).tobytes()
        for row in range(got.count):
            for name in ("local_entity", "remote_service"):
                before, after = int(wanted.column(name)[row]), int(got.column(name)[row])
                assert (before == NO_INDEX) == (after == NO_INDEX)
                if before != NO_INDEX:
                    assert got.entities[after] == batch.entities[before]


def test_messages_of_the_first_release_still_decode():
    """The first golden bytes, which know fewer columns, decode to the values they were made from."""
    batch = decode(GOLDEN.read_bytes())
    assert len(batch.columns) < len(COLUMNS)
    assert same(batch, fixed_batch([COLUMNS[name] for name in batch.columns]))


def test_the_bytes_of_a_batch_do_not_change():
    """Encoding the golden batch gives the golden bytes: what is on the wire changes only on purpose."""
    batch = fixed_batch(tuple(COLUMNS.values()))
    assert encode(batch) == TODAY.read_bytes()
    assert same(decode(TODAY.read_bytes()), batch)


def test_columns_that_hold_their_default_are_left_out():
    """Nothing is sent for a column that says nothing, and reading it gives its default."""
    columns = {
        "tx_bytes": np.zeros(2, "<u8"),
        "local_container": np.full(2, NO_INDEX, "<u4"),
        "local_address": np.zeros(2, "V16"),
        "rx_bytes": np.array([0, 5], "<u8"),
    }
    batch = FlowBatch(node="n", epoch="e", sequence=0, count=2, interval=(0, 0), columns=columns)
    decoded = decode(encode(batch))
    assert set(decoded.columns) == {"rx_bytes"}
    assert decoded.column("local_container").tolist() == [NO_INDEX, NO_INDEX]
    assert decoded.column("tx_bytes").tolist() == [0, 0]


def test_unknown_columns_and_keys_are_carried_or_ignored():
    """A newer writer's column passes through untouched; its keys do no harm."""
    tree = msgpack.unpackb(encode(fixed_batch()))
    tree["columns"]["tx_ecn_marks"] = np.arange(3, dtype="<u4").tobytes()
    tree["types"]["tx_ecn_marks"] = "<u4"
    tree["compression"] = {"kind": "none"}
    decoded = decode(msgpack.packb(tree))
    assert decoded.columns["tx_ecn_marks"].tolist() == [0, 1, 2]
    assert decode(encode(decoded)).columns["tx_ecn_marks"].tolist() == [0, 1, 2]


def test_a_narrower_column_is_widened_and_a_wider_one_refused():
    """Another version's type is taken where no value can change by it."""
    tree = msgpack.unpackb(encode(fixed_batch()))
    tree["columns"]["tx_bytes"], tree["types"]["tx_bytes"] = np.array([1, 2, 3], "<u4").tobytes(), "<u4"
    assert decode(msgpack.packb(tree)).column("tx_bytes").dtype == np.dtype("<u8")
    tree["columns"]["local_port"], tree["types"]["local_port"] = np.array([1, 2, 3], "<u4").tobytes(), "<u4"
    with pytest.raises(DecodeError, match="local_port"):
        decode(msgpack.packb(tree))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": "wirespan.flow.v2"}, "schema"),
        ({"count": 4}, "rows"),
        ({"count": -1}, "count"),
        ({"count": 2**63}, "count"),
        ({"count": True}, "count"),
        ({"columns": []}, "columns"),
        ({"types": {}}, "with a type"),
        ({"types": {"tx_bytes": "O8"}}, "with a type"),
        ({"interval": [1]}, "interval"),
        ({"containers": [{"a": 1}]}, "containers"),
        ({"counters": {"a": "b"}}, "counters"),
        ({"entities": [{"type": "k8s.pod"}]}, "attributes"),
        ({"entities": [{"type": 1, "attributes": {}}]}, "type"),
        ({"entities": []}, "points past"),
        ({"node": b"bytes"}, "node"),
        ({"sequence": None}, "sequence"),
    ],
)
def test_a_malformed_batch_is_named_for_what_is_wrong(change, complaint):
    """Each fault has an error of ours that says which part is at fault."""
    tree = msgpack.unpackb(encode(fixed_batch()))
    with pytest.raises(DecodeError, match=complaint):
        decode(msgpack.packb(tree | change))


@pytest.mark.parametrize(
    "kind", ["<O8", "O", "<U4", "(0,)<u4", "(2,3)<u4", "<u16", "<M8[ns]", "V", "|V0", "<u4, <u4", "<u8<u8"]
)
def test_only_plain_numbers_and_bytes_are_columns(kind):
    """No type string reaches numpy that could name objects, strings or structures."""
    tree = msgpack.unpackb(encode(fixed_batch()))
    tree["types"]["tx_bytes"] = kind
    with pytest.raises(DecodeError, match="tx_bytes"):
        decode(msgpack.packb(tree))


@settings(max_examples=400)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(message):
    """No bytes make the decoder fail in another way than DecodeError."""
    with pytest.raises(DecodeError):
        decode(message)


@settings(max_examples=400)
@given(st.data())
def test_damaged_messages_are_refused_or_read(data):
    """A real message, cut or with bytes changed, is refused or is a batch that can be used and encoded again."""
    message = bytearray(encode(fixed_batch()))
    for _ in range(data.draw(st.integers(0, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)) | st.just(len(message)))
    try:
        batch = decode(bytes(message[:cut]))
    except DecodeError:
        return
    encode(batch)


@pytest.mark.parametrize(
    "message",
    [
        b"\x90" * 300_000,
        b"\x81" * 300_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff" + b"x" * 100,
        b"\xdc\xff\xff" + b"\x90" * 65535,
    ],
)
def test_a_hostile_message_claims_no_memory(message):
    """What a message says of its size is not believed: memory stays within a small multiple of the bytes sent."""
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(message)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(message) + 100_000
    finally:
        tracemalloc.stop()


def test_a_message_beyond_the_limit_is_refused_unread():
    """Nothing larger than the limit is looked at."""
    with pytest.raises(DecodeError, match="bytes, more than"):
        decode(b"\x80" * (MAX_DECODE_BYTES + 1))


def test_a_column_of_another_length_is_not_encoded():
    """A batch whose columns disagree never leaves the process."""
    batch = FlowBatch("n", "e", 0, 2, (0, 0), {"tx_bytes": np.zeros(3, "<u8")})
    with pytest.raises(ProtoError, match="3 rows"):
        encode(batch)


def test_a_batch_of_large_entities_is_split_below_the_limit():
    """Enrichment may double a batch's size; its messages stay below the limit and drop the entities they do not use."""
    count = 1000
    entities = [Entity("k8s.pod", {"k8s.pod.name": f"pod-{number}", "note": "x" * 1000}) for number in range(count)]
    columns = {"local_entity": np.arange(count, dtype="<u4")}
    batch = FlowBatch("n", "e", 0, count, (0, 0), columns, entities=entities)
    parts = [decode(part.message) for part in encode_parts(batch)]
    assert len(parts) > 1
    assert sum(part.count for part in parts) == count
    assert all(len(part.entities) == part.count for part in parts)
    assert all(len(part.message) <= MAX_BATCH_BYTES for part in encode_parts(batch))
