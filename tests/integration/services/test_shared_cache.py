"""Enrichers that share what one of them hears from the API server, over a real nats-server.

What a real API server has to be there for is in tests/e2e/kubernetes/test_kubernetes_cache.py.
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from proto.subjects import CACHE_STREAM
from services.enricher.cache import leader as cache_leader
from services.enricher.cache.messages import Pulse, encode
from services.enricher.cache.sync import CachedSync
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.index.interval_table import NOBODY, address_words
from services.enricher.kubernetes.api import find_api
from services.enricher.kubernetes.resources import RESOURCES
from services.enricher.settings import KubeSettings
from services.runtime.nats.bus import Bus, JournalMovedError, connect
from services.runtime.settings import NatsSettings
from tests.support.kubernetes.hostile_kube_api import HostileKubeApi, Request
from tests.support.kubernetes.pods_api import PodsApi
from tests.support.pipeline.nats_server import NatsServer
from tests.unit.enricher.objects_as_json import pod

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed

SETTINGS = KubeSettings(
    lease_seconds=1, index_interval_seconds=0.05, settle_seconds=0, wait_seconds=30, longest_backoff_seconds=0.5
)


@pytest.fixture
def pods() -> PodsApi:
    """The pods of the cluster."""
    return PodsApi()


@pytest.fixture
def server(pods: PodsApi) -> Iterator[HostileKubeApi]:
    """A server of them."""
    with HostileKubeApi(pods) as running:
        yield running
        pods.close()


@pytest.fixture
def replica(
    server: HostileKubeApi, nats_server: NatsServer, tmp_path: Path
) -> Callable[..., AbstractAsyncContextManager[CachedSync]]:
    """Runs an enricher's index."""
    kubeconfig = server.kubeconfig(tmp_path)

    @asynccontextmanager
    async def run(settings: KubeSettings = SETTINGS, url: str = nats_server.url) -> AsyncIterator[CachedSync]:
        api = find_api("auto", kubeconfig=kubeconfig, silence_seconds=300)
        assert api is not None
        async with connect(NatsSettings(url=url, reconnect_seconds=0.1), name="replica") as bus:
            await bus.ensure_streams(cache=True)
            sync = CachedSync(api, Cluster, settings)
            sync.start(bus)
            watching = asyncio.create_task(sync.until_broken())
            try:
                yield sync
            finally:
                await sync.stop()
                await watching

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Return once something is so."""
    while not condition():  # noqa: ASYNC110 - what is waited for happens in other threads
        await asyncio.sleep(0.02)


async def holder(sync: CachedSync, address: str, at_unix_ns: int | None = None) -> str:
    """Name of the pod that has an address at a time, as told by an index that has the news of now."""
    view = await sync.view(time.time_ns(), asyncio.Event())
    assert view.index is not None
    packed = packed_address(address)
    assert packed is not None
    high, low = address_words(np.frombuffer(packed, "V16"))
    number = view.index.holders(high, low, np.array([at_unix_ns or time.time_ns()], np.uint64))[0]
    if number == NOBODY:
        return ""
    return str(view.index.entities([int(number)])[0].attributes["k8s.pod.name"])


def lists(server: HostileKubeApi) -> int:
    """How many lists of pods were asked for."""
    return sum("sendInitialEvents" in each.query and each.path.endswith("/pods") for each in server.requests)


async def test_one_asks_for_all(replica, pods: PodsApi, server: HostileKubeApi) -> None:
    """Of four, one follows the API server; all know what it knows, what was there as well as what comes and goes."""
    pods.put(*(pod(f"a-{number}", f"10.0.0.{number}") for number in range(1, 50)))
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica()) for _ in range(4)]
        await asyncio.gather(*(each.until_synced(asyncio.Event()) for each in replicas))
        assert [await holder(each, "10.0.0.7") for each in replicas] == ["a-7"] * 4
        pods.put(pod("late", "10.0.1.1"))
        for each in replicas:
            while await holder(each, "10.0.1.1") != "late":
                pass
        before = time.time_ns()
        pods.delete("a-7")
        for each in replicas:
            while await holder(each, "10.0.0.7"):
                pass
            assert await holder(each, "10.0.0.7", before) == "a-7"
        assert sum(each.leading for each in replicas) == 1
        assert len(server.requests) == len(RESOURCES) + 1  # which cluster it is


async def test_the_next_leader_goes_on_where_the_last_one_was(replica, pods: PodsApi, server: HostileKubeApi) -> None:
    """One that resigns is followed at once, without another list, and what changed meanwhile is known."""
    pods.put(pod("a", "10.0.0.1"))
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        one = await first.enter_async_context(replica())
        await until(lambda: one.leading)
        other = await second.enter_async_context(replica())
        await other.until_synced(asyncio.Event())
        await first.aclose()
        pods.put(pod("b", "10.0.0.2"))
        await until(lambda: other.leading)
        while await holder(other, "10.0.0.2") != "b":
            pass
        assert await holder(other, "10.0.0.1") == "a"
    assert lists(server) == 1


@pytest.mark.parametrize(("cluster", "changes"), [("uid-of-a-cluster", 2), ("uid-of-another", 50)])
async def test_a_cluster_that_was_restored_or_made_anew_is_listed_anew(
    replica, pods: PodsApi, server: HostileKubeApi, cluster: str, changes: int
) -> None:
    """The log outlives the cluster that it is about: versions that the server has not reached, or of another, say nothing.

    Such a server accepts a watch from there and is silent. It makes no difference whether somebody followed it meanwhile.
    """
    pods.put(*(pod(f"old-{number}", f"10.0.0.{number}") for number in range(1, 20)))
    async with replica() as one:
        await one.until_synced(asyncio.Event())
        assert await holder(one, "10.0.0.1") == "old-1"
    after = PodsApi(cluster)
    after.put(*(pod(f"new-{number}", f"10.0.0.{number}") for number in range(1, changes + 1)))
    server.answer = after
    async with replica() as other:
        while await holder(other, "10.0.0.1") != "new-1":
            pass
        assert await holder(other, "10.0.0.2") == "new-2"
        later = PodsApi("uid-of-a-third")
        later.put(pod("newest", "10.0.0.2"))
        server.answer = later
        after.close()
        while await holder(other, "10.0.0.2") != "newest":
            pass
        later.put(pod("late", "10.0.0.3"))
        while await holder(other, "10.0.0.3") != "late":
            pass
    later.close()


async def test_one_who_starts_finds_the_cluster_without_the_api_server(replica, pods: PodsApi, server: HostileKubeApi) -> None:
    """Nobody runs, the API server is away: the log has the cluster as it was, and says until when that was right."""
    pods.put(pod("a", "10.0.0.1"), pod("gone", "10.0.0.2"))
    async with replica() as one:
        await one.until_synced(asyncio.Event())
        pods.delete("gone")
        while await holder(one, "10.0.0.2"):
            pass
    pods.down = True
    began = time.time_ns()
    async with replica(KubeSettings(lease_seconds=1, settle_seconds=0, wait_seconds=1)) as other:
        await other.until_synced(asyncio.Event())
        assert other.synced
        view = await other.view(time.time_ns(), asyncio.Event())
        assert view.complete_until_unix_ns <= began
        assert await holder(other, "10.0.0.1") == "a"
        assert not await holder(other, "10.0.0.2")


async def test_a_leader_that_resigns_for_want_of_the_server_is_not_taken_for_broken(
    replica, pods: PodsApi, server: HostileKubeApi
) -> None:
    """Its threads end at different times, one of them in a request that is never answered. It tries again, and succeeds."""

    def answer(request: Request) -> None:
        if request.path.endswith("/pods"):
            request.silence()
        elif "fieldSelector" in request.query:
            pods(request)
        else:
            request.refuse(503)

    pods.put(pod("a", "10.0.0.1"))
    server.answer = answer
    with capture_logs() as logs:
        async with replica(KubeSettings(lease_seconds=1, index_interval_seconds=0.05, settle_seconds=0, wait_seconds=1)) as one:
            await until(lambda: any(line["event"] == "cache.resigned" for line in logs))
            server.answer = pods
            await until(lambda: one.synced)
            while await holder(one, "10.0.0.1") != "a":
                pass


async def test_a_trimmed_log_begins_with_all_there_is(
    replica, pods: PodsApi, server: HostileKubeApi, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long log is cut down to a snapshot, which holds what has lately ended too. One who reads it, and one who fell behind,
    know what all know.
    """
    monkeypatch.setattr(cache_leader, "_MOST_LOG_MESSAGES", 10)
    pods.put(pod("a", "10.0.0.1"))
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(replica())
        slow = await stack.enter_async_context(replica())
        await asyncio.gather(one.until_synced(asyncio.Event()), slow.until_synced(asyncio.Event()))
        leader, follower = (one, slow) if one.leading else (slow, one)
        before = time.time_ns()
        follower._reader.position, follower._reader.log_end = 1, 1  # as if it had read no further
        for number in range(30):
            pods.put(pod("a", f"10.0.1.{number}"))
            while await holder(leader, f"10.0.1.{number}") != "a":
                pass
        late = await stack.enter_async_context(replica())
        await late.until_synced(asyncio.Event())
        for each in (late, follower, leader):
            assert await holder(each, "10.0.1.29") == "a"
            assert not await holder(each, "10.0.1.5")
            assert await holder(each, "10.0.0.1", before) == "a"
        async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
            assert (await bus.stream_state(CACHE_STREAM)).messages < 30


async def test_a_log_that_is_lost_is_written_anew(
    replica, pods: PodsApi, server: HostileKubeApi, nats_server: NatsServer
) -> None:
    """Somebody deletes the stream: it is made again, all is listed again, and everybody goes on. Nobody is without a name
    meanwhile, however long ago the enrichers were started.
    """
    pods.put(pod("a", "10.0.0.1"))
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica()) for _ in range(2)]
        await asyncio.gather(*(each.until_synced(asyncio.Event()) for each in replicas))
        for each in replicas:
            each._began_unix_ns = each._reader.lost_unix_ns = 1  # long ago
        async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
            await delete_stream(bus)
        pods.put(pod("b", "10.0.0.2"))
        for each in replicas:
            while await holder(each, "10.0.0.2") != "b":
                assert await holder(each, "10.0.0.1") == "a"
            assert await holder(each, "10.0.0.1") == "a"


async def delete_stream(bus: Bus) -> None:
    """Delete the cache's stream as an operator would."""
    await bus.wait_connected()
    await bus._connection.request(f"$JS.API.STREAM.DELETE.{CACHE_STREAM}", b"", timeout_seconds=5)


def large(name: str, address: str, kib: int) -> dict[str, Any]:
    """A pod that is so large for us, and does not deflate: an annotation that becomes an attribute."""
    annotations = {"resource.opentelemetry.io/large": base64.b64encode(random.Random(name).randbytes(kib << 10)).decode()}
    return pod(name, address, annotations=annotations)


async def test_an_object_that_no_message_holds_is_left_out(replica, pods: PodsApi, tmp_path: Path) -> None:
    """Among others, alone, and for one that was small: it is named, it is nowhere, and the leader goes on."""
    pods.put(pod("a", "10.0.0.1"), large("b", "10.0.0.2", 100), pod("c", "10.0.0.3"))
    with NatsServer(tmp_path / "small", extra_config="max_payload: 65536") as small, capture_logs() as logs:
        async with replica(url=small.url) as one, replica(url=small.url) as other:
            for each in (one, other):
                await each.until_synced(asyncio.Event())
            pods.put(large("c", "10.0.0.3", 100), large("d", "10.0.0.4", 30))
            for each in (one, other):
                while await holder(each, "10.0.0.4") != "d":
                    pass
                assert [await holder(each, f"10.0.0.{number}") for number in (1, 2, 3)] == ["a", "", ""]
            pods.put(pod("b", "10.0.0.2"))
            for each in (one, other):
                while await holder(each, "10.0.0.2") != "b":
                    pass
            assert one.total("oversized") + other.total("oversized") == 2
    left_out = [line["object"] for line in logs if line["event"] == "cache.object_too_large"]
    assert left_out == ["uid-b", "uid-c"]
    assert "cache.deposed" not in {line["event"] for line in logs}


async def test_a_snapshot_of_the_log_leaves_out_what_no_message_holds_by_now(
    replica, pods: PodsApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server comes back with a smaller `max_payload`: who starts then knows all but what is larger than that."""
    pods.put(pod("a", "10.0.0.1"), large("b", "10.0.0.2", 100), pod("c", "10.0.0.3"))
    with NatsServer(tmp_path / "nats") as server, capture_logs() as logs:
        async with replica(url=server.url) as one:
            await one.until_synced(asyncio.Event())
            assert await holder(one, "10.0.0.2") == "b"
            await asyncio.to_thread(server.stop)
            small = NatsServer(tmp_path / "nats", extra_config="max_payload: 65536")
            small.port = server.port
            monkeypatch.setattr(cache_leader, "_MOST_LOG_MESSAGES", 0)
            with small:
                pods.put(pod("d", "10.0.0.4"))
                await until(lambda: any(line["event"] == "cache.compacted" for line in logs))
                async with replica(url=server.url) as other:
                    await other.until_synced(asyncio.Event())
                    assert [await holder(other, f"10.0.0.{number}") for number in (1, 2, 3)] == ["a", "", "c"]
    assert "uid-b" in {line["object"] for line in logs if line["event"] == "cache.object_too_large"}


async def test_a_message_of_another_release_breaks_nothing(
    replica, pods: PodsApi, server: HostileKubeApi, nats_server: NatsServer
) -> None:
    """What is not understood is counted. Where the log ends in it and nobody leads, the log is begun anew."""
    pods.put(pod("a", "10.0.0.1"))
    async with replica() as one:
        await one.until_synced(asyncio.Event())
    async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
        journal = bus.journal(CACHE_STREAM, "kube.bell.>")
        last = await journal.last_sequence()
        last = await journal.append("kube.cache.log", b"of another release", after=last)
    async with replica() as other:
        await other.until_synced(asyncio.Event())
        assert await holder(other, "10.0.0.1") == "a"
        pods.put(pod("b", "10.0.0.2"))
        while await holder(other, "10.0.0.2") != "b":
            pass
        assert other.total("malformed") == 1


async def test_a_stream_that_is_another_one_at_the_same_place(
    replica, pods: PodsApi, server: HostileKubeApi, nats_server: NatsServer
) -> None:
    """The stream is made anew and grows to where an enricher had read: the enricher reads it from its beginning,
    and does not lead on from what it remembers.
    """
    pods.put(pod("a", "10.0.0.1"))
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(replica())
        await one.until_synced(asyncio.Event())
        position, log = one._reader.position, one._reader.log
        async with connect(NatsSettings(url=nats_server.url), name="test") as bus:
            journal = bus.journal(CACHE_STREAM, "kube.bell.>")
            await delete_stream(bus)
            await bus.ensure_streams(cache=True)
            last = await journal.last_sequence()
            while last < one._reader.position + 2:
                pulse = Pulse(log="another", writer="w", reached_unix_ns=1, complete_since_unix_ns=0, selection="", scopes=[])
                try:
                    last = await journal.append("kube.cache.pulse", encode(pulse), after=last, only=True)
                except JournalMovedError:
                    last = await journal.last_sequence()
        pods.put(pod("b", "10.0.0.2"))
        while await holder(one, "10.0.0.2") != "b":
            pass
        assert await holder(one, "10.0.0.1") == "a"
        assert one._reader.log != log or one._reader.position < position
