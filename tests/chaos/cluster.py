"""The cluster that a run's connections are of: its API server, which can be away, and be restored from an older backup.

A stand-in answers as an API server does (tests/support/kubernetes); how a real one behaves is for tests/e2e/kubernetes.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.kubernetes.hostile_kube_api import HostileKubeApi
from tests.support.kubernetes.pods_api import PodsApi
from tests.unit.enricher.objects_as_json import Tree, pod

SERVERS: Final = 20
"""Pods that connections go to, and that are there all the time."""
_VERSION: Final = 1_000_000
_BACKUP_VERSIONS: Final = 1000
"""A backup is older by more changes than there are until its server is asked: else nobody can tell that it is one."""
_LONG_AGO: Final = "2023-01-01T00:00:00Z"
"""Before any connection of any file."""


def server_address(number: int) -> str:
    """Of a pod that connections go to, by its number from 1."""
    return f"172.16.0.{number}"


def pod_name(address: str) -> str:
    """Name of the pod that has the address."""
    return f"server-{address.replace('.', '-')}"


class ApiServer:
    """Serves the pods that connections go to, and others that come and go: each is news that all enrichers have to hear."""

    def __init__(self) -> None:
        self._version = _VERSION
        self._pods = PodsApi(versions_after=self._version)
        self._server = HostileKubeApi(self._pods)
        self._others: list[str] = []
        self._made = 0
        self._pods.put(*_servers())

    @property
    def port(self) -> int:
        """Where it is served."""
        return int(self._server.url.rpartition(":")[2])

    @property
    def objects(self) -> int:
        """How many there are now."""
        return SERVERS + len(self._others)

    def kubeconfig(self, folder: Path, port: int) -> Path:
        """A kubeconfig file of somebody who reaches it by another port."""
        folder.mkdir(exist_ok=True)
        path = self._server.kubeconfig(folder)
        path.write_text(path.read_text().replace(self._server.url, f"http://127.0.0.1:{port}"))
        return path

    def change(self) -> None:
        """Let a pod come, and every other time one go."""
        self._made += 1
        name = f"other-{self._made}"
        self._pods.put(_running(name, f"172.17.{self._made >> 8}.{self._made & 255}"))
        self._others.append(name)
        if self._made % 2 == 0:
            self._pods.delete(self._others.pop(0))

    def restore(self) -> None:
        """Be as in a backup of the beginning: pods are gone that were there, and versions are lower than they were."""
        self._version -= _BACKUP_VERSIONS
        before, self._pods = self._pods, PodsApi(versions_after=self._version)
        self._pods.put(*_servers())
        self._others.clear()
        self._server.answer = self._pods
        before.close()

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pods.close()
        self._server.__exit__(kind, error, trace)


def _servers() -> list[Tree]:
    addresses = [server_address(number) for number in range(1, SERVERS + 1)]
    return [_running(pod_name(address), address) for address in addresses]


def _running(name: str, address: str) -> Tree:
    container = {"name": "app", "state": {"running": {"startedAt": _LONG_AGO}}}
    return pod(name, address, created=_LONG_AGO, started=_LONG_AGO, status={"containerStatuses": [container]})
