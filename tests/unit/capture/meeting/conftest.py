"""What tests of the meeting share."""

from __future__ import annotations

import pytest

from tests.support.meeting.node import ANOTHER, Node


@pytest.fixture
def node() -> Node:
    """One with three connections: two of a pod's, to two peers, and another pod's."""
    found = Node()
    found.connection(1)
    found.connection(2, peer=ANOTHER)
    found.connection(3, owner=2)
    for connection in (1, 2, 3):
        found.exchange(connection, 0, 1_000, 1_050)
    return found
