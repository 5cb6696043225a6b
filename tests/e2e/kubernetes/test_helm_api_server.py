"""The chart before real API servers of two versions of Kubernetes: every object is accepted, and an upgrade keeps secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT, needed
from tests.support.kubernetes.helm_chart import BACKEND, CHART, MATRIX, NAMESPACE, RELEASE, helm, merged, render
from tests.support.kubernetes.helm_crds import definitions, examples
from tests.support.kubernetes.helm_nats import running
from tests.support.kubernetes.kube_api import ADMIN, KubeApiServer
from tests.support.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

READY_SECONDS = 60
USERS = ("enricher-0", "enricher-1")
Tree = dict[str, Any]


@pytest.fixture(scope="module", params=["kube-apiserver", "kube-apiserver-older"])
def kube(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    """An API server with the kinds of the operators that the chart can work with. It warns of what is not restricted."""
    etcd, binary = needed("etcd"), needed(request.param)
    with KubeApiServer(binary, etcd, tmp_path_factory.mktemp(request.param), users=USERS) as server:
        for definition in definitions():
            server.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        restricted = {"pod-security.kubernetes.io/warn": "restricted"}
        for name, labels in ((NAMESPACE, restricted), ("shop", {}), ("billing", {}), ("installed", {})):
            server.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        until_served(server)
        yield server


def until_served(server: KubeApiServer) -> None:
    """Wait until the server serves the kinds that were added; it does so a moment after it has taken them."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if all(path_of(server, tree) for tree in examples()):
            return
        time.sleep(0.1)
    pytest.fail("the server does not serve the kinds that were added")


def path_of(server: KubeApiServer, tree: Tree) -> str | None:
    """The path of an object by what the server says that it serves; None where it does not know the kind."""
    version = tree["apiVersion"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    status, _, found = server.send("GET", base)
    if status != 200:
        return None
    for resource in found["resources"]:
        if resource["kind"] == tree["kind"] and "/" not in resource["name"]:
            space = f"/namespaces/{tree['metadata'].get('namespace', NAMESPACE)}" if resource["namespaced"] else ""
            return f"{base}{space}/{resource['name']}/{tree['metadata']['name']}"
    return None


@pytest.mark.parametrize("name", MATRIX)
def test_every_object_is_accepted(kube: KubeApiServer, helm_binary: Path, name: str) -> None:
    """Each rendered object passes a server-side dry run that refuses unknown and duplicate fields.

    The server has no objection to any pod under the `restricted` standard, but to those of capture.
    """
    refused, warned = [], set()
    for tree in render(helm_binary, MATRIX[name]).objects:
        path = path_of(kube, tree)
        assert path is not None, f"{tree['apiVersion']} {tree['kind']} is not served"
        query = "?dryRun=All&fieldManager=helm&fieldValidation=Strict&force=true"
        status, headers, answer = kube.send("PATCH", path + query, tree, media_type="application/apply-patch+yaml")
        if status >= 300:
            refused.append(f"{tree['kind']} {tree['metadata']['name']}: {answer.get('message', status)}")
        if "Warning" in headers and "SessionAffinity" not in headers["Warning"]:  # said of every headless service
            warned.add((tree["metadata"]["labels"]["app.kubernetes.io/component"], headers["Warning"]))
    assert refused == []
    assert {component for component, _ in warned} <= {"capture"}, warned


def secrets_of(kube: KubeApiServer) -> dict[str, Tree]:
    """What the Secrets of the chart hold."""
    found = kube.request("GET", "/api/v1/namespaces/installed/secrets")["items"]
    return {each["metadata"]["name"]: each["data"] for each in found if each["type"] != "helm.sh/release.v1"}


def test_an_upgrade_keeps_what_was_generated(kube: KubeApiServer, helm_binary: Path) -> None:
    """`helm install`, then `helm upgrade` with other values: passwords and certificates stay, a new node gets its own.

    The notes give the next three commands and name `wirespan doctor`.
    """
    options = ("--namespace", "installed", "--kubeconfig", kube.kubeconfig(ADMIN))
    values = merged(BACKEND, {"nats": {"replicas": 3, "auth": {"nodes": ["node-a"]}}, "tests": {"enabled": False}})
    notes = helm(helm_binary, "install", RELEASE, CHART, *options, values=values)
    for expected in (
        f"kubectl -n installed rollout status daemonset/{RELEASE}-wirespan-capture",
        f"helm -n installed test {RELEASE}",
        f"exec -it deploy/{RELEASE}-wirespan-toolbox -- wirespan tap",
        "wirespan doctor",
    ):
        assert expected in notes
    before = secrets_of(kube)
    assert json.dumps(before)
    more = merged(values, {"enricher": {"replicas": 5}, "nats": {"auth": {"nodes": ["node-a", "node-b"]}}})
    helm(helm_binary, "upgrade", RELEASE, CHART, *options, values=more)
    after = secrets_of(kube)
    nodes = f"{RELEASE}-wirespan-nats-nodes"
    assert after[nodes].keys() == {"node-a.toml", "node-b.toml"}
    assert after[nodes]["node-a.toml"] == before[nodes]["node-a.toml"]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {nodes, f"{RELEASE}-wirespan-nats-config"}
    scaled = kube.request("GET", f"/apis/apps/v1/namespaces/installed/deployments/{RELEASE}-wirespan-enricher")
    assert scaled["spec"]["replicas"] == 5
    helm(helm_binary, "uninstall", RELEASE, *options)
    assert secrets_of(kube) == {}


@pytest.mark.parametrize("namespaces", [[], ["shop"]])
def test_the_roles_are_enough(kube: KubeApiServer, helm_binary: Path, tmp_path: Path, namespaces: list[str]) -> None:
    """Under exactly the chart's roles and its user of NATS the enricher follows all that its settings ask for, in the whole
    cluster or some namespaces: it gets ready, and nothing is denied.
    """
    wanted = {"network_policies": True, "namespace_labels": ["team"]}
    rendered = render(helm_binary, {"settings": {"kube": wanted}, "rbac": {"namespaces": namespaces}})
    user = f"enricher-{len(namespaces)}"
    subjects = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
    roles = rendered.of_kind("ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding")
    for role in roles:
        path = str(path_of(kube, role))
        kube.request("POST", path.rpartition("/")[0], role | ({"subjects": subjects} if "roleRef" in role else {}))
    (port,) = free_ports(1)
    with running(rendered, tmp_path) as bus:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **bus.environment("enricher")}
        environ |= {"WIRESPAN_KUBE_KUBECONFIG": str(kube.kubeconfig(user)), "WIRESPAN_HEALTH_PORT": str(port)}
        log = tmp_path / "enricher.log"
        with log.open("w") as output:
            process = subprocess.Popen([sys.executable, "-m", "services.enricher"], env=environ, cwd=ROOT, stderr=output)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not is_ready(port) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.1)
            assert is_ready(port), log.read_text()[-3000:]
        finally:
            process.terminate()
            process.wait(READY_SECONDS)
    assert "denied" not in log.read_text()
    for role in roles:
        kube.delete(str(path_of(kube, role)))


def is_ready(port: int) -> bool:
    """Whether /readyz says so."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
