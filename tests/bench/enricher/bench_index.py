"""Enricher: from an API server's lists to an index, in seconds and MiB, beside the Kubernetes client's own informer.

    python -m tests.bench.enricher.bench_index [pods]

A process of its own serves pages of pods as a cluster has them (about 7 KB each), as fast as it can make them. The client's
informer is measured on a fiftieth of the pods and scaled up. Memory is what a process grew by at its peak; processor time is of
the process that lists, so that it does not matter what else the machine does.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PODS, NODES, SHARE = 50_000, 500, 50
_NUMBER, _ADDRESS, _NODE = "@number@", "@address@", "@node@"


def pod_json() -> str:
    """A pod as the API gives it, with marks where pods differ."""
    labels = {"app": f"app-{_NUMBER}", "pod-template-hash": "5d78c9869d", "team": "shop", "version": "v1"}
    fields = {f"f:field-{number}": {".": {}, "f:name": {}, "f:value": {}} for number in range(40)}
    managed = [
        {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields}
    ] * 2
    metadata = {
        "name": f"app-{_NUMBER}", "namespace": "shop", "uid": f"00000000-0000-4000-8000-{_NUMBER}", "labels": labels,
        "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": managed,
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-5d7", "uid": "u", "controller": True}],
    }  # fmt: skip
    env = [{"name": f"VARIABLE_{number}", "value": "some value of a variable"} for number in range(15)]
    container = {"name": "app", "image": "registry.example.com/shop/app:1.4.2", "env": env, "ports": [{"containerPort": 8080}]}
    status = {
        "phase": "Running", "podIP": _ADDRESS, "podIPs": [{"ip": _ADDRESS}], "hostIP": "172.18.0.2",
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": f"Condition{number}", "status": "True", "message": "all is well " * 4} for number in range(5)],
        "containerStatuses": [{"name": "app", "image": "app", "imageID": "i", "ready": True, "restartCount": 0,
                               "containerID": "containerd://" + "ab" * 26 + _NUMBER, "state": {"running": {}}}],
    }  # fmt: skip
    return json.dumps({"metadata": metadata, "spec": {"nodeName": _NODE, "containers": [container]}, "status": status})


def page(pods: int, first: int, limit: int) -> bytes:
    """A page of the list of pods."""
    template, end = pod_json(), min(pods, first + limit)
    items = [
        template.replace(_NUMBER, f"{number:012d}")
        .replace(_ADDRESS, f"10.{128 + number // 60_000}.{number // 250 % 240}.{number % 250 + 1}")
        .replace(_NODE, f"node-{number % NODES}")
        for number in range(first, end)
    ]
    following = str(end) if end < pods else ""
    head = json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": following}})
    return f'{head[:-1]}, "items": [{",".join(items)}]}}'.encode()


def serve(pods: int) -> None:
    """Serve lists of so many pods and nothing else; print the port first."""
    counted = {"requests": 0, "objects": 0, "bytes": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/counted":
                return self._answer(200, json.dumps(counted).encode())
            counted["requests"] += 1
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            if "sendInitialEvents" in query:
                return self._answer(422, b"{}")
            if "watch" in query:
                time.sleep(3600)
            whole = url.path.endswith("/pods")
            limit = int(query.get("limit", pods))
            first = int(query.get("continue", 0))
            body = page(pods if whole else 0, first, limit)
            counted["objects"] += min(limit, pods - first) if whole else 0
            counted["bytes"] += len(body)
            return self._answer(200, body)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


def kubeconfig_of(url: str) -> dict[str, Any]:
    """A kubeconfig that names the server."""
    return {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }


def peak_mib() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def follow(kubeconfig: Path) -> dict[str, float]:
    """List and index as the enricher does."""
    from services.enricher.following.sync import KubeSync
    from services.enricher.index.cluster import Cluster
    from services.enricher.kubernetes.api import find_api
    from services.enricher.settings import KubeSettings

    api = find_api("auto", kubeconfig=kubeconfig, silence_seconds=60)
    assert api is not None
    before, began, busy = peak_mib(), time.perf_counter(), time.process_time()
    sync = KubeSync(api, Cluster(), KubeSettings(wait_seconds=600))
    sync.start()
    await sync.until_synced(asyncio.Event())
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    return {"seconds": seconds, "cpu": cpu, "mib": peak_mib() - before, "compile": sync.compile_seconds}


def inform(kubeconfig: Path, pods: int) -> dict[str, float]:
    """List as the client's informer does, which keeps its models; no index is made of them."""
    from kubernetes import client, config
    from kubernetes.informer import SharedInformer

    configuration = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    api = client.CoreV1Api(client.ApiClient(configuration))
    before, began, busy = peak_mib(), time.perf_counter(), time.process_time()
    informer = SharedInformer(api.list_pod_for_all_namespaces)
    informer.start()
    while len(informer.cache.list()) < pods:
        time.sleep(0.01)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    return {"seconds": seconds, "cpu": cpu, "mib": peak_mib() - before}


def measured(*arguments: str) -> dict[str, float]:
    """What a process of its own measured."""
    command = [sys.executable, "-m", "tests.bench.enricher.bench_index", *arguments]
    result: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return result


@contextmanager
def server_of(pods: int) -> Iterator[Path]:
    """A kubeconfig of a server of so many pods."""
    command = [sys.executable, "-m", "tests.bench.enricher.bench_index", "serve", str(pods)]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        kubeconfig = Path(folder, "kubeconfig")
        kubeconfig.write_text(json.dumps(kubeconfig_of(f"http://127.0.0.1:{int(server.stdout.readline())}")))
        try:
            yield kubeconfig
        finally:
            server.kill()


def compare(pods: int) -> None:
    """Print both."""
    with server_of(pods) as kubeconfig:
        ours = measured("follow", str(kubeconfig))
    with server_of(pods // SHARE) as kubeconfig:
        theirs = {name: value * SHARE for name, value in measured("inform", str(kubeconfig), str(pods // SHARE)).items()}
    lines = [f"{pods} pods of {len(pod_json()) / 1000:.1f} KB, list and index: elapsed, processor time, memory"]
    for name, figures in (("wirespan", ours), ("SharedInformer", theirs)):
        lines.append(f"  {name:16}{figures['seconds']:8.1f} s {figures['cpu']:8.1f} s {figures['mib']:8.0f} MiB")
    ratios = [theirs[name] / ours[name] for name in ("seconds", "cpu", "mib")]
    lines.append(f"  {'ratio':16}{ratios[0]:8.1f}x {ratios[1]:9.1f}x {ratios[2]:9.1f}x")
    lines.append(f"  the last index was made in {ours['compile']:.1f} s; SharedInformer: from {pods // SHARE} pods, no index")
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    """Run what is asked for."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        serve(int(arguments[1]))
    elif arguments[:1] == ["follow"]:
        sys.stdout.write(json.dumps(asyncio.run(follow(Path(arguments[1])))) + "\n")
    elif arguments[:1] == ["inform"]:
        sys.stdout.write(json.dumps(inform(Path(arguments[1]), int(arguments[2]))) + "\n")
    else:
        compare(int(arguments[0]) if arguments else PODS)


if __name__ == "__main__":
    main()
