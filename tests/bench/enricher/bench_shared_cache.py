"""Enrichers that share one watch of the cluster beside those that each have their own: what the API server and they pay for it.

    python -m tests.bench.enricher.bench_shared_cache [pods]

A process of its own serves the lists of so many pods as in bench_index and counts what it is asked for; a real nats-server
holds the log; every replica is a process. Times are from a replica's first request to an index that answers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.enricher.bench_index import kubeconfig_of
from tests.bench.harness import quiet_logs
from tests.support.pipeline.nats_server import NatsServer

PODS = 10_000
THIS = "tests.bench.enricher.bench_shared_cache"


async def replica(kubeconfig: Path, nats_url: str, mode: str) -> None:
    """Sync, say how long it took, and stay until standard input ends."""
    from services.enricher.cache.sync import CachedSync
    from services.enricher.following.sync import KubeSync
    from services.enricher.index.cluster import Cluster
    from services.enricher.kubernetes.api import find_api
    from services.enricher.settings import KubeSettings
    from services.runtime.nats.bus import connect
    from services.runtime.settings import NatsSettings

    quiet_logs()
    api = find_api("auto", kubeconfig=kubeconfig, silence_seconds=600)
    assert api is not None
    settings = KubeSettings(wait_seconds=600)
    async with connect(NatsSettings(url=nats_url), name="replica") as bus:
        await bus.ensure_streams(cache=True)
        began = time.perf_counter()
        sync = CachedSync(api, Cluster, settings) if mode == "shared" else KubeSync(api, Cluster(), settings)
        sync.start(bus)
        await sync.until_synced(asyncio.Event())
        sys.stdout.write(json.dumps({"seconds": time.perf_counter() - began}) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        await sync.stop()


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends when its standard input does."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


@contextmanager
def api_server(pods: int) -> Iterator[subprocess.Popen[str]]:
    """The server of lists."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.enricher.bench_index", "serve", str(pods)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            yield server
        finally:
            server.kill()


def synced(process: subprocess.Popen[str]) -> float:
    """Seconds that a replica needed."""
    assert process.stdout is not None
    seconds: float = json.loads(process.stdout.readline())["seconds"]
    return seconds


def measure(pods: int, mode: str, replicas: int) -> str:
    """A row of the table: replicas started at once with an empty log, then one more, then one more without the API server."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        nats = stack.enter_context(NatsServer(Path(folder, "nats")))
        server = stack.enter_context(api_server(pods))
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        kubeconfig = Path(folder, "kubeconfig")
        kubeconfig.write_text(json.dumps(kubeconfig_of(url)))
        arguments = (THIS, "replica", str(kubeconfig), nats.url, mode)
        processes = [stack.enter_context(running(*arguments)) for _ in range(replicas)]
        cold = max(synced(process) for process in processes)
        with urllib.request.urlopen(f"{url}/counted") as answer:
            counted = json.load(answer)
        warm = synced(stack.enter_context(running(*arguments)))
        without = "never"
        if mode == "shared":
            server.kill()
            server.wait()
            without = f"{synced(stack.enter_context(running(*arguments))):.1f} s"
    row = f"| {mode}, {replicas} | {counted['requests']} | {counted['objects']:,} | {counted['bytes'] / 2**20:.0f} MiB |"
    return f"{row} {cold:.1f} s | {warm:.1f} s | {without} |"


def main() -> None:
    """Run what is asked for."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["replica"]:
        asyncio.run(replica(Path(arguments[1]), arguments[2], arguments[3]))
        return
    pods = int(arguments[0]) if arguments else PODS
    sys.stdout.write(f"{pods} pods; cold: all at once, empty log; warm: one more; without: one more, no API server\n")
    sys.stdout.write("| | requests | objects | bytes | cold | warm | without |\n|---|---|---|---|---|---|---|\n")
    for mode in ("direct", "shared"):
        for replicas in (1, 4):
            sys.stdout.write(measure(pods, mode, replicas) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
