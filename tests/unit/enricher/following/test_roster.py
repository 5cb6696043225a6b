"""What is news, and how a leader cuts it into messages."""

from __future__ import annotations

import threading
from dataclasses import replace

from services.enricher.cache.messages import decode_object, encode_object
from services.enricher.cache.news import groups, pieces_of
from services.enricher.following.inbox import Inbox
from services.enricher.following.roster import Roster
from services.enricher.index.claims import FOREVER
from services.enricher.kubernetes.reflector import Change, Scope, Update
from tests.unit.enricher.objects_as_json import decoded, node, pod, service

PODS, NODES, SERVICES = Scope("pods", ""), Scope("nodes", ""), Scope("services", "")
CREATED, CREATED_NS = "2026-01-01T00:00:00Z", 1_767_225_600_000_000_000


def update(
    observed: int, *names: str, deleted: str = "", scope: Scope = PODS, version: str = "", whole: bool = False
) -> Update:
    """Pods that are so, and one that is gone."""
    changes = [Change(decoded(pod(name, "10.0.0.1", created=CREATED)), deleted=False) for name in names]
    changes += [Change(decoded(pod(deleted)), deleted=True)] if deleted else []
    return Update(scope, changes, CREATED_NS + observed, version, whole)


def test_only_what_is_new_is_news() -> None:
    """What is known is not told again; what a whole list lacks is gone."""
    roster = Roster()
    first = roster.news(update(5, "a", "b", version="7", whole=True))
    assert [(each.key, each.observed_unix_ns - CREATED_NS) for each in first.deltas] == [("uid-a", 5), ("uid-b", 5)]
    roster.take(first)
    again = roster.news(update(6, "a", "c", version="9", whole=True))
    assert [(each.key, each.obj is None, each.observed_unix_ns) for each in again.deltas] == [
        ("uid-c", False, CREATED_NS + 6),
        ("uid-b", True, CREATED_NS + 6),
    ]
    roster.take(again)
    assert (len(roster), roster.versions[PODS]) == (2, "9")


def test_who_was_not_known_counts_from_its_creation_and_a_pod_from_when_it_was_seen() -> None:
    """An object may be older than the first look at it; a pod is there before it has an address, and says itself since when."""
    changes = [
        Change(decoded(tree | {"metadata": tree["metadata"] | {"creationTimestamp": CREATED}}), deleted=False)
        for tree in (service("cart", "10.96.0.1"), pod("a", "10.0.0.1"))
    ]
    deltas = Roster().news(Update(SERVICES, changes, CREATED_NS + 5, "7", whole=True)).deltas
    assert [each.observed_unix_ns - CREATED_NS for each in deltas] == [0, 5]


def test_several_updates_are_one_piece_of_news() -> None:
    """Each change keeps the time at which it was seen; one who comes, goes and comes again is told three times."""
    news = Roster().news(update(1, "a"), update(2, deleted="a"), update(3, "a", version="5"))
    told = [(each.obj is None, each.observed_unix_ns - CREATED_NS) for each in news.deltas]
    assert told == [(False, 1), (True, 2), (False, 3)]
    assert (news.version, news.observed_unix_ns, news.listed) == ("5", CREATED_NS + 1, False)


def test_a_list_that_is_taken_again_moves_the_time_since_which_all_is_known() -> None:
    """What came and went before it nobody has seen."""
    roster = Roster()
    for scope in (PODS, SERVICES, NODES):
        assert roster.complete_since_unix_ns == FOREVER
        roster.take(roster.news(replace(update(1, scope=scope), whole=True)))
    first = roster.complete_since_unix_ns
    assert first < FOREVER
    roster.take(roster.news(replace(update(2), whole=True)))
    assert roster.complete_since_unix_ns > first


def test_updates_share_a_message_where_their_order_allows_it() -> None:
    """Those of one resource do; a whole list, and what follows it, stays apart."""
    updates = [update(1, "a"), update(2, scope=NODES), update(3, "b")]
    updates += [update(4, "c", whole=True), update(5, "d"), update(6, "e")]
    assert [[each.observed_unix_ns - CREATED_NS for each in group] for group in groups(updates)] == [[1, 3], [2], [4], [5, 6]]


def test_only_the_last_piece_says_that_a_resource_is_listed() -> None:
    """A leader that dies between two of them has listed nothing."""
    many = [f"pod-{number}-{'x' * 2000}" for number in range(400)]
    news = Roster().news(update(1, *many, version="7", whole=True))
    pieces = pieces_of(news)
    assert len(pieces) > 1
    assert [(piece.version, piece.listed) for piece, _ in pieces] == [("", False)] * (len(pieces) - 1) + [("7", True)]
    told = [decode_object("pods", change.obj) for _, changes in pieces for change in changes]
    assert told == [delta.obj for piece, _ in pieces for delta in piece.deltas] == [delta.obj for delta in news.deltas]
    assert pieces_of(Roster().news(update(1, whole=True)))[0][1] == []


def test_who_waits_for_room_is_not_forgotten() -> None:
    """An inbox is not settled while somebody has something for it that does not fit."""
    inbox: Inbox[int] = Inbox()
    for number in range(256):
        inbox.put(number, 1000 + number)
    waiting = threading.Thread(target=inbox.put, args=(256, 500))
    waiting.start()
    while not inbox._waiting:
        pass
    assert len(inbox.take(0)) == 256
    inbox.settle()
    assert inbox.unsettled_since_unix_ns == 500
    waiting.join()
    assert inbox.take(0) == [256]
    inbox.settle()
    assert inbox.unsettled_since_unix_ns is None


def test_an_object_goes_through_the_log_unchanged() -> None:
    """Whatever the index reads of an object is in a message."""
    for tree, resource in ((pod("a", "10.0.0.1", "fd00::1", started=CREATED), "pods"), (node("n", "172.18.0.2"), "nodes")):
        obj = decoded(tree)
        assert decode_object(resource, encode_object(obj)) == obj
