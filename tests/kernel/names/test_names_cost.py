"""What names cost packets that have none, and the look for trace contexts those of no HTTP, by the instructions of each."""

from __future__ import annotations

from typing import get_args

import pytest

from services.capture.names.pieces import Names
from tests.bench.bench_names_steps import LABELS, TCP, TRANSPORTS, steps, steps_without_http
from tests.support.node.live_capture import reason_to_skip

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
MOST_MORE = 8
"""Instructions: a load and a comparison for DNS over TCP, a load and a bit for TLS; 6 of them as clang 14 has it."""

MOST_OF_A_LOOK = 32
"""Instructions; 20 of them as clang 14 has it."""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_packet_without_a_name_hardly_pays_for_names(transport) -> None:
    """A segment of an established connection takes so few instructions more with all names than with none, a datagram none."""
    for label in LABELS:
        found = {names: steps(names, transport, label) for names in get_args(Names)}
        assert found["off"] > 100, "the packet was not added to its flow"
        assert max(found.values()) - found["off"] <= (MOST_MORE if transport == TCP else 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_packet_of_no_http_hardly_pays_for_the_look(transport) -> None:
    """Some twenty instructions of a segment with payload, three or four of one without, none of a datagram."""
    for label in LABELS:
        without, looked = (steps_without_http(looks=looks, transport=transport, label=label) for looks in (False, True))
        assert without > 100, "the packet was not added to its flow"
        assert looked - without <= (MOST_OF_A_LOOK if transport == TCP else 0)
