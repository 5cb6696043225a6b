"""Batches that are enriched together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.both_ends import BOTH_SEEN
from proto.columns import NO_INDEX, Observer, Outcome, Role
from proto.flow_batch import FlowBatch, decode, encode
from proto.verdicts.terms import Thresholds
from services.enricher.enriching import Enriched, Enriching, enriched
from services.enricher.index.block import Block
from services.enricher.index.claims import FOREVER
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.index.index import Index
from services.enricher.index.source import View
from tests.support.pipeline.batches import flow_batches
from tests.unit.enricher.objects_as_json import batch_of, cluster_of, endpoint_slice, flow, node, pod, service

INDEX = cluster_of(
    pod("zero", "0.0.0.0"),
    node("node-a", "::"),
    node("node-b", "172.18.0.2"),
    service("web", "10.96.0.1", ports=[{"port": 80, "nodePort": 30080}]),
    endpoint_slice("web", ["::", "::1"], 1, 2),
).compile()
NETWORKS = ExternalNetworks(["office=203.0.113.0/24", "other=0.0.0.0/8"])
SOCKET = {"observer": Observer.SOCKET}


def together(batches: Sequence[FlowBatch], index: Index | None) -> list[FlowBatch]:
    """The batches as they come out of one block."""
    found = enriched(Block(batches), index, [FOREVER] * len(batches), NETWORKS, Thresholds())
    return [decode(encode(one.batch)) for one in found]


def said(batch: FlowBatch) -> dict[str, Any]:
    """All that a batch says, the entities in the place of their numbers."""
    entities = [*(batch.entities or ()), None]
    columns = {}
    for name, column in batch.columns.items():
        if name.endswith(("_entity", "_service")):
            columns[name] = [entities[min(number, len(entities) - 1)] for number in column.tolist()]
        else:
            columns[name] = column.tobytes()
    return {**{name: getattr(batch, name) for name in batch.__slots__ if name != "entities"}, "columns": columns}


@given(st.lists(flow_batches(), min_size=1, max_size=4), st.sampled_from([INDEX, None]))
def test_a_batch_comes_out_of_a_block_as_it_would_by_itself(batches: list[FlowBatch], index: Index | None) -> None:
    """To the byte, whatever others are in it, of whatever nodes and with whatever columns."""
    batches = [replace(batch, node=name) for batch, name in zip(batches, ("node-a", "node-b", "", "node-a"), strict=False)]
    for one, alone in zip(together(batches, index), batches, strict=True):
        (expected,) = together([alone], index)
        assert said(one) == said(expected)
        assert encode(one) == encode(expected)


def test_ends_of_different_batches_are_no_connection() -> None:
    """Two hosts have the same loopback connection, and one of them both ends of a slow one."""
    ends: list[dict[str, Any]] = [
        flow("127.0.0.1:5000", "127.0.0.1:80", local_container=0, **SOCKET),
        flow("127.0.0.1:80", "127.0.0.1:5000", role=Role.SERVER, local_container=1, **SOCKET),
    ]
    slow = {"response_time_max_ns": 10**9, "outcome": Outcome.ESTABLISHED, "responses": 1}
    rows = [[end | slow for end in ends], ends[:1], ends]
    units = [{"cgroup": f"/{name}", "systemd_unit": f"{name}.service"} for name in ("curl", "nginx")]
    batches = [batch_of(*own, containers=units, node_name=f"host-{at}") for at, own in enumerate(rows)]
    for one, alone in zip(together(batches, None), batches, strict=True):
        assert said(one) == said(together([alone], None)[0])
        hosts = {entity.attributes["host.name"] for entity in one.entities or ()}
        assert hosts == {alone.node}


def test_records_of_somebody_elsewhere_are_counted_by_batch() -> None:
    """Of each batch its own, whatever is beside it."""
    index = cluster_of(
        node("node-a", "172.18.0.1"), node("node-b", "172.18.0.2"), pod("zero", "10.0.0.1", spec={"nodeName": "node-b"})
    ).compile()
    row = flow("10.0.0.1:5000", "203.0.113.1:80", **SOCKET)
    batches = [batch_of(row, row, node_name="node-a"), batch_of(row, node_name="node-b"), batch_of(row, node_name="nobody")]
    found = enriched(Block(batches), index, [FOREVER] * 3, NETWORKS, Thresholds())
    assert [one.foreign for one in found] == [2, 0, 0]
    assert found[1].batch.column("local_entity").tolist() == [0]
    assert NO_INDEX not in found[2].batch.column("local_entity").tolist()


async def test_one_that_cannot_be_enriched_takes_no_other_along() -> None:
    """It fails by itself: whoever brought it is told, the others have theirs."""
    good = batch_of(flow("10.0.0.1:5000", "203.0.113.1:80"))
    bad = replace(good, columns={**good.columns, "transport": np.zeros(3, "u1")})
    enriching = Enriching(NETWORKS, Thresholds(), most_at_once=3)
    found = await asyncio.gather(
        *(enriching.enriched(batch, View(INDEX)) for batch in (good, bad, good)), return_exceptions=True
    )
    assert [type(one).__name__ for one in found] == ["Enriched", "ValueError", "Enriched"]
    with pytest.raises(ValueError, match="shape"):
        await enriching.enriched(bad, View(INDEX))


async def test_one_that_cannot_be_learned_from_keeps_nobody_waiting() -> None:
    """It alone fails, and what the others beside it tell of backends is known."""
    seen = {"isn_seen": BOTH_SEEN, "transport": 6, **SOCKET}
    good = batch_of(
        flow("10.0.0.1:5000", "10.96.0.1:80", role=Role.CLIENT, local_isn=1, remote_isn=2, **seen),
        flow("10.0.0.2:8080", "10.96.0.9:1025", role=Role.SERVER, local_isn=2, remote_isn=1, **seen),
    )
    bad = replace(good, columns={**good.columns, "transport": np.zeros(3, "u1")})
    enriching = Enriching(NETWORKS, Thresholds(), most_at_once=2)
    for batch in (bad, good):
        enriching.learn(batch)
    found = await asyncio.gather(*(enriching.enriched(batch, View(INDEX)) for batch in (good, bad)), return_exceptions=True)
    assert isinstance(found[0], Enriched)
    assert found[0].batch.column("remote_nat_port").tolist() == [8080, 0]
    assert isinstance(found[1], ValueError)
