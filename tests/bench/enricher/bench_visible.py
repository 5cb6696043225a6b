"""Enricher: from a change in a real API server to the first record that it resolves, in both modes.

    python -m tests.bench.enricher.bench_visible [changes]

A pod gets its address; the clock starts when the API server has answered. `index` is when an index of the process holds it,
`record` when a record that starts then is given an index to be joined with (default settings, `settle_seconds` among them). In
shared mode what is measured follows the log that another one writes. Needs kube-apiserver and etcd (tests.support.tools).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from services.enricher.cache.sync import CachedSync
from services.enricher.following.live_index import LiveIndex
from services.enricher.following.sync import KubeSync
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.index.index import Index
from services.enricher.index.interval_table import NOBODY, address_words
from services.enricher.kubernetes.api import find_api
from services.enricher.settings import KubeSettings
from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from tests.bench.harness import quiet_logs
from tests.support.kubernetes.kube_api import KubeApiServer
from tests.support.kubernetes.live_cluster import create_pod
from tests.support.pipeline.nats_server import NatsServer
from tests.support.tools import tool

CHANGES = 50
LOOK_SECONDS = 0.002


def holds(index: Index | None, address: str) -> bool:
    """Whether somebody has an address now."""
    if index is None:
        return False
    high, low = address_words(np.frombuffer(packed_address(address) or b"", "V16"))
    return bool(index.holders(high, low, np.array([time.time_ns()], np.uint64))[0] != NOBODY)


@asynccontextmanager
async def syncing(kube: KubeApiServer, nats_url: str, mode: str) -> AsyncIterator[LiveIndex]:
    """An index that follows the cluster."""
    api = find_api("auto", kubeconfig=kube.kubeconfig(), silence_seconds=60)
    assert api is not None
    settings = KubeSettings()
    async with connect(NatsSettings(url=nats_url), name="bench") as bus:
        await bus.ensure_streams(cache=True)
        sync = CachedSync(api, Cluster, settings) if mode == "shared" else KubeSync(api, Cluster(), settings)
        sync.start(bus)
        try:
            await sync.until_synced(asyncio.Event())
            yield sync
        finally:
            await sync.stop()


async def measure(kube: KubeApiServer, sync: LiveIndex, first: int, changes: int) -> tuple[list[float], list[float]]:
    """Seconds to the index and to the record of each change."""
    to_index, to_record = [], []
    for number in range(first, first + changes):
        address = f"10.42.{number // 250}.{number % 250 + 1}"
        await asyncio.to_thread(create_pod, kube, f"bench-{number}", address)
        began, record_unix_ns = time.perf_counter(), time.time_ns()
        record = asyncio.create_task(sync.view(record_unix_ns, asyncio.Event()))
        while not holds(sync._indexer.index, address):  # noqa: ASYNC110 - made in another thread
            await asyncio.sleep(LOOK_SECONDS)
        to_index.append(time.perf_counter() - began)
        assert holds((await record).index, address)
        to_record.append(time.perf_counter() - began)
    return to_index, to_record


async def compare(changes: int) -> None:
    """Print both modes."""
    sys.stdout.write(f"{changes} changes, seconds: median, 99th percentile\n")
    with tempfile.TemporaryDirectory() as folder:
        kube = KubeApiServer(tool("kube-apiserver"), tool("etcd"), Path(folder, "kube"))
        with kube, NatsServer(Path(folder, "nats")) as nats:
            kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
            async with syncing(kube, nats.url, "shared"):
                for place, mode in enumerate(("direct", "shared")):
                    async with syncing(kube, nats.url, mode) as sync:
                        for name, values in zip(
                            ("index", "record"), await measure(kube, sync, place * 1000, changes), strict=True
                        ):
                            middle, late = np.percentile(values, (50, 99))
                            sys.stdout.write(f"  {mode:8}{name:8}{middle:8.2f}{late:8.2f}\n")


def main() -> None:
    """Run it."""
    quiet_logs()
    asyncio.run(compare(int(sys.argv[1]) if len(sys.argv) > 1 else CHANGES))


if __name__ == "__main__":
    main()
