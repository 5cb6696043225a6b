"""A node: a process that is the first of PID, mount, UTS, IPC and control group namespaces of its own, in a network namespace.

That is what a node of kind is as well, but here without a container around it: the programs are the machine's. Its control
groups are below one of its own in every hierarchy; what it writes is in one folder. Killing its first process ends all of it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final, Self

from tests.support.cluster.binaries import binary
from tests.support.cluster.cgroups import ControlGroups, hierarchies
from tests.support.cluster.control_plane import URL, ControlPlane
from tests.support.cluster.images import PAUSE, node_folder
from tests.support.cluster.network import DNS_SERVICE, PODS, Place

_ROOT: Final = Path(__file__).parents[3]
_SOCKET: Final = "/run/containerd/containerd.sock"
ADDRESSES: Final = 24
"""That a node has for pods."""
_APART: Final = "setpriv --pdeathsig=KILL unshare --mount --uts --ipc --pid --fork --kill-child --propagation private"
"""Whoever started it gone, the node goes too."""
_numbers: Final = itertools.count()
_CNI: Final = ("/opt/cni/bin", "/usr/lib/cni")
NEEDED: Final = ("containerd", "containerd-shim-runc-v2", "ctr", "runc", "iptables", "unshare", "nsenter", "setpriv")
"""Commands that a node takes from the machine."""


class CommandError(Exception):
    """A command has failed; the message is what it said."""


def missing() -> str | None:
    """Why this machine cannot be a node; None where it can."""
    if os.geteuid() != 0:
        return "nodes take root"
    absent = [command for command in NEEDED if shutil.which(command) is None]
    if _plugins() is None:
        absent.append("the CNI plugins (containernetworking-plugins)")
    if not hierarchies():
        absent.append("control groups at /sys/fs/cgroup")
    return f"there is no {', '.join(absent)}" if absent else None


def _plugins() -> str | None:
    return next((path for path in _CNI if Path(path, "bridge").exists()), None)


class Node(AbstractContextManager["Node"]):
    """Entered, its programs start; it joins the cluster when it has taken in the images."""

    def __init__(self, place: Place, control: ControlPlane, *, proxy_mode: str) -> None:
        self.name, self.place = place.name, place
        self._control, self._proxy_mode = control, proxy_mode
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = stack.enter_context(node_folder())
            groups = stack.enter_context(ControlGroups(f"wirespan-test-{os.getpid()}-{self.name}"))
            settings = self._write_settings()
            inside = (*_APART.split(), sys.executable, "-m", "tests.support.cluster.node_inside")
            network = f"--net=/run/netns/{self.place.namespace.name}"
            command = groups.joined("nsenter", network, *inside, str(settings))
            log = stack.enter_context((self.folder / "node.log").open("wb"))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=_ROOT)
            stack.callback(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def runs(self) -> bool:
        """Whether it has not ended by itself. Raises RuntimeError where it has."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended:\n{self.log('node')[-3000:]}")
        return True

    def run(self, *command: str) -> str:
        """Run a command in all of the node's namespaces; return what it printed. Raises CommandError."""
        inside = ("nsenter", "--all", "--target", str(self._first()), *command)
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise CommandError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def signal(self, container_id: str, number: signal.Signals) -> None:
        """Send a signal to the first process of a container, given as a pod's status names it."""
        self._tasks("kill", "--signal", str(int(number)), container_id.removeprefix("containerd://"))

    def execute(self, container_id: str, *command: str) -> str:
        """Run a command in a container, as `kubectl exec` does; return what it printed. Raises CommandError."""
        name = f"test-{next(_numbers)}"
        return self._tasks("exec", "--exec-id", name, container_id.removeprefix("containerd://"), *command)

    def _tasks(self, *arguments: str) -> str:
        return self.run("ctr", "-n", "k8s.io", "tasks", *arguments)

    def log(self, program: str) -> str:
        """What one of its programs has said."""
        path = self.folder / f"{program}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _first(self) -> int:
        """The node's first process, as the machine counts."""
        (child,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(child)

    def _end(self) -> None:
        """Its first process goes with what started it, and all others with that one."""
        self._process.kill()
        self._process.wait()

    def _write_settings(self) -> Path:
        pki = self._control.pki
        certificate = pki.pair(self.name, group="system:nodes", hosts=(self.name, self.place.address))
        write = self._write
        write("resolv.conf", "nameserver 127.0.0.1\n")
        write("cni/10-bridge.conflist", json.dumps(self._cni()))
        kubelet = self._kubelet(str(certificate.certificate), str(certificate.key))
        paths = {
            "containerd": write("containerd.toml", self._containerd()),
            "kubelet": write("kubelet.json", json.dumps(kubelet)),
            "kube_proxy": write("kube-proxy.json", json.dumps(self._kube_proxy())),
        }
        hierarchy = [{"path": str(each.path), "kind": each.kind, "options": each.options} for each in hierarchies()]
        return Path(write("node.json", json.dumps({
            "name": self.name,
            "address": self.place.address,
            "folder": str(self.folder),
            "kubernetes": str(binary("kubernetes")),
            "kubeconfig": str(pki.kubeconfig(f"system:node:{self.name}", URL)),
            "cgroups": hierarchy,
            **paths,
        })))  # fmt: skip

    def _write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def _cni(self) -> dict[str, Any]:
        first = self.place.pods.removesuffix("0/24")
        # So few that the next pods get those of the last.
        some = {"subnet": self.place.pods, "rangeStart": f"{first}10", "rangeEnd": f"{first}{9 + ADDRESSES}"}
        addresses = {"type": "host-local", "ranges": [[some]], "routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": addresses,
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}

    def _containerd(self) -> str:
        return f"""
version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_plugins()}"
    conf_dir = "{self.folder}/cni"
"""

    def _kubelet(self, certificate: str, key: str) -> dict[str, Any]:
        plenty = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._control.pki.authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "resolvConf": str(self.folder / "resolv.conf"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "imageGCHighThresholdPercent": 100,
            "evictionHard": plenty,
            "enforceNodeAllocatable": ["pods"],
            "nodeStatusUpdateFrequency": "2s",
        }

    def _kube_proxy(self) -> dict[str, Any]:
        config = self._control.pki.kubeconfig("system:kube-proxy", URL)
        unlimited = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": self._proxy_mode,
            "clusterCIDR": PODS,
            "clientConnection": {"kubeconfig": str(config)},
            "conntrack": unlimited,
        }
