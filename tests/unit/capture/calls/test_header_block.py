"""Header blocks: what is read of them is what hpack's own decoder reads, and what cannot be is refused."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.columns import HttpMethod
from services.capture.calls.header_block import MOST_TABLE_BYTES, BlockError, HeaderFields, read_block
from tests.support.packets.http2_talk import context

NAMES = st.sampled_from(
    ["traceparent", ":status", ":path", ":method", "grpc-status", "cookie", "x-a", "x-b", "tracestate", "TRACEPARENT"]
)
VALUES = st.one_of(
    st.sampled_from([context(0), context(1, "00"), "200", "103", "abc", "GET", "POST", "16", "0"]),
    st.text("az~\x7f%", max_size=60),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=12)
CHANGES = st.sampled_from([None, None, None, 0, 64, 4096, MOST_TABLE_BYTES])


def expected(headers) -> HeaderFields:
    """What is to be found of decoded headers."""
    found = HeaderFields()
    for name, value in headers:
        if name == b"traceparent":
            found.contexts.append(value)
        elif name == b":status":
            found.status = int(value) if len(value) == 3 and value.isdigit() else None
        elif name == b"grpc-status":
            found.grpc_status = int(value) if value in {b"0", b"16"} else None
        elif name.startswith(b":"):
            found.is_request = True
            if name == b":method" and value:
                found.method = {b"GET": HttpMethod.GET, b"POST": HttpMethod.POST}.get(value, HttpMethod.OTHER)
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FIELDS, CHANGES, st.booleans()), max_size=8))
def test_blocks_are_read_as_the_librarys_decoder_reads_them(blocks):
    """Static and dynamic table, Huffman or not, never-indexed fields, and tables of any size that changes on the way."""
    encoder, decoder, table = Encoder(), Decoder(max_header_list_size=2**20), HeaderTable()
    decoder.max_allowed_table_size = MOST_TABLE_BYTES
    for headers, change, huffman in blocks:
        if change is not None:
            encoder.header_table_size = change
        block = encoder.encode(headers, huffman=huffman)
        assert read_block(block, table) == expected(decoder.decode(block, raw=True))
        assert list(table.dynamic_entries) == list(decoder.header_table.dynamic_entries)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_whatever_the_bytes_are_they_are_refused_or_read_as_the_library_reads_them(block):
    """Nothing but BlockError comes of garbage; where both read it, they read the same."""
    decoder, table = Decoder(), HeaderTable()
    decoder.max_allowed_table_size = MOST_TABLE_BYTES
    read_or_none(block, None)
    ours = read_or_none(block, table)
    try:
        theirs = expected(decoder.decode(block, raw=True))
    except HPACKError:
        return
    assert ours == theirs


def read_or_none(block: bytes, table: HeaderTable | None) -> HeaderFields | None:
    """What is read of a block; None where it is refused."""
    try:
        return read_block(block, table)
    except BlockError:
        return None


@pytest.mark.parametrize("huffman", [True, False])
def test_without_a_table_a_context_is_found_by_its_form(huffman):
    """A connection that is older than capture: a literal says it whether or not its name is known, an index does not."""
    encoder = Encoder()
    headers = [(":method", "POST"), ("x-id", context(7)[:-1]), ("traceparent", context(7))]
    encoder.encode([("traceparent", "?"), ("x-id", "?")])
    block = encoder.encode(headers, huffman=huffman)
    assert read_block(block, None) == HeaderFields([context(7).encode()], is_request=True, method=HttpMethod.POST)
    assert read_block(encoder.encode(headers, huffman=huffman), None) == HeaderFields(is_request=True, method=HttpMethod.POST)


@pytest.mark.parametrize("block", [
    b"\x80", b"\xbe", b"\xff\xff\xff\xff\xff\x01", b"\x40", b"\x40\x05abc", b"\x00\x81\xff\x00", b"\x3f\xe2\xff\x03",
    b"\x0f", b"\x40\x01a\x84\xff\xff\xff\xff",
])  # fmt: skip
def test_what_is_no_hpack_is_refused(block):
    """Index 0, one that the table has not, integers and strings without end, wrong Huffman code, a table beyond the bound."""
    with pytest.raises(BlockError):
        read_block(block, HeaderTable())


def test_a_bomb_is_read_in_no_more_memory_than_it_has():
    """Thousands of references to one long entry: a list of them would be 64 MB."""
    table = HeaderTable()
    read_block(b"\x40\x01a\x7f\x81\x1f" + b"b" * 4096, table)  # longer than the table: not kept
    read_block(b"\x40\x01a\x7f\x80\x1e" + b"b" * 3967, table)
    assert read_block(b"\xbe" * 16_384, table) == HeaderFields()
