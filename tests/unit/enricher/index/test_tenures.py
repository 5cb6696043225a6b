"""From when to when a pod's address is the pod's: seen live, in a snapshot, and through the shared cache alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.enricher.cache.messages import SnapshotPart, decode, decode_object, encode, snapshot_parts
from services.enricher.index.cluster import Cluster, Kept
from services.enricher.join import join
from tests.unit.enricher.objects_as_json import (
    NOW,
    SECOND,
    Tree,
    batch_of,
    cluster_of,
    decoded,
    flow,
    name_at,
    pod,
    ran,
    rfc3339,
)

ADDRESS = "10.0.0.7"


def names(cluster: Cluster, *offsets: float, address: str = ADDRESS) -> list[str]:
    """Who has the address so many seconds after NOW."""
    rows = [flow("10.9.9.9:40000", f"{address}:80", start_unix_ns=NOW + round(each * SECOND)) for each in offsets]
    batch = join(batch_of(*rows), cluster.compile())
    return [name_at(batch, "remote_entity", row) for row in range(len(offsets))]


def see(cluster: Cluster, tree: Tree, at: float) -> None:
    """Let a watch see an object as it is, so many seconds after NOW."""
    cluster.feed(decoded(tree), observed_unix_ns=NOW + round(at * SECOND))


def forget(cluster: Cluster, tree: Tree, at: float) -> None:
    """Let a watch see it deleted."""
    cluster.remove(decoded(tree), observed_unix_ns=NOW + round(at * SECOND))


def from_the_cache(cluster: Cluster) -> Cluster:
    """The cluster as another enricher has it, from a snapshot in the shared cache's log."""
    restored = Cluster()
    for part in snapshot_parts(cluster.kept(), cluster.ended, "s"):
        read = decode(encode(part))
        assert isinstance(read, SnapshotPart)
        kept = [(decode_object(each.resource, each.obj), each) for each in read.kept]
        restored.restore([Kept(obj, each.starts_unix_ns, each.removed_unix_ns) for obj, each in kept if obj], read.ended)
    return restored


def waiting(name: str, *, started: float = 0, **status: Any) -> Tree:
    """A pod that its node has taken on and that has no address yet."""
    return pod(name, phase="Pending", started=rfc3339(started), created=rfc3339(started), status=ran(**status))


def running(name: str, *addresses: str, started: float = 0, **status: Any) -> Tree:
    """A pod that has the address."""
    return pod(name, *(addresses or (ADDRESS,)), started=rfc3339(started), created=rfc3339(started), status=ran(**status))


def ended(name: str, *, started: float, finished: float | None, **status: Any) -> Tree:
    """A Job's pod that has ended: its object keeps the address."""
    told = ran(started, finished, **status) if finished is not None else status
    return pod(name, ADDRESS, phase="Succeeded", started=rfc3339(started), created=rfc3339(started), status=told)


def live_and_cached(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, and what another enricher has of it."""
    yield cluster
    yield from_the_cache(cluster)


def test_an_address_is_the_next_pods_when_that_pod_has_it_not_when_it_was_started() -> None:
    """A pod that waits for its volume while another has the address claims nothing of that one's time, nor of the gap."""
    cluster = Cluster()
    see(cluster, running("a", started=-3600), -3600)
    see(cluster, waiting("b"), 1)
    forget(cluster, running("a", started=-3600), 30)
    see(cluster, running("b", ready=41), 41.3)
    for each in live_and_cached(cluster):
        assert names(each, -10, 0, 5, 29, 31, 35, 42) == ["a", "a", "a", "a", "", "", "b"]


def test_a_snapshot_knows_it_too() -> None:
    """A finished pod had the address until it ended, whatever the running one's start; at other times the running one."""
    trees = (ended("job", started=-3600, finished=30), running("b", started=0))
    for cluster in (cluster_of(*trees), cluster_of(*reversed(trees))):
        assert names(cluster, -10, 0, 29, 30.9, 31, 42) == ["job", "job", "job", "job", "b", "b"]
    cluster = cluster_of(ended("job", started=-3600, finished=30), running("b", started=0, ready=41))
    assert names(cluster, -10, 0, 30.9, 42) == ["job", "job", "job", "b"]


def test_the_last_second_of_a_pod_is_its_own() -> None:
    """Its end is cut off to whole seconds: what ended at :05 was there until :06."""
    job = ended("job", started=1, finished=5.9)
    cluster = Cluster()
    see(cluster, waiting("job", started=1), 1.1)
    see(cluster, job, 6.7)
    for each in (*live_and_cached(cluster), cluster_of(job)):
        assert names(each, 1.2, 5.01, 5.95) == ["job", "job", "job"]
    assert names(cluster, 6.01) == [""]


@pytest.mark.parametrize(
    ("status", "begins"),
    [
        ({"started_at": 7.6}, 7.0),
        ({"ready": 6.2}, 6.0),
        ({"started_at": 7.6, "ready": 8.8}, 7.0),
        ({"initContainerStatuses": [{"name": "init", "state": {"terminated": {"startedAt": rfc3339(6)}}}]}, 6.0),
        ({}, 9.3),
    ],
)  # fmt: skip
def test_a_claim_begins_at_the_first_sign_that_the_address_is_there(status: Tree, begins: float) -> None:
    """The first start of a container, the condition that the network is ready, or that a watch saw the address."""
    cluster = Cluster()
    see(cluster, running("a", started=-60, started_at=-60), -58)
    forget(cluster, running("a", started=-60), 5)
    see(cluster, waiting("b"), 1)
    see(cluster, running("b", **status), 9.3)
    for each in live_and_cached(cluster):
        assert names(each, begins - 0.01, begins) == ["", "b"]


def test_a_watch_that_saw_the_pod_without_the_address_knows_who_had_it_in_the_second_of_its_start() -> None:
    """The start of a container at :07 is any time before :08: but the pod before was there until it was seen to end."""
    cluster = Cluster()
    see(cluster, running("a", started=-60), -58)
    forget(cluster, running("a", started=-60), 7.2)
    see(cluster, waiting("b", started=7.3), 7.4)
    see(cluster, running("b", started=7.3, started_at=7.6), 8.5)
    for each in live_and_cached(cluster):
        assert names(each, 7.1, 7.21, 7.45) == ["a", "b", "b"]


def test_a_pod_that_no_one_has_heard_end_ends_where_the_next_one_is() -> None:
    """Volumes are taken down after the address was given back: the deletion may be told long after another pod has it."""
    cluster = Cluster()
    see(cluster, running("a", started=-60), -58)
    see(cluster, running("b", ready=10, started_at=11.4), 12)
    forget(cluster, running("a", started=-60), 25)
    for each in live_and_cached(cluster):
        assert names(each, 9, 10.5, 11.5, 20) == ["a", "b", "b", "b"]


def test_a_sandbox_that_is_made_anew_brings_a_new_address() -> None:
    """What the pod's containers did at its old address says nothing of when it had the new one."""
    cluster = Cluster()
    see(cluster, running("a", "10.0.0.9", started=-60, started_at=-50), -48)
    see(cluster, running("a", ADDRESS, started=-60, started_at=-50), 20)
    for each in live_and_cached(cluster):
        assert names(each, 10, 14, 21) == ["", "", "a"]
        assert names(each, -40, 19, 21, address="10.0.0.9") == ["a", "a", ""]
    see(cluster, running("a", ADDRESS, started=-60, started_at=22), 23)
    assert names(cluster, 14, 20, 21) == ["", "a", "a"]


def test_containers_that_start_again_do_not_move_their_pods_beginning() -> None:
    """Older kubelets say only when they were last started: seen for the first time, such a pod was there since it was begun."""
    again = {"name": "app", "state": {"running": {"startedAt": rfc3339(50)}}, "lastState": {"terminated": {}}}
    restarted = pod("a", ADDRESS, started=rfc3339(0), status={"containerStatuses": [again]})
    cluster = Cluster()
    see(cluster, restarted, 60)
    for each in (*live_and_cached(cluster), cluster_of(restarted)):
        assert names(each, 1, 49, 51) == ["a", "a", "a"]
    known = Cluster()
    see(known, waiting("a"), 1)
    see(known, running("a", started_at=30), 31)
    see(known, restarted, 60)
    assert names(known, 31, 49, 70) == ["a", "a", "a"]


def test_a_pod_that_failed_without_a_word_of_its_containers_had_its_address_until_that_was_seen() -> None:
    """Evicted pods may say nothing of when they ended."""
    cluster = Cluster()
    see(cluster, running("a", started_at=1), 2)
    see(cluster, pod("a", ADDRESS, phase="Failed", started=rfc3339(0), status={"reason": "Evicted"}), 20)
    assert names(cluster, 2, 19.9, 20.1) == ["a", "a", ""]


def test_a_pod_on_its_way_out_has_its_address_until_it_ends() -> None:
    """Its deletionTimestamp says when it is to be gone, not when it was."""
    leaving = running("a", started_at=1)
    leaving["metadata"] |= {"deletionTimestamp": rfc3339(30), "deletionGracePeriodSeconds": 30}
    cluster = Cluster()
    see(cluster, leaving, 3)
    assert names(cluster, 40) == ["a"]
    see(cluster, ended("a", started=1, finished=44.2), 45)
    forget(cluster, leaving, 58)
    assert names(cluster, 44.5, 46) == ["a", ""]


class Holding(NamedTuple):
    """One pod's time with the address, in milliseconds; the true one, and how much of it anybody could see."""

    gap: int
    waited: int
    ran: int
    until_started: int
    lag: int
    gone_lag: int
    has_condition: bool
    finishes: bool


holdings = st.lists(
    st.builds(
        Holding,
        gap=st.integers(1_000, 20_000),
        waited=st.integers(0, 30_000),
        ran=st.integers(1, 20_000),
        until_started=st.integers(0, 5_000),
        lag=st.integers(1, 3_000),
        gone_lag=st.integers(1, 30_000),
        has_condition=st.booleans(),
        finishes=st.booleans(),
    ),
    min_size=2,
    max_size=5,
)


def told(held: list[Holding]) -> tuple[list[tuple[str, float, float]], list[tuple[float, Tree, bool]]]:
    """Who truly had the address from when to when, in seconds, and what a watch heard, with whether it is a deletion."""
    truth, events, time = [], [], 0.0
    for number, each in enumerate(held):
        name = f"pod-{number}"
        begun = time + each.gap / 1000
        started, end = begun + each.until_started / 1000, begun + (each.until_started + each.ran) / 1000
        status: Tree = {"started_at": started, **({"ready": begun} if each.has_condition else {})}
        node_took_it = begun - each.waited / 1000
        events.append((node_took_it, waiting(name, started=node_took_it), False))
        events.append((started + each.lag / 1000, running(name, started=node_took_it, **status), False))
        if each.finishes:
            over = pod(name, ADDRESS, phase="Failed", started=rfc3339(node_took_it), status=ran(started, end))
            events.append((max(started, end) + 0.001 + each.lag / 1000, over, False))
        events.append((end + (each.lag + each.gone_lag) / 1000, running(name), True))
        truth.append((name, started, end))
        time = end
    return truth, sorted(events, key=lambda event: event[0])


@settings(deadline=None, max_examples=50)
@given(holdings)
def test_no_pod_is_ever_named_in_anothers_time(held: list[Holding]) -> None:
    """However late and roughly the news comes: once a pod's container runs, and until it ends, that pod is named and no other.

    So it is seen live, in the shared cache, and of the pods that are in it, in a snapshot that was taken at the end. Live,
    nobody is named where the pod before is seen to go within the second that the start is told in: either may have been it.
    """
    truth, events = told(held)
    gone = [at for at, _, deleted in events if deleted]
    cluster = Cluster(tombstone_seconds=3600)
    for at, tree, deleted in events:
        (forget if deleted else see)(cluster, tree, at)
    asked = [(name, start + (end - start) * part) for name, start, end in truth for part in (0.0, 0.5, 0.99)]
    for each in live_and_cached(cluster):
        found = names(each, *(time for _, time in asked))
        unsure = [any(time < at <= time + 1 for at in gone) for _, time in asked]
        assert [name for name, nobody in zip(found, unsure, strict=True) if name or not nobody] == [
            name for (name, _), said, nobody in zip(asked, found, unsure, strict=True) if said or not nobody
        ]
    ended = [tree for _, tree, deleted in events if not deleted and tree["status"]["phase"] == "Failed"]
    kept = {tree["metadata"]["name"] for tree in ended}
    asked = [(name, time) for name, time in asked if name in kept]
    assert names(cluster_of(*ended), *(time for _, time in asked)) == [name for name, _ in asked]
