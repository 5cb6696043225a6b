"""What the encoder writes by hand, protobuf's own parser reads back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.exporter.otlp.protobuf_wire import MAX_INT64, any_value, attribute, attribute_rows, field, varint

_edges = [0, 1, 2**7 - 1, 2**7, 2**14 - 1, 2**14, 2**28 - 1, 2**28, 2**56 - 1, 2**56, 2**63 - 1, 2**63, 2**64 - 1]
_unsigned = st.sampled_from(_edges) | st.integers(0, 2**64 - 1)


def read(value: AnyValue):
    """What an AnyValue holds."""
    kind = value.WhichOneof("value")
    return [read(item) for item in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def attributes(piece: bytes) -> dict:
    """The attributes in a part of a span."""
    return {pair.key: read(pair.value) for pair in Span.FromString(piece).attributes}


@given(st.integers(0, 2**64 - 1))
def test_varint(value):
    """A varint is the value, and as short as it can be."""
    encoded = varint(value)
    assert sum((byte & 0x7F) << 7 * at for at, byte in enumerate(encoded)) == value
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    with pytest.raises(ValueError, match="must be in range"):
        varint(-1 - value)


@given(
    st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.lists(st.text(), max_size=4)
)
def test_any_value(value):
    """Every type of attribute arrives as it was, and as its own type."""
    got = read(AnyValue.FromString(any_value(value)))
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(("value", "nearest"), [(2**63, MAX_INT64), (2**64 - 1, MAX_INT64), (-(2**63) - 1, -(2**63))])
def test_integers_outside_int64_become_the_nearest(value, nearest):
    """OTLP has no unsigned integers."""
    assert AnyValue.FromString(any_value(value)).int_value == nearest


@given(st.text(max_size=300), st.text(max_size=300))
def test_attribute(name, value):
    """One attribute is one KeyValue of the span, however long."""
    assert attributes(attribute(name, value)) == {name: value}


@given(st.data(), st.integers(1, 5))
def test_columns_become_attributes_row_by_row(data, count):
    """Each row's attributes hold that row's values, whatever widths its neighbours need."""
    names = data.draw(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=5, unique=True))
    columns = {}
    for name in names:
        dtype = data.draw(st.sampled_from(["u1", "<u2", "<u4", "<u8"]))
        size = data.draw(st.sampled_from([1, 1, 3, 20]))
        limit = 2 ** (8 * np.dtype(dtype).itemsize) - 1
        values = data.draw(st.lists(_unsigned, min_size=count * size, max_size=count * size))
        array = np.array([value & limit for value in values], dtype)
        columns[name] = array if size == 1 else array.reshape(count, size)
    for row, piece in enumerate(map(bytes, attribute_rows(columns))):
        wanted = {name: np.minimum(values[row], np.uint64(MAX_INT64)).tolist() for name, values in columns.items()}
        assert attributes(piece) == wanted


def test_slots_are_as_narrow_as_the_largest_value_allows():
    """A column of small numbers takes one byte a number."""
    widths = [attribute_rows({"x": np.array([0, top], "<u8")}).shape[1] for top in (127, 128, 2**14, 2**28, 2**56)]
    assert np.diff(widths).tolist() == [1, 2, 4, 1]


def test_a_signed_column_works_as_an_unsigned_one():
    """Sums and quotients may come as int64; they are not negative."""
    assert attributes(bytes(attribute_rows({"x": np.array([300], np.int64)})[0])) == {"x": 300}


def test_fields_nest():
    """A field of a field is a message in a message."""
    span = Span.FromString(field(15, field(2, b"reset") + b"\x18\x02"))
    assert (span.status.message, span.status.code) == ("reset", 2)
