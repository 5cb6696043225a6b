"""Names on the bus cannot be broken by what a node is called."""

import re

from hypothesis import given
from hypothesis import strategies as st

from proto.subjects import batch_id, part_id, raw_subject, subject_token


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
