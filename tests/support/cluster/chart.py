"""The chart in a cluster: installed, rolled out anew, tested and uninstalled by helm as a person does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.support.cluster.binaries import binary
from tests.support.cluster.cluster import Cluster

ROOT: Final = Path(__file__).parents[3]
NAMESPACE: Final = "wirespan"
RELEASE: Final = "wirespan"
WORKLOADS: Final = {
    "capture": "daemonsets",
    "enricher": "deployments",
    "exporter": "deployments",
    "nats": "statefulsets",
}
HELM_SECONDS: Final = 400
_APPS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}"
Tree = dict[str, Any]


class Chart:
    """One release, with the values of docs/install.md and these besides."""

    def __init__(self, cluster: Cluster, folder: Path, **values: Any) -> None:
        self._cluster, self._folder = cluster, folder
        own_images: Tree = {"registry": ""}
        self.values = {"cluster": {"name": "test"}, "image": own_images, "otlp": {"endpoint": cluster.endpoint}, **values}

    def install(self) -> None:
        """Install it, and return when all its pods are ready."""
        api = self._cluster.api
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.helm(
            "install", RELEASE, str(ROOT / "deploy" / "helm" / "wirespan"), "--values", "-", stdin=json.dumps(self.values)
        )
        for component in WORKLOADS:
            self.until_rolled_out(component)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """Run helm against the release's namespace; return what it printed. What it refuses fails the test."""
        return self._run(binary("helm"), "--namespace", NAMESPACE, *arguments, stdin=stdin)

    def wirespan(self, *arguments: str) -> str:
        """Run the command of somebody who has the cluster's kubeconfig; return what it printed. It must succeed."""
        return self._run(sys.executable, "-m", "services.cli", *arguments)

    def _run(self, *command: str, stdin: str = "") -> str:
        environment = {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig), "HOME": str(self._folder)}
        inside = ("nsenter", f"--net=/run/netns/{self._cluster.control.name}", *command)
        done = subprocess.run(
            inside, input=stdin, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HELM_SECONDS, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def pods(self, component: str = "") -> list[Tree]:
        """The release's pods that are not on their way out."""
        selector = f"app.kubernetes.io/instance={RELEASE}" + (f",app.kubernetes.io/component={component}" if component else "")
        return [pod for pod in self._cluster.api.pods(NAMESPACE, selector) if "deletionTimestamp" not in pod["metadata"]]

    def roll_out(self, component: str) -> None:
        """Have every pod of a component replaced, as `kubectl rollout restart` does; return when the new ones are ready."""
        now = {"kubectl.kubernetes.io/restartedAt": str(time.time_ns())}
        self._cluster.api.patch(self._path(component), {"spec": {"template": {"metadata": {"annotations": now}}}})
        self.until_rolled_out(component)

    def until_rolled_out(self, component: str) -> None:
        """Wait until all pods of a component are of its latest template and ready, and the former ones gone."""
        self._cluster.api.until(f"{component} is rolled out", lambda: self._is_rolled_out(component))

    def restarts(self) -> dict[str, int]:
        """How often a container of each pod was started anew, where it was."""
        counts = {
            pod["metadata"]["name"]: sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))
            for pod in self.pods()
        }
        return {name: count for name, count in counts.items() if count}

    def say(self) -> None:
        """Write the end of every pod's log to stderr, which a failed test shows."""
        for pod in self.pods():
            name = pod["metadata"]["name"]
            sys.stderr.write(f"--- {name}\n{self._cluster.api.log(NAMESPACE, name)[-2500:]}\n")

    def _path(self, component: str) -> str:
        return f"{_APPS}/{WORKLOADS[component]}/{RELEASE}-{component}"

    def _is_rolled_out(self, component: str) -> bool:
        tree = self._cluster.api.get(self._path(component))
        status, kind = tree["status"], WORKLOADS[component]
        if status.get("observedGeneration", 0) < tree["metadata"]["generation"]:
            return False
        if kind == "daemonsets":
            wanted, counted = len(self._cluster.nodes), ("updatedNumberScheduled", "numberReady", "currentNumberScheduled")
        else:
            wanted, counted = tree["spec"]["replicas"], ("updatedReplicas", "readyReplicas", "replicas")
        if kind == "statefulsets" and status.get("currentRevision") != status.get("updateRevision"):
            return False
        selector = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"
        there = self._cluster.api.pods(NAMESPACE, selector)
        return all(status.get(name, 0) == wanted for name in counted) and len(there) == wanted
