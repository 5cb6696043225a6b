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
    client.start(address, times=100, pause=0.02)
    counted_as_said(one_node.cluster, client, client.done())


def test_capture_finds_what_it_needs(one_node: Installed) -> None:
    """`wirespan doctor` in capture's pod, to which docs/install.md sends who has a node that is not tapped, has nothing to say
    against it, with the default `capture.cgroupPath`: cgroup v2 is found beside version 1 too.
    """
    (pod,) = one_node.chart.pods("capture")
    (status,) = pod["status"]["containerStatuses"]
    said = one_node.cluster.nodes["node-a"].execute(status["containerID"], "wirespan", "doctor", "--json")
    findings = {each["name"]: each for each in map(json.loads, said.splitlines())}
    assert findings["cgroup2"]["found"].startswith("/host/cgroup")
    assert {each["name"] for each in findings.values() if each["status"] == "fail"} == set()


def test_helm_test_shows_its_logs(one_node: Installed) -> None:
    """`helm test --logs` exits with 0 and shows that every service is ready."""
    said = one_node.chart.helm("test", RELEASE, "--logs")
    for component in ("capture", "enricher", "exporter"):
        assert f"{RELEASE}-{component} is ready" in said


def test_uninstalled_only_the_volume_of_nats_is_left(one_node: Installed) -> None:
    """`helm uninstall` removes every object of the release but the claim of NATS' volume, as docs/install.md says."""
    one_node.chart.helm("uninstall", RELEASE, "--wait")
    one_node.cluster.api.until("the pods are gone", lambda: one_node.cluster.api.pods(NAMESPACE) == [])
    assert _left(one_node) == [("PersistentVolumeClaim", f"data-{RELEASE}-nats-0")]


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
