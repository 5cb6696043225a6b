"""The enricher against a real kube-apiserver: it follows what happens, and says of every record who was there then."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proto.columns import Resolution
from proto.flow_batch import FlowBatch, decode, encode
from proto.subjects import ENRICHED_STREAM, batch_id, raw_subject
from services.enricher.snapshot import read_snapshot
from services.runtime.bus import Bus, connect
from services.runtime.settings import NatsSettings
from tests.e2e.conftest import ROOT, WIRESPAN, needed
from tests.support.kube_api import KubeApiServer, now_rfc3339
from tests.support.nats_server import NatsServer
from tests.unit.enricher.objects_as_json import (
    at,
    backend,
    batch_of,
    endpoint_slice,
    flow,
    name_at,
    node,
    owner_object,
    pod,
    service,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to ask for a tool may build it

NODE = "node-a"
PODS = "/api/v1/namespaces/shop/pods"
APPS = "/apis/apps/v1/namespaces/shop"
LIMITED, TENANT = "limited", "tenant"
ALL_BUT_NODES = (("", "pods"), ("", "services"), ("discovery.k8s.io", "endpointslices"))
CHURN_SECONDS = 30
ADDRESSES = 600
"""Enough that an address is handed on a second or more after it was given up, as nodes do."""
OUTSIDE = "203.0.113.9"


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    """An API server with a small shop in it."""
    etcd, binary = needed("etcd"), needed("kube-apiserver")
    with KubeApiServer(binary, etcd, tmp_path_factory.mktemp("kube"), users=(LIMITED, TENANT)) as server:
        server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
        server.create("/api/v1/nodes", node(NODE, "172.18.0.2"))
        create_workload(server)
        server.allow(LIMITED, *ALL_BUT_NODES)
        server.allow(TENANT, *ALL_BUT_NODES, namespace="shop")
        yield server


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """The test's own connection, with the streams made."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as connected:
        await connected.ensure_streams()
        yield connected


def create_workload(server: KubeApiServer) -> None:
    """A Rollout's ReplicaSet, a Deployment's, a CronJob's Job, each with a pod; a service over one of them."""
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}
    selector = {"matchLabels": {"app": "x"}}
    deployment = {"metadata": {"name": "cart"}, "spec": {"selector": selector, "template": template}}
    made = server.create(f"{APPS}/deployments", deployment)
    replica_set = owner_object("ReplicaSet", "cart-odd-name", ("Deployment", "cart"))
    replica_set["metadata"]["ownerReferences"][0] |= {"apiVersion": "apps/v1", "uid": made["metadata"]["uid"]}
    replica_set["spec"] = {"selector": selector, "template": template, "replicas": 1}
    made = server.create(f"{APPS}/replicasets", replica_set)
    behind = create_pod(server, "cart-0", "10.42.0.10", owner=("ReplicaSet", "cart-odd-name"))
    server.create("/api/v1/namespaces/shop/services", service("cart", "10.96.0.10"))
    endpoints = endpoint_slice("cart", [backend("cart-0", "10.42.0.10", ready=True)], 8080)
    endpoints["addressType"] = "IPv4"
    endpoints["endpoints"][0]["targetRef"]["uid"] = behind["metadata"]["uid"]
    server.create("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", endpoints)
    create_pod(server, "client-0", "10.42.0.11")


def create_pod(server: KubeApiServer, name: str, address: str, **more: Any) -> dict[str, Any]:
    """A running pod: created, then given its status as a kubelet would."""
    tree = pod(name, address, started=now_rfc3339(), **more)
    del tree["metadata"]["uid"]
    for reference in tree["metadata"].get("ownerReferences", ()):
        reference["apiVersion"] = "apps/v1"
    tree["spec"]["terminationGracePeriodSeconds"] = 0
    return server.create(PODS, tree)


@contextmanager
def enricher(nats_server: NatsServer, kubeconfig: Path, tmp_path: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """An enricher that follows the cluster. Its log goes to a file that a failed test shows."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WIRESPAN_", "OTEL_", "KUBECONFIG"))}
    environ |= {
        "PYTHONPATH": str(ROOT),
        "WIRESPAN_NATS_URL": nats_server.url,
        "WIRESPAN_KUBE_KUBECONFIG": str(kubeconfig),
        "WIRESPAN_KUBE_LONGEST_BACKOFF_SECONDS": "1",
        "WIRESPAN_LOG_FORMAT": "json",
        **settings,
    }
    log = tmp_path / f"enricher-{len(list(tmp_path.glob('enricher-*')))}.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "services.enricher"], env=environ, stderr=output, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        sys.stderr.write(log.read_text())


async def logged(tmp_path: Path, event: str, number: int = 0) -> dict[str, Any]:
    """The first line of an enricher's log with this event, once it is there."""
    path = tmp_path / f"enricher-{number}.log"
    while True:
        for line in path.read_text().splitlines() if path.exists() else ():
            if line.startswith("{") and json.loads(line)["event"] == event:
                found: dict[str, Any] = json.loads(line)
                return found
        await asyncio.sleep(0.05)


async def publish(bus: Bus, sequence: int, *rows: dict[str, Any]) -> None:
    """Publish records as capture does."""
    batch = batch_of(*rows, node_name=NODE)
    sent = FlowBatch(batch.node, "epoch", sequence, batch.count, batch.interval, batch.columns)
    await bus.publish(raw_subject(NODE), encode(sent), message_id=batch_id(NODE, "epoch", sequence))


async def enriched(bus: Bus, records: int) -> dict[int, tuple[FlowBatch, int]]:
    """Batch and row of every record by its flow id, once there are so many."""
    while True:
        batches = [decode(message.data) async for message in bus.peek(ENRICHED_STREAM)]
        if sum(batch.count for batch in batches) >= records:
            return {int(each): (batch, row) for batch in batches for row, each in enumerate(batch.column("flow_id"))}
        await asyncio.sleep(0.1)


def record(number: int, local: str, remote: str, **columns: Any) -> dict[str, Any]:
    """A record that starts now."""
    return flow(local, remote, flow_id=number, start_unix_ns=time.time_ns(), **columns)


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


def resolution(found: tuple[FlowBatch, int], side: str) -> int:
    """What is known of an end."""
    batch, row = found
    return int(batch.column(f"{side}_resolution")[row])


async def test_churn_with_addresses_used_again(kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """While pods come and go and their addresses are handed on within seconds, every record is its holder's at its time."""
    addresses = [f"10.42.{7 + number // 250}.{number % 250 + 1}" for number in range(ADDRESSES)]
    holders: dict[int, str] = {}

    async def churn(mine: list[str], first: int) -> int:
        pods, sequence = 0, first
        deadline = time.monotonic() + CHURN_SECONDS
        while time.monotonic() < deadline:
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
        made = await asyncio.gather(*(churn(addresses[number::4], number * 1_000_000) for number in range(4)))
        found = await enriched(bus, len(holders))
    assert sum(made) > ADDRESSES
    named = {number: name_at(batch, "local_entity", row) for number, (batch, row) in found.items()}
    wrong = {number: (name, named[number]) for number, name in holders.items() if named[number] != name}
    assert not wrong, f"{len(wrong)} of {len(holders)} records: {list(wrong.items())[:5]}"
    sys.stdout.write(f"{sum(made)} pods on {ADDRESSES} addresses in {CHURN_SECONDS} s\n")


async def test_an_outage_of_the_api_server(kube: KubeApiServer, nats_server: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """Records go on while the API server is away, after a bounded wait: what was known stays known, and what nobody knows is
    unresolved, not external. When it is back, what is new is known.
    """
    with enricher(nats_server, kube.kubeconfig(), tmp_path, WIRESPAN_KUBE_WAIT_SECONDS="2"):
        await logged(tmp_path, "index.synced")
        kube.stop(kill=True)
        try:
            await logged(tmp_path, "resource.lost")
            await publish(bus, 0, record(0, "10.42.0.11:40000", "10.42.0.10:8080"), record(1, "10.42.0.11:40001", OUTSIDE))
            found = await enriched(bus, 2)
        finally:
            kube.start()
        create_pod(kube, "after-0", "10.42.0.98")
        await logged_again(tmp_path, "resource.followed", "pods", 2)
        await publish(bus, 1, record(2, "10.42.0.98:40000", OUTSIDE))
        found |= await enriched(bus, 3)
    kube.delete(f"{PODS}/after-0")
    assert name_at(found[0][0], "local_entity", found[0][1]) == "client-0"
    assert name_at(found[0][0], "remote_entity", found[0][1]) == "cart-0"
    assert resolution(found[1], "remote") == Resolution.UNRESOLVED
    assert name_at(found[2][0], "local_entity", found[2][1]) == "after-0"


async def logged_again(tmp_path: Path, event: str, resource: str, times: int) -> None:
    """Return once an event was logged so often of a resource."""
    path = tmp_path / "enricher-0.log"
    while True:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
        if sum(line["event"] == event and line.get("resource") == resource for line in lines) >= times:
            return
        await asyncio.sleep(0.05)


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
