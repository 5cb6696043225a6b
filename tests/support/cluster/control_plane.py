"""etcd, API server, controller manager and scheduler, in the control plane's namespace."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, Self

from tests.support.cluster.api import Api
from tests.support.cluster.binaries import binary
from tests.support.cluster.network import API_SERVICE, CONTROL_PLANE, PODS, SERVICES, Place
from tests.support.cluster.pki import ADMIN, Pki
from tests.support.node.namespaces import Namespace

URL: Final = f"https://{CONTROL_PLANE}:6443"
STOP_SECONDS: Final = 20
_ETCD: Final = "http://127.0.0.1:2379"
_NAMES: Final = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")


class ControlPlane(AbstractContextManager["ControlPlane"]):
    """Entered, the API server says that it is ready, and the namespace `default` has its service account."""

    def __init__(self, namespace: Namespace, places: list[Place], folder: Path) -> None:
        self.namespace = namespace
        self.pki = Pki(folder / "pki")
        self._folder = folder
        self._server = self.pki.pair("kube-apiserver", hosts=(CONTROL_PLANE, API_SERVICE, "127.0.0.1", *_NAMES))
        self._before_kubelets = self.pki.pair("kube-apiserver-kubelet-client", group="system:masters")
        self._tokens = self.pki.write_tokens([place.name for place in places])
        self.api = Api(namespace, URL, self.pki.authority, self.pki.tokens[ADMIN])
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.api.close)
            program = binary("kubernetes")
            self._start(stack, "etcd", binary("etcd"), *self._etcd())
            server = self._start(stack, "kube-apiserver", program, *self._api_server())
            self.api.until("the API server is ready", lambda: _runs(server) and self.api.text("/readyz") == "ok")
            for user, arguments in (
                ("system:kube-controller-manager", self._controller_manager()),
                ("system:kube-scheduler", ["--leader-elect=false"]),
            ):
                config = self.pki.kubeconfig(user, URL)
                self_asked = [f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}"]
                name = user.removeprefix("system:")
                command = [f"--kubeconfig={config}", *self_asked, "--bind-address=127.0.0.1", *arguments]
                self._start(stack, name, program, *command)
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self.api.until("the controllers work", lambda: self.api.exists(account))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.pki.kubeconfig(ADMIN, URL)

    def _start(self, stack: ExitStack, name: str, program: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start a program under a name by which it may tell what it is."""
        log = stack.enter_context((self._folder / f"{name}.log").open("wb"))
        with self.namespace.entered():
            process = subprocess.Popen(
                [name, *map(str, arguments)], executable=program, stdout=log, stderr=log, cwd=self._folder
            )
        stack.callback(_end, process)
        return process

    def _etcd(self) -> list[str]:
        peer = "http://127.0.0.1:2380"
        return [
            f"--data-dir={self._folder / 'etcd'}",
            *(f"--{kind}-client-urls={_ETCD}" for kind in ("listen", "advertise")),
            *(f"--{kind}-peer-urls={peer}" for kind in ("listen", "initial-advertise")),
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _api_server(self) -> list[str]:
        return [
            f"--etcd-servers={_ETCD}",
            *(f"--{kind}-address={CONTROL_PLANE}" for kind in ("bind", "advertise")),
            f"--service-cluster-ip-range={SERVICES}",
            f"--client-ca-file={self.pki.authority}",
            f"--token-auth-file={self._tokens}",
            f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.pki.service_accounts}",
            f"--service-account-signing-key-file={self.pki.service_accounts}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-client-certificate={self._before_kubelets.certificate}",
            f"--kubelet-client-key={self._before_kubelets.key}",
            f"--kubelet-certificate-authority={self.pki.authority}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged",
            "--profiling=false",
        ]

    def _controller_manager(self) -> list[str]:
        return [
            f"--service-account-private-key-file={self.pki.service_accounts}",
            f"--root-ca-file={self.pki.authority}",
            "--use-service-account-credentials",
            "--allocate-node-cidrs=false",
            f"--cluster-cidr={PODS}",
            "--leader-elect=false",
            f"--flex-volume-plugin-dir={self._folder / 'volume-plugins'}",  # else it makes one of the machine's
        ]


def _runs(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} has ended with {process.returncode}")
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
