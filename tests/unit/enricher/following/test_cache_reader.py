"""A reader of the shared cache's log notices where the log is not the one that it has read."""

from __future__ import annotations

import json

import msgspec
import pytest

from proto.subjects import CACHE_LOG_SUBJECT
from services.enricher.cache.messages import LogNews, ObjectChange, encode, encode_object, link_of
from services.enricher.cache.reader import CacheReader
from services.enricher.following.indexer import Indexer
from services.enricher.index.cluster import Cluster
from services.enricher.kubernetes.resources import ALL_RESOURCES
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import KubeSettings
from services.runtime.nats.bus import JournalEntry
from tests.unit.enricher.objects_as_json import pod

PODS = next(resource for resource in ALL_RESOURCES if resource.name == "pods")


def make_cluster() -> Cluster:
    """An empty one."""
    return Cluster(selection=Selection(KubeSettings()), name="demo", service_name_from_labels=False, tombstone_seconds=300.0)


@pytest.fixture
def reader() -> CacheReader:
    """One that has read nothing."""
    return CacheReader(Indexer(make_cluster(), interval_seconds=1.0), make_cluster)


def news(sequence: int, before: JournalEntry | None, name: str, *, link: bytes | None = None) -> JournalEntry:
    """A message of the log that tells of a pod."""
    told = PODS.model
    found = msgspec.json.decode(json.dumps(pod(name, "10.42.0.9")), type=told)
    message = LogNews(
        log="log",
        before=before.sequence if before else 0,
        link=(link_of(before.data) if before else b"") if link is None else link,
        resource="pods",
        namespace="",
        changes=[ObjectChange(found.key, 1, encode_object(found))],
        observed_unix_ns=1,
        listed=sequence == 1,
    )
    return JournalEntry(sequence, CACHE_LOG_SUBJECT, encode(message))


def test_a_log_that_went_back_in_time_is_noticed(reader: CacheReader) -> None:
    """A server that lost power forgets the second message, and another one takes its place: whoever has read the first of
    the two does not go on as if it had read the other, though every place is as it expects.
    """
    first = news(1, None, "a")
    lost = news(2, first, "b")
    other = news(2, first, "c")
    reader.read(first)
    reader.read(lost)
    assert not reader.broken
    reader.read(news(3, other, "d"))
    assert reader.broken
    assert reader.went_back

    reader.begin_anew()
    for entry in (first, other, news(3, other, "d")):
        reader.read(entry)
    assert (reader.broken, reader.went_back, reader.log_end) == (False, False, 3)
    assert {key for known in reader.roster.known.values() for key in known} == {"uid-a", "uid-c", "uid-d"}


def test_what_an_earlier_release_wrote_is_taken_by_its_place(reader: CacheReader) -> None:
    """In a rollout old and new enrichers read each other's messages."""
    first = news(1, None, "a")
    reader.read(first)
    reader.read(news(2, first, "b", link=b""))
    assert (reader.broken, reader.log_end) == (False, 2)
