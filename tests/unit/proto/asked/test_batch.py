"""Questions come out of the codec as they went in, and nothing else comes out of it."""

import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.asked.batch import MAX_ASKED_BYTES, AskedBatch, decode_asked, encode_asked, encode_asked_parts
from proto.asked.columns import ASKED, OTHER_END, ROW_BYTES
from proto.errors import DecodeError, ProtoError
from proto.subjects import asked_subject

GOLDEN = Path(__file__).parents[3] / "golden" / "asked_v1.msgpack"


@st.composite
def asked_batches(draw: st.DrawFn, max_rows: int = 6) -> AskedBatch:
    """Any well-formed batch."""
    count = draw(st.integers(0, max_rows))
    who = draw(st.lists(st.text(max_size=40), min_size=1, max_size=4))
    columns = {}
    for column in ASKED:
        size = column.dtype.itemsize * count
        columns[column.name] = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), column.dtype)
    columns["question"] = np.sort(np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)), "<u4"))
    columns["local"] = np.array(draw(st.lists(st.integers(0, len(who) - 1), min_size=count, max_size=count)), "<u4")
    return AskedBatch(draw(st.text(max_size=12)), count, who, columns)


def fixed() -> AskedBatch:
    """Three rows, two questions; every value is another."""
    columns, count = {}, 3
    for number, column in enumerate(ASKED, start=1):
        columns[column.name] = np.frombuffer(
            bytes((number * 16 + byte) % 256 for byte in range(column.dtype.itemsize * count)), column.dtype
        )
    columns["question"] = np.array([0, 0, 1], "<u4")
    columns["local"] = np.array([0, 0, 1], "<u4")
    return AskedBatch("node-a", count, ["0f8fad5b-d9cb-469f-a165-70867728950e", ""], columns)


def rows_of(batch: AskedBatch) -> list[tuple]:
    """Each row's values, with whom it asks about in place of the index."""
    values = [batch.columns[column.name].tolist() for column in ASKED if column.name != "local"]
    return list(zip(*values, (batch.locals[index] for index in batch.columns["local"].tolist()), strict=True))


@given(asked_batches())
def test_decode_gives_back_what_was_encoded(batch):
    """Every well-formed batch survives the wire."""
    decoded = decode_asked(encode_asked(batch))
    assert (decoded.node, decoded.count, list(decoded.locals)) == (batch.node, batch.count, list(batch.locals))
    assert rows_of(decoded) == rows_of(batch)


@given(asked_batches(max_rows=30), st.integers(300, 2500))
def test_parts_hold_every_row_once_in_order_and_questions_whole(batch, limit):
    """A split batch is the batch; a part exceeds the limit only with a single question in it."""
    rows, seen = [], []
    for questions, message in encode_asked_parts(batch, limit):
        part = decode_asked(message)
        numbers, first_rows = np.unique(part.columns["question"], return_index=True)
        assert np.count_nonzero(part.columns["kind"][first_rows] != OTHER_END) == questions
        assert len(message) <= limit or len(numbers) <= 1
        numbers = set(numbers.tolist())
        assert not numbers & set(seen)
        seen += numbers
        rows += rows_of(part)
    assert rows == rows_of(batch)


def test_the_bytes_of_a_batch_do_not_change():
    """Encoding the golden batch gives the golden bytes: what is on the wire changes only on purpose."""
    assert encode_asked(fixed()) == GOLDEN.read_bytes()
    assert rows_of(decode_asked(GOLDEN.read_bytes())) == rows_of(fixed())


def test_a_newer_writer_is_understood():
    """Columns and keys that the reader does not know do no harm."""
    tree = msgpack.unpackb(encode_asked(fixed()))
    tree["columns"]["priority"] = b"\1\2\3"
    assert rows_of(decode_asked(msgpack.packb(tree | {"sent": 5}))) == rows_of(fixed())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": "wirespan.asked.v2"}, "schema"),
        ({"count": 4}, "rows"),
        ({"count": -1}, "rows"),
        ({"count": 2**63}, "rows"),
        ({"count": True}, "count"),
        ({"columns": {}}, "question"),
        ({"columns": []}, "columns"),
        ({"locals": ["one"]}, "points past"),
        ({"locals": ["x" * 129, ""]}, "locals"),
        ({"locals": [1, 2]}, "locals"),
        ({"node": "n" * 254}, "node"),
        ({"node": None}, "node"),
    ],
)
def test_a_malformed_batch_is_named_for_what_is_wrong(change, complaint):
    """Each fault has an error of ours that says which part is at fault."""
    tree = msgpack.unpackb(encode_asked(fixed()))
    with pytest.raises(DecodeError, match=complaint):
        decode_asked(msgpack.packb(tree | change))


def test_a_question_that_stands_in_two_places_is_refused():
    """Rows of one question follow each other, or readers would take them for two."""
    batch = fixed()
    with pytest.raises(DecodeError, match="descends"):
        decode_asked(encode_asked(batch.take(np.array([2, 0, 1]))))


@settings(max_examples=400)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(message):
    """No bytes make the decoder fail in another way than DecodeError."""
    with pytest.raises(DecodeError):
        decode_asked(message)


@settings(max_examples=400)
@given(st.data())
def test_damaged_messages_are_refused_or_read(data):
    """A real message, cut or with bytes changed, is refused or is a batch that can be used and encoded again."""
    message = bytearray(encode_asked(fixed()))
    for _ in range(data.draw(st.integers(0, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)) | st.just(len(message)))
    try:
        batch = decode_asked(bytes(message[:cut]))
    except DecodeError:
        return
    list(encode_asked_parts(batch))


@pytest.mark.parametrize(
    "message",
    [
        b"\x90" * 300_000,
        b"\x81" * 300_000,
        b"\x81\xa1x" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff" + b"x" * 100,
        b"\x81\xa6locals\xdd\xff\xff\xff\xff",
    ],
)
def test_a_hostile_message_claims_no_memory(message):
    """What a message says of its size is not believed: memory stays within a small multiple of the bytes sent."""
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode_asked(message)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(message) + 100_000
    finally:
        tracemalloc.stop()


def test_a_message_beyond_the_limit_is_refused_unread():
    """Nothing larger than the limit is looked at."""
    with pytest.raises(DecodeError, match="bytes, more than"):
        decode_asked(b"\x80" * (MAX_ASKED_BYTES + 1))


@pytest.mark.parametrize("name", ["start_ns", "trace_id"])
def test_a_column_that_is_not_as_the_schema_says_is_not_encoded(name):
    """A batch whose columns disagree never leaves the process."""
    batch = fixed()
    for wrong in ({}, {name: batch.columns[name][:2]}, {name: batch.columns["flags"]}):
        columns = {key: array for key, array in batch.columns.items() if key != name} | wrong
        with pytest.raises(ProtoError, match=name):
            encode_asked(AskedBatch("n", 3, ["", ""], columns))


def test_a_question_takes_as_many_bytes_as_is_said():
    """What docs/correlation.md says of the cost holds: 70 bytes a row, and some hundred a message."""
    columns = {column.name: np.zeros(1000, column.dtype) for column in ASKED}
    assert ROW_BYTES == 70
    assert len(encode_asked(AskedBatch("node-a", 1000, [""], columns))) < 1000 * ROW_BYTES + 300


def test_a_node_has_one_subject():
    """Names of nodes become one token."""
    assert asked_subject("node-a.example") == "spans.asked.node-a-example"
