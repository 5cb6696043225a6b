"""Enriched batches of plain connections, as many and as large as a test wants."""

from __future__ import annotations

import numpy as np

from proto.columns import Observer, Outcome, Reason, Role
from proto.flow_batch import Entity, FlowBatch

START_UNIX_NS = 1_700_000_000_000_000_000


def enriched_batch(count: int, *, sequence: int = 0, node: str = "node-a") -> FlowBatch:
    """Return `count` finished TCP connections of one pod to another, different from those of any other sequence number."""
    number = np.arange(count, dtype="<u8") + np.uint64(sequence * 1_000_000)
    start = number * np.uint64(1_000_000) + np.uint64(START_UNIX_NS)
    ones = np.ones(count, "<u8")
    columns = {
        "flow_id": number,
        "reason": np.full(count, Reason.END_OF_FLOW, "|u1"),
        "observer": np.full(count, Observer.SOCKET, "|u1"),
        "role": np.full(count, Role.CLIENT, "|u1"),
        "transport": np.full(count, 6, "|u1"),
        "local_address": _addresses("10.0.0.1", count),
        "remote_address": _addresses("10.0.0.2", count),
        "local_port": np.full(count, 40_000, "<u2"),
        "remote_port": np.full(count, 6379, "<u2"),
        "start_unix_ns": start,
        "end_unix_ns": start + np.uint64(5_000_000),
        "flow_start_unix_ns": start,
        "isn_seen": np.full(count, 3, "|u1"),
        "local_isn": number.astype("<u4"),
        "remote_isn": (number >> np.uint64(32)).astype("<u4"),
        "outcome": np.full(count, Outcome.CLOSED, "|u1"),
        "tx_bytes": ones * np.uint64(100),
        "rx_bytes": ones * np.uint64(200),
        "tx_packets": ones,
        "rx_packets": ones,
        "local_entity": np.zeros(count, "<u4"),
        "remote_entity": np.ones(count, "<u4"),
    }
    entities = [
        Entity("k8s.pod", {"service.name": name, "k8s.pod.name": f"{name}-0", "k8s.namespace.name": "shop"})
        for name in ("web", "redis")
    ]
    return FlowBatch(
        node=node,
        epoch="0123456789abcdef",
        sequence=sequence,
        count=count,
        interval=(START_UNIX_NS, START_UNIX_NS + 1_000_000_000),
        columns=columns,
        entities=entities,
    )


def _addresses(address: str, count: int) -> np.ndarray:
    mapped = bytes(10) + b"\xff\xff" + bytes(map(int, address.split(".")))
    return np.frombuffer(mapped * count, "|V16")
