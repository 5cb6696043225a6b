"""A small shop in a real API server, and enrichers that follow it, for the end-to-end tests of Kubernetes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proto.flow_batch import FlowBatch, decode, encode
from proto.subjects import ENRICHED_STREAM, batch_id, raw_subject
from services.runtime.nats.bus import Bus
from tests.support.kubernetes.kube_api import KubeApiServer, now_rfc3339
from tests.support.pipeline.enricher_process import running_enricher
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.watched import until
from tests.unit.enricher.objects_as_json import backend, batch_of, endpoint_slice, flow, owner_object, pod, service

NODE = "node-a"
PODS = "/api/v1/namespaces/shop/pods"
APPS = "/apis/apps/v1/namespaces/shop"
LIMITED, TENANT = "limited", "tenant"
ALL_BUT_NODES = (("", "pods"), ("", "services"), ("discovery.k8s.io", "endpointslices"))
OUTSIDE = "203.0.113.9"


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
    now = now_rfc3339()
    ran = {"name": "app", "image": "x", "imageID": "x", "ready": True, "restartCount": 0}
    status = {"containerStatuses": [{**ran, "state": {"running": {"startedAt": now}}}]}
    tree = pod(name, address, started=now, **{"status": status, **more})
    del tree["metadata"]["uid"]
    for reference in tree["metadata"].get("ownerReferences", ()):
        reference["apiVersion"] = "apps/v1"
    tree["spec"]["terminationGracePeriodSeconds"] = 0
    return server.create(PODS, tree)


@contextmanager
def enricher(nats_server: NatsServer, kubeconfig: Path, tmp_path: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """An enricher that follows the cluster. Its log goes to a file that a failed test shows."""
    own = {
        "WIRESPAN_KUBE_KUBECONFIG": str(kubeconfig),
        "WIRESPAN_KUBE_LONGEST_BACKOFF_SECONDS": "1",
        "WIRESPAN_LOG_FORMAT": "json",
        **settings,
    }
    with running_enricher(nats_server, tmp_path, own) as process:
        yield process


async def logged(tmp_path: Path, event: str, number: int = 0) -> dict[str, Any]:
    """The first line of an enricher's log with this event, once it is there."""
    return await until(lambda: next((line for line in log_lines(tmp_path, number) if line["event"] == event), {}))


async def logged_of(tmp_path: Path, event: str, resource: str, times: int, *, number: int = 0) -> None:
    """Return once an enricher has logged an event so often of a resource."""

    def found() -> bool:
        lines = log_lines(tmp_path, number)
        return sum(line["event"] == event and line.get("resource") == resource for line in lines) >= times

    await until(found)


async def publish(bus: Bus, sequence: int, *rows: dict[str, Any]) -> None:
    """Publish records as capture does."""
    batch = batch_of(*rows, node_name=NODE)
    sent = FlowBatch(batch.node, "epoch", sequence, batch.count, batch.interval, batch.columns)
    await bus.publish(raw_subject(NODE), encode(sent), message_id=batch_id(NODE, "epoch", sequence))


async def enriched(bus: Bus, records: int) -> dict[int, tuple[FlowBatch, int]]:
    """Batch and row of every record by its flow id, once there are so many."""

    async def found() -> dict[int, tuple[FlowBatch, int]]:
        batches = [decode(message.data) async for message in bus.peek(ENRICHED_STREAM)]
        if sum(batch.count for batch in batches) < records:
            return {}
        return {int(each): (batch, row) for batch in batches for row, each in enumerate(batch.column("flow_id"))}

    return await until(found)


def log_lines(tmp_path: Path, number: int = 0) -> list[dict[str, Any]]:
    """What an enricher has logged so far."""
    path = tmp_path / f"enricher-{number}.log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def record(number: int, local: str, remote: str, **columns: Any) -> dict[str, Any]:
    """A record that starts now."""
    return flow(local, remote, flow_id=number, start_unix_ns=time.time_ns(), **columns)


def resolution(found: tuple[FlowBatch, int], side: str) -> int:
    """What is known of an end."""
    batch, row = found
    return int(batch.column(f"{side}_resolution")[row])
