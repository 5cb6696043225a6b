"""Dull flows summed up: no count is lost, remarkable flows keep their spans, and what comes again is the same."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.columns import RAW, Kind, Outcome, Reason
from proto.flow_batch import FlowBatch, decode, encode
from services.exporter.encoder import Request, SpanEncoder
from services.exporter.spans.bundle import bundle
from services.exporter.spans.identity import TRACE_RECORDS
from services.exporter.spans.summary import Thinning
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.unit.exporter.test_encoder import flat, parsed, said, span_batches, spans_of

SECOND = 10**9
COUNTED = ("bytes.delta", "packets.delta", "payload.bytes.delta", "tcp.retransmits", "tcp.out_of_order", "tcp.duplicate_acks")
NAMES = [f"flow.{way}{name}" for name in COUNTED for way in ("", "reverse.")]
NAMES += ["flow.response.count", "flow.response.time_sum", "flow.response.time_histogram", "flow.icmp.errors"]


def encoder(ratio: float | None = None, *, keep_troubles: bool = True) -> SpanEncoder:
    """An encoder without history; with a ratio, one that sums up."""
    thinning = None if ratio is None else Thinning(ratio, SECOND, keep_troubles=keep_troubles)
    return SpanEncoder(cluster_name="c", distribution_version="1", thinning=thinning)


def totals(body: bytes) -> Counter:
    """The sum of each counted attribute over all spans."""
    sums: Counter = Counter()
    for span in spans_of(body):
        for pair in span.attributes:
            if pair.key in NAMES:
                items = [item.int_value for item in pair.value.array_value.values] or [pair.value.int_value]
                sums.update({(pair.key, at): value for at, value in enumerate(items)})
    return Counter({key: value for key, value in sums.items() if value})


def attribute(span, name: str) -> int | None:
    """The value of an int attribute; None where the span has none."""
    return next((pair.value.int_value for pair in span.attributes if pair.key == name), None)


def moderate(batch: FlowBatch) -> FlowBatch:
    """The batch with deltas whose sums fit into an int64, and with no response time where there is no response."""
    deltas = {column.name for column in RAW if column.kind is Kind.DELTA and column.numpy_dtype.base.itemsize == 8}
    columns = {name: array & 0xFFFFFFFFFF if name in deltas else array for name, array in batch.columns.items()}
    if "responses" in columns:
        none = columns["responses"] == 0
        columns |= {name: np.where(none.reshape(-1, *[1] * (array.ndim - 1)), array.dtype.type(0), array)
                    for name, array in columns.items() if name.startswith("response_time_")}  # fmt: skip
    return replace(batch, columns=columns)


def dull_batch(count: int = 60, sequence: int = 0) -> FlowBatch:
    """Records of one workload pair that did nothing remarkable."""
    return enriched_batch(count, sequence=sequence)


@given(st.lists(span_batches().map(moderate), min_size=1, max_size=3), st.sampled_from([0.0, 0.3, 0.999]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_no_count_is_lost(batches, ratio, keep_troubles):
    """Whatever is summed up, the spans' counts add up to those of the records, direction by direction, to the byte."""
    batches = [replace(batch, sequence=number) for number, batch in enumerate(batches)]
    (whole,) = encoder().encode_bundle(bundle(batches), 10**8)
    (thinned,) = encoder(ratio, keep_troubles=keep_troubles).encode_bundle(bundle(batches), 10**8)
    assert totals(thinned.body) == totals(whole.body)
    assert sorted(thinned.rows.tolist()) == list(range(sum(batch.count for batch in batches)))
    standing_for = sum(attribute(span, "flow.summary.records") or 1 for span in spans_of(thinned.body))
    assert standing_for == sum(batch.count for batch in batches)


@given(st.lists(span_batches().map(moderate), min_size=2, max_size=3), st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=25)
def test_a_batch_delivered_again_gives_the_same_spans(batches, ratio):
    """Alone, or with other batches in any company: every span is the same, ids and sums."""
    batches = [replace(batch, sequence=number) for number, batch in enumerate(batches)]
    (together,) = encoder(ratio).encode_bundle(bundle(batches), 10**8)
    alone = Counter()
    for batch in reversed(batches):
        alone += flat(parsed(encoder(ratio).encode(decode(encode(batch)))), sampled=0)
    assert flat(parsed(together.body), sampled=0) == alone


@given(span_batches(), st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=25)
def test_a_span_of_its_own_says_what_it_always_says(batch, ratio):
    """But for a parent that may be in a summary, nothing changes for flows that are kept."""
    full = {span.span_id: span for span in spans_of(encoder().encode(batch))}
    for span in spans_of(encoder(ratio).encode(batch)):
        if attribute(span, "flow.summary.records") is None:
            kept = full[span.span_id]
            if not span.parent_span_id:
                kept.parent_span_id, kept.flags = b"", span.flags
            assert said(span) == said(kept)
        else:
            assert span.span_id not in full
            assert span.kind == span.SPAN_KIND_INTERNAL


@pytest.mark.parametrize(
    "remarkable",
    [
        {"outcome": Outcome.REFUSED},
        {"outcome": Outcome.TIMEOUT},
        {"outcome": Outcome.RESET, "cut_short": 1},
        {"response_time_max_ns": SECOND},
        {"request_waits": 1, "reason": Reason.END_OF_FLOW},
        {"tx_retransmits": 2, "tx_spurious_retransmits": 1},
        {"rx_retransmits": 1},
        {"question_repeats": 1},
        {"icmp_errors": 1},
        {"syn_unix_ns": 1_700_000_000_000_000_000, "handshake_ack_unix_ns": 1_700_000_001_000_000_000},
    ],
)
def test_failed_slow_and_lossy_flows_keep_their_spans(remarkable):
    """One of many without trouble stands by itself, with everything that is said of it."""
    batch = dull_batch()
    columns = dict(batch.columns)
    for name, value in remarkable.items():
        changed = batch.column(name).copy()
        changed[0] = value
        columns[name] = changed
    spans = spans_of(encoder(0.0).encode(replace(batch, columns=columns)))
    assert sorted(attribute(span, "flow.summary.records") or 0 for span in spans) == [0, 59]


def test_what_was_sent_again_in_vain_is_no_loss():
    """A segment that had arrived and was sent once more leaves its flow without trouble."""
    batch = dull_batch()
    columns = {**batch.columns, "tx_retransmits": np.ones(60, "<u4"), "tx_spurious_retransmits": np.ones(60, "<u4")}
    assert len(spans_of(encoder(0.0).encode(replace(batch, columns=columns)))) == 1


def test_troubles_summed_up_are_counted_by_error():
    """Where nothing is kept, each kind of failure has a summary with its `error.type`; unanswered requests add up."""
    batch = dull_batch()
    outcome, cut_short = batch.column("outcome").copy(), np.zeros(60, "u1")
    outcome[:7], outcome[7:10], outcome[10:12], cut_short[10:12] = Outcome.REFUSED, Outcome.TIMEOUT, Outcome.RESET, 1
    waits = np.where(np.arange(60) >= 50, np.uint8(2), np.uint8(0))
    columns = {**batch.columns, "outcome": outcome, "cut_short": cut_short, "request_waits": waits}
    spans = spans_of(encoder(0.0, keep_troubles=False).encode(replace(batch, columns=columns)))
    counted = {
        pair.value.string_value: attribute(span, "flow.summary.flows")
        for span in spans
        for pair in span.attributes
        if pair.key == "error.type"
    }
    assert counted == {"connection_refused": 7, "timeout": 3, "connection_reset": 2}
    assert sum(attribute(span, "flow.request.unanswered") or 0 for span in spans) == 20
    assert len(spans) == 4


def test_dull_flows_of_a_pair_and_minute_are_one_span():
    """Sixty records are one span; another minute, another port of the responder and another message have their own."""
    batch = dull_batch()
    (span,) = spans_of(encoder(0.0).encode(batch))
    assert (span.name, attribute(span, "flow.summary.flows"), attribute(span, "destination.port")) == ("tcp redis", 60, 6379)
    names = {pair.key for pair in span.attributes}
    assert {"source.service.name", "destination.service.name", "network.transport"} <= names
    assert not names & {"source.address", "source.port", "flow.bytes.total", "flow.record", "flow.connection.outcome"}
    end, port = batch.column("end_unix_ns").copy(), batch.column("remote_port").copy()
    end[:10] += np.uint64(60 * SECOND)
    port[50:] = 8080
    apart = replace(batch, columns={**batch.columns, "end_unix_ns": end, "remote_port": port})
    assert len(spans_of(encoder(0.0).encode(apart))) == 3
    (both,) = encoder(0.0).encode_bundle(bundle([dull_batch(), dull_batch(sequence=1)]), 10**8)
    assert len(spans_of(both.body)) == 2


def test_a_trace_is_kept_whole_or_not_at_all():
    """A share of the flows is drawn by trace id: both ends of a connection, and all of a long one's records, go together."""
    client = dull_batch(2000)
    server = replace(client, columns={**client.columns, "role": np.full(2000, 2, "u1")})
    columns = {
        name.replace("local_", "-").replace("remote_", "local_").replace("-", "remote_"): array
        for name, array in server.columns.items()
    }
    bodies = [encoder(0.25).encode(one) for one in (client, replace(server, columns=columns))]
    kept = [{span.trace_id for span in spans_of(body) if attribute(span, "flow.summary.records") is None} for body in bodies]
    assert kept[0] == kept[1]
    assert 400 < len(kept[0]) < 600


@given(span_batches(), st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=20)
def test_a_split_keeps_summaries_whole(batch, ratio):
    """However often a request is split, each span is the same and each record is in one request."""
    requests: list[Request] = encoder(ratio).encode_requests(batch, 10**8)
    whole = flat(parsed(requests[0].body), sampled=0)
    while any(request.spans > 1 for request in requests):
        requests = [half for request in requests for half in (request.split() if request.spans > 1 else (request,))]
    assert sum((flat(parsed(request.body), sampled=0) for request in requests), Counter()) == whole
    assert sorted(row for request in requests for row in request.rows.tolist()) == list(range(batch.count))


@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_all_traces_of_a_long_flow_are_drawn_or_none(ratio):
    """A flow that goes on in further traces is drawn by its first: no link leads to a span that is in a sum."""
    count = 64
    batch = dull_batch(count)
    failed = np.arange(count) % 2 == 0
    outcome = np.where(failed, Outcome.REFUSED, batch.column("outcome")).astype("|u1")
    parts = []
    for record in (0, TRACE_RECORDS - 1, TRACE_RECORDS):
        columns = {**batch.columns, "record": np.full(count, record, "<u4"), "outcome": outcome}
        parts.append(replace(batch, sequence=record, columns=columns))
    (request,) = encoder(ratio).encode_bundle(bundle(parts), 10**8)
    spans = [span for span in spans_of(request.body) if attribute(span, "flow.summary.records") is None]
    there = {(span.trace_id, span.span_id) for span in spans}
    links = [(link.trace_id, link.span_id) for span in spans for link in span.links]
    assert links
    assert set(links) <= there
    assert {(span.trace_id, span.parent_span_id) for span in spans if span.parent_span_id} <= there
    roots = [span for span in spans if attribute(span, "flow.record") == TRACE_RECORDS]
    assert any(not span.links for span in roots)
