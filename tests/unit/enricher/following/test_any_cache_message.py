"""Whatever stands in KUBE_CACHE is read or counted: no message ends an enricher, or makes it allocate what nobody sent."""

from __future__ import annotations

import contextlib
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.subjects import CACHE_LOG_SUBJECT, CACHE_PULSE_SUBJECT
from services.enricher.cache.messages import CacheMessageError, decode
from services.enricher.cache.reader import CacheReader
from services.enricher.following.indexer import Indexer
from services.enricher.kubernetes.resources import ALL_RESOURCES
from services.runtime.nats.bus import JournalEntry
from tests.unit.enricher.following.test_cache_reader import make_cluster, news

_scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
)
_anything = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)
_scopes = st.lists(
    st.tuples(
        st.sampled_from(["pods", "nodes", "?"]), st.text(max_size=3), st.text(max_size=3), st.text(max_size=3), st.booleans()
    ),
    max_size=2,
)
_kept = st.tuples(
    st.sampled_from([each.name for each in ALL_RESOURCES]), st.lists(st.integers(0, 9), max_size=2), st.just(0), _anything
)
_changes = st.tuples(st.text(max_size=3), st.integers(0, 9), _anything)
_fields = st.fixed_dictionaries(
    {"type": st.sampled_from(["news", "part", "pulse"]), "log": st.sampled_from(["log", "other"])},
    optional={
        "before": st.integers(-1, 3), "link": st.binary(max_size=8), "resource": st.sampled_from(["pods", "nodes", "?"]),
        "namespace": st.text(max_size=3), "changes": st.lists(_changes, max_size=3),
        "observed_unix_ns": st.integers(-(2**63), 2**64 - 1), "snapshot": st.text(max_size=3), "number": st.integers(-1, 2),
        "kept": st.lists(_kept, max_size=2), "last": st.booleans(), "scopes": _scopes,
        "writer": st.text(max_size=3), "reached_unix_ns": st.integers(0, 2**63), "selection": st.text(max_size=3),
        "complete_since_unix_ns": st.integers(0, 2**63),
    },
)  # fmt: skip
_messages = (_fields | _anything).map(lambda tree: zlib.compress(msgspec.msgpack.encode(tree), 1))


@given(st.binary(max_size=200) | _messages)
def test_any_bytes_are_a_message_or_an_error_of_ours(data: bytes) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(CacheMessageError):
        decode(data)


def test_what_inflates_without_end_is_refused() -> None:
    """A few hundred KB that would be a GB."""
    bomb = zlib.compress(bytes(256 << 20), 9)
    with pytest.raises(CacheMessageError, match="longer than"):
        decode(bomb)


@given(st.lists(st.tuples(st.sampled_from([CACHE_LOG_SUBJECT, CACHE_PULSE_SUBJECT]), _messages), max_size=4))
def test_a_reader_goes_on_whatever_it_reads(written: list[tuple[str, bytes]]) -> None:
    """Behind a message that is in order, any others: counted, or taken, and never raised."""
    reader = CacheReader(Indexer(make_cluster(), interval_seconds=1.0), make_cluster)
    reader.read(news(1, None, "a"))
    for sequence, (subject, data) in enumerate(written, 2):
        reader.read(JournalEntry(sequence, subject, data))
    assert reader.position == 1 + len(written)
