"""One node that runs everything: the chart as its documents say that it behaves, from installing to removing it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.asserts import counted_as_said
from tests.cluster.conftest import Installed
from tests.support.cluster.chart import NAMESPACE, RELEASE, WORKLOADS
from tests.support.cluster.workloads import Client, is_ready, serve

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]  # the first to ask may build the programs and the images


def test_every_pod_is_ready_without_a_restart(one_node: Installed) -> None:
    """The chart's pods get ready and none of their containers had to be started twice, with no value but the backend's."""
    pods = one_node.chart.pods()
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} == set(WORKLOADS)
    assert all(is_ready(pod) for pod in pods)
    assert one_node.chart.restarts() == {}


def test_a_client_on_the_node_of_its_server(one_node: Installed) -> None:
    """Through a ClusterIP on one node, a client's own count is that of CLIENT spans, each with one SERVER span as its child."""
    address = serve(one_node.cluster, "server", ("node-a",))
    client = Client(one_node.cluster, "client", "node-a")
    client.start(address, pause=0.02)
    one_node.cluster.api.until("a hundred answers", lambda: len(client.asked()) >= 100)
    counted_as_said(one_node.cluster, client, client.stop())


def test_the_doctor_in_captures_pod(one_node: Installed) -> None:
    """`wirespan doctor` in capture's pod finds cgroup v2 with the default `capture.cgroupPath`, also beside version 1, and
    finds nothing that fails, though a node of this cluster has a part of the tree only.
    """
    (pod,) = one_node.chart.pods("capture")
    (status,) = pod["status"]["containerStatuses"]
    node = one_node.cluster.nodes["node-a"]
    said = node.execute(status["containerID"], "sh", "-c", "wirespan doctor --json || true")
    findings = {each["name"]: each for each in (json.loads(line) for line in said.splitlines() if line.startswith("{"))}
    assert findings["cgroup2"]["found"].startswith("/host/cgroup"), findings["cgroup2"]
    assert {name: each for name, each in findings.items() if each["status"] == "fail"} == {}


def test_tap_reaches_the_clusters_bus_by_its_api_server(one_node: Installed) -> None:
    """`wirespan tap --kube-context` shows what the clients did, through a port that kubelet and container runtime forward."""
    said = one_node.chart.wirespan(
        "tap",
        "--kube-context",
        "test",
        "--kube-namespace",
        NAMESPACE,
        "--to-pod",
        "server-on-node-a",
        "--last",
        "20",
        "-o",
        "json",
    )
    shown = [json.loads(line) for line in said.splitlines()]
    assert len(shown) == 20, said


def test_helm_test_shows_its_logs(one_node: Installed) -> None:
    """`helm test --logs` exits with 0 and shows that every service is ready."""
    said = one_node.chart.helm("test", RELEASE, "--logs")
    for component in ("capture", "enricher", "exporter"):
        assert f"{RELEASE}-{component} is ready" in said


def test_uninstalled_little_is_left(one_node: Installed) -> None:
    """`helm uninstall` removes every object of the release but the claim of NATS' volume and the pod of `helm test`, as
    docs/install.md says; what the claim held stays for the next one.
    """
    one_node.chart.helm("uninstall", RELEASE, "--wait")
    stays = [("PersistentVolumeClaim", f"data-{RELEASE}-nats-0"), ("Pod", f"{RELEASE}-test")]
    one_node.cluster.api.until(f"nothing but {stays} is left", lambda: sorted(_left(one_node)) == stays)


def _left(installed: Installed) -> list[tuple[str, str]]:
    """Kind and name of every object in the cluster that is labelled as the release's or is in its namespace by its name."""
    api = installed.cluster.api
    versions = ["/api/v1", *(f"/apis/{each['preferredVersion']['groupVersion']}" for each in api.get("/apis")["groups"])]
    found: list[tuple[str, str]] = []
    for version in versions:
        for resource in api.get(version)["resources"]:
            if "list" in resource["verbs"] and resource["kind"] not in {"Event", "ComponentStatus"}:
                items: list[dict[str, Any]] = api.get(f"{version}/{resource['name']}")["items"]
                found += [(resource["kind"], each["metadata"]["name"]) for each in items if _is_of_release(each["metadata"])]
    return found


def _is_of_release(metadata: dict[str, Any]) -> bool:
    return metadata.get("labels", {}).get("app.kubernetes.io/instance") == RELEASE or (
        metadata.get("namespace") == NAMESPACE and metadata["name"].startswith(f"{RELEASE}-")
    )
