"""The API server as the tests ask it: objects in, objects out, and waiting for what they are to become."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import urllib3

from tests.support.node.namespaces import Namespace

PATIENCE_SECONDS: Final = 180
"""For what a busy machine does late; nothing is expected to take so long."""
Tree = dict[str, Any]
_APPLY: Final = "application/apply-patch+yaml"
_PATHS: Final = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Namespace": "namespaces",
    "PersistentVolume": "persistentvolumes",
}


class Refused(Exception):  # noqa: N818
    """The API server refused a request; the message is what it said."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class NotInTimeError(AssertionError):
    """What was waited for did not come; the message says what it was, and what there is instead."""


class Api:
    """Asks as the administrator, from the control plane's namespace."""

    def __init__(self, namespace: Namespace, url: str, authority: Path, token: str) -> None:
        self._namespace, self._url = namespace, url
        self._pool = urllib3.PoolManager(ca_certs=str(authority), maxsize=4)
        self._headers = {"Authorization": f"Bearer {token}"}

    def close(self) -> None:
        """End its connections."""
        self._pool.clear()

    def get(self, path: str) -> Tree:
        """The object, or a list of them, at a path. Raises Refused."""
        tree: Tree = json.loads(self._request("GET", path))
        return tree

    def text(self, path: str) -> str:
        """What is at a path that is no object: a log, a health check. Raises Refused, urllib3's HTTPError."""
        return self._request("GET", path).decode(errors="replace")

    def apply(self, tree: Tree) -> Tree:
        """Create an object, or make it what it shall be. Raises Refused."""
        path = f"{path_of(tree)}?fieldManager=tests&force=true"
        made: Tree = json.loads(self._request("PATCH", path, tree, media_type=_APPLY))
        return made

    def patch(self, path: str, tree: Tree) -> None:
        """Change an object, or a part of it that has a path of its own. Raises Refused."""
        self._request("PATCH", path, tree, media_type="application/merge-patch+json")

    def delete(self, path: str, *, grace_seconds: int | None = None) -> None:
        """Have an object deleted. Raises Refused."""
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        self._request("DELETE", path, {"propagationPolicy": "Background", **options})

    def exists(self, path: str) -> bool:
        """Whether there is something at a path. Raises Refused for other reasons."""
        try:
            self.get(path)
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def pods(self, namespace: str, selector: str = "") -> list[Tree]:
        """The pods of a namespace, or those of them that labels select."""
        items: list[Tree] = self.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")["items"]
        return items

    def log(self, namespace: str, pod: str, *, previous: bool = False) -> str:
        """What the pod's container has said."""
        return self.text(f"/api/v1/namespaces/{namespace}/pods/{pod}/log{'?previous=true' if previous else ''}")

    def until(self, what: str, holds: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> Any:
        """Return what `holds` gives once it is something; it is asked again and again. Raises NotInTimeError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                found, why = holds(), ""
            except (Refused, urllib3.exceptions.HTTPError) as error:
                found, why = None, f" ({error})"
            if found:
                return found
            if time.monotonic() > deadline:
                raise NotInTimeError(f"not within {seconds:.0f} s: {what}{why}\n{self.report()}")
            time.sleep(0.2)

    def report(self) -> str:
        """Every pod with its state, and the latest warnings: for whoever has to find out what is wrong."""
        try:
            pods, events = self.get("/api/v1/pods")["items"], self.get("/api/v1/events")["items"]
        except (Refused, urllib3.exceptions.HTTPError) as error:
            return f"the API server does not say: {error}"
        lines = [
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']} on {pod['spec'].get('nodeName')}: "
            f"{pod['status'].get('phase')} {json.dumps(pod['status'].get('containerStatuses', []))[:300]}"
            for pod in pods
        ]
        warnings = [f"{each['involvedObject'].get('name')}: {each['message']}" for each in events if each["type"] == "Warning"]
        return "\n".join([*lines, *warnings[-15:]])

    def _request(self, method: str, path: str, body: Tree | None = None, *, media_type: str = "application/json") -> bytes:
        headers = {**self._headers, "Content-Type": media_type}
        data = None if body is None else json.dumps(body)
        with self._namespace.entered():
            answer = self._pool.request(method, self._url + path, headers=headers, body=data, retries=False, timeout=30)
        if answer.status >= 300:
            raise Refused(answer.status, f"{method} {path}: {answer.data.decode(errors='replace')[:500]}")
        return answer.data


def path_of(tree: Tree) -> str:
    """Where an object is, by its kind and name."""
    version, kind, metadata = tree["apiVersion"], tree["kind"], tree["metadata"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if kind in _PATHS:
        return f"{base}/{_PATHS[kind]}/{metadata['name']}"
    return f"{base}/namespaces/{metadata['namespace']}/{kind.lower()}s/{metadata['name']}"
