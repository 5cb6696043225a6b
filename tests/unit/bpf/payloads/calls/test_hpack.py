"""Header blocks: what is read of them is what hpack's own decoder reads, and what cannot be is refused."""

from __future__ import annotations

import ctypes
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

import bpf
from proto.columns import HttpMethod
from services.capture.flows.exchange_layout import RequestCounter
from tests.support.packets.talks.http2_talk import context

MOST_TABLE_BYTES = 65_536
NAMES = st.sampled_from(
    ["traceparent", ":status", ":path", ":method", "grpc-status", "cookie", "x-a", "x-b", "tracestate", "TRACEPARENT"]
)
VALUES = st.one_of(
    st.sampled_from([context(0), context(1, "00"), context(1, "0g"), f" {context(2)}\t", "200", "103", "abc", "GET", "POST"]),
    st.sampled_from(["0", "16", "17", "016", f"01{context(3)[2:]}-x", f"{context(3)}-x", f"ff{context(3)[2:]}", "TRACE"]),
    st.text("az~\x7f%", max_size=90),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=12)
WELL_FORMED = st.lists(
    st.tuples(NAMES, VALUES.map(lambda value: value.strip(" \t")), st.booleans()),
    max_size=12,
    unique_by=lambda field: field[0] if field[0].startswith(":") else object(),
)
"""With each pseudo-header once at the most (RFC 9113 8.3), and no whitespace around a value (8.2.1)."""
CHANGES = st.sampled_from([None, None, None, 0, 64, 4096, MOST_TABLE_BYTES])
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
"""https://www.w3.org/TR/trace-context/; what follows the flags is of a later version than 00."""


class Header(ctypes.Structure):
    """`struct header` of bpf/calls/header.h."""

    _fields_ = (
        ("bytes", ctypes.c_uint32), ("name_bytes", ctypes.c_uint16), ("number", ctypes.c_uint16), ("name", ctypes.c_uint8),
        ("found", ctypes.c_uint8), ("flags", ctypes.c_uint8), ("pad", ctypes.c_uint8), ("trace_id", ctypes.c_uint8 * 16),
        ("parent_span_id", ctypes.c_uint8 * 8),
    )  # fmt: skip


class Fields(ctypes.Structure):
    """`struct header_fields`."""

    _fields_ = (
        ("contexts", ctypes.c_uint8), ("is_request", ctypes.c_uint8), ("method", ctypes.c_uint8),
        ("grpc_status", ctypes.c_uint8), ("status", ctypes.c_uint16), ("is_part", ctypes.c_uint8), ("pad", ctypes.c_uint8),
        ("context", Header),
    )  # fmt: skip

    def said(self) -> tuple:
        """What a block says: contexts, the one there is, whether it is a request's, method, status, gRPC's status."""
        one = None
        if self.contexts == 1:
            one = (RequestCounter(self.context.found).name,)
            if self.context.found != RequestCounter.MALFORMED:
                one += (bytes(self.context.trace_id).hex(), bytes(self.context.parent_span_id).hex(), self.context.flags)
        return (self.contexts, one, bool(self.is_request), HttpMethod(self.method), self.status, self.grpc_status)


NOTHING = Fields().said()


def meaning(value: bytes) -> tuple:
    """What a context says."""
    match = TRACEPARENT.fullmatch(value.strip(b" \t"))
    if match is None or (match[4] is not None and value.strip().startswith(b"00")):
        return ("MALFORMED",)
    flags = int(match[3], 16)
    return ("SAMPLED" if flags & 1 else "UNSAMPLED", match[1].decode(), match[2].decode(), flags)


def expected(headers) -> tuple:
    """What is to be found of decoded headers."""
    contexts, is_request, method, status, grpc_status = [], False, HttpMethod.UNKNOWN, 0, 0
    for name, value in headers:
        if name == b"traceparent":
            contexts.append(value)
        elif name == b":status":
            status = int(value) if len(value) == 3 and value.isdigit() else 0
        elif name == b"grpc-status":
            grpc_status = int(value) + 1 if re.fullmatch(rb"\d|1[0-6]", value) else 0
        elif name.startswith(b":"):
            is_request = True
            if name == b":method" and value:
                known = value.decode("latin-1") in set(HttpMethod.__members__) - {"UNKNOWN", "OTHER"}
                method = HttpMethod[value.decode()] if known else HttpMethod.OTHER
    one = meaning(contexts[0]) if len(contexts) == 1 else None
    return (min(len(contexts), 2), one, is_request, method, status, grpc_status)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The reader, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler `cc`")
    built = tmp_path_factory.mktemp("hpack") / "hpack.so"
    source = Path(__file__).with_name("hpack_check.c")
    flags = [
        "-std=gnu11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Wno-unused-function",
        "-Werror",
        "-fPIC",
        "-shared",
        f"-I{bpf.SOURCE_DIRECTORY}",
    ]
    subprocess.run([compiler, *flags, "-o", built, source], check=True)
    found = ctypes.CDLL(str(built))
    found.check_new.restype = ctypes.c_void_p
    return found


class Reader:
    """One direction of a connection; of whose table a part is not known where it is `joined`."""

    def __init__(self, library, *, joined: bool = False) -> None:
        self.library = library
        self.table = ctypes.c_void_p(library.check_new(joined))
        self.is_part = False

    def read(self, block: bytes) -> tuple | None:
        """What a block says; None where it is refused."""
        fields = Fields()
        failed = self.library.check_read(self.table, block, len(block), ctypes.byref(fields))
        self.is_part = bool(fields.is_part)
        return None if failed else fields.said()

    def sizes(self) -> list[int]:
        """Of the entries of the dynamic table."""
        sizes = (ctypes.c_uint32 * 2048)()
        return sizes[: self.library.check_sizes(self.table, sizes)]

    def close(self) -> None:
        """Give its memory back."""
        self.library.check_close(self.table)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(FIELDS, CHANGES, st.booleans()), max_size=8))
def test_blocks_are_read_as_the_librarys_decoder_reads_them(library, blocks):
    """Static and dynamic table, Huffman or not, never-indexed fields, and tables of any size that changes on the way."""
    encoder, decoder, ours = Encoder(), Decoder(max_header_list_size=2**20), Reader(library)
    decoder.max_allowed_table_size = MOST_TABLE_BYTES
    for headers, change, huffman in blocks:
        if change is not None:
            encoder.header_table_size = change
        block = encoder.encode(headers, huffman=huffman)
        assert ours.read(block) == expected(decoder.decode(block, raw=True))
        assert ours.sizes() == [len(name) + len(value) + 32 for name, value in decoder.header_table.dynamic_entries]
    ours.close()


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=3))
def test_whatever_the_bytes_are_they_are_refused_or_read_as_the_library_reads_them(library, blocks):
    """Nothing but a refusal comes of garbage; where both read it, they read the same."""
    decoder, ours, joined = Decoder(max_header_list_size=2**20), Reader(library), Reader(library, joined=True)
    decoder.max_allowed_table_size = MOST_TABLE_BYTES
    for block in blocks:
        joined.read(block)
        said = ours.read(block)
        try:
            theirs = expected(decoder.decode(block, raw=True))
        except HPACKError:
            break
        if said is None:
            break
        assert said == theirs
    ours.close()
    joined.close()


def test_every_symbol_of_huffmans_code(library):
    """Alone, behind others, and as what fills the byte."""
    texts = ((bytes([symbol]), b"a" + bytes([symbol]) * 7, bytes([symbol, 48, symbol])) for symbol in range(256))
    for text in itertools.chain.from_iterable(texts):
        code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)
        decoded = ctypes.create_string_buffer(16)
        assert library.check_huffman(code, len(code), decoded, 16) == len(text)
        assert decoded.raw[: len(text)] == text


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("value", [context(7), f"01{context(7)[2:]}-what-a-later-version-says"])
def test_without_a_table_a_context_is_found_by_its_form(library, huffman, value):
    """A connection older than capture: a literal says it whether or not its name is known, and its index does from then on;
    what stands in the table from before is unknown.
    """
    encoder, ours = Encoder(), Reader(library, joined=True)
    headers = [(":method", "POST"), ("x-id", context(7)[:-1]), ("traceparent", value)]
    encoder.encode([("traceparent", "?"), ("x-id", "?"), ("traceparent", context(6))])
    plain = [(b":method", b"POST")]
    found = expected([*plain, (b"traceparent", value.encode())])
    assert (ours.read(encoder.encode(headers, huffman=huffman)), ours.is_part) == (found, False)
    assert (ours.read(encoder.encode(headers, huffman=huffman)), ours.is_part) == (found, False)
    older = encoder.encode([*[(name.decode(), value.decode()) for name, value in plain], ("traceparent", context(6))])
    assert (ours.read(older), ours.is_part) == (expected(plain), True)
    ours.close()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(WELL_FORMED, CHANGES, st.booleans()), max_size=8), st.integers(0, 7))
def test_joined_later_nothing_is_read_but_what_was_said(library, blocks, unseen):
    """Whatever was said before, and whatever the table's size was or becomes: what was added since, or needs no table, is as it
    is for who saw it all, and a context is missed only where the block points at what is not known.
    """
    encoder, ours, ours_all = Encoder(), Reader(library, joined=True), Reader(library)
    for number, (headers, change, huffman) in enumerate(blocks):
        if change is not None:
            encoder.header_table_size = change
        block = encoder.encode(headers, huffman=huffman)
        whole = ours_all.read(block)
        if number < unseen:
            continue
        part = ours.read(block)
        assert part is not None
        assert ours.is_part or part[0] or whole[0] != 1 or whole[1][0] == "MALFORMED"
        assert (part[3] in {HttpMethod.UNKNOWN, whole[3]}, part[4] in {0, whole[4]}, part[5] in {0, whole[5]}) == (True,) * 3
    ours.close()
    ours_all.close()


@pytest.mark.parametrize("block", [
    b"\x80", b"\xbe", b"\xff\xff\xff\xff\xff\x01", b"\x40", b"\x40\x05abc", b"\x00\x81\xff\x00", b"\x3f\xe2\xff\x03",
    b"\x0f", b"\x40\x01a\x84\xff\xff\xff\xff", b"\x40\x81\x10\x00", b"\x40\x82\x1f\xff\x00",
])  # fmt: skip
def test_what_is_no_hpack_is_refused(library, block):
    """Index 0, one that the table has not, integers and strings without end, wrong Huffman code, a table beyond the bound."""
    assert Reader(library).read(block) is None


def test_a_bomb_is_read_in_no_more_memory_than_it_has(library):
    """Thousands of references to one long entry: a list of them would be 64 MB; an entry is 36 bytes however long it was."""
    ours = Reader(library)
    ours.read(b"\x40\x01a\x7f\x81\x1f" + b"b" * 4096)  # longer than the table: not kept
    assert ours.sizes() == []
    ours.read(b"\x40\x01a\x7f\x80\x1e" + b"b" * 3967)
    assert ours.sizes() == [4000]
    assert ours.read(b"\xbe" * 16_384) == NOTHING
    ours.close()
