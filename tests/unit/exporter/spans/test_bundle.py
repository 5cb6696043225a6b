"""Several batches as one: the same spans, and each row finds its way back."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.flow_batch import decode, encode
from services.exporter.encoder import SpanEncoder
from services.exporter.encoding_queue import Encoded, EncodingQueue, Unfit
from services.exporter.spans.bundle import bundle
from tests.support.pipeline.enriched_batches import enriched_batch
from tests.unit.exporter.test_encoder import flat, pairs, parsed, said, span_batches, spans_of

LIMIT = 10**7


@dataclass
class Message:
    """What the queue needs of a delivery."""

    data: bytes
    stream_sequence: int = 1


def encoder() -> SpanEncoder:
    """An encoder without history."""
    return SpanEncoder(cluster_name="c", distribution_version="1")


@given(st.lists(st.tuples(span_batches(), st.sampled_from(["node-a", "node-b"])), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_a_bundle_is_the_spans_of_its_batches(drawn):
    """Whatever they hold and leave out: each batch's spans, with their resources, and nothing besides."""
    batches = [replace(batch, node=node) for batch, node in drawn]
    whole = bundle(batches)
    (request,) = encoder().encode_bundle(whole, LIMIT)
    alone = Counter()
    for batch in batches:
        alone += flat(parsed(encoder().encode(batch)), sampled=0)
    assert flat(parsed(request.body), sampled=0) == alone
    spans = dict(zip(request.rows.tolist(), map(said, spans_of(request.body)), strict=True))
    for number, rows in whole.by_source(np.sort(request.rows)):
        assert rows.tolist() == list(range(batches[number].count))
        own = encoder().encode_requests(batches[number], LIMIT)[0]
        for row, span in zip(own.rows.tolist(), map(said, spans_of(own.body)), strict=True):
            assert spans[row + int(whole.first_rows[number])] == span


def test_a_workload_of_many_batches_is_one_resource():
    """Entities and containers that several batches name stand in one place, and so do their spans."""
    batches = [enriched_batch(3, sequence=number) for number in range(5)]
    (request,) = encoder().encode_bundle(bundle(batches), LIMIT)
    (group,) = parsed(request.body).resource_spans
    assert len(group.scope_spans[0].spans) == 15
    assert ("service.name", "web") in [(pair.key, pair.value.string_value) for pair in group.resource.attributes]
    assert pairs(group.resource.attributes)


def test_entities_seen_before_are_the_same_objects():
    """Who reads many batches reads an entity once; what a batch says is the same."""
    known = {}
    first, second = (decode(encode(enriched_batch(2, sequence=number)), known) for number in (0, 1))
    assert [id(entity) for entity in first.entities] == [id(entity) for entity in second.entities]
    assert first.entities == decode(encode(enriched_batch(2))).entities
    assert set(known) == {entity.packed for entity in first.entities}


async def test_what_does_not_decode_does_not_spoil_the_others():
    """Of messages that are encoded together, one that is no batch is told apart, an empty one has no requests."""
    with ThreadPoolExecutor(1) as thread:
        queue = EncodingQueue(encoder(), LIMIT, thread)
        messages = [
            encode(enriched_batch(4)),
            b"\xc1 not a batch",
            encode(enriched_batch(0)),
            encode(enriched_batch(4, sequence=1)),
        ]
        first, broken, empty, last = await asyncio.gather(*(queue.encoded(Message(data)) for data in messages))
    assert isinstance(broken, Unfit)
    assert (broken.reason, broken.records) == ("undecodable", None)
    assert isinstance(empty, Encoded)
    assert (empty.records, empty.requests) == (0, [])
    assert isinstance(first, Encoded)
    assert isinstance(last, Encoded)
    assert len({id(shared) for one in (first, last) for shared in one.requests}) == 1
    assert sum(shared.request.spans for shared in first.requests) == 8


@pytest.mark.parametrize(("most_at_once", "enough"), [(64, 16), (4, 4), (1, 1)])
async def test_batches_wait_for_each_other_until_there_are_enough(most_at_once, enough):
    """The first goes at once. Those after it share one request: when the pace allows the next, or sooner where many wait, or as
    many as ever come at once.
    """
    messages = [encode(enriched_batch(2, sequence=number)) for number in range(enough + 1)]
    with ThreadPoolExecutor(1) as thread:
        queue = EncodingQueue(encoder(), LIMIT, thread, most_at_once=most_at_once, pace_seconds=3600)
        await queue.encoded(Message(messages[0]))
        waiting = [asyncio.create_task(queue.encoded(Message(data))) for data in messages[1:enough]]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        last = await queue.encoded(Message(messages[enough]))
        encoded = [*await asyncio.gather(*waiting), last]
    assert len({id(request) for one in encoded for request in one.requests}) == 1
    assert last.requests[0].request.spans == 2 * enough


async def test_a_batch_that_breaks_the_encoder_goes_alone():
    """The others that were to be encoded with it are encoded without it."""

    class Picky(SpanEncoder):
        def encode_bundle(self, whole, max_bytes):
            if any(source.node == "bad" for source in whole.sources):
                raise ValueError("no")
            return super().encode_bundle(whole, max_bytes)

    with ThreadPoolExecutor(1) as thread:
        queue = EncodingQueue(Picky(cluster_name="c"), LIMIT, thread)
        messages = [encode(enriched_batch(4, sequence=number, node=node)) for number, node in enumerate(("a", "bad", "b"))]
        first, broken, last = await asyncio.gather(*(queue.encoded(Message(data)) for data in messages))
    assert broken == Unfit("unencodable", "ValueError: no", 4)
    assert [sum(shared.request.spans for shared in one.requests) for one in (first, last)] == [4, 4]
