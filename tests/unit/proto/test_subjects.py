"""Names on the bus cannot be broken by what a node is called."""

import re

from hypothesis import given
from hypothesis import strategies as st

from proto.subjects import (
    RAW_STREAM,
    batch_id,
    enriched_subject,
    part_id,
    partition_of,
    partition_streams,
    raw_subject,
    subject_token,
    without_partition,
)


@given(st.text(max_size=80))
def test_any_node_name_is_one_token(name):
    """Dots, wildcards, spaces and control characters never reach the subject."""
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", subject_token(name))


def test_a_node_name_with_dots_stays_readable():
    """A fully qualified node name is still recognised."""
    assert raw_subject("ip-10-0-0-1.eu-west-1.compute.internal") == "flows.raw.ip-10-0-0-1-eu-west-1-compute-internal"


def test_message_ids_tell_batches_and_their_parts_apart():
    """One id per batch and per run of its rows."""
    raw = batch_id("node.a", "e1", 7)
    assert raw == "node-a/e1/7"
    assert part_id(raw, 0, 500) == "node-a/e1/7/0-500"


@given(st.text(max_size=80), st.integers(1, 16))
def test_a_node_has_one_partition(name, partitions):
    """Of raw and of enriched batches the same one, and the subject without it is that of a stream that is one."""
    partition = partition_of(name, partitions)
    assert 0 <= partition < partitions
    for subject in (raw_subject, enriched_subject):
        assert subject(name, partitions).split(".")[1] == (str(partition) if partition else subject(name).split(".")[1])
        assert without_partition(subject(name, partitions)) == subject(name)


def test_partitions_are_told_by_names_that_stay():
    """Where a node's batches go is the same in every release: what is there would be where nobody looks for it."""
    assert partition_streams(RAW_STREAM, 3) == ("FLOWS_RAW", "FLOWS_RAW_1", "FLOWS_RAW_2")
    assert raw_subject("node-a", 4) == "flows.3.raw.node-a"
    assert raw_subject("worker-1", 4) == "flows.raw.worker-1"
    assert enriched_subject("ip-10-0-0-7.ec2.internal", 4) == "flows.2.enriched.ip-10-0-0-7-ec2-internal"


def test_nodes_are_spread():
    """A thousand nodes are about as many in each partition."""
    found = [partition_of(f"ip-10-0-{number // 250}-{number % 250}.compute.internal", 4) for number in range(1000)]
    assert all(200 <= found.count(partition) <= 300 for partition in range(4))
