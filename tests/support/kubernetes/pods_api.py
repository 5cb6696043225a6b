"""A server of pods where the API server's behaviour is beside the point: lists, watches, and a past to go on from."""

from __future__ import annotations

import threading
from typing import Any

from tests.support.kubernetes.hostile_kube_api import Request

Tree = dict[str, Any]


class PodsApi:
    """Answers for `HostileKubeApi`. Every change has a version of its own; other resources have no objects but the Service
    `kubernetes`, which says which cluster it is.
    """

    def __init__(self, cluster: str = "uid-of-a-cluster", *, versions_after: int = 0) -> None:
        """`versions_after` is the version of a server without objects: less in one that was restored than it was before."""
        self._cluster = cluster
        self._before = versions_after
        self._events: list[Tree] = []
        self._pods: dict[str, Tree] = {}
        self._changed = threading.Condition()
        self.closed = False
        self.down = False

    def put(self, *pods: Tree) -> None:
        """Add pods, or change them."""
        for pod in pods:
            self._note("ADDED", pod)

    def delete(self, name: str) -> None:
        """Delete a pod."""
        self._note("DELETED", self._pods[name])

    def close(self) -> None:
        """End all watches, and answer no more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _note(self, kind: str, pod: Tree) -> None:
        with self._changed:
            version = str(self._version + 1)
            named = {**pod, "metadata": {**pod["metadata"], "resourceVersion": version}}
            self._events.append({"type": kind, "object": named})
            self._pods |= {pod["metadata"]["name"]: named}
            if kind == "DELETED":
                del self._pods[pod["metadata"]["name"]]
            self._changed.notify_all()

    def __call__(self, request: Request) -> None:
        """Answer a request."""
        if self.down or self.closed:
            request.refuse(503)
            return
        pods = request.path.endswith("/pods")
        with self._changed:
            position = self._version
            present = list(self._pods.values()) if pods else []
        if not request.watch:
            reached_by = {"metadata": {"name": "kubernetes", "uid": self._cluster}}
            request.list(*([reached_by] if request.path.endswith("/services") else present), version=str(position))
            return
        if request.query.get("sendInitialEvents"):
            end = {"k8s.io/initial-events-end": "true"}
            last = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(position), "annotations": end}}}
            request.stream(*({"type": "ADDED", "object": pod} for pod in present), last)
        else:
            position = int(request.query["resourceVersion"])
            request.stream()
        while not self.closed:
            news = self._behind(position) if pods else self._behind(-1)
            position += len(news)
            request.stream(*news)
        request.end()

    def _behind(self, position: int) -> list[Tree]:
        """The changes behind a version, once there are some; of one that never comes, once all is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or 0 <= position < self._version)
            return self._events[max(0, position - self._before) :] if position >= 0 else []

    @property
    def _version(self) -> int:
        return self._before + len(self._events)
