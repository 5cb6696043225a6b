"""Whatever is asked, and whatever was exchanged: no look fails, and nothing is told that cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from proto.asked.columns import OTHER_END, SpanKind
from proto.columns import Role
from services.capture.flows.exchange_layout import PART
from services.capture.meeting.matching import TOLERANCE_NS
from tests.support.meeting.node import ANOTHER, HERE, MS, OTHER_POD, PEER, POD, TCP, UDP, Node

NOWHERE = bytes(16)
KINDS = [*SpanKind, SpanKind.CLIENT, SpanKind.CLIENT, OTHER_END, 0, 200]
SPANS = 40


def connections(node: Node, draw: np.random.Generator) -> None:
    """Some, with what was said on them, one after another or not."""
    for number in range(1, 2 + int(draw.integers(12))):
        peer, port = [PEER, ANOTHER, NOWHERE][draw.integers(3)], int(draw.choice([5432, 443, 0]))
        role = [Role.CLIENT, Role.CLIENT, Role.SERVER][draw.integers(3)]
        said = {"begun": draw.random() < 0.95, "transport": int(draw.choice([TCP, UDP]))}
        node.connection(number, owner=int(draw.integers(1, 4)), peer=peer, role=role, port=port, **said)
        at = 0.0
        for exchange in range(int(draw.integers(30))):
            begin = at + draw.exponential(5)
            end = begin + draw.exponential(5)
            node.exchange(number, exchange, begin, end, flags=int(draw.integers(8)))
            at = end if draw.random() < 0.9 else begin


def span(node: Node, draw: np.random.Generator, span_id: bytes) -> tuple[float, float]:
    """Ask for one, which may be impossible; return when it was."""
    begin = draw.exponential(40)
    end = begin + draw.choice([draw.exponential(30), -1, 1e9], p=[0.94, 0.03, 0.03])
    if draw.random() < 0.02:
        begin, end = -1.7e12, 1e12
    addresses = [[PEER, ANOTHER, HERE, NOWHERE][place] for place in draw.integers(4, size=draw.integers(1, 4))]
    node.ask(
        begin,
        end,
        span_id=span_id,
        kind=int(draw.choice(KINDS)),
        local=[POD, OTHER_POD, "", "nobody"][draw.integers(4)],
        local_port=int(draw.choice([0, 0, 40_001, 5432])),
        peers=[(address, int(draw.choice([5432, 443, 0, 40_001]))) for address in addresses],
    )
    return begin, end


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_told_twice_nor_outside_of_its_span(seed: int) -> None:
    """With spans that end before they begin, contradict each other, name nobody, or come again."""
    draw = np.random.default_rng(seed)
    node = Node(1 << int(draw.integers(10, 20)))
    connections(node, draw)
    asked: dict[bytes, list[tuple[float, float]]] = {}
    told: list[tuple[int, int]] = []
    for _ in range(4):
        for _ in range(SPANS):
            span_id = int(draw.integers(1, 3 * SPANS)).to_bytes(8, "big")
            asked.setdefault(span_id, []).append(span(node, draw, span_id))
        for row in node.look(int(draw.integers(1_500))):
            if row["is_stream"] == PART:
                continue  # of a connection, and as coarse as what is known of it
            told.append((int(row["flow_id"]), int(row["number"])))
            begin, end = int(row["request_first_ns"]), int(row["response_last_ns"])
            whose = asked[row["parent_span_id"].tobytes()]
            assert any(begin >= first * MS - TOLERANCE_NS and end <= last * MS + TOLERANCE_NS for first, last in whose)
    assert len(told) == len(set(told))
