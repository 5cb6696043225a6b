"""The encoder's bytes are what the OpenTelemetry SDK would send for the same records."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv.schemas import Schemas

from proto.columns import ENRICHED, FILE, NAMES, NAT, NO_INDEX, RAW, VERDICT, Reason
from proto.flow_batch import Entity, FlowBatch, decode, encode
from services.exporter.encoder import SCHEMA_URL, SpanEncoder
from services.exporter.otlp.assembly import Assembly, Block, SpanSet
from services.exporter.otlp.piece_table import CACHE_LIMIT, Column
from services.exporter.spans.bundle import bundle
from services.exporter.spans.profiles import PROFILES, carries
from tests.support.pipeline.batches import fixed_batch, flow_batches
from tests.support.pipeline.reference_spans import reference_spans

CLUSTER, VERSION = "prod-eu", "1.2.3"
START = 1_700_000_000_000_000_000

_names = st.sampled_from(
    [
        "k8s.pod.name",
        "k8s.namespace.name",
        "k8s.service.name",
        "service.name",
        "service.namespace",
        "address",
        "port",
        "größe",
        "",
    ]
)
_values = (
    st.sampled_from(["redis", "", "пример", "名前"])
    | st.text(max_size=300)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.lists(st.text(max_size=8), max_size=3)
)
_entities = st.builds(
    Entity,
    type=st.sampled_from(["k8s.pod", "k8s.node", "k8s.service", "host"]),
    attributes=st.dictionaries(_names, _values, max_size=6),
)
_times = st.sampled_from([0, START, START + 1, START + 70_000, START + 10**9, START - 10**9])
_counts = st.sampled_from([0, 1, 127, 128, 16383, 16384, 2**28 - 1, 2**28, 2**32 - 1]) | st.integers(0, 2**32 - 1)
_totals = _counts | st.sampled_from([2**56 - 1, 2**56, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
_addresses = st.sampled_from(
    [
        bytes(16),
        bytes(15) + b"\1",
        bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1]),
        bytes(10) + b"\xff\xff" + bytes([192, 168, 255, 9]),
        bytes(12) + bytes([10, 0, 0, 1]),
        bytes.fromhex("20010db8000000000001000000000001"),
        bytes.fromhex("fe800000000000000000000000000001"),
    ]
) | st.binary(min_size=16, max_size=16)
_SMALL = {
    "transport": st.sampled_from([6, 6, 6, 17, 1, 58, 132, 0, 47, 200]),
    "observer": st.sampled_from([0, 1, 1, 2, 7]),
    "role": st.sampled_from([0, 1, 2, 9]),
    "outcome": st.integers(0, 8),
    "reason": st.sampled_from([0, 1, 2, 3, 4, 5, 7]),  # spans of exchanges and of questions have tests of their own
    "closed_by": st.integers(0, 3),
    "isn_seen": st.sampled_from([0, 1, 2, 3, 7]),
    "record": st.sampled_from([0, 0, 1, 2**32 - 1]),
    "icmp_type": st.sampled_from([0, 8, 128, 200]),
    "remote_nat_port": st.sampled_from([0, 0, 53, 8080]),
    "tunnel": st.sampled_from([0, 0, 1, 2, 3, 4, 5, 9, 200]),
    "local_resolution": st.integers(0, 5),
    "remote_resolution": st.integers(0, 5),
    "dns_codes": st.sampled_from([0, 0, 0, 1, 2**32 - 1]),
    **dict.fromkeys(("dns_first_type", "dns_slowest_type"), st.sampled_from([0, 1, 28, 28, 65, 4711])),
    **dict.fromkeys(("dns_first_code", "dns_slowest_code"), st.sampled_from([0, 0, 2, 3, 23, 99, 65535])),
}


@st.composite
def span_batches(draw: st.DrawFn) -> FlowBatch:
    """Batches of every sort of record: likely values, boundary values and values that no version has yet."""
    count = draw(st.integers(1, 6))
    entities = draw(st.none() | st.lists(_entities, min_size=1, max_size=4))
    containers = draw(
        st.lists(st.dictionaries(st.sampled_from(["pod_uid", "container_id", "unit"]), st.text(max_size=9)), max_size=3)
    )
    files = draw(st.lists(st.fixed_dictionaries({"name": st.sampled_from(["a.pcap", "ü.pcapng", ""])}), max_size=3).map(tuple))
    names = draw(st.lists(st.sampled_from(["api.stripe.com", "größe\\046org", ""]), max_size=3))
    known = RAW + NAT + NAMES + FILE + VERDICT
    left_out = draw(st.sets(st.sampled_from([column.name for column in known + ENRICHED]), max_size=4))
    columns = {"not_in_this_schema": np.arange(count)}
    for column in known + (ENRICHED if entities is not None else ()):
        if column.name in left_out:
            continue
        dtype = column.numpy_dtype
        tables = {
            "local_container": containers,
            "file": files,
            **dict.fromkeys(("dns_first_name", "dns_slowest_name", "remote_name"), names),
        }
        pointed_at = len(tables.get(column.name, entities or ()))
        if column.default == NO_INDEX:
            values = st.just(NO_INDEX) | (st.integers(0, pointed_at - 1) if pointed_at else st.nothing())
        elif dtype.kind == "V" and dtype.shape == ():
            values = _addresses
        elif column.name.endswith("unix_ns"):
            values = _times
        else:
            values = _SMALL.get(column.name, _totals if dtype.base.itemsize == 8 else _counts)
        size = count * int(np.prod(dtype.shape, dtype=int))
        drawn = draw(st.lists(values, min_size=size, max_size=size))
        if dtype.kind == "V" and dtype.shape == ():
            columns[column.name] = np.frombuffer(b"".join(drawn), dtype)
        else:
            limit = 2 ** (8 * dtype.base.itemsize) - 1
            columns[column.name] = np.array([value & limit for value in drawn], dtype.base).reshape(count, *dtype.shape)
    return FlowBatch("node-a", "epoch", 1, count, (0, 0), columns, containers, {}, entities, files, names)


def flat(request: ExportTraceServiceRequest, *, sampled: int) -> Counter:
    """Every span with everything that is said of it, as comparable values."""
    out = []
    for group in request.resource_spans:
        for scope_spans in group.scope_spans:
            for span in scope_spans.spans:
                around = (pairs(group.resource.attributes), group.schema_url, scope_spans.schema_url, str(scope_spans.scope))
                status = (span.status.code, span.status.message)
                ids = (span.trace_id, span.span_id, span.parent_span_id, span.flags | sampled)
                times = (span.start_time_unix_nano, span.end_time_unix_nano)
                assert not any((span.events, span.trace_state, span.dropped_attributes_count))
                links = tuple((link.trace_id, link.span_id, link.flags | sampled) for link in span.links)
                out.append((around, status, ids, links, span.name, span.kind, times, pairs(span.attributes)))
    return Counter(out)


def pairs(attributes) -> tuple:
    """Attributes in the order of their names; a name stands once."""
    names = [pair.key for pair in attributes]
    assert len(names) == len(set(names))
    return tuple(sorted((pair.key, pair.value.SerializeToString(deterministic=True)) for pair in attributes))


def parsed(body: bytes) -> ExportTraceServiceRequest:
    """The request in some bytes, in which nothing may be unknown to OTLP."""
    request = ExportTraceServiceRequest.FromString(body)
    before = request.ByteSize()
    request.DiscardUnknownFields()
    assert request.ByteSize() == before
    return request


def spans_of(body: bytes) -> list:
    """The spans in some bytes, in their order."""
    groups = parsed(body).resource_spans
    return [span for group in groups for scope_spans in group.scope_spans for span in scope_spans.spans]


def said(span) -> tuple:
    """What a span says, whatever the order of its attributes."""
    attributes = pairs(span.attributes)
    copy = type(span).FromString(span.SerializeToString())
    copy.ClearField("attributes")
    return copy.SerializeToString(deterministic=True), attributes


def encoder() -> SpanEncoder:
    """An encoder without history."""
    return SpanEncoder(cluster_name=CLUSTER, distribution_version=VERSION)


def check(batch: FlowBatch) -> None:
    """Compare our bytes with the SDK's for the reference's spans."""
    oracle = encode_spans(reference_spans(batch, CLUSTER, VERSION))
    assert flat(parsed(encoder().encode(batch)), sampled=0) == flat(oracle, sampled=1)


@given(span_batches())
@settings(max_examples=150, deadline=None)
def test_spans_are_what_the_sdk_would_have_encoded(batch):
    """Every attribute of every span and resource, ids, kinds, times and status equal the row-by-row reference's."""
    check(batch)


@given(flow_batches())
@settings(deadline=None)
def test_any_batch_of_the_contract_encodes(batch):
    """Whatever a batch of flows holds or leaves out, raw or enriched, it becomes spans, one per record."""
    assume(not (batch.column("reason") == Reason.EXCHANGE).any())
    check(batch)


def test_a_batch_with_every_column_encodes():
    """The golden batch, through the wire, with all columns of v1."""
    check(decode(encode(fixed_batch())))


def test_an_encoder_that_has_seen_other_batches_gives_the_same_bytes():
    """What is kept between batches is never another batch's: equal keys of unequal types are told apart."""
    used = encoder()
    batches = []
    for value in (1, True, 1.0, "1", ["1"], 0.0, -0.0, False, 0):
        batch = replace(fixed_batch(), entities=[Entity("k8s.pod", {"x": value}), Entity("k8s.service", {"x": value})])
        batches.append(replace(batch, columns=batch.columns | {"local_entity": np.array([0, 1, NO_INDEX], "<u4")}))
    batches += [replace(batches[0], entities=[Entity("host", {"x": 1}), Entity("k8s.service", {"x": 1})])]
    batches += [replace(batches[0], node="node-b"), replace(batches[0], containers=[{"container_id": "x"}, {}])]
    for batch in batches * 2:
        assert used.encode(batch) == encoder().encode(batch)


def test_no_records_are_no_bytes():
    """An empty batch makes an empty request and no requests."""
    empty = FlowBatch("n", "e", 0, 0, (0, 0), {})
    assert encoder().encode(empty) == b""
    assert encoder().encode(fixed_batch(), np.array([], int)) == b""
    assert encoder().encode_requests(empty, 1000) == []


def test_spans_of_one_resource_stand_together():
    """Rows are grouped by resource: one ResourceSpans each."""
    batch = many_rows(200)
    groups = parsed(encoder().encode(batch)).resource_spans
    resources = [pairs(group.resource.attributes) for group in groups]
    assert len(resources) == len(set(resources)) == 3
    assert sum(len(group.scope_spans[0].spans) for group in groups) == 200


def test_chosen_rows_are_encoded_alone():
    """`rows` picks records by slice, index or mask."""
    batch = many_rows(50)
    alone = encoder().encode(batch.take(slice(10, 20)))
    assert encoder().encode(batch, slice(10, 20)) == alone
    assert encoder().encode(batch, np.arange(10, 20)) == alone
    assert encoder().encode(batch, (np.arange(50) >= 10) & (np.arange(50) < 20)) == alone


@given(st.integers(1, 40), st.integers(0, 30_000))
@settings(deadline=None, max_examples=50)
def test_requests_hold_every_span_once_within_the_limit(count, max_bytes):
    """A request is within the limit or holds one span; rows name the records in the order of the spans."""
    batch = many_rows(count)
    whole = {span.span_id: span for span in spans_of(encoder().encode(batch))}
    requests = encoder().encode_requests(batch, max_bytes)
    for request in requests:
        assert len(request.body) <= max_bytes or request.spans == 1
        spans = spans_of(request.body)
        assert request.spans == len(spans) == len(request.rows)
        assert [span.start_time_unix_nano for span in spans] == batch.column("start_unix_ns")[request.rows].tolist()
        assert all(said(whole[span.span_id]) == said(span) for span in spans)
    assert sorted(np.concatenate([request.rows for request in requests]).tolist()) == list(range(count))


def test_requests_are_filled():
    """A limit is made use of but for a few bytes."""
    batch = many_rows(1000)
    total = len(encoder().encode(batch))
    assert len(encoder().encode_requests(batch, total + 100)) == 1
    assert len(encoder().encode_requests(batch, total // 10)) <= 11


@given(st.integers(2, 30), st.data())
@settings(deadline=None, max_examples=30)
def test_a_split_request_is_the_same_spans_in_two(count, data):
    """Splitting goes on until single spans, and loses and repeats nothing."""
    batch = many_rows(count)
    request = encoder().encode_requests(batch, data.draw(st.sampled_from([10**6, 9000])))[0]
    pieces = [request]
    while any(piece.spans > 1 for piece in pieces):
        pieces = [half for piece in pieces for half in (piece.split() if piece.spans > 1 else (piece,))]
    got = [(row, said(span)) for piece in pieces for row, span in zip(piece.rows.tolist(), spans_of(piece.body), strict=True)]
    assert dict(got) == dict(zip(request.rows.tolist(), map(said, spans_of(request.body)), strict=True))
    assert len(got) == request.spans
    with pytest.raises(ValueError, match="one record"):
        pieces[0].split()


def test_caches_are_bounded():
    """However many distinct values come, what is kept stays within its limit and one batch's worth."""
    one = encoder()
    count = 5000
    for turn in range(CACHE_LIMIT // count + 3):
        addresses = np.arange(turn * count, (turn + 1) * count, dtype=">u4")
        full = np.zeros((count, 16), np.uint8)
        full[:, 12:] = addresses.view(np.uint8).reshape(-1, 4)
        batch = FlowBatch("n", "e", 0, count, (0, 0), {"local_address": full.view("V16").ravel()})
        assert len(one.encode(batch)) > count
        assert count <= len(one._flow_spans.ends._table) <= CACHE_LIMIT + 2 * count


def test_values_that_share_a_slot_are_told_apart():
    """Far more addresses than slots, again and again: each span has its own, whatever was looked up before it."""
    one, other = encoder(), encoder()
    count = 1 << 15
    for turn in (0, 1, 2, 0, 1, 2):
        addresses = np.zeros((count, 16), np.uint8)
        addresses[:, 12:] = np.arange(turn * count, (turn + 1) * count, dtype=">u4").view(np.uint8).reshape(-1, 4)
        batch = FlowBatch("n", "e", 0, count, (0, 0), {"remote_address": addresses.view("V16").ravel()})
        assert one.encode(batch) == other.encode(batch)
        other = encoder()


@given(span_batches(), st.sampled_from(PROFILES))
@settings(deadline=None, max_examples=50)
def test_a_profile_leaves_out_attributes_and_nothing_else(batch, profile):
    """Ids, names, times, status and resources are those of `full`; attributes are those that the profile carries."""
    chosen = SpanEncoder(cluster_name=CLUSTER, distribution_version=VERSION, profile=profile)
    spans = ExportTraceServiceRequest.FromString(encoder().encode(batch))
    for group in spans.resource_spans:
        for span in group.scope_spans[0].spans:
            kept = [pair for pair in span.attributes if carries(profile, pair.key)]
            del span.attributes[:]
            span.attributes.extend(kept)
    assert flat(parsed(chosen.encode(batch)), sampled=0) == flat(spans, sampled=0)


def test_profiles_hold_one_another():
    """`full` carries every attribute of `standard`, and that every one of `lean`."""
    batch = fixed_batch()
    carried = []
    for profile in PROFILES:
        body = SpanEncoder(cluster_name=CLUSTER, distribution_version=VERSION, profile=profile).encode(batch)
        carried.append({pair.key for span in spans_of(body) for pair in span.attributes})
    assert carried[0] < carried[1] < carried[2]


@given(span_batches(), st.data())
@settings(deadline=None, max_examples=50)
def test_spans_of_several_shapes_stand_together(batch, data):
    """Sets of spans, however they are divided, become the same spans under the same resources as one set."""
    one = encoder()
    assembly = one._spans(bundle([batch]))
    (only,) = assembly._sets
    resources = dict(zip(only.resources[assembly._order[assembly._starts]].tolist(), assembly._resources, strict=True))
    turn = np.array(data.draw(st.lists(st.integers(0, 2), min_size=batch.count, max_size=batch.count)))
    sets = [part(only, np.flatnonzero(turn == number)) for number in range(3)]
    together = Assembly(sets, one._scope, resources.__getitem__)
    bodies = [together.body(*run) for run in together.runs(data.draw(st.sampled_from([1, 5000, 10**6])))]
    spans = sum((flat(parsed(body), sampled=0) for body in bodies), Counter())
    assert spans == flat(parsed(one.encode(batch)), sampled=0)


def part(spans: SpanSet, rows: np.ndarray) -> SpanSet:
    """Some spans of a set as a set of their own."""
    blocks = []
    for block in spans.blocks:
        at = np.arange(len(spans.rows)) if block.at is None else block.at
        mine = np.flatnonzero(np.isin(at, rows))
        offset = block.offset[mine] if isinstance(block.offset, np.ndarray) else block.offset
        blocks.append(Block(block.parts[mine], np.searchsorted(rows, at[mine]), offset))
    pieces = [Column(column.pieces, column.numbers[rows], column.lengths[rows]) for column in spans.pieces]
    return SpanSet(spans.rows[rows], spans.resources[rows], blocks, spans.room[rows], pieces, spans.lengths[rows])


def test_the_schema_url_is_that_of_the_conventions_in_use():
    """It names the version whose names the table uses."""
    assert Schemas.V1_44_0.value == SCHEMA_URL


def many_rows(count: int) -> FlowBatch:
    """Records that differ, of three resources in turn."""
    rows = np.arange(count)
    columns = {
        "observer": np.ones(count, "u1"),
        "role": (rows % 3).astype("u1"),
        "transport": np.full(count, 6, "u1"),
        "start_unix_ns": (START + rows).astype("<u8"),
        "end_unix_ns": (START + rows * 2).astype("<u8"),
        "flow_start_unix_ns": (START + rows).astype("<u8"),
        "responses": (rows % 2).astype("<u4"),
        "tx_bytes": (rows * 100).astype("<u8"),
        "local_entity": (rows % 3).astype("<u4"),
        "remote_entity": ((rows + 1) % 3).astype("<u4"),
    }
    entities = [Entity("k8s.pod", {"service.name": f"app-{number}", "k8s.pod.name": "x" * 40 * number}) for number in range(3)]
    return FlowBatch("node-a", "e", 1, count, (0, 0), columns, entities=entities)
