"""A real kube-apiserver over a real etcd: RBAC, no kubelet, no controllers. Pods are objects whose status the test writes."""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.certificates import make_certificates
from tests.support.ports import free_ports

START_SECONDS = 90
ADMIN = "admin"
Tree = dict[str, Any]


class Asked(NamedTuple):
    """A request that the server has received."""

    agent: str
    verb: str
    uri: str


class KubeApiServer:
    """An API server on a free port. `stop` and `start` are an outage: address, certificates and objects stay."""

    def __init__(self, binary: Path, etcd: Path, folder: Path, *, users: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._binary, self._etcd = binary, etcd
        self._certificates = make_certificates(folder)
        self._ports = free_ports(3)
        self.tokens = {user: secrets.token_hex(16) for user in (ADMIN, *users)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pool = urllib3.PoolManager(ca_certs=str(self._certificates.authority), maxsize=16)
        lines = [f'{token},{user},{user},"{"system:masters" if user == ADMIN else ""}"' for user, token in self.tokens.items()]
        (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (folder / "service-account.key").write_bytes(pem)
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}
        (folder / "audit.json").write_text(json.dumps(policy))

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"https://127.0.0.1:{self._ports[2]}"

    def kubeconfig(self, user: str = ADMIN) -> Path:
        """A kubeconfig file of a user."""
        authority = base64.b64encode(self._certificates.authority.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(json.dumps(content))
        return path

    def start(self) -> None:
        """Start what does not run; return once the server says that it is ready."""
        if "etcd" not in self._processes:
            peer, clients = f"http://127.0.0.1:{self._ports[0]}", f"http://127.0.0.1:{self._ports[1]}"
            self._run(
                "etcd",
                [self._etcd, "--data-dir", self.folder / "etcd", "--listen-client-urls", clients],
                ["--advertise-client-urls", clients, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
                ["--initial-cluster", f"default={peer}", "--unsafe-no-fsync"] if self._knows_no_fsync() else
                ["--initial-cluster", f"default={peer}"],
            )  # fmt: skip
        made = self._certificates
        self._run(
            "kube-apiserver",
            [self._binary, "--etcd-servers", f"http://127.0.0.1:{self._ports[1]}", "--bind-address", "127.0.0.1"],
            [
                "--secure-port",
                str(self._ports[2]),
                "--authorization-mode",
                "RBAC",
                "--token-auth-file",
                self.folder / "tokens.csv",
            ],
            ["--tls-cert-file", made.server_certificate, "--tls-private-key-file", made.server_key],
            ["--client-ca-file", made.authority, "--service-account-issuer", "https://wirespan.test"],
            ["--service-account-key-file", self.folder / "service-account.key"],
            ["--service-account-signing-key-file", self.folder / "service-account.key"],
            [
                "--service-cluster-ip-range",
                "10.96.0.0/16",
                "--disable-admission-plugins",
                "ServiceAccount,TaintNodesByCondition",
            ],
            ["--audit-policy-file", self.folder / "audit.json", "--audit-log-path", self.folder / "audit.log"],
            ["--endpoint-reconciler-type", "none", "--shutdown-delay-duration", "0s", "--allow-privileged"],
        )
        self._until_ready()

    def start_if_stopped(self) -> None:
        """Start the API server if it does not run."""
        if "kube-apiserver" not in self._processes:
            self.start()

    def stop(self, *, kill: bool = False) -> None:
        """Stop the API server, not etcd."""
        self._end("kube-apiserver", signal.SIGKILL if kill else signal.SIGTERM)

    def request(self, method: str, path: str, body: Tree | None = None, *, media_type: str = "application/json") -> Tree:
        """Ask as the administrator; what the server refuses fails the test."""
        status, _, answered = self.send(method, path, body, media_type=media_type)
        assert status < 300, (method, path, answered)
        return answered

    def send(
        self, method: str, path: str, body: Tree | None = None, *, media_type: str = "application/json"
    ) -> tuple[int, Mapping[str, str], Tree]:
        """Ask as the administrator; return status, headers and answer, whatever they are."""
        headers = {**self._authorization(), "Content-Type": media_type}
        data = None if body is None else json.dumps(body)
        answer = self._pool.request(method, self.url + path, headers=headers, body=data, retries=False, timeout=30)
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return answer.status, answer.headers, answer.json() if is_json else {"message": answer.data.decode()}

    def create(self, path: str, tree: Tree) -> Tree:
        """Create an object, then write its status where it has one: what controllers and kubelets do elsewhere."""
        status = tree.get("status")
        made = self.request("POST", path, {name: value for name, value in tree.items() if name != "status"})
        if status:
            patch = {"status": status}
            kind = "application/merge-patch+json"
            made = self.request("PATCH", f"{path}/{tree['metadata']['name']}/status", patch, media_type=kind)
        return made

    def delete(self, path: str) -> None:
        """Delete an object at once."""
        self.request("DELETE", path, {"gracePeriodSeconds": 0})

    def requests(self) -> list[Asked]:
        """What was asked of the server since it first started, its own requests of itself included."""
        log = self.folder / "audit.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        received = [each for each in events if each["stage"] == "RequestReceived"]
        return [Asked(each.get("userAgent", ""), each["verb"], each["requestURI"]) for each in received]

    def allow(self, user: str, *rules: tuple[str, str], namespace: str = "") -> None:
        """Let a user list and watch resources, given as (group, plural), everywhere or in a namespace."""
        kind = "Role" if namespace else "ClusterRole"
        base = "/apis/rbac.authorization.k8s.io/v1" + (f"/namespaces/{namespace}" if namespace else "")
        name = f"{user}-{kind.lower()}"
        allowed = [{"apiGroups": [group], "resources": [plural], "verbs": ["get", "list", "watch"]} for group, plural in rules]
        api = "rbac.authorization.k8s.io"
        self.request("POST", f"{base}/{kind.lower()}s", {"metadata": {"name": name}, "rules": allowed})
        subject = {"kind": "User", "name": user, "apiGroup": api}
        reference = {"kind": kind, "name": name, "apiGroup": api}
        binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": reference}
        self.request("POST", f"{base}/{kind.lower()}bindings", binding)

    def _knows_no_fsync(self) -> bool:
        return "--unsafe-no-fsync" in subprocess.run([self._etcd, "--help"], capture_output=True, text=True, check=False).stdout

    def _run(self, name: str, *command: Sequence[str | Path]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            arguments = [str(each) for part in command for each in part]
            self._processes[name] = subprocess.Popen(arguments, stdout=log, stderr=log, cwd=self.folder)

    def _until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        process = self._processes["kube-apiserver"]
        while time.monotonic() < deadline and process.poll() is None:
            try:
                answer = self._pool.request(
                    "GET", f"{self.url}/readyz", retries=False, timeout=2, headers=self._authorization()
                )
            except urllib3.exceptions.HTTPError:
                time.sleep(0.05)
                continue
            if answer.status == 200:
                return
            time.sleep(0.05)
        log = (self.folder / "kube-apiserver.log").read_text(errors="replace")[-3000:]
        self.close()
        raise RuntimeError(f"kube-apiserver is not ready:\n{log}")

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[ADMIN]}"}

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End both processes."""
        self._end("kube-apiserver", signal.SIGKILL)
        self._end("etcd", signal.SIGKILL)
        self._pool.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def now_rfc3339() -> str:
    """The time as the API writes it, to the second."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
