"""FlowBatches for tests: any batch hypothesis can think of, and one fixed batch that never changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from proto.columns import ENRICHED, EXCHANGE, FILE, NAMES, NO_INDEX, RAW, SET_UP, TLS, VERDICT, Column
from proto.flow_batch import Array, Entity, FlowBatch

_names = st.text(max_size=12)
_attribute_values = (
    st.text(max_size=20)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.lists(st.text(max_size=8), max_size=3)
)
_entities = st.builds(
    Entity,
    type=st.sampled_from(["k8s.pod", "k8s.node", "k8s.service", "host"]),
    attributes=st.dictionaries(_names, _attribute_values, max_size=4),
)


@st.composite
def column_arrays(draw: st.DrawFn, column: Column, count: int, rows_pointed_at: int) -> Array:
    """An array for `column`: any bytes at all, enumerations and indexes within their range."""
    dtype = column.numpy_dtype
    if column.enum is not None:
        return np.array(draw(st.lists(st.sampled_from(column.enum), min_size=count, max_size=count)), dtype).reshape(count)
    if column.default == NO_INDEX:
        index = st.just(NO_INDEX) | st.integers(0, rows_pointed_at - 1) if rows_pointed_at else st.just(NO_INDEX)
        return np.array(draw(st.lists(index, min_size=count, max_size=count)), dtype).reshape(count)
    data = draw(st.binary(min_size=dtype.itemsize * count, max_size=dtype.itemsize * count))
    return np.frombuffer(data, dtype.base).reshape(count, *dtype.shape)


@st.composite
def flow_batches(draw: st.DrawFn, *, max_rows: int = 6) -> FlowBatch:
    """Any well-formed batch: some columns left out, raw or enriched."""
    count = draw(st.integers(0, max_rows))
    containers = draw(st.lists(st.dictionaries(_names, _names, max_size=3), max_size=3))
    enriched = draw(st.booleans())
    entities = draw(st.lists(_entities, max_size=4)) if enriched else None
    files = draw(st.lists(st.dictionaries(_names, _names, max_size=3), max_size=3).map(tuple))
    names = tuple(draw(st.lists(_names, max_size=3)))
    possible = RAW + NAMES + TLS + FILE + EXCHANGE + SET_UP + VERDICT + (ENRICHED if enriched else ())
    present = draw(st.lists(st.sampled_from(possible), unique=True, max_size=12))
    columns = {}
    for column in present:
        of_names = column in NAMES + TLS and column.default == NO_INDEX
        table = names if of_names else {"local_container": containers, "file": files}.get(column.name, entities or ())
        if not table and (of_names or column.name == "file"):
            continue  # where there is no table, readers leave the column out
        columns[column.name] = draw(column_arrays(column, count, len(table)))
    return FlowBatch(
        node=draw(_names),
        epoch=draw(_names),
        sequence=draw(st.integers(0, 2**64 - 1)),
        count=count,
        interval=(draw(st.integers(0, 2**63)), draw(st.integers(0, 2**63))),
        columns=columns,
        containers=containers,
        counters=draw(st.dictionaries(_names, st.integers(0, 2**63), max_size=3)),
        entities=entities,
        files=files,
        names=names,
    )


def fixed_batch(filled: Sequence[Column] = RAW + ENRICHED) -> FlowBatch:
    """Three records with the columns `filled`, each value different from its neighbours'."""
    count = 3
    columns: dict[str, Array] = {}
    for number, column in enumerate(filled, start=1):
        dtype = column.numpy_dtype
        if column.enum is not None:
            members = list(column.enum)
            columns[column.name] = np.array([members[row % len(members)] for row in range(count)], dtype)
        elif column.default == NO_INDEX:
            columns[column.name] = np.array([0, 1, NO_INDEX], dtype)
        else:
            size = dtype.itemsize * count
            columns[column.name] = np.frombuffer(bytes((number + at) % 251 for at in range(size)), dtype.base).reshape(
                count, *dtype.shape
            )
    attributes: dict[str, Any] = {"k8s.pod.name": "redis-0", "text": "größe", "integer": 7, "float": 0.5, "list": ["a", "b"]}
    return FlowBatch(
        node="node-a",
        epoch="0123456789abcdef",
        sequence=42,
        count=count,
        interval=(1_700_000_000_000_000_000, 1_700_000_001_000_000_000),
        columns=columns,
        containers=[{"pod_uid": "7d0c", "container_id": "c0ffee"}, {"unit": "nginx.service"}],
        counters={"arp": 3, "unattributed_tcp_packets": 0},
        entities=[Entity("k8s.pod", attributes), Entity("k8s.service", {"k8s.service.name": "redis"})],
        files=({"name": "a.pcap"}, {"name": "b.pcap"}) if "file" in columns else (),
        names=("api.stripe.com", "redis.shop.svc.cluster.local") if "remote_name" in columns else (),
    )
