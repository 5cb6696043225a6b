"""The enricher against a real kube-apiserver: it follows what happens, and says of every record who was there then."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proto.columns import Resolution
from services.enricher.kubernetes.snapshot import read_snapshot
from services.runtime.nats.bus import Bus
from tests.e2e.conftest import WIRESPAN
from tests.support.kubernetes.kube_api import KubeApiServer
from tests.support.kubernetes.live_cluster import (
    LIMITED,
    NODE,
    OUTSIDE,
    PODS,
    TENANT,
    create_pod,
    enriched,
    enricher,
    logged,
    logged_of,
    publish,
    record,
    resolution,
)
from tests.support.pipeline.nats_server import NatsServer
from tests.unit.enricher.objects_as_json import at, name_at

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to ask for a tool may build it

CHURN_PODS, CHURNERS = 5000, 8
OUTAGE_SECONDS = 60
ADDRESSES = 600
"""Enough that an address is handed on a second or more after it was given up, as nodes do."""


async def test_every_kind_is_followed(kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """Pods, services, endpoints, nodes and owners that are there, and those that come, name the ends of records."""
    with enricher(nats_server, kube.kubeconfig(), tmp_path) as process:
        synced = await logged(tmp_path, "index.synced")
        assert synced["objects"] >= 7
        assert "watch_list.not_offered" not in (tmp_path / "enricher-0.log").read_text()
        await publish(bus, 0, record(0, "10.42.0.11:40000", "10.96.0.10:80"), record(1, "10.42.0.11:40001", "10.42.0.10:8080"))
        await publish(bus, 1, record(2, "10.42.0.11:40002", "172.18.0.2:10250"), record(3, "10.42.0.11:40003", OUTSIDE))
        create_pod(kube, "late-0", "10.42.0.99")
        await publish(bus, 2, record(4, "10.42.0.99:40000", "10.42.0.10:8080"))
        found = await enriched(bus, 5)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    kube.delete(f"{PODS}/late-0")
    assert name_at(found[0][0], "local_entity", found[0][1]) == "client-0"
    assert name_at(found[0][0], "remote_service", found[0][1]) == "cart"
    answering = at(found[1][0], "remote_entity", found[1][1])
    assert answering is not None
    assert answering.attributes["k8s.pod.name"] == "cart-0"
    assert answering.attributes["k8s.deployment.name"] == "cart"
    assert name_at(found[1][0], "remote_service", found[1][1]) == "cart"
    assert name_at(found[2][0], "remote_entity", found[2][1]) == NODE
    assert resolution(found[3], "remote") == Resolution.EXTERNAL
    assert name_at(found[4][0], "local_entity", found[4][1]) == "late-0"


async def test_churn_with_addresses_used_again(kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """While pods come and go and their addresses are handed on within seconds, every record is its holder's at its time."""
    addresses = [f"10.42.{7 + number // 250}.{number % 250 + 1}" for number in range(ADDRESSES)]
    holders: dict[int, str] = {}

    async def churn(mine: list[str], first: int) -> int:
        pods, sequence = 0, first
        while pods < CHURN_PODS // CHURNERS:
            for address in mine:
                name = f"churn-{first}-{pods}"
                await asyncio.to_thread(create_pod, kube, name, address)
                row = record(sequence, f"{address}:40000", "10.42.0.10:8080")
                holders[sequence] = name
                await publish(bus, sequence, row)
                sequence += 1
                await asyncio.to_thread(kube.delete, f"{PODS}/{name}")
                pods += 1
        return pods

    with enricher(nats_server, kube.kubeconfig(), tmp_path):
        await logged(tmp_path, "index.synced")
        made = await asyncio.gather(*(churn(addresses[number::CHURNERS], number * 1_000_000) for number in range(CHURNERS)))
        found = await enriched(bus, len(holders))
    assert sum(made) >= CHURN_PODS
    named = {number: name_at(batch, "local_entity", row) for number, (batch, row) in found.items()}
    wrong = {number: (name, named[number]) for number, name in holders.items() if named[number] != name}
    assert not wrong, f"{len(wrong)} of {len(holders)} records: {list(wrong.items())[:5]}"
    sys.stdout.write(f"{sum(made)} pods on {ADDRESSES} addresses \n")


@pytest.mark.parametrize("cache", ["shared", "direct"])
async def test_an_outage_of_the_api_server(
    kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path, cache: str
) -> None:
    """A minute without the API server while records stream through: none is lost and none waits longer than it may. What was
    known stays known, and what nobody knows is unresolved, not external. When it is back, what is new is known.
    """
    settings = {"WIRESPAN_KUBE_WAIT_SECONDS": "2", "WIRESPAN_KUBE_CACHE": cache}
    with enricher(nats_server, kube.kubeconfig(), tmp_path, **settings):
        await logged(tmp_path, "index.synced")
        kube.stop(kill=True)
        sent = 0
        try:
            await logged(tmp_path, "resource.lost")
            deadline = time.monotonic() + OUTAGE_SECONDS
            while time.monotonic() < deadline:
                known = record(2 * sent, "10.42.0.11:40000", "10.42.0.10:8080")
                await publish(bus, sent, known, record(2 * sent + 1, "10.42.0.11:40001", OUTSIDE))
                sent += 1
                await asyncio.sleep(0.25)  # the load, not a wait for anything
            found = await enriched(bus, 2 * sent)
        finally:
            await asyncio.to_thread(kube.start)
        create_pod(kube, f"after-{cache}", "10.42.0.98")
        await logged_of(tmp_path, "resource.followed", "pods", 2)
        await publish(bus, sent, record(2 * sent, "10.42.0.98:40000", OUTSIDE))
        found |= await enriched(bus, 2 * sent + 1)
    kube.delete(f"{PODS}/after-{cache}")
    assert len(found) == 2 * sent + 1
    for number in range(sent):
        assert name_at(found[2 * number][0], "local_entity", found[2 * number][1]) == "client-0"
        assert name_at(found[2 * number][0], "remote_entity", found[2 * number][1]) == "cart-0"
        assert resolution(found[2 * number + 1], "remote") == Resolution.UNRESOLVED
    assert name_at(found[2 * sent][0], "local_entity", found[2 * sent][1]) == f"after-{cache}"


async def test_it_starts_before_the_api_server(kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """Records wait in the stream for the first lists, and are named once these are there; a second enricher does as well."""
    kube.stop(kill=True)
    try:
        with enricher(nats_server, kube.kubeconfig(), tmp_path):
            await logged(tmp_path, "resource.lost")
            await publish(bus, 0, record(0, "10.42.0.11:40000", "10.42.0.10:8080"))
            await asyncio.to_thread(kube.start)
            found = await enriched(bus, 1)
    finally:
        await asyncio.to_thread(kube.start_if_stopped)
    # A record of before the start of the next enricher: its pod was there before, too.
    await publish(bus, 1, record(1, "10.42.0.11:40001", "10.42.0.10:8080"))
    with enricher(nats_server, kube.kubeconfig(), tmp_path):
        found |= await enriched(bus, 2)
    for number in range(2):
        assert name_at(found[number][0], "local_entity", found[number][1]) == "client-0"
        assert name_at(found[number][0], "remote_service", found[number][1]) == "cart"


async def test_without_the_api_server_records_pass_in_the_end(
    kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    """An API server that never comes holds nothing up for longer than the settings say; the ends are unresolved."""
    gone = tmp_path / "gone.kubeconfig"
    gone.write_text(kube.kubeconfig().read_text().replace(kube.url, "https://127.0.0.1:1"))
    with enricher(nats_server, gone, tmp_path, WIRESPAN_KUBE_WAIT_SECONDS="1"):
        await publish(bus, 0, record(0, "10.42.0.11:40000", OUTSIDE))
        found = await enriched(bus, 1)
        assert "pods" in (await logged(tmp_path, "index.incomplete"))["resources"]
    assert [resolution(found[0], side) for side in ("local", "remote")] == [Resolution.UNRESOLVED] * 2


@pytest.mark.parametrize("user", [LIMITED, TENANT])
async def test_what_may_not_be_read_is_named(
    kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path, user: str
) -> None:
    """Without the right to read nodes and owners the rest goes on; an address that may be theirs is not called external."""
    settings = {"WIRESPAN_KUBE_NAMESPACES": "shop"} if user == TENANT else {}
    with enricher(nats_server, kube.kubeconfig(user), tmp_path, **settings):
        await logged(tmp_path, "index.synced")
        await publish(bus, 0, record(0, "10.42.0.11:40000", "10.96.0.10:80"), record(1, "10.42.0.11:40001", "172.18.0.2"))
        found = await enriched(bus, 2)
        lines = [json.loads(line) for line in (tmp_path / "enricher-0.log").read_text().splitlines() if line.startswith("{")]
    denied = {line["resource"] for line in lines if line["event"] == "resource.denied"}
    assert {"nodes", "deployments.apps"} <= denied
    assert not denied & {"pods", "services", "endpointslices.discovery.k8s.io"}
    assert name_at(found[0][0], "remote_service", found[0][1]) == "cart"
    assert resolution(found[1], "remote") == Resolution.UNRESOLVED


def snapshot(kube: KubeApiServer, user: str, tmp_path: Path, environment: dict[str, str], *options: str) -> Path:
    """What `wirespan snapshot` writes."""
    path = tmp_path / "snapshot.json"
    command = [*WIRESPAN, "snapshot", "--kubeconfig", kube.kubeconfig(user), "--output", path, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert ("left out: nodes" in done.stderr) == (user == LIMITED), done.stderr
    return path


@pytest.mark.parametrize("user", ["admin", LIMITED])
def test_a_snapshot_of_the_cluster_is_what_replay_reads(
    kube: KubeApiServer, tmp_path: Path, environment: dict[str, str], user: str
) -> None:
    """`wirespan snapshot` writes the objects that the index reads, and the reader of snapshots skips none of them."""
    read = read_snapshot(snapshot(kube, user, tmp_path, environment))
    assert not read.skipped
    names = {(obj.kind, obj.metadata.name) for obj in read.objects}
    assert {("Pod", "cart-0"), ("Service", "cart"), ("EndpointSlice", "cart-x")} <= names
    assert (("Node", NODE) in names) == (("Deployment", "cart") in names) == (user == "admin")


def test_a_snapshot_can_be_given_without_its_names(kube: KubeApiServer, tmp_path: Path, environment: dict[str, str]) -> None:
    """With --pseudonymise no name and no address of the cluster is in the file, and objects still fit together."""
    path = snapshot(kube, "admin", tmp_path, environment, "--pseudonymise")
    text, read = path.read_text(), read_snapshot(path)
    assert not [told for told in ("cart", "client-0", "shop", NODE, "10.42.0.1", "10.96.0.10", "172.18.") if told in text]
    pods = {obj.metadata.uid: obj for obj in read.objects if obj.kind == "Pod"}
    deployments = {obj.metadata.name for obj in read.objects if obj.kind == "Deployment"}
    replica_sets = {obj.metadata.name: obj for obj in read.objects if obj.kind == "ReplicaSet"}
    owned: Callable[[Any], Any] = lambda obj: obj.metadata.controller()  # noqa: E731 - a name for what is done twice
    chains = {owned(replica_sets[owned(each).name]).name for each in pods.values() if owned(each)}
    assert chains == deployments
