"""Enricher: records a second through the join with 10,000 and 50,000 pods, both ends, beside a join of rows with one dict.

    python -m tests.bench.enricher.bench_join [records in a batch [pods]]

Prints microseconds of processor time per record and ratios; the figures depend on the machine, the ratios hardly. The baseline
looks addresses up in a dict, record by record, in rows decoded from msgpack, without regard to time, nodes or containers.
"""

from __future__ import annotations

import gc
import random
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import msgspec
import numpy as np

from proto.both_ends import BOTH_SEEN
from proto.columns import NO_INDEX, Observer, Role
from proto.flow_batch import FlowBatch, decode, encode, encode_parts
from services.enricher.backends import MOST_SERVERS, Backends
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.index.index import Index
from services.enricher.join import join
from services.enricher.kubernetes.objects import EndpointSlice, Node, Service
from services.enricher.kubernetes.pods import Pod

PODS, PODS_PER_NODE, SERVICES = 10_000, 100, 500
MANY_PODS = 50_000
NOW_NS = 1_790_000_000_000_000_000
OUT_OF_CLUSTER = 300


def pod_address(number: int) -> str:
    """Address of a pod."""
    return f"10.{128 + number // 60_000}.{number // 250 % 240}.{number % 250 + 1}"


def objects(pods: int = PODS) -> list[dict[str, Any]]:
    """The objects of a cluster of pods of one and two containers, each behind a service."""
    trees: list[dict[str, Any]] = []
    nodes = pods // PODS_PER_NODE
    for number in range(nodes):
        status = {"addresses": [{"type": "InternalIP", "address": f"172.18.{number // 250}.{number % 250 + 1}"}]}
        trees.append(
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}", "uid": f"n{number}"}, "status": status}
        )
    for number in range(pods):
        owner = {"kind": "ReplicaSet", "name": f"app-{number % SERVICES}-5d78c9869d", "controller": True}
        sidecar = [{"name": "istio-proxy", "ports": [{"containerPort": 15090}]}] if number % 3 == 0 else []
        trees.append({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": f"app-{number % SERVICES}-5d78c9869d-{number}", "namespace": "shop", "uid": f"pod-{number}",
                         "labels": {"pod-template-hash": "5d78c9869d"}, "ownerReferences": [owner]},
            "spec": {"nodeName": f"node-{number % nodes}",
                     "containers": [{"name": "app", "image": "shop/app:1.2.3", "ports": [{"containerPort": 8080}]}, *sidecar]},
            "status": {"phase": "Running", "podIP": pod_address(number), "startTime": "2026-05-28T07:12:09Z"},
        })  # fmt: skip
    for number in range(SERVICES):
        name = f"app-{number}"
        spec = {"clusterIP": f"10.96.{number // 250}.{number % 250 + 1}", "ports": [{"port": 80}]}
        trees.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
        endpoints = [
            {"addresses": [pod_address(pod)], "targetRef": {"kind": "Pod", "uid": f"pod-{pod}"}}
            for pod in range(number, pods, SERVICES)
        ]
        metadata = {"name": f"{name}-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
        tree = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "endpoints": endpoints}
        trees.append(tree | {"ports": [{"port": 8080, "protocol": "TCP"}]})
    return trees


def make_cluster(pods: int = PODS) -> Cluster:
    """The cluster of those objects."""
    kinds = {kind.__name__: kind for kind in (Node, Pod, Service, EndpointSlice)}
    cluster = Cluster(name="bench")
    for tree in objects(pods):
        cluster.feed(msgspec.convert(tree, kinds[tree["kind"]]))
    return cluster


def make_batch(count: int, draw: random.Random, peers: int, *, pods: int = PODS) -> FlowBatch:
    """Records of one node: its pods to `peers` pods, to services, and to the world."""
    local = [draw.randrange(PODS_PER_NODE) * (pods // PODS_PER_NODE) for _ in range(count)]
    remote = []
    for _ in range(count):
        kind = draw.random()
        if kind < 0.6:
            remote.append((pod_address(draw.randrange(peers) * (pods // peers)), 8080))
        elif kind < 0.85:
            remote.append((f"10.96.{draw.randrange(2)}.{draw.randrange(250) + 1}", 80))
        else:
            remote.append((f"203.0.113.{draw.randrange(OUT_OF_CLUSTER) % 250}", 443))
    uids = sorted(set(local))
    server = np.array([draw.random() < 0.4 for _ in range(count)])
    remote_port, ephemeral = np.array([port for _, port in remote], "<u2"), np.full(count, 40_000, "<u2")
    numbers = np.arange(count, dtype="<u8")
    columns = {
        "flow_id": numbers,
        "observer": np.full(count, Observer.SOCKET, "u1"),
        "role": np.where(server, Role.SERVER, Role.CLIENT).astype("u1"),
        "transport": np.full(count, 6, "u1"),
        "local_address": np.array([packed_address(pod_address(pod)) for pod in local], "V16"),
        "remote_address": np.array([packed_address(address) for address, _ in remote], "V16"),
        "local_port": np.where(server, np.uint16(8080), ephemeral),
        "remote_port": np.where(server, ephemeral, remote_port),
        "local_container": np.array([uids.index(pod) if draw.random() < 0.9 else NO_INDEX for pod in local], "<u4"),
        "start_unix_ns": NOW_NS + numbers,
        "end_unix_ns": NOW_NS + numbers + np.uint64(1_000_000),
        **{name: numbers * np.uint64(1500) for name in ("tx_bytes", "rx_bytes", "tx_packets", "rx_packets")},
    }
    containers = [{"pod_uid": f"pod-{pod}", "container_id": f"{pod:064x}"} for pod in uids]
    return FlowBatch("node-0", "bench", 0, count, (NOW_NS, NOW_NS + 1), columns, containers)


def rows_of(batch: FlowBatch) -> bytes:
    """The batch as msgpack rows."""
    names = list(batch.columns)
    arrays = batch.columns.values()
    columns = [array.tolist() if array.dtype.kind != "V" else [bytes(each) for each in array] for array in arrays]
    return bytes(msgpack.packb([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]))


def by_dict(message: bytes, pods: dict[bytes, Any], services: dict[tuple[bytes, int, int], Any]) -> list[dict[str, Any]]:
    """The baseline: rows in, each joined by itself."""
    records: list[dict[str, Any]] = msgpack.unpackb(message)
    for record in records:
        record["local"] = pods.get(record["local_address"])
        record["remote"] = pods.get(record["remote_address"])
        side = "local" if record["role"] == Role.SERVER else "remote"
        record["service"] = services.get((record[f"{side}_address"], record[f"{side}_port"], record["transport"]))
    return records


def microseconds(run: Callable[[int], object], batches: int, records: int) -> float:
    """The best of five rounds over all batches, in microseconds per record."""
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for number in range(batches):
            run(number)
        best = min(best, time.process_time() - started)
    return best / (batches * records) * 1e6


def stage(message: bytes, index: Index) -> int:
    """The whole of what the enricher does to a message but for the bus."""
    return sum(len(part.message) for part in encode_parts(join(decode(message), index)))


def measure(index: Index, tables: tuple[dict[Any, Any], dict[Any, Any]], count: int, peers: int) -> None:
    """Print the table for batches whose records go to `peers` pods."""
    draw = random.Random(7)
    batches = [make_batch(count, draw, peers, pods=len(tables[0])) for _ in range(20)]
    messages, rows = [encode(batch) for batch in batches], [rows_of(batch) for batch in batches]
    decoded = [decode(message) for message in messages]
    entities = sum(len(join(batch, index).entities or ()) for batch in decoded) / len(decoded)
    gc.freeze()
    rows_joined = microseconds(lambda number: by_dict(rows[number], *tables), len(rows), count)
    rows_out = microseconds(lambda number: msgpack.packb(by_dict(rows[number], *tables)), len(rows), count)
    joined = microseconds(lambda number: join(decoded[number], index), len(decoded), count)
    whole = microseconds(lambda number: stage(messages[number], index), len(messages), count)
    show(f"\n{count} records a batch, remote ends among {peers} pods, {entities:.0f} entities a batch: us per record, ratio")
    for name, value, baseline in (
        ("rows: decode, dict", rows_joined, rows_joined),
        ("columns: join", joined, rows_joined),
        ("rows: decode, dict, encode", rows_out, rows_out),
        ("columns: decode, join, encode", whole, rows_out),
    ):
        show(f"  {name:32}{value:8.3f} {baseline / value:7.1f}x {1 / value:7.2f} M records/s")


def remember(count: int) -> None:
    """Print what it takes to remember servers' records for their clients', all of whom are told their backend."""
    batches = []
    for number in range(MOST_SERVERS // count):
        own, other = np.arange(count, dtype="<u4") + np.uint32(number * count), np.full(count, 7, "<u4")
        flow = make_batch(count, random.Random(number), 300)
        both = {**flow.columns, "isn_seen": np.full(count, BOTH_SEEN, "u1"), "remote_port": np.full(count, 80, "<u2")}
        ends = [{"role": Role.SERVER, "local_isn": own, "remote_isn": other}]
        ends += [{"role": Role.CLIENT, "local_isn": other, "remote_isn": own}]
        batches.append([replace(flow, columns=both | end | {"role": np.full(count, end["role"], "u1")}) for end in ends])
    tracemalloc.start()
    backends = Backends()
    for served, _ in batches:
        backends.learn(served)
    size = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    assert all(backends.tell(asked).column("remote_nat_port").all() for _, asked in batches[-2:])

    def both_ways(number: int) -> None:
        served, asked = batches[number]
        backends.learn(served)
        backends.tell(asked)

    each = microseconds(both_ways, len(batches), 2 * count)
    show(f"\nbackends: {each:.2f} us a record to remember a server's or to look for it; {size:.1f} MiB for {MOST_SERVERS:,}")


def show(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Measure with clusters of both sizes."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for pods in [int(sys.argv[2])] if len(sys.argv) > 2 else (PODS, MANY_PODS):
        compare(count, pods)
    remember(1024)


def compare(count: int, pod_count: int) -> None:
    """Build the index of so many pods and measure."""
    started = time.perf_counter()
    cluster = make_cluster(pod_count)
    fed = time.perf_counter()
    index = cluster.compile()
    compiled = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    show(f"\n{pod_count} pods fed in {fed - started:.2f} s, compiled in {compiled - fed:.2f} s, peak RSS {peak:.0f} MiB")
    numbers = {target.key: number for number, target in enumerate(index.targets)}
    said = {key: dict(index.entities([number])[0].attributes) for key, number in numbers.items()}
    pods = {packed_address(pod_address(number)) or b"": said[f"pod-{number}"] for number in range(pod_count)}
    services = {(address, 8080, 6): said[f"Service/shop/app-{at % SERVICES}"] for at, address in enumerate(pods)}
    for peers in (300, pod_count):
        measure(index, (pods, services), count, peers)


if __name__ == "__main__":
    main()
