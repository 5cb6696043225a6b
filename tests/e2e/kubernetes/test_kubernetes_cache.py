"""Enrichers that share what one of them hears from a real kube-apiserver: its load, its absence, the leader's death."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from proto.columns import Resolution
from services.enricher.kubernetes.resources import RESOURCES
from services.runtime.nats.bus import Bus
from tests.support.kubernetes.kube_api import Asked, KubeApiServer
from tests.support.kubernetes.live_cluster import (
    OUTSIDE,
    PODS,
    create_pod,
    enriched,
    enricher,
    log_lines,
    logged,
    logged_of,
    publish,
    record,
    resolution,
)
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import until
from tests.unit.enricher.objects_as_json import name_at

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to ask for a tool may build it

LEASE = {"WIRESPAN_KUBE_LEASE_SECONDS": "2"}


async def leader_of(tmp_path: Path, numbers: range) -> int:
    """Number of the enricher that leads now."""

    def found() -> list[int]:
        return [number for number in numbers if leads(tmp_path, number)]

    return (await until(found))[0]


def leads(tmp_path: Path, number: int) -> bool:
    """Whether an enricher says that it leads, as far as its log goes."""
    events = [line["event"] for line in log_lines(tmp_path, number)]
    terms = [event for event in events if event in ("cache.led", "cache.resigned", "cache.deposed")]
    return terms[-1:] == ["cache.led"]


def watches(kube: KubeApiServer, before: int) -> list[Asked]:
    """The requests of ours since `before` that cost an API server something: not which cluster it is, nor how far."""
    ours = [each for each in kube.requests()[before:] if each.agent == "wirespan"]
    others = [each.uri for each in ours if "watch=true" not in each.uri]
    assert all("fieldSelector=metadata.name%3Dkubernetes" in uri or "limit=1" in uri for uri in others)
    return [each for each in ours if "watch=true" in each.uri]


async def test_the_load_is_that_of_one(kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """Three enrichers that share ask for each resource once; three that do not, three times. Both name everybody."""
    asked = {}
    for cache in ("shared", "direct"):
        folder = tmp_path / cache
        folder.mkdir()
        before = len(kube.requests())
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(enricher(nats_server, kube.kubeconfig(), folder, WIRESPAN_KUBE_CACHE=cache, **LEASE))
            for number in range(3):
                await logged(folder, "index.synced", number)
            number = 0 if cache == "shared" else 1
            await publish(bus, number, record(number, "10.42.0.11:40000", "10.42.0.10:8080"))
            found = await enriched(bus, number + 1)
            asked[cache] = watches(kube, before)
        assert name_at(found[number][0], "remote_entity", found[number][1]) == "cart-0"
    assert len(asked["shared"]) == len(RESOURCES)
    assert len(asked["direct"]) == 3 * len(RESOURCES)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_takes_over(
    kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path, how: signal.Signals
) -> None:
    """The leader dies, or says nothing for longer than the others wait: another goes on where it was, without a new list,
    and every record is named by who was there then. One that comes to itself again finds that it leads no more.
    """
    with enricher(nats_server, kube.kubeconfig(), tmp_path, **LEASE) as first:
        await logged(tmp_path, "index.synced")
        with enricher(nats_server, kube.kubeconfig(), tmp_path, **LEASE) as second:
            await logged(tmp_path, "index.synced", 1)
            leader = await leader_of(tmp_path, range(2))
            process = (first, second)[leader]
            await publish(bus, 0, record(0, "10.42.0.11:40000", "10.42.0.10:8080"))
            await enriched(bus, 1)
            before = len(kube.requests())
            os.kill(process.pid, how)
            create_pod(kube, f"meanwhile-{how}", "10.42.0.97")
            row = record(1, "10.42.0.97:40000", "10.42.0.10:8080")
            kube.delete(f"{PODS}/meanwhile-{how}")
            await publish(bus, 1, row)
            assert await leader_of(tmp_path, range(1 - leader, 2 - leader)) == 1 - leader
            found = await enriched(bus, 2)
            asked = watches(kube, before)
            if how == signal.SIGSTOP:
                os.kill(process.pid, signal.SIGCONT)
                await logged(tmp_path, "cache.deposed", leader)
                await publish(bus, 2, record(2, "10.42.0.11:40001", "10.42.0.10:8080"))
                found = await enriched(bus, 3)
    assert name_at(found[1][0], "local_entity", found[1][1]) == f"meanwhile-{how}"
    assert len(asked) == len(RESOURCES)
    assert all("resourceVersion=" in each.uri and "sendInitialEvents" not in each.uri for each in asked)


async def test_it_starts_without_the_api_server(kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """All enrichers are started anew while the API server is away: who was known is named, who was not is unresolved."""
    settings = LEASE | {"WIRESPAN_KUBE_WAIT_SECONDS": "2"}
    with enricher(nats_server, kube.kubeconfig(), tmp_path, **settings) as process:
        await logged(tmp_path, "index.synced")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    kube.stop(kill=True)
    try:
        with enricher(nats_server, kube.kubeconfig(), tmp_path, **settings):
            synced = await logged(tmp_path, "index.synced", 1)
            await publish(bus, 0, record(0, "10.42.0.11:40000", "10.96.0.10:80"), record(1, "10.42.0.11:40001", OUTSIDE))
            found = await enriched(bus, 2)
            await asyncio.to_thread(kube.start)
            create_pod(kube, "after-1", "10.42.0.96")
            await logged_of(tmp_path, "resource.followed", "pods", 1, number=1)
            await publish(bus, 1, record(2, "10.42.0.96:40000", OUTSIDE))
            found |= await enriched(bus, 3)
    finally:
        await asyncio.to_thread(kube.start_if_stopped)
    kube.delete(f"{PODS}/after-1")
    assert synced["objects"] >= 7
    assert name_at(found[0][0], "local_entity", found[0][1]) == "client-0"
    assert name_at(found[0][0], "remote_service", found[0][1]) == "cart"
    assert resolution(found[1], "remote") == Resolution.UNRESOLVED
    assert name_at(found[2][0], "local_entity", found[2][1]) == "after-1"
