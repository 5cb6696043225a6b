"""A real Kubernetes of some nodes on this machine: kubelet, containerd, runc, kube-proxy, bridge CNI, CoreDNS.

    with Cluster("node-a", "node-b", folder=tmp_path) as cluster:
        cluster.api.apply(...)
        cluster.receiver.wait_for(...)

Needs root and the commands of node.NEEDED. What it changes is in namespaces, control groups and folders of its own, and gone
when it is left. Where spans go is an OtlpReceiver of the test's own process, outside of the cluster.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final, Self

from tests.support.cluster import dns
from tests.support.cluster.api import Api
from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.network import CONTROL_PLANE, lay_out
from tests.support.cluster.node import Node
from tests.support.node.namespaces import Network
from tests.support.pipeline.otlp_receiver import OtlpReceiver

VOLUMES: Final = "/var/lib/volumes"
"""Where local volumes are on a node."""


class Cluster(AbstractContextManager["Cluster"]):
    """Entered, every node is ready, and names are answered.

    `without_pod_cidr` are nodes whose object does not say which network their pods are in, as with many network plugins.
    """

    def __init__(self, *nodes: str, folder: Path, proxy_mode: str = "iptables", without_pod_cidr: tuple[str, ...] = ()) -> None:
        self._names, self._folder = list(nodes), folder
        self._proxy_mode, self._without_pod_cidr = proxy_mode, without_pod_cidr
        self.nodes: dict[str, Node] = {}
        self.receiver = OtlpReceiver(host=CONTROL_PLANE)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.control, places = lay_out(stack.enter_context(Network()), self._names)
            self._plane = ControlPlane(self.control, places, self._folder)
            for place in places:
                node = Node(place, self._plane, proxy_mode=self._proxy_mode)
                self.nodes[place.name] = stack.enter_context(node)
            stack.enter_context(self._plane)
            with self.control.entered():
                stack.enter_context(self.receiver)
            try:
                self._until_ready()
            except BaseException:
                self.say()
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    @property
    def api(self) -> Api:
        """The API server, as its administrator asks it."""
        return self._plane.api

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, for commands in the control plane's namespace."""
        return self._plane.kubeconfig()

    @property
    def endpoint(self) -> str:
        """Where spans go, as pods reach it."""
        return f"http://{CONTROL_PLANE}:{self.receiver.grpc_port}"

    @property
    def version(self) -> str:
        """What the API server says that it is."""
        return str(self.api.get("/version")["gitVersion"])

    def volume(self, name: str, node: str) -> None:
        """Make a local volume for whoever claims one."""
        path = self.nodes[node].folder / "volumes" / name
        path.mkdir()
        path.chmod(0o777)
        here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": f"{VOLUMES}/{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
        }
        self.api.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})

    def say(self) -> None:
        """Write the end of every program's log to stderr, which a failed test shows."""
        for node in self.nodes.values():
            for program in ("node", "containerd", "kubelet", "kube-proxy"):
                sys.stderr.write(f"--- {node.name} {program}\n{node.log(program)[-1500:]}\n")

    def _until_ready(self) -> None:
        for node in self.nodes.values():
            path = f"/api/v1/nodes/{node.name}"
            self.api.until(f"{node.name} has joined", lambda node=node, path=path: node.runs() and self.api.exists(path))
            if node.name not in self._without_pod_cidr:
                self.api.patch(path, {"spec": {"podCIDR": node.place.pods, "podCIDRs": [node.place.pods]}})
            self.api.until(f"{node.name} is ready", lambda path=path: _is("Ready", self.api.get(path)))
        for tree in dns.manifests():
            self.api.apply(tree)
        self.api.until("names are answered", lambda: [_is("Ready", pod) for pod in self.api.pods("kube-system")] == [True])


def _is(condition: str, tree: dict[str, Any]) -> bool:
    return any(each["type"] == condition and each["status"] == "True" for each in tree["status"].get("conditions", ()))
